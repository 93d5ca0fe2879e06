"""Denoising of groups of pictures by a parallel branch (MV-Adapter, I2V-Adapter, and references of one subject)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..adapters.gates import Attending, Recording
from ..batches.examples import Batch
from ..randomness import generator
from ..settings.groups import MAIN
from .branch_config import BranchConfig
from .denoising import error
from .noise import NOISE, draw
from .protocol import Loss, Need, Piece, Stateless


@dataclass(frozen=True)
class _Dropped:
    """What the groups of a piece are learnt without, ``(G,)`` each."""

    text: Sequence[bool]
    source: Sequence[bool]


class BranchDenoising(Stateless):
    """The error of what is predicted for the pictures of a group that look at others of it.

    All pictures of a group are at one noise level. Of ``reference`` the first pictures that are drawn from the group are
    looked at: they stay clean, and a pass of the frozen model under the prompt of the first target gives their tokens.
    Of ``first`` the first one stays clean at every noise level. Neither counts in the loss.
    """

    config_type: ClassVar[type] = BranchConfig
    name: str = "branch"

    def __init__(self, config: BranchConfig) -> None:
        self.config = config
        has_dropped = config.drop_text + config.drop_both > 0
        self.needs: frozenset[Need] = frozenset(
            {"pictures", "groups", "unconditional"} if has_dropped else {"pictures", "groups"}
        )
        self.beside = config.mode
        self.take = config.references + config.targets if config.mode == "reference" else 0

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """One term: the error of the pictures that are learnt, with no part of it for those that are looked at."""
        batch, size = piece.batch, piece.samples[0].size
        dropped = self._dropped(piece.seed, [sample.group for sample in piece.samples[::size]])
        drawn = draw(piece.backbone, batch.x0, piece.seed, piece.numbers, self.config, NOISE[piece.source])
        sigma = drawn.sigma[::size].repeat_interleave(size)  # one for each group
        conditions = _without(batch, dropped.text, size)
        looked_at = self._looked_at(size)
        places = torch.arange(len(batch.x0), device=sigma.device)
        learnt = places[places % size >= looked_at]
        x_t = piece.backbone.add_noise(batch.x0, drawn.noise, sigma)
        x0, mask = batch.x0[learnt], None if batch.mask is None else batch.mask[learnt]
        if self.config.mode == "reference":
            attending = self._references(piece, batch, conditions, size)
            gate = self._gate(dropped.source, size - looked_at, sigma)
            with piece.bank.attending(attending), piece.bank.only(**{MAIN: gate}):
                chosen = [conditions[place] for place in learnt.tolist()]
                prediction = piece.backbone.predict(x_t[learnt], sigma[learnt], chosen)
        else:
            if looked_at:
                first = places[places % size < looked_at]
                x_t = x_t.index_copy(0, first, piece.backbone.as_input(batch.x0[first], sigma[first]).to(x_t))
            height, width = batch.x0.shape[-2:]
            attending = Attending(self.config.mode, size, (height, width))
            with piece.bank.attending(attending), piece.bank.only(**{MAIN: self._gate(dropped.source, size, sigma)}):
                prediction = piece.backbone.predict(x_t, sigma, conditions)[learnt]
        values = error(piece.backbone, prediction, x0, sigma[learnt], mask, self.config)
        yield Loss(values.new_zeros(len(batch.x0)).index_copy(0, learnt, values), size / (size - looked_at))

    def _looked_at(self, size: int) -> int:
        """Pictures at the beginning of each group that are no targets."""
        if self.config.mode == "reference":
            return self.config.references
        return 1 if self.config.mode == "first" and size > 1 else 0

    def _references(self, piece: Piece, batch: Batch, conditions: Sequence[object], size: int) -> Attending:
        """What the self-attentions read of each group's references, without noise."""
        count = self.config.references
        places = torch.arange(len(batch.x0), device=batch.x0.device)
        references = places[places % size < count]
        clean = batch.x0[references]
        sigma = piece.backbone.noise_levels(torch.zeros(len(clean)))
        under = [conditions[place // size * size + count] for place in references.tolist()]
        tokens: dict = {}
        with piece.bank.attending(Recording(tokens)), torch.no_grad():
            piece.backbone.predict(piece.backbone.as_input(clean, sigma), sigma, under)
        height, width = batch.x0.shape[-2:]
        groups = {name: n.reshape(-1, count * n.shape[1], n.shape[2]) for name, n in tokens.items()}
        return Attending("reference", size - count, (height, width), groups)

    def _gate(self, dropped: Sequence[bool], size: int, like: Tensor) -> Tensor:
        """``(G · size,)``, 0 for groups that are learnt without what the branch attends to."""
        return like.new_tensor([0.0 if each else 1.0 for each in dropped for _ in range(size)])

    def _dropped(self, seed: int, groups: Sequence[int]) -> _Dropped:
        """What each group is learnt without, from the seed and the group's number alone."""
        config, text, source = self.config, [], []
        for number in groups:
            u = torch.rand((), generator=generator(seed, "branch drops", number)).item()
            both = u < config.drop_both
            text.append(both or u - config.drop_both < config.drop_text)
            source.append(both or 0 <= u - config.drop_both - config.drop_text < config.drop_source)
        return _Dropped(text, source)


def _without(batch: Batch, dropped: Sequence[bool], size: int) -> list[object]:
    """The conditions of a batch, of groups whose captions are dropped those without a prompt."""
    return [
        batch.unconditional[place] if dropped[place // size] else condition
        for place, condition in enumerate(batch.conditions)
    ]
