"""A kind of layer that the pack does not have: ``ΔW = u vᵀ`` with ``u`` at zero."""

import torch
from torch import nn

from krona_ops.nearest.kronecker import Nearest
from krona_ops.nearest.low_rank import to_low_rank
from krona_ops.updates.delta import Matrix
from krona_ops.updates.factor import LowRank
from krona_train.adapters.layers.protocol import Layer, copy, gated


class OuterLayer(Layer):
    kind = "outer"

    def __init__(self, target, rng):
        super().__init__()
        self.v = nn.Parameter(torch.randn(target.sizes.in_features, generator=rng) / 8)
        self.u = nn.Parameter(torch.zeros(target.sizes.out_features))

    @classmethod
    def build(cls, target, config, rng, base):
        return cls(target, rng)

    def by_role(self):
        return {"random": (self.v,), "zero": (self.u,)}

    def delta(self):
        return Matrix(LowRank(copy(self.u)[:, None], copy(self.v)[None]))

    @torch.no_grad()
    def begin_at(self, delta):
        self.u.copy_(delta.factor.up[:, 0] * delta.scale)
        self.v.copy_(delta.factor.down[0])

    @classmethod
    def as_it_is(cls, delta, target, config):
        is_outer = isinstance(delta, Matrix) and isinstance(delta.factor, LowRank) and delta.factor.down.shape[0] == 1
        return delta if is_outer else None

    @classmethod
    def nearest(cls, delta, target, config):
        return Nearest(*to_low_rank(delta, 1))

    def call_for(self, module, name, is_plain):
        def call(original, gate, x, *args, **kwargs):
            return original(x, *args, **kwargs) + (gated(x, gate) @ self.v)[..., None] * self.u

        return call

    def weigh(self, weight):
        return weight + torch.outer(self.u, self.v)
