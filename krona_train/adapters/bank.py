"""The adapters of a training on one frozen model, by name: each with its own layers, optimizer and average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from torch import Tensor

from krona_ops import Adapter, LayerName
from krona_ops.live.reach import Reach
from krona_ops.targets.rules import Target
from krona_ops.updates.delta import Delta

from ..backbone.protocol import Backbone
from ..settings.groups import MAIN
from .attach import all_attached
from .gates import Beside, Gate, Gates
from .layers import layer_type_of
from .layers.protocol import BIAS, Role, base_of
from .rates import learning_rates, require_movement
from .sparse import require_two_factors
from .start import Start
from .targets import targets_of
from .trainee import Recipe, Trainee


@dataclass(frozen=True)
class Chosen:
    """What an adapter trains: known before the model is on its device."""

    recipe: Recipe
    targets: Sequence[Target]
    rates: Mapping[str, float]
    """For each layer, what its learning rate is multiplied by."""
    begun: Mapping[LayerName, Delta]
    """Updates that layers start at, each in its layer's own form."""


def choose(backbone: Backbone, recipe: Recipe, start: Start | None = None) -> Chosen:
    """The targets of an adapter and their rates.

    Raises:
        ConfigError: A kind of layer does not exist, or has no factors to split; or nothing would be trained, because
            every rate is zero.
        CoverageError: No layer of the backbone is a target.
    """
    begun = start.adapter.layers if start is not None else {}
    targets = targets_of(backbone, recipe.adapter, recipe.beside)
    require_two_factors(targets, recipe.adapter)
    rates = learning_rates(backbone, targets, recipe.optimizer)
    roles: dict[str, frozenset[Role]] = {each.name: layer_type_of(each, recipe.adapter).roles for each in targets}
    require_movement(rates, roles, recipe.optimizer, recipe.steps, begun)
    return Chosen(recipe, targets, rates, begun)


class Bank:
    """One or several adapters; a forward pass may use any of them or none. Made inside `Backbone.ready`.

    Args:
        chosen: What each of them trains, by name; `MAIN` is what the training is about.

    Raises:
        ConfigError: A kind of layer cannot be trained in a place where it is wanted, or a factor has fewer entries than
            it shall have parts.
    """

    def __init__(self, backbone: Backbone, chosen: Mapping[str, Chosen]) -> None:
        self._backbone = backbone
        self.gates = Gates(backbone.rows)
        self.trainees = {
            name: Trainee(
                each.targets, each.rates, each.recipe, backbone.device, each.begun, self._base, self._drawn_for(name)
            )
            for name, each in chosen.items()
        }

    def _base(self, name: LayerName) -> Tensor:
        return base_of(self._backbone.module(LayerName(name.removesuffix(BIAS))), name)

    def _drawn_for(self, name: str) -> Callable[[], Tensor | None]:
        """What is drawn is of `MAIN`: the others are trained whole."""
        return (lambda: self.gates.drawn) if name == MAIN else (lambda: None)

    @property
    def main(self) -> Trainee:
        """The adapter that the training is about."""
        return self.trainees[MAIN]

    @property
    def parameters(self) -> int:
        """Numbers that are trained, of all adapters together."""
        return sum(p.numel() for trainee in self.trainees.values() for p in trainee.parameters)

    def only(self, *names: str, **gates: Gate) -> AbstractContextManager[None]:
        """Inside, the model computes with these adapters and no others.

        Args:
            names: They count fully.
            gates: By name, how much they count for each sample, ``(B,)``.
        """
        return self.gates.only({**dict.fromkeys(names), **gates})

    def none(self) -> AbstractContextManager[None]:
        """Inside, the model computes as it was before the training."""
        return self.gates.only({})

    def attending(self, beside: Beside | None) -> AbstractContextManager[None]:
        """Inside, parallel branches do this; outside they do nothing."""
        return self.gates.attending(beside)

    def drawing(self, step: int, number: int = 0) -> AbstractContextManager[None]:
        """Inside, `MAIN` computes with the parts that this step draws, where its factors are trained in parts.

        Outside it is whole: what is validated, drawn and saved.

        Args:
            step: Optimizer steps done before it.
            number: Of the draw in the step.
        """
        return self.gates.drawing(self.main.sparse.draw(step, number))

    @contextmanager
    def attached(self, reach: Reach | None = None) -> Iterator[None]:
        """Inside, the adapters are on the backbone."""
        layers = {name: trainee.layers for name, trainee in self.trainees.items()}
        with all_attached(self._backbone, layers, self.gates, reach):
            yield

    @contextmanager
    def moving(self, adapter: str) -> Iterator[None]:
        """Inside, losses give gradients to this adapter alone, whichever of them count.

        Those of another one would be added to those of its own turn.
        """
        others = [p for name, trainee in self.trainees.items() if name != adapter for p in trainee.parameters]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    @property
    def can_hold_still(self) -> bool:
        """Whether each optimizer can be told by the device itself to move nothing."""
        return all(trainee.can_hold_still for trainee in self.trainees.values())

    def other_results(self) -> dict[str, Adapter]:
        """The adapters besides `MAIN` as the training would return them now, by name."""
        return {name: trainee.result() for name, trainee in self.trainees.items() if name != MAIN}

    def capture(self, *, stays: bool = False) -> tuple[dict[str, Tensor], dict[str, object]]:
        """All tensors and all plain numbers, copied.

        Those of `MAIN` have no name before them, as when there was no other adapter.

        Args:
            stays: See `Trainee.capture`.
        """
        tensors, numbers = self.main.capture(stays=stays)
        others: dict[str, object] = {}
        for name, trainee in self.trainees.items():
            if name != MAIN:
                more, others[name] = trainee.capture(stays=stays)
                tensors |= {f"{PREFIX}{name}.{key}": value for key, value in more.items()}
        return tensors, {**numbers, **({ADAPTERS: others} if others else {})}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None:
        """Put everything back, bit for bit.

        Raises:
            ConfigError: The adapters, their layers, or what their optimizers keep of them, are not those of the state.
        """
        others = numbers.get(ADAPTERS)
        for name, trainee in self.trainees.items():
            if name == MAIN:
                trainee.restore({key: value for key, value in tensors.items() if not key.startswith(PREFIX)}, numbers)
                continue
            before = f"{PREFIX}{name}."
            own = {key.removeprefix(before): value for key, value in tensors.items() if key.startswith(before)}
            kept = others.get(name) if isinstance(others, Mapping) else None
            trainee.restore(own, kept if isinstance(kept, Mapping) else _NOTHING)


ADAPTERS = "adapters"
"""Among the numbers of a state: those of the adapters besides `MAIN`."""
PREFIX = "adapters."
"""Before the names of their tensors."""
_NOTHING: Mapping[str, object] = {"scaler": {}, "optimizer": {}, "groups": []}
