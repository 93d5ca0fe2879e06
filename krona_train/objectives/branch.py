"""Denoising of groups of pictures by a parallel branch (MV-Adapter, I2V-Adapter, and references of one subject)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..adapters.gates import Attending, Recording
from ..batches.examples import Batch
from ..randomness import generator
from ..settings.groups import MAIN
from .branch_config import BranchConfig
from .denoising import error
from .denoising_config import DenoisingConfig
from .noise import NOISE, Draw, draw
from .protocol import Loss, Need, Piece, Stateless

if TYPE_CHECKING:
    from ..adapters.bank import Bank
    from ..backbone.protocol import Backbone


@dataclass(frozen=True)
class _Dropped:
    """What the groups of a piece are learnt without, ``(G,)`` each."""

    text: Sequence[bool]
    source: Sequence[bool]


class BranchDenoising(Stateless):
    """The error of what is predicted for the pictures of a group that look at others of it.

    All pictures of a group are at one noise level. Of ``reference`` the first pictures that are drawn from the group are
    looked at: they stay clean, and a pass of the frozen model under the prompt of the first target gives their tokens.
    Of ``first`` it is the first one, which is looked at in the same way, or, where it is read with the others, stays
    clean at their noise level. Neither counts in the loss.
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
        groups = replace(batch, conditions=tuple(_without(batch, dropped.text, size)))
        values = self._error(piece.backbone, piece.bank, groups, size, Draw(sigma, drawn.noise), self.config, dropped.source)
        learnt = self._learnt(batch, size)
        share = size / (size - self._looked_at(size))
        yield Loss(values.new_zeros(len(batch.x0)).index_copy(0, learnt, values), share)

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """The plain squared error of one group's pictures but for those that are looked at."""
        return self._error(backbone, bank, batch, len(batch.x0), drawn, DenoisingConfig(), (False,)).mean()

    def _error(
        self,
        backbone: Backbone,
        bank: Bank,
        batch: Batch,
        size: int,
        drawn: Draw,
        config: DenoisingConfig,
        without_source: Sequence[bool],
    ) -> Tensor:
        """Of the pictures that are learnt, ``(G · (size − looked at),)``.

        Args:
            size: Pictures of each group, which follow one another.
            without_source: ``G`` times, whether what the branch attends to is left out.
        """
        looked_at, learnt, sigma = self._looked_at(size), self._learnt(batch, size), drawn.sigma
        x_t = backbone.add_noise(batch.x0, drawn.noise, sigma)
        x0, mask = batch.x0[learnt], None if batch.mask is None else batch.mask[learnt]
        if looked_at and self._reads_alone:
            attending = self._references(backbone, bank, batch, size)
            gate = self._gate(without_source, size - looked_at, sigma)
            with bank.attending(attending), bank.only(**{MAIN: gate}):
                chosen = [batch.conditions[place] for place in learnt.tolist()]
                prediction = backbone.predict(x_t[learnt], sigma[learnt], chosen)
        else:
            if looked_at:
                places = torch.arange(len(batch.x0), device=sigma.device)
                first = places[places % size < looked_at]
                x_t = x_t.index_copy(0, first, backbone.as_input(batch.x0[first], sigma[first]).to(x_t))
            height, width = batch.x0.shape[-2:]
            attending = Attending(self.config.mode, size, (height, width))
            with bank.attending(attending), bank.only(**{MAIN: self._gate(without_source, size, sigma)}):
                prediction = backbone.predict(x_t, sigma, batch.conditions)[learnt]
        return error(backbone, prediction, x0, sigma[learnt], mask, config)

    def _learnt(self, batch: Batch, size: int) -> Tensor:
        """Places of the pictures that count."""
        places = torch.arange(len(batch.x0), device=batch.x0.device)
        return places[places % size >= self._looked_at(size)]

    def _looked_at(self, size: int) -> int:
        """Pictures at the beginning of each group that are no targets."""
        if self.config.mode == "reference":
            return self.config.references
        return 1 if self.config.mode == "first" and size > 1 else 0

    @property
    def _reads_alone(self) -> bool:
        """Whether the pictures that are looked at are read in a pass of their own, at no noise."""
        config = self.config
        return config.mode == "reference" or (config.mode == "first" and config.reading == "alone")

    def _references(self, backbone: Backbone, bank: Bank, batch: Batch, size: int) -> Attending:
        """What the self-attentions read of the pictures of each group that are looked at, without noise."""
        count = self._looked_at(size)
        places = torch.arange(len(batch.x0), device=batch.x0.device)
        references = places[places % size < count]
        clean = batch.x0[references]
        sigma = backbone.noise_levels(torch.zeros(len(clean)))
        under = [batch.conditions[place // size * size + count] for place in references.tolist()]
        tokens: dict = {}
        with bank.attending(Recording(tokens)), torch.no_grad():
            backbone.predict(backbone.as_input(clean, sigma), sigma, under)
        height, width = batch.x0.shape[-2:]
        groups = {name: n.reshape(-1, count * n.shape[1], n.shape[2]) for name, n in tokens.items()}
        return Attending(self.config.mode, size - count, (height, width), groups)

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
