"""Two draws of parts shall predict the same: what keeps an adapter that is trained in parts whole (MoSA: Zhang et al.
2023, who compare the classes that two draws predict; here it is the denoised pictures)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from krona_ops.names.branches import Mode

from ..backbone.protocol import Backbone
from ..settings.groups import MAIN, PreviewConfig, SparseConfig
from .protocol import Captured, Loss, Need, Objective, Other, Piece, Previews, Turn
from .rollouts import Rollouts

if TYPE_CHECKING:
    from ..adapters.bank import Bank
    from ..batches.examples import Batch
    from .noise import Draw


class ConsistencyOfDraws:
    """Another objective with ``λ · mean ‖x̂₀(e) − x̂₀(e')‖²`` for each pass that `MAIN` is learnt from.

    ``e`` is the draw of the step, with which the other objective computes, and ``e'`` a second one of the same step.
    Both predictions get gradients.

    Args:
        inner: What is minimised besides.
    """

    config_type: ClassVar[type] = SparseConfig
    name: str
    needs: frozenset[Need]
    turns: tuple[Turn, ...]
    others: Mapping[str, Other]
    beside: Mode | None
    take: int
    rollouts: Rollouts | None

    def __init__(self, inner: Objective, config: SparseConfig) -> None:
        self.config, self._inner = config, inner
        self.name, self.needs, self.turns, self.others = inner.name, inner.needs, inner.turns, inner.others
        self.beside, self.take, self.rollouts = inner.beside, inner.take, inner.rollouts

    def begin(self, backbone: Backbone) -> tuple[str, ...]:
        """What the inner objective says, and what two passes cost."""
        return (
            *self._inner.begin(backbone),
            "The consistency of draws: each pass with a gradient is computed twice, and both are kept for the gradient. "
            "Set adapter.sparse.consistency to 0 for half of the time and of the activations' memory.",
        )

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """The inner terms, each with what two draws differ by in the passes that it comes of."""
        twice = _Twice(piece)
        # A stand-in for the whole protocol: all but its predictions are the backbone's own.
        watched = replace(piece, backbone=cast(Backbone, twice))
        for term in self._inner.losses(watched):
            differences = twice.taken()
            if not differences:
                yield term
                continue
            yield Loss(term.weight * term.values + self.config.consistency * torch.stack(differences).sum())

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """That of the inner objective: nothing is drawn."""
        return self._inner.held_out(backbone, bank, batch, drawn)

    def previews(self, config: PreviewConfig) -> Previews:
        """Those of the inner objective."""
        return self._inner.previews(config)

    def capture(self) -> Captured:
        """The state of the inner objective; draws come from the seed and the step."""
        return self._inner.capture()

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None:
        """Put the inner objective's state back."""
        self._inner.restore(tensors, numbers)


class _Twice:
    """A backbone that predicts a second time, with the step's second draw, wherever `MAIN` gets gradients."""

    def __init__(self, piece: Piece) -> None:
        self._backbone, self._bank, self._step = piece.backbone, piece.bank, piece.step
        self._differences: list[Tensor] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backbone, name)

    def predict(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[object]) -> Tensor:
        first = self._backbone.predict(x_t, sigma, conditions)
        if first.requires_grad and MAIN in self._bank.gates.now:
            # Here and not afterwards: the same adapters count, and branches attend to the same.
            with self._bank.drawing(self._step, 1):
                second = self._backbone.predict(x_t, sigma, conditions)
            self._differences.append((first - second).float().square().mean())
        return first

    def taken(self) -> list[Tensor]:
        """What the two draws differed by, ``()`` for each pass since this was called last."""
        taken, self._differences = self._differences, []
        return taken
