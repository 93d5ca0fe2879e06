"""Everything of one adapter that moves in a training: factors, optimizer, average.

It is captured and put back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn

from krona_ops import Adapter, LayerName
from krona_ops.errors import ConfigError
from krona_ops.names.branches import Mode
from krona_ops.shown import printable, shown
from krona_ops.targets.rules import Target
from krona_ops.updates.delta import Delta

from ..randomness import generator
from ..settings.groups import AdapterConfig, EmaConfig, OptimizerConfig
from .attach import Layers
from .average import Average
from .layers import build_layer
from .optim import build_optimizer, learning_rate_factor, parameter_groups
from .sparse import Sparse


@dataclass(frozen=True)
class Recipe:
    """How one adapter is trained."""

    adapter: AdapterConfig
    optimizer: OptimizerConfig
    ema: EmaConfig
    steps: int
    """Of the whole training, over which the learning rate's schedule is spread."""
    seed: int
    number: int = 0
    """Of the adapter among those of the training: those after the first one start at other random factors."""
    beside: Mode | None = None
    """Where it is a parallel branch: what that attends to."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the adapter says about itself, on which its use depends."""
    is_scaled: bool = False
    """Whether the loss is scaled up, so that gradients in fp16 do not vanish."""


def build_layers(
    targets: Sequence[Target],
    config: AdapterConfig,
    seed: int,
    device: torch.device,
    base: Callable[[LayerName], Tensor] | None = None,
    *,
    number: int = 0,
) -> Layers:
    """Fresh factors for every target, drawn in the targets' order from the seed alone.

    Args:
        base: Gives the frozen weight of a target, for kinds that start there.
        number: See `Recipe`.
    """
    rng = generator(seed, "factors", *((number,) if number else ()))

    def weight_of(name: LayerName) -> Callable[[], Tensor] | None:
        return None if base is None else lambda: base(name)

    return {target.name: build_layer(target, config, rng, weight_of(target.name)).to(device) for target in targets}


def collect(layers: Layers) -> Adapter:
    """The factors as they stand, as an adapter."""
    return Adapter({name: layer.delta() for name, layer in layers.items()})


class Trainee:
    """One adapter in the making.

    Args:
        targets: The layers to adapt.
        rates: For each layer, what its learning rate is multiplied by.
        begun: Updates that layers start at, each in its layer's own form (`krona_train.adapters.start`); the others
            start fresh.
        base: See `build_layers`.
        drawn: See `Sparse`.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        rates: Mapping[str, float],
        recipe: Recipe,
        device: torch.device,
        begun: Mapping[LayerName, Delta] = MappingProxyType({}),
        base: Callable[[LayerName], Tensor] | None = None,
        drawn: Callable[[], Tensor | None] = lambda: None,
    ) -> None:
        optimizer, self._metadata = recipe.optimizer, recipe.metadata
        self.layers = build_layers(targets, recipe.adapter, recipe.seed, device, base, number=recipe.number)
        for name, delta in begun.items():
            self.layers[name].begin_at(delta)
        self.sparse = Sparse(self.layers, recipe.adapter.sparse, recipe.seed, drawn)
        self.parameters: list[nn.Parameter] = [p for layer in self.layers.values() for p in layer.parameters()]
        self.optimizer = build_optimizer(parameter_groups(self.layers, rates, optimizer), optimizer)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._learning_rate = optimizer.learning_rate
        self._factor = learning_rate_factor(optimizer, self.optimizer, recipe.steps)
        self._schedule_free = optimizer.name == "schedulefree"
        is_averaged = recipe.ema.decay and not self._schedule_free
        self._average = Average(self.parameters, recipe.ema.decay) if is_averaged else None
        self._max_grad_norm = optimizer.max_grad_norm or torch.inf
        # fp16 gradients vanish unless the loss is scaled up; the scale adapts by itself and is part of the state.
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.is_scaled)
        self._set_training(True)

    @property
    def is_averaged(self) -> bool:
        """Whether the result is another than the factors that are trained."""
        return self._average is not None or self._schedule_free

    @property
    def can_hold_still(self) -> bool:
        """Whether `step` can be told by the device itself to move nothing."""
        is_adamw = isinstance(self.optimizer, torch.optim.AdamW)
        is_fused = is_adamw and all(group["fused"] for group in self.optimizer.param_groups)
        return is_fused and not self.scaler.is_enabled()

    def clip(self) -> Tensor:
        """Undo the loss scale and bound the gradients' norm; returns the norm from before."""
        self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(self.parameters, self._max_grad_norm)

    def step(self, done: int, broken: Tensor | None = None) -> float:
        """Move the factors once and forget the gradients.

        Args:
            done: Steps before this one.
            broken: ``()``, 1 where nothing shall move, 0 elsewhere; only where `can_hold_still`.

        Returns:
            The learning rate of the settings as it stands now, which each layer multiplies by its own.
        """
        if broken is not None:
            # PyTorch's fused optimizers look for it under this name, which only GradScaler gives it.
            self.optimizer.found_inf = broken  # type: ignore[attr-defined]
        factor = self._factor(done)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self._average is not None:
            self._average.move(done + 1, broken)
        return self._learning_rate * factor

    @contextmanager
    def as_result(self) -> Iterator[Layers]:
        """Inside, the factors are those that the training would return now: their average, where there is one."""
        if not self.is_averaged:
            yield self.layers
            return
        trained = [p.detach().clone() for p in self.parameters]
        try:
            with torch.no_grad():
                self._set_training(False)
                if self._average is not None:
                    self._average.copy_to_parameters()
            yield self.layers
        finally:
            # Schedule-free's own way back is not exact to the last bit; this is.
            with torch.no_grad():
                for parameter, value in zip(self.parameters, trained, strict=True):
                    parameter.copy_(value)
            if self._schedule_free:
                for group in self.optimizer.param_groups:
                    group["train_mode"] = True

    def result(self) -> Adapter:
        """The adapter that the training would return now."""
        with self.as_result() as layers:
            return collect(layers).with_metadata(**self._metadata)

    def _set_training(self, training: bool) -> None:
        if self._schedule_free:
            switch = "train" if training else "eval"  # methods of schedulefree's optimizers, which torch's lack
            getattr(self.optimizer, switch)()

    def capture(self, *, stays: bool = False) -> tuple[dict[str, Tensor], dict[str, object]]:
        """All tensors and all plain numbers, copied; further training does not change them.

        Args:
            stays: The copies stay on the device, so that Python need not wait for it; for a state that is put back
                soon, or never.
        """
        tensors: dict[str, Tensor] = {f"factors.{name}": p for name, p in self._named_parameters()}
        of_parameters: dict[str, dict[str, object]] = {}
        state = self.optimizer.state_dict()
        for index, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                elif isinstance(value, Mapping):  # bitsandbytes keeps its quantised moments one level deeper
                    tensors |= {f"optimizer.{index}.{name}/{inner}": tensor for inner, tensor in value.items()}
                else:
                    of_parameters.setdefault(str(index), {})[name] = value
        groups = [
            {key: value for key, value in group.items() if key != "params" and _is_plain(value)}
            for group in state["param_groups"]
        ]
        tensors |= self._averages()
        copies = {key: value.detach() if stays else value.detach().cpu() for key, value in tensors.items()}
        numbers = {"scaler": self.scaler.state_dict(), "optimizer": of_parameters, "groups": groups}
        return {key: value.clone() for key, value in copies.items()}, json.loads(json.dumps(numbers))

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None:
        """Put everything back, bit for bit.

        Raises:
            ConfigError: The layers, or what their optimizer keeps of them, are not those of the state.
        """
        factors = {f"factors.{name}": p for name, p in self._named_parameters()}
        _require_same_factors(factors, {k: v for k, v in tensors.items() if k.startswith("factors.")})
        with torch.no_grad():
            for key, parameter in factors.items():
                parameter.copy_(tensors[key])
        groups = self.optimizer.state_dict()["param_groups"]
        stored_groups = _groups(numbers.get("groups"), groups)
        numbered = [p for group in self.optimizer.param_groups for p in group["params"]]  # in the optimizer's own order
        moments = _moments(tensors, _mapping("optimizer", numbers.get("optimizer")), numbered)
        groups = [{**group, **_as_before(stored, group)} for group, stored in zip(groups, stored_groups, strict=True)]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        scale = _mapping("scaler", numbers.get("scaler"))
        if self.scaler.is_enabled() and scale:  # what the model computes in may have been changed meanwhile
            self.scaler.load_state_dict(dict(scale))
        averages = self._averages()
        if averages:
            # Into memory of our own: a node's state is read under inference mode, and nothing may move such tensors.
            _require_same_factors(averages, {k: v for k, v in tensors.items() if k.startswith("ema.")})
            for key, value in averages.items():
                value.copy_(tensors[key])

    def _averages(self) -> dict[str, Tensor]:
        """The average of each factor by its name in a state; none where there is no average."""
        if self._average is None:
            return {}
        names = [f"ema.{name}" for name, _ in self._named_parameters()]
        return dict(zip(names, self._average.values, strict=True))

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(f"{name}.{which}", p) for name, layer in self.layers.items() for which, p in layer.named_parameters()]


def _is_plain(value: object) -> bool:
    """Whether JSON can hold a value."""
    return isinstance(value, int | float | str | bool | None.__class__) or (
        isinstance(value, list | tuple) and all(map(_is_plain, value))
    )


def _as_before(stored: Mapping[str, object], group: Mapping[str, object]) -> dict[str, object]:
    """The stored settings of a group with the tuples of which JSON has made lists."""
    return {
        key: tuple(value) if isinstance(group.get(key), tuple) and isinstance(value, Iterable) else value
        for key, value in stored.items()
    }


def _moments(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, object], parameters: Sequence[nn.Parameter]
) -> dict[int, dict[str, object]]:
    """What the optimizer keeps of each factor, by the factor's number.

    Raises:
        ConfigError: It is of another factor than there is.
    """
    moments = {int(index): dict(_mapping(f"optimizer.{index}", values)) for index, values in numbers.items()}
    for key, value in tensors.items():
        kind, *place = key.split(".", 2)
        if kind != "optimizer":
            continue
        if len(place) < 2 or not place[0].isdecimal() or len(place[0]) > 9:
            raise _other_moments(key, value)
        name, _, inner = place[1].partition("/")
        kept = moments.setdefault(int(place[0]), {})
        if inner:
            kept[name] = {**_mapping(key, kept.get(name, {})), inner: value.clone()}
        else:
            kept[name] = value.clone()
    for index, kept in moments.items():
        if index >= len(parameters):
            raise _other_moments(f"optimizer.{index}", sorted(kept))
        wrong = _unfit(kept, parameters[index].shape)
        if wrong is not None:
            raise _other_moments(f"optimizer.{index}.{wrong}", kept.get(wrong))
    return moments


def _unfit(kept: Mapping[str, object], shape: torch.Size) -> str | None:
    """The name of what an optimizer cannot have kept of a factor of this shape; ``None`` where all may be its own."""
    shapes = {name: value.shape for name, value in kept.items() if isinstance(value, Tensor)}
    unfit = next((name for name, each in shapes.items() if len(each) > 1 and each != shape), None)
    if unfit is not None or "exp_avg" not in kept:
        return unfit
    # AdamW's, which reads both without looking.
    unfit = next((name for name in ("exp_avg", "exp_avg_sq") if shapes.get(name) != shape), None)
    return "step" if unfit is None and "step" not in kept else unfit


def _groups(stored: object, groups: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The optimizer's settings in a state, one mapping for each of the optimizer's own groups.

    Raises:
        ConfigError: They are not of the kinds that the optimizer has.
    """
    if not isinstance(stored, list | tuple) or len(stored) != len(groups):
        raise _other_moments("groups", len(stored) if isinstance(stored, list | tuple) else stored)
    before = [_mapping("groups", group) for group in stored]
    for old, now in zip(before, groups, strict=True):
        shared = (key for key in old if key in now)
        wrong = "params" if "params" in old else next((k for k in shared if not _are_alike(old[k], now[k])), None)
        if wrong is not None:
            raise _other_moments(f"groups.{wrong}", old[wrong])
    return before


def _are_alike(one: object, other: object) -> bool:
    """Whether two settings of an optimizer are of one kind: numbers, texts, or switches, which may also be nothing."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    return _kind(one) == _kind(other)


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "switch"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _mapping(what: str, value: object) -> Mapping[str, object]:
    """A part of a state's numbers.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(value, Mapping):
        raise _other_moments(what, value)
    return value


def _other_moments(what: str, value: object) -> ConfigError:
    """The error for a part of a state that is not this optimizer's; of tensors it shows the shape."""
    kept = shown(tuple(value.shape) if isinstance(value, Tensor) else value)
    return ConfigError(
        f"The saved training's optimizer is another one, or damaged: {printable(what)} is {kept}.",
        found=kept,
        expected="what this training's optimizer keeps",
        remedy="Go on with the optimizer and factors that it began with, or start a new run.",
    )


def _require_same_factors(wanted: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Refuse tensors of a state that are not those of this training, by names and shapes.

    Raises:
        ConfigError: A layer is missing on one side, or has other factors.
    """
    both = (*wanted, *stored)
    different = next(
        (k for k in both if k not in wanted or k not in stored or wanted[k].shape != stored[k].shape), None
    )
    if different is not None:
        raise ConfigError(
            "The saved training adapts other layers, or with other factors.",
            layer=different.removeprefix("factors."),
            found=tuple(stored[different].shape) if different in stored else "no such layer in the saved training",
            expected=tuple(wanted[different].shape) if different in wanted else "no such layer now",
            remedy="Go on with the targets and factors that it began with, or start a new run.",
        )
