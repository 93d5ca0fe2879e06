"""Which ComfyUI the pack runs on, said in one sentence where it is too old. Imports nothing that an old one lacks."""

from __future__ import annotations

import importlib
import inspect
import re

OLDEST = "0.20.1"
"""The oldest ComfyUI that is promised; `make test-slow` starts it."""
FEATURE = "has_intermediate_output"
"""What the nodes ask of the host's ``io.Schema`` and older ones lack; it decides where a host says no version."""


class ComfyUITooOld(RuntimeError):  # noqa: N818
    """The host lacks what the pack's nodes are made of."""


def require_supported(version: str, features: frozenset[str]) -> None:
    """Refuse a host that is too old: by its version, or by what it has where that is no version.

    Args:
        version: The host's own, ``""`` where it says none.
        features: What its node schema takes.

    Raises:
        ComfyUITooOld: One sentence: which ComfyUI this is, which is needed, and what to do.
    """
    release = numbers(version)
    if numbers(OLDEST) <= release or (not release and FEATURE in features):
        return
    named = f"ComfyUI {version}" if version else "an older one, which does not say its version"
    raise ComfyUITooOld(
        f"KronA needs ComfyUI {OLDEST} or newer and this is {named}: update ComfyUI, then start it again."
    )


def host_version() -> str:
    """The version that this host says it has; ``""`` where it says none."""
    try:
        return str(importlib.import_module("comfyui_version").__version__)
    except (ImportError, AttributeError):
        return ""


def host_features() -> frozenset[str]:
    """What this host's ``io.Schema`` takes; nothing where it has none."""
    try:
        return frozenset(inspect.signature(importlib.import_module("comfy_api.latest").io.Schema).parameters)
    except (ImportError, AttributeError):
        return frozenset()


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a release, whatever is written behind them; none where it begins with something else."""
    release = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in release[1].split(".")) if release else ()
