"""Kronecker adapters as mathematics and as files: useful alone in a notebook, without ComfyUI.

>>> from krona_ops import load, save
>>> adapter = load("robot.safetensors")
>>> save(adapter.scaled(0.5), "robot-half.safetensors")
"""

from .adapter import Adapter
from .delta import Delta, Dora, Kron, Matrix, Sum
from .factor import Factor, Full, LowRank, Tucker
from .files import encode, load, read_header, save
from .names import LayerName
from .shapes import KronShape
from .targets import Target, TargetRule, select

__all__ = [
    "Adapter",
    "Delta",
    "Dora",
    "Factor",
    "Full",
    "Kron",
    "KronShape",
    "LayerName",
    "LowRank",
    "Matrix",
    "Sum",
    "Target",
    "TargetRule",
    "Tucker",
    "encode",
    "load",
    "read_header",
    "save",
    "select",
]
