"""What the judges say about pictures of a subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from krona_train.evaluation.small_world import SmallWorldJudge, spelled

from .autoencoder import pixels
from .grammar import Scene

PROMPT = ("pose", "accessory", "background")
"""The attributes whose accuracy is called prompt fidelity."""
Pictures = NDArray[np.uint8]


class Judges(SmallWorldJudge):
    """The small world's judges, asked about what is known of a picture here."""

    def likeness(self, pictures: Pictures, real: Pictures) -> float:
        """Mean cosine of all pairs, ``(N, 64, 64, 3)`` and ``(M, 64, 64, 3)``:
        the paper's DINO and CLIP-I (appendix C)."""
        return float((self._who(pictures) @ self._who(real).mT).mean())

    def alike(self, groups: Sequence[Pictures]) -> tuple[float, float]:
        """Mean cosine of pairs within a group, and of pairs across groups: whether pictures that were drawn together show
        one and the same character, and whether all groups show the same one."""
        seen = [self._who(group) for group in groups]
        within = [float((w @ w.mT).sum() - len(w)) / (len(w) * (len(w) - 1)) for w in seen]
        across = [float((a @ b.mT).mean()) for n, a in enumerate(seen) for b in seen[:n]]
        return float(np.mean(within)), float(np.mean(across))

    def accuracy(self, pictures: Pictures, scenes: Sequence[Scene]) -> dict[str, float]:
        """Share of pictures that show what was asked for, by attribute of the scene."""
        scores = self.attributes(pixels(pictures))
        shares = {}
        for name in ("pose", "accessory", "background", "light"):
            truth = torch.tensor([self.heads[name].index(getattr(scene, name)) for scene in scenes])
            shares[name] = float((scores[name].argmax(1) == truth).float().mean())
        return shares

    def is_kind(self, pictures: Pictures, kind: str) -> float:
        """Share of pictures that show a member of this class."""
        return float(
            (self.attributes(pixels(pictures))["kind"].argmax(1) == self.heads["kind"].index(kind)).float().mean()
        )

    def agreement(self, pictures: Pictures, captions: Sequence[str]) -> float:
        """Mean cosine of each picture and its caption: the paper's CLIP-T. A subject's own word says nothing."""
        seen, asked = (
            self.image_text.pictures(pixels(pictures)),
            self.image_text.captions(spelled(captions, self.vocabulary)),
        )
        return float((seen * asked).sum(1).mean())

    def diversity(self, pictures: Pictures, each: int) -> float:
        """How much pictures of one prompt differ: mean of ``1 − cosine`` of the trunk's features over pairs,
        then over prompts.

        Args:
            pictures: ``(P * each, 64, 64, 3)``, those of one prompt together.
        """
        features = torch.nn.functional.normalize(self.attributes.trunk(pixels(pictures)), dim=1).unflatten(
            0, (-1, each)
        )
        cosines = features @ features.mT  # (P, each, each)
        return float(1 - (cosines.sum((1, 2)) - each).mean() / (each * (each - 1))) if each > 1 else 0.0

    def _who(self, pictures: Pictures) -> Tensor:
        return self.subject(pixels(pictures))
