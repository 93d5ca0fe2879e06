"""Kronecker adapters as mathematics and as files: useful alone in a notebook, without ComfyUI.

>>> from krona_ops import load, save
>>> adapter = load("robot.safetensors")
>>> save(adapter.scaled(0.5), "robot-half.safetensors")
"""

from .errors import KronaError
from .files import encode, load, read_header, save
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
