"""Packages that ComfyUI does not bring along: loaded where a feature needs them, and named where that cannot be.

The pack's requirements have no bounds, so that an installation leaves a host's packages as they are; whether the
version that is there will do shows here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from krona_ops.errors import ConfigError

UNUSABLE = (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError)
"""What an import raises where a package is missing, or does not fit another one (numpy, protobuf) or the system."""


def load(package: str, feature: str, instead: str = "", module: str | None = None) -> ModuleType:
    """Import a package that a feature needs.

    Args:
        package: As pip knows it.
        feature: What needs the package; the beginning of the error's sentence.
        instead: What can be done without it; the end of a sentence.
        module: The module to import; the package itself if not given.

    Raises:
        ConfigError: It is not installed or does not load; the message says why, and which command helps.
    """
    try:
        return importlib.import_module(module or package)
    except UNUSABLE as error:
        version = version_of(package)
        there = f"{package} {version}" if version else None
        raise ConfigError(
            f"{feature} needs the package {package}, which "
            + (f"cannot be loaded ({there} is installed): {error}." if there else f"cannot be loaded: {error}."),
            found=there or "no such package",
            expected=package,
            remedy=f"Install it in ComfyUI's Python (pip install {'--upgrade ' if there else ''}{package})"
            + (f", or {instead}." if instead else "."),
        ) from error


def version_of(package: str) -> str | None:
    """The version of an installed package; ``None`` where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
