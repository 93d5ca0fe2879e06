"""What the kinds share that hold a weight's numbers one by one, and so take weights of any shape."""

from __future__ import annotations

from krona_ops.nearest.kronecker import Nearest
from krona_ops.targets.rules import Target
from krona_ops.updates.delta import Delta, Matrix
from krona_ops.updates.factor import Full

from ...settings.groups import AdapterConfig
from .protocol import BIAS, Layer


class WholeLayer(Layer):
    """The trainable update of a weight, a norm or a bias, without factors: every update has its form."""

    is_whole = True

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._is_bias = target.is_vector and target.name.endswith(BIAS)

    @property
    def changes_bias(self) -> bool:
        return self._is_bias

    @classmethod
    def as_it_is(cls, delta: Delta, target: Target, config: AdapterConfig) -> Matrix:
        return Matrix(Full(delta.dense().float()))

    @classmethod
    def nearest(cls, delta: Delta, target: Target, config: AdapterConfig) -> Nearest:
        return Nearest(cls.as_it_is(delta, target, config), 0.0)
