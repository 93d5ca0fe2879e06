"""The environment on top of a ComfyUI's own: ``env-<key>/`` sees the host's packages and adds the pack's and the
tests'.

So the host is never changed by what only the tests need, and nothing of the host exists twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tools.install import cache, command, venv
from tools.install.errors import HostError

RECIPE_NUMBER = 1
# Every virtual environment has its own; the host's are not used.
INSTALLERS = {"pip", "setuptools", "wheel"}

_FACTS = """
import importlib.metadata, json, os, site, sys
sites = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
sites = [path for path in sites if os.path.isdir(path)]
path = [path for path in sys.path if path]  # the sites and what their .pth files add
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions(path=path) if d.metadata["Name"]}
print(json.dumps({"python": sys.version, "path": path, "sites": sites, "packages": found}))
"""


@dataclass(frozen=True)
class Overlay:
    """One environment, named after the host beneath it and the requirements in it."""

    cache: Path
    host_python: Path
    host: dict
    """The host's ``python`` (version), ``path`` (folders), ``sites`` (those with .pth files),
    ``packages`` (name: version)."""
    requirements: dict[str, str]
    """File name to text, as they were when this was made:
    an install takes a minute, in which somebody may edit them."""

    @classmethod
    def over(cls, cache_folder: Path, host_python: Path, requirements: tuple[Path, ...]) -> Overlay | None:
        """The environment over ``host_python`` as it is now; None where that Python does not run."""
        host = command.ask(host_python, _FACTS)
        texts = {file.name: file.read_text("utf-8") for file in requirements}
        return None if host is None else cls(cache_folder, host_python, host, texts)

    @property
    def recipe(self) -> dict:
        """Everything that decides what the environment contains, as JSON values."""
        host = {**self.host, "executable": str(self.host_python)}
        return {"number": RECIPE_NUMBER, "host": host, "requirements": self.requirements}

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        return self.cache / f"env-{cache.digest(self.recipe)}"

    @property
    def python(self) -> Path:
        """Its Python."""
        return venv.python_of(self.folder)

    @property
    def log(self) -> Path:
        """What pip said."""
        return self.folder / "install.log"

    def is_ready(self) -> bool:
        """Whether it was finished for exactly this host and these requirements."""
        return cache.is_marked(self.folder, self.recipe) and self.python.exists()

    def install(self, witnesses: tuple[str, ...] = ("torch", "numpy")) -> None:
        """Build it from nothing: it is small.

        Args:
            witnesses: Modules that must come from the host's folders in the finished environment.

        Raises:
            HostError: No network, or the requirements do not fit to what the host has.
        """
        cache.make_folder(self.folder)
        cache.unmark(self.folder)
        # The log is outside while the folder is cleared.
        making = self.folder.with_name(self.folder.name + ".log")
        venv.create(self.host_python, self.folder, making)
        making.replace(self.log)
        self._show_host_packages()
        pins = self.write_pins(self.folder / "host-pins.txt")
        wanted: list[str | Path] = ["install", "-c", pins]
        for name, text in self.requirements.items():
            (self.folder / name).write_text(text, "utf-8")
            wanted += ["-r", self.folder / name]
        command.pip(self.python, wanted, self.log, "Installing the pack's requirements")
        self._check_nothing_twice()
        self._check_witnesses(witnesses)
        cache.mark(self.folder, self.recipe)

    def write_pins(self, file: Path) -> Path:
        """Write a pip constraint file that holds every package at the host's version."""
        file.write_text("".join(f"{line}\n" for line in pin_lines(self.host["packages"])), "utf-8")
        return file

    def _show_host_packages(self) -> None:
        # addsitedir, not a bare path: the host's own .pth files count too.
        lines = [f"import site; site.addsitedir({path!a})" for path in self.host["sites"]]
        (venv.site_packages(self.folder) / "krona-host.pth").write_text("\n".join(lines) + "\n", "utf-8")

    def _check_nothing_twice(self) -> None:
        of_host = {venv.normal(name) for name in self.host["packages"]}
        twice = (of_host & set(venv.installed(venv.site_packages(self.folder)))) - INSTALLERS
        if twice:
            raise HostError(
                f"{self.folder}: {', '.join(sorted(twice))} of ComfyUI's environment would be replaced.\n"
                "requirements.txt and requirements-test.txt may only ask for versions that ComfyUI's own fit."
            )

    def _check_witnesses(self, modules: tuple[str, ...]) -> None:
        for module in modules:
            code = f"import {module}; print({module}.__file__)"
            output = command.run([self.python, "-E", "-c", code], self.log, f"Importing {module} on top of ComfyUI")
            file = output.splitlines()[-1]
            if not any(Path(folder) in Path(file).parents for folder in self.host["path"]):
                raise HostError(f"{self.python}: {module} comes from {file}, expected it from {self.host_python}.")


def pin_lines(packages: dict[str, str]) -> list[str]:
    """Constraints that hold every package at the host's version; leaves out what pip could not parse."""
    fits = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+_-]*")
    lines = (f"{name}=={version}" for name, version in sorted(packages.items()) if venv.normal(name) not in INSTALLERS)
    return [line for line in lines if fits.fullmatch(line)]
