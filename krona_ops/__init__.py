"""Kronecker adapters as mathematics and as files: useful alone in a notebook, without ComfyUI.

>>> from krona_ops import load, save
>>> adapter = load("robot.safetensors")
>>> save(adapter.scaled(0.5), "robot-half.safetensors")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import KronaError
    from .files import load, read_header, save
    from .formats.encode import encode
    from .formats.inspection import inspect_header
    from .formats.metadata import with_standard_metadata
    from .names.spellings import LayerName
    from .nearest.forms import DenseForm, KronForm, LowRankForm
    from .nearest.kronecker import nearest_kron
    from .nearest.low_rank import to_low_rank
    from .operations.blend import blend
    from .operations.compress import compress, forms_by_rules, forms_within
    from .operations.extract import extract
    from .operations.report import report
    from .operations.strengths import Weights, apply_weights, parse_weights
    from .targets.rules import Target, TargetRule, select
    from .updates.adapter import Adapter
    from .updates.delta import Delta, Dora, Kron, Matrix, Sum
    from .updates.factor import Factor, Full, Hadamard, LowRank, Tucker
    from .updates.shapes import KronShape

__all__ = [
    "Adapter",
    "Delta",
    "DenseForm",
    "Dora",
    "Factor",
    "Full",
    "Hadamard",
    "Kron",
    "KronForm",
    "KronShape",
    "KronaError",
    "LayerName",
    "LowRank",
    "LowRankForm",
    "Matrix",
    "Sum",
    "Target",
    "TargetRule",
    "Tucker",
    "Weights",
    "apply_weights",
    "blend",
    "compress",
    "encode",
    "extract",
    "forms_by_rules",
    "forms_within",
    "inspect_header",
    "load",
    "nearest_kron",
    "parse_weights",
    "read_header",
    "report",
    "save",
    "select",
    "to_low_rank",
    "with_standard_metadata",
]

_MODULES = {
    "errors": ("KronaError",),
    "files": ("load", "read_header", "save"),
    "formats.encode": ("encode",),
    "formats.inspection": ("inspect_header",),
    "formats.metadata": ("with_standard_metadata",),
    "names.spellings": ("LayerName",),
    "nearest.forms": ("DenseForm", "KronForm", "LowRankForm"),
    "nearest.kronecker": ("nearest_kron",),
    "nearest.low_rank": ("to_low_rank",),
    "operations.blend": ("blend",),
    "operations.compress": ("compress", "forms_by_rules", "forms_within"),
    "operations.extract": ("extract",),
    "operations.report": ("report",),
    "operations.strengths": ("Weights", "apply_weights", "parse_weights"),
    "targets.rules": ("Target", "TargetRule", "select"),
    "updates.adapter": ("Adapter",),
    "updates.delta": ("Delta", "Dora", "Kron", "Matrix", "Sum"),
    "updates.factor": ("Factor", "Full", "Hadamard", "LowRank", "Tucker"),
    "updates.shapes": ("KronShape",),
}
"""Where the names are: a module is imported when one of its names is asked for,
so a server that starts loads few of them."""


def __getattr__(name: str) -> object:
    """A public name, from now on an attribute like any other."""
    module = next((module for module, names in _MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
