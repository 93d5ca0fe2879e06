"""Kronecker adapters as mathematics and as files: useful alone in a notebook, without ComfyUI.

>>> from krona_ops import load, save
>>> adapter = load("robot.safetensors")
>>> save(adapter.scaled(0.5), "robot-half.safetensors")
"""

from .adapter import Adapter
from .blend import blend
from .compress import compress, forms_by_rules, forms_within
from .delta import Delta, Dora, Kron, Matrix, Sum
from .errors import KronaError
from .extract import extract
from .factor import Factor, Full, Hadamard, LowRank, Tucker
from .files import encode, load, read_header, save
from .forms import DenseForm, KronForm, LowRankForm
from .inspection import inspect_header
from .low_rank import to_low_rank
from .metadata import with_standard_metadata
from .names import LayerName
from .nearest import nearest_kron
from .report import report
from .shapes import KronShape
from .targets import Target, TargetRule, select
from .weights import Weights, apply_weights, parse_weights

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
