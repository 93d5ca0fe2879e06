"""Likeness to the subject and fidelity to the prompt, as the paper counts them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from krona_ops.errors import DataError


class Judge(Protocol):
    """Encoders that compare pictures with pictures, and pictures with texts."""

    def see(self, images: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """``N`` pictures ``(H, W, 3)`` in [0, 1] to unit vectors ``(N, width)``, for each measure of likeness by its name."""

    def read(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """How well each picture shows its prompt, ``(N,)``, for each measure of fidelity by its name; NaN where a prompt says nothing of it."""


@dataclass(frozen=True)
class Scores:
    """What the judges say.

    Attributes:
        likeness: Name to cosines ``(N, M)`` of ``N`` pictures with ``M`` pictures of the subject.
        fidelity: Name to ``(N,)``.
        prompts: One for each of the ``N`` pictures.
    """

    likeness: Mapping[str, Tensor]
    fidelity: Mapping[str, Tensor]
    prompts: tuple[str, ...]

    def means(self) -> dict[str, float]:
        """Each measure over all pictures; likeness over all pairs (DiffuseKronA, appendix C)."""
        told = {**self.likeness, **self.fidelity}
        return {name: float(values.double().nanmean()) for name, values in told.items()}

    def spreads(self) -> dict[str, float]:
        """Standard deviation from picture to picture; a picture's likeness is its mean over the subject's."""
        told = {**{name: values.mean(1) for name, values in self.likeness.items()}, **self.fidelity}
        return {name: _spread(values) for name, values in told.items()}

    def of(self, picture: int) -> dict[str, float]:
        """Each measure for one picture."""
        found = {name: float(values[picture].mean()) for name, values in self.likeness.items()}
        return found | {name: float(values[picture]) for name, values in self.fidelity.items()}

    def table(self) -> str:
        """As text: all pictures, then prompt by prompt."""
        means, spreads = self.means(), self.spreads()
        lines = [
            f"{len(self.prompts)} pictures",
            *(f"  {name}: {means[name]:.3f} ± {spreads[name]:.3f}" for name in means if not math.isnan(means[name])),
        ]
        different = dict.fromkeys(self.prompts)
        if len(different) > 1:
            for prompt in different:
                chosen = [n for n, own in enumerate(self.prompts) if own == prompt]
                part = Scores(
                    {name: values[chosen] for name, values in self.likeness.items()},
                    {name: values[chosen] for name, values in self.fidelity.items()},
                    tuple(self.prompts[n] for n in chosen),
                ).means()
                lines.append(
                    f"{prompt} ({len(chosen)}): "
                    + ", ".join(f"{name} {value:.3f}" for name, value in part.items() if not math.isnan(value))
                )
        return "\n".join(lines)


def _spread(values: Tensor) -> float:
    values = values[~values.isnan()].double()
    return float(values.std()) if len(values) > 1 else 0.0


def evaluate(
    judge: Judge, images: Sequence[Tensor], references: Sequence[Tensor], prompts: Sequence[str], trigger: str = ""
) -> Scores:
    """Judge pictures of a subject.

    Args:
        images: What was drawn, each ``(H, W, 3)`` in [0, 1]; an ``IMAGE`` batch is such a list.
        references: Real pictures of the subject, of any sizes.
        prompts: What was asked for: one for each picture, one for all, or one for each of as many equal runs of pictures as there are prompts.
        trigger: The subject's own word, which no judge knows; taken out of the prompts.

    Raises:
        DataError: There are no pictures or prompts, or their numbers do not go together.
    """
    for what, found in (("pictures", images), ("pictures of the subject", references)):
        if not len(found):
            raise DataError(f"There are no {what} to judge.", found=0, expected="at least one", remedy="Connect some.")
    asked = spread_over(prompts, len(images))
    plain = [without(prompt, trigger) for prompt in asked]
    with torch.inference_mode():
        drawn, real = judge.see(images), judge.see(references)
        likeness = {name: vectors @ real[name].mT for name, vectors in drawn.items()}
        return Scores(likeness, judge.read(images, plain), asked)


def spread_over(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """A prompt for each picture; empty lines do not count.

    Raises:
        DataError: There are none, or the pictures cannot be shared out evenly among them.
    """
    told = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not told or count % len(told):
        raise DataError(
            f"{len(told)} prompts do not go with {count} pictures.",
            where="prompts",
            found=f"{len(told)} prompts",
            expected="one for all, or the same number of pictures for each",
            remedy="Write one prompt per line, in the order of the pictures.",
        )
    each = count // len(told)
    return tuple(prompt for prompt in told for _ in range(each))


def without(prompt: str, trigger: str) -> str:
    """The prompt less the subject's own word."""
    words = trigger.split()
    if not words:
        return prompt
    told = prompt.split()
    for start in range(len(told) - len(words), -1, -1):
        if [word.strip(",.") for word in told[start : start + len(words)]] == words:
            del told[start : start + len(words)]
    return " ".join(told)
