"""The trainable parts of parallel branches: which there are, and how they compute beside a self-attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from krona_ops import LayerName
from krona_ops.branches.attention import Grid, among_views, size_at, to_source
from krona_ops.branches.projections import Bases, Beside, SiteBranch
from krona_ops.errors import ConfigError, CoverageError, TrainingError
from krona_ops.live.attach import ForwardPatch
from krona_ops.names.branches import GATE, PROJECTIONS, Mode, layer_name, place_of
from krona_ops.targets.rules import Target, select
from krona_ops.updates.shapes import KronShape

from ..backbone.protocol import AttentionSite, Backbone
from ..settings.groups import AdapterConfig
from .gates import Attending, Gate, Gates, Recording
from .layers import layer_type
from .layers.difference import DifferenceLayer
from .layers.protocol import Call, IsPlain, Layer, gated

GATE_RATE = 40.0
"""A gate learns so many times as fast as the learning rate says, 0.02 at 5e-4: it has the same way to go in every
model, from 0 to about 1, whatever the width."""


def branch_targets(backbone: Backbone, config: AdapterConfig, mode: Mode) -> tuple[Target, ...]:
    """The parts of a branch: those projections of each self-attention that the rules match, and its gate.

    Raises:
        ConfigError: A rule's kind cannot stand beside the model's weight, or the text encoder is to be adapted too.
        CoverageError: The model has no place for a branch, or no rule matches any.
    """
    sites = backbone.sites()
    if not sites:
        raise CoverageError(
            "A parallel branch stands beside the self-attentions of a UNet, and this model has none.",
            found=backbone.family,
            expected="a UNet, such as SD1.5's or SDXL's",
            remedy="Load a model with a UNet, or train an adapter of its layers.",
        )
    # Beside the model's own weight these would add it once more.
    at_weight = [kind for kind in sorted(config.kinds) if "weight" in layer_type(kind).roles]
    if config.text_encoder or at_weight:
        raise ConfigError(
            "A parallel branch stands beside the diffusion model's attentions, with updates of its own.",
            where="adapter",
            found="text_encoder" if config.text_encoder else ", ".join(at_weight),
            expected="kronecker, lora, sum or difference, and no text encoder",
            remedy="Choose another kind, and turn text_encoder off.",
        )
    by_name = next((rule.part for rule in config.targets if rule.part), None)
    if by_name is not None:
        raise ConfigError(
            f"A parallel branch has an attention's projections and nothing else, no {by_name}.",
            where="adapter.targets",
            found=by_name,
            expected="projections of attention",
            remedy="Choose a preset of attention.",
        )
    weights = backbone.weights()
    parts = {name: (site, part) for site in sites for part, name in zip(PROJECTIONS, _paths(site), strict=True)}
    chosen: dict[str, list[Target]] = {}
    for target in select({name: weights[name] for name in parts}, config.targets):
        site, part = parts[target.name]
        own = replace(target, name=layer_name(site.name, mode, part), kind=target.kind or config.kind)
        chosen.setdefault(site.name, []).append(own)
    return tuple(
        target for site, targets in chosen.items() for target in (*targets, _gate(layer_name(site, mode, GATE)))
    )


def _paths(site: AttentionSite) -> tuple[LayerName, ...]:
    return site.q, site.k, site.v, site.out


def _gate(name: LayerName) -> Target:
    return Target(name, KronShape(1, 1, 1, 1), (1, 1), GATE_RATE, DifferenceLayer.kind, is_vector=True)


@dataclass(frozen=True, eq=False)
class _Trained:
    """A projection with a layer in training beside it."""

    call: Call
    shape: tuple[int, ...] | None = None

    def __call__(self, base: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self.call(base, None, x)

    def like(self, x: Tensor) -> _Trained:
        return self


@dataclass(frozen=True, eq=False)
class _Part:
    """The branch of one adapter at one site."""

    adapter: str
    branch: SiteBranch
    site: AttentionSite
    bases: Bases

    def gain(self, n: Tensor, attending: Attending, gate: Gate, rows: Tensor | None) -> Tensor:
        """What the attention's output gains, ``(B, N, d)``, for what it reads."""
        attend = partial(_attend, heads=self.site.heads)
        if attending.tokens is not None:
            source = attending.tokens[self.site.name].to(n.dtype)
            if rows is not None:
                source = source.repeat_interleave(attending.views, 0)[rows]
            gained = self.branch.output(self.bases, n, source, partial(to_source, attend=attend))
            return gated(gained, gate)
        if rows is not None:
            raise TrainingError(
                "The samples of a group cannot be computed together, because their prompts have different shapes.",
                found="conditions that cannot stand in one batch",
                expected="prompts of one length in each group",
                remedy="Shorten the longest captions of the group.",
            )
        if attending.mode == "first":
            first = n[:: attending.views]
            gained = self.branch.output(self.bases, n, first, partial(to_source, attend=attend))
            others = n.new_ones(len(n))
            others[:: attending.views] = 0
            return gated(gated(gained, others), gate)
        grid = Grid(attending.views, *size_at(n.shape[1], *attending.space))
        mix = partial(among_views, attending.mode, grid=grid, attend=attend)
        return gated(self.branch.output(self.bases, n, n, mix), gate)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, heads: int) -> Tensor:
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def branch_patches(
    backbone: Backbone, adapters: Mapping[str, Mapping[LayerName, Layer]], gates: Gates
) -> dict[str, ForwardPatch]:
    """For each attention beside which a branch stands, its module with all branches there."""
    sites = {str(site.name): site for site in backbone.sites()} if any(map(_has_branch, adapters.values())) else {}
    parts: dict[LayerName, list[_Part]] = {}
    for adapter, layers in adapters.items():
        at: dict[tuple[str, Mode], dict[str, Layer]] = {}
        for layer_of, layer in layers.items():
            place = place_of(layer_of)
            if place is not None:
                at.setdefault((place.site, place.mode), {})[place.part] = layer
        for (where, _), held in at.items():
            site = sites[where]
            parts.setdefault(site.name, []).append(_part(adapter, site, held, backbone))
    return {name: ForwardPatch(backbone.module(name), _forward(name, each, gates)) for name, each in parts.items()}


def _has_branch(layers: Mapping[LayerName, Layer]) -> bool:
    return any(place_of(name) is not None for name in layers)


def _part(adapter: str, site: AttentionSite, held: Mapping[str, Layer], backbone: Backbone) -> _Part:
    modules = [backbone.module(path) for path in _paths(site)]
    q, k, v, out = (
        _projection(held.get(part), module, path, backbone.is_plain)
        for part, module, path in zip(PROJECTIONS, modules, _paths(site), strict=True)
    )
    gate = held.get(GATE)
    number = gate.value if isinstance(gate, DifferenceLayer) else 1.0
    return _Part(adapter, SiteBranch(q, k, v, out, number), site, Bases(*modules))


def _projection(layer: Layer | None, module: nn.Module, path: LayerName, is_plain: IsPlain) -> _Trained | Beside:
    return Beside(None) if layer is None else _Trained(layer.call_for(module, path, is_plain))


def _forward(name: LayerName, parts: Sequence[_Part], gates: Gates) -> Callable[..., Tensor]:
    def forward(original: Callable[..., Tensor], x: Tensor, *args: object, **kwargs: object) -> Tensor:
        beside = gates.beside
        if isinstance(beside, Recording):
            beside.tokens[name] = x.detach()
        out = original(x, *args, **kwargs)
        if isinstance(beside, Attending):
            rows = gates.rows
            for part in parts:
                if part.adapter in gates.now:
                    out = out + part.gain(x, beside, gates.gate(part.adapter), rows)
        return out

    return forward
