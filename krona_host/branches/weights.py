"""The tensors of a branch as a network of its own, which the host counts, loads and takes off as it does a ControlNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from krona_ops.branches.projections import Base, Bases, Beside, Own, Projection, SiteBranch
from krona_ops.updates.delta import Delta, map_tensors, tensors

from .places import Spot

if TYPE_CHECKING:
    from ..types import Model, Patcher

Parts = Mapping[Spot, SiteBranch]


class _Layer(nn.Module):
    """Shares the tensors that it is made of, and has them again, not copies, when it comes back to where they are."""

    home: Mapping[str, nn.Parameter | None]

    def _keep(self) -> None:
        self.home = dict(self._parameters)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Layer:
        for name, now in self._parameters.items():
            home = self.home[name]
            if now is not None and home is not None:
                wanted = fn(now.new_empty(0))
                is_home = (wanted.device, wanted.dtype) == (home.device, home.dtype)
                self._parameters[name] = home if is_home else _parameter(fn(now))
        return self


class _Matrix(_Layer, comfy.ops.manual_cast.Linear):
    """A matrix of a branch's own. The host may leave it off the device, and it is brought there for each call."""

    def __init__(self, own: Own) -> None:
        wide, has_bias = own.weight.shape[1], own.bias is not None
        super().__init__(wide, len(own.weight), has_bias, device=torch.device("meta"), dtype=own.weight.dtype)
        self.weight = _parameter(own.weight)
        if own.bias is not None:
            self.bias = _parameter(own.bias)
        self._keep()


class _Update(_Layer):
    """The tensors of an update beside one of the base's projections."""

    _there: Delta | None = None

    def __init__(self, update: Delta) -> None:
        super().__init__()
        self.update = update
        for number, tensor in enumerate(tensors(update)):
            self.register_parameter(f"tensor_{number}", _parameter(tensor))
        self._keep()

    def there(self) -> Delta:
        """The update with its tensors where they are now; made once for each place where the host puts them."""
        if self._there is None:
            now = iter(self.parameters())
            self._there = map_tensors(self.update, lambda _: next(now))
        return self._there

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Update:
        self._there = None
        super()._apply(fn, recurse)
        return self

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Also where the host sets one as an attribute."""
        self._there = None
        super().register_parameter(name, param)


@dataclass(frozen=True, eq=False)
class _OwnThere:
    """`Own`, with its tensors where the host has them."""

    layer: _Matrix

    def __call__(self, base: Base, x: Tensor) -> Tensor:
        projected: Tensor = self.layer(x)
        return projected

    def like(self, x: Tensor) -> _OwnThere:
        return self  # it goes to where x is when it is called

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layer.weight.shape)


@dataclass(frozen=True, eq=False)
class _BesideThere:
    """`Beside`, with its tensors where the host has them."""

    layer: _Update

    def __call__(self, base: Base, x: Tensor) -> Tensor:
        return self.like(x)(base, x)

    def like(self, x: Tensor) -> Beside:
        fits = all((t.device, t.dtype) == (x.device, x.dtype) for t in self.layer.parameters(recurse=False))
        there = self.layer.there()
        return Beside(there if fits else map_tensors(there, lambda tensor: tensor.to(x)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layer.update.shape


class BranchWeights(nn.Module):
    """All tensors of a branch. The host writes this name into its log when it loads them."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.parts: Parts = {spot: self._placed(part) for spot, part in parts.items()}
        """The branch, with its tensors where the host has them; it holds the layers and not this network."""

    def _placed(self, part: SiteBranch) -> SiteBranch:
        q, k, v, out = (self._projection(getattr(part, name)) for name in Bases._fields)
        return SiteBranch(q, k, v, out, part.gate)

    def _projection(self, of: Projection) -> Projection:
        placed: _OwnThere | _BesideThere
        if isinstance(of, Own):
            placed = _OwnThere(_Matrix(of))
        elif isinstance(of, Beside) and of.update is not None:
            placed = _BesideThere(_Update(of.update))
        else:
            return of
        self.layers.append(placed.layer)
        return placed


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def add_weights(parts: Parts, model: Model, key: str) -> Parts:
    """Have the host load a branch's tensors with a model, under a key, and give the branch that reads them there."""
    patcher = _patcher(parts, model.load_device, model.offload_device, disable_dynamic=not model.is_dynamic())
    model.set_additional_models(key, [patcher])
    return cast(BranchWeights, patcher.model).parts


def _patcher(
    parts: Parts, load_device: torch.device, offload_device: torch.device, *, disable_dynamic: bool = False
) -> Patcher:
    kinds = comfy.model_patcher
    kind = kinds.ModelPatcher if disable_dynamic else kinds.CoreModelPatcher
    patcher: Patcher = kind(BranchWeights(parts), load_device=load_device, offload_device=offload_device)
    # where a model is copied for one more GPU, the host makes what is loaded with it anew
    patcher.cached_patcher_init = (
        partial(_patcher, disable_dynamic=disable_dynamic),
        (parts, load_device, offload_device),
    )
    return patcher


def weights_on(patcher: Patcher | None, key: str) -> Parts | None:
    """The branch with the tensors that are loaded with a model under a key; ``None`` where there are none."""
    loaded = [] if patcher is None else patcher.get_additional_models_with_key(key)
    return next((each.model.parts for each in loaded if isinstance(each.model, BranchWeights)), None)
