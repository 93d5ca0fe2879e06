"""What can be trained in the place of one weight's update: the contract of the kinds, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from krona_ops.errors import ConfigError, ShapeError
from krona_ops.nearest.kronecker import Nearest
from krona_ops.targets.rules import Target
from krona_ops.updates.delta import Delta

from ...settings.groups import AdapterConfig

Role = Literal["random", "zero", "weight"]
"""How a parameter starts: at random, at zero, or as the model's own weight. ``rate_a`` and ``rate_b`` are for the first
two."""
IsPlain = Callable[[nn.Module], bool]
"""Whether a linear layer is nothing but ``W x + bias``, so that base and update may be computed as one."""
Call = Callable[..., Tensor]
"""``call(original, gate, x, *args, **kwargs)``: what the module gives for ``x`` with the update, where
``original(x, *args, **kwargs)`` is what it gives without.

The update is multiplied by ``gate (B,)``, a number for each sample of the batch, or counts fully where that is
``None``.
"""
Computed = Callable[[], Tensor]
"""What a layer computes with in the place of a factor; looked up at each call."""
BIAS = ".bias"
"""The end of a bias's name, behind its layer's, as in adapter files."""


class Layer(nn.Module, ABC):
    """The trainable update of one weight. Parameters are float32 whatever the model computes in.

    A kind is one file with a subclass, and a line in `krona_train.adapters.layers.LAYERS`.
    """

    kind: ClassVar[str]
    """What target rules and settings call it."""
    is_whole: ClassVar[bool] = False
    """Whether it has no factors, so that it takes weights of any shape: norms and biases too."""
    splits: ClassVar[bool] = False
    """Whether it has two factors, or several times two, so that the one that starts at zero can be trained in parts
    (`krona_train.adapters.sparse`)."""
    roles: ClassVar[frozenset[Role]] = frozenset({"random", "zero"})
    """How its parameters start, known before there are any: the keys of `by_role`."""

    @classmethod
    @abstractmethod
    def build(cls, target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor]) -> Layer:
        """A fresh layer, with which the model computes what it computes without.

        Args:
            rng: Everything random comes from it; layers are built one after the other.
            base: Gives the frozen weight, ``target.shape``; for kinds that start there.

        Raises:
            ConfigError: This kind cannot be trained in that place.
        """

    @abstractmethod
    def by_role(self) -> Mapping[Role, Sequence[nn.Parameter]]:
        """Its parameters by how they start."""

    @abstractmethod
    def delta(self) -> Delta:
        """The update as a value, a copy that further training does not change."""

    @abstractmethod
    def begin_at(self, delta: Delta) -> None:
        """Stand where an update of this layer's own form stands; what `nearest` gave."""

    @classmethod
    @abstractmethod
    def as_it_is(cls, delta: Delta, target: Target, config: AdapterConfig) -> Delta | None:
        """An update that has the form of this kind already, with its scale in the factors and float32.

        ``None`` for any other.
        """

    @classmethod
    @abstractmethod
    def nearest(cls, delta: Delta, target: Target, config: AdapterConfig) -> Nearest:
        """The update of the form of this kind that is nearest, with its relative error."""

    @abstractmethod
    def call_for(self, module: nn.Module, name: str, is_plain: IsPlain) -> Call:
        """How ``module`` computes with the update; looked up once, since a model calls it hundreds of times in a step.

        Raises:
            ConfigError: The module computes in a way that the update cannot follow (a grouped convolution, one padded
                by reflection).
        """

    @abstractmethod
    def weigh(self, weight: Tensor) -> Tensor:
        """``W + ΔW`` in the dtype of the weight, with gradients for the parameters.

        For code that multiplies with the weight itself.
        """

    def split(self, computed: Callable[[nn.Parameter], Computed]) -> None:
        """Compute with what this makes of each factor that starts at zero; `delta` and the parameter stay the whole
        factor. Nothing where it is not `splits`.
        """

    @property
    def changes_bias(self) -> bool:
        """Whether it is a bias that is trained, so that the weight stays as it is."""
        return False


def gated(x: Tensor, gate: Tensor | None) -> Tensor:
    """``g · x``, each sample by its own number; ``x`` itself where there is no gate.

    Args:
        x: ``(B, ...)``, or ``(B·n, ...)`` with the ``n`` rows of each sample one after the other.
        gate: ``(B,)``.

    Raises:
        ShapeError: The rows cannot be those of so many samples.
    """
    if gate is None:
        return x
    if x.shape[0] % len(gate):
        raise ShapeError(
            f"A batch of {x.shape[0]} rows cannot be gated by {len(gate)} numbers.",
            found=x.shape[0],
            expected=f"a multiple of {len(gate)}",
            remedy="Leave layers that see the samples mixed out of the targets.",
        )
    each = gate.to(x).repeat_interleave(x.shape[0] // len(gate)) if x.shape[0] != len(gate) else gate.to(x)
    return x * each.view(-1, *[1] * (x.ndim - 1))


@contextmanager
def standing_in(module: nn.Module, name: str, tensor: Tensor | None) -> Iterator[None]:
    """Inside, ``tensor`` is the module's parameter of that name, as `torch.func.functional_call` does it."""
    held = module._parameters[name]
    module._parameters[name] = tensor  # type: ignore[assignment]  # torch lets any tensor stand there, its types do not
    try:
        yield
    finally:
        module._parameters[name] = held


def base_of(module: nn.Module, name: str) -> Tensor:
    """The frozen weight, or bias, of that name, dequantised where it is quantised.

    Raises:
        ConfigError: The module has none.
    """
    which = "bias" if name.endswith(BIAS) else "weight"
    value = getattr(module, which, None)
    if value is None:
        raise ConfigError(
            f"The layer has no {which} to train.",
            layer=name,
            found="none",
            expected=f"a {which}",
            remedy="Leave the layer out with a target rule.",
        )
    is_quantised = hasattr(value, "dequantize") and type(value.data) is not Tensor
    return value.dequantize() if is_quantised else value.detach()


def copy(parameter: Tensor) -> Tensor:
    """A parameter's numbers in the computer's memory, which further training does not change."""
    return parameter.detach().clone().cpu()
