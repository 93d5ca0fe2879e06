"""Likeness to the subject and fidelity to the prompt, averaged as in the paper."""

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
        """Unit vectors ``(N, width)`` of ``N`` pictures ``(H, W, 3)`` in [0,
        1], by the name of a measure of likeness."""

    def read(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """How well each picture shows its prompt, ``(N,)``, by the name of a measure of fidelity.

        NaN where a prompt says nothing of what is measured.
        """


@dataclass(frozen=True)
class Scores:
    """The measures of some pictures.

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
        measures = {**self.likeness, **self.fidelity}
        return {name: float(values.double().nanmean()) for name, values in measures.items()}

    def spreads(self) -> dict[str, float]:
        """Standard deviation from picture to picture; a picture's likeness is its mean over the subject's."""
        measures = {**{name: values.mean(1) for name, values in self.likeness.items()}, **self.fidelity}
        return {name: _spread(values) for name, values in measures.items()}

    def of(self, picture: int) -> dict[str, float]:
        """Each measure for one picture."""
        scores = {name: float(values[picture].mean()) for name, values in self.likeness.items()}
        return scores | {name: float(values[picture]) for name, values in self.fidelity.items()}

    def table(self) -> str:
        """The means and spreads as text: of all pictures, then the means of each prompt."""
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
    """The standard deviation of the values that are not NaN; 0 for fewer than two."""
    values = values[~values.isnan()].double()
    return float(values.std()) if len(values) > 1 else 0.0


def evaluate(
    judge: Judge, images: Sequence[Tensor], references: Sequence[Tensor], prompts: Sequence[str], trigger: str = ""
) -> Scores:
    """Judge pictures of a subject.

    Args:
        images: What was drawn, each ``(H, W, 3)`` in [0, 1]; an ``IMAGE`` batch is such a list.
        references: Real pictures of the subject, of any sizes.
        prompts: What was asked for: one for each picture, one for all, or one for each of as many equal runs of
            pictures as there are prompts.
        trigger: The subject's own word, which no judge knows; taken out of the prompts.

    Raises:
        DataError: There are no pictures or prompts, or their numbers do not go together.
    """
    for what, pictures in (("pictures", images), ("pictures of the subject", references)):
        if not len(pictures):
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
    stripped = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not stripped or count % len(stripped):
        raise DataError(
            f"{len(stripped)} prompts do not go with {count} pictures.",
            where="prompts",
            found=f"{len(stripped)} prompts",
            expected="one for all, or the same number of pictures for each",
            remedy="Write one prompt per line, in the order of the pictures.",
        )
    each = count // len(stripped)
    return tuple(prompt for prompt in stripped for _ in range(each))


def without(prompt: str, trigger: str) -> str:
    """The prompt without the subject's own word."""
    words = trigger.split()
    if not words:
        return prompt
    left = prompt.split()
    for start in range(len(left) - len(words), -1, -1):
        if [word.strip(",.") for word in left[start : start + len(words)]] == words:
            del left[start : start + len(words)]
    return " ".join(left)
