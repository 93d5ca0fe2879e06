"""Two draws of parts shall predict the same: what keeps an adapter that is trained in parts whole (MoSA: Zhang et al.
2023, who compare the classes that two draws predict; here it is the denoised pictures)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from ..backbone.protocol import Backbone
from ..settings.groups import MAIN, SparseConfig
from .protocol import Loss, Objective, Piece, Wrapping


class ConsistencyOfDraws(Wrapping):
    """Another objective with ``λ · mean ‖x̂₀(e) − x̂₀(e')‖²`` for each pass that `MAIN` is learnt from.

    ``e`` is the draw of the step, with which the other objective computes, and ``e'`` a second one of the same step.
    Both predictions get gradients.

    Args:
        inner: What is minimised besides.
    """

    config_type: ClassVar[type] = SparseConfig

    def __init__(self, inner: Objective, config: SparseConfig) -> None:
        super().__init__(inner)
        self.config = config

    def begin(self, backbone: Backbone) -> tuple[str, ...]:
        """What the inner objective says, and what two passes cost."""
        return (
            *super().begin(backbone),
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
