"""Parts of a model that a target rule takes by name, instead of by a pattern of layers' names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from ..names.places import path_of
from ..names.resadapter import is_norm, is_sampler
from ..names.spellings import projection

BIAS = ".bias"
"""The end of a bias's name, behind its layer's."""
_NORM = re.compile(
    r"(?:input_blocks\.\d+|output_blocks\.\d+|middle_block)\.\d+\.(?:in_layers|out_layers)\.0(?:\.bias)?"
)
_SAMPLER = re.compile(r"input_blocks\.\d+\.\d+\.op|output_blocks\.\d+\.\d+\.conv")


@dataclass(frozen=True)
class Part:
    """Some layers of a model."""

    has: Callable[[str], bool]
    """Whether a layer belongs to it, told by its name alone, in Stability's words or diffusers'."""
    kind: str = ""
    """What is trained there where a rule names no kind; empty is what the adapter's settings say."""
    architecture: str = ""
    """The kind of model that alone has such a part; empty is any."""


def _is_norm(name: str) -> bool:
    path = path_of(name)
    return _NORM.fullmatch(path) is not None or is_norm(path)


def _is_sampler(name: str) -> bool:
    path = path_of(name)
    return _SAMPLER.fullmatch(path) is not None or is_sampler(path)


def _is_bias_of_attention(name: str) -> bool:
    return name.endswith(BIAS) and projection(name.removesuffix(BIAS)) is not None


NORMS, SAMPLERS, BIASES = "norms of the residual blocks", "down- and upsamplers", "biases of attention"
MODEL_PARTS = MappingProxyType(
    {
        NORMS: Part(_is_norm, "difference", "UNet"),
        SAMPLERS: Part(_is_sampler, architecture="UNet"),
        BIASES: Part(_is_bias_of_attention, "difference"),
    }
)
"""By name: weights and biases of the two group norms in front of each residual block's convolutions; the convolutions
that halve and double a picture's sides between levels; the biases of attention's projections."""
