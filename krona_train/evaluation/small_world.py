"""The judges of the pack's own small world: networks of a few hundred thousand weights, trained on rendered pictures (``benchmarks/world``)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from krona_ops import read_header
from krona_ops.errors import AdapterFileError

FILE = Path(__file__).resolve().parents[2] / "samples" / "world" / "judges.safetensors"
SIDE = 64
"""Of the pictures that they know, in pixels."""
LONGEST = 24
"""Words of a caption."""
LIKENESS, FIDELITY = "subject", "caption"


class Trunk(nn.Sequential):
    """``(B, 3, 64, 64)`` in [-1, 1] to ``(B, 3 * width)``; the first thing is to make patches, because large and narrow layers are slow."""

    def __init__(self, width: int = 64) -> None:
        def block(into: int, out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.GroupNorm(8, out), nn.SiLU()]

        layers = [nn.PixelUnshuffle(4), *block(48, width, 1), *block(width, width, 1)]
        for level in (1, 2):
            layers += [*block(width * level, width * (level + 1), 2), *block(width * (level + 1), width * (level + 1), 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12 * width, 3 * width), nn.SiLU())


class Attributes(nn.Module):
    """Scores for every value of every attribute.

    Args:
        heads: Attribute to its values.
    """

    def __init__(self, heads: Mapping[str, Sequence[str]], width: int = 64) -> None:
        super().__init__()
        self.trunk = Trunk(width)
        self.heads = nn.ModuleDict({name: nn.Linear(3 * width, len(values)) for name, values in heads.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``(B, 3, 64, 64)`` to ``(B, values)`` for each attribute."""
        seen = self.trunk(x)
        return {name: head(seen) for name, head in self.heads.items()}


class SubjectEncoder(nn.Module):
    """Unit vectors of characters, whatever they do and wherever they are: this world's DINO."""

    def __init__(self, width: int = 64, size: int = 64) -> None:
        super().__init__()
        self.trunk, self.out = Trunk(width), nn.Linear(3 * width, size)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, 64, 64)`` to ``(B, size)``, of length 1."""
        return F.normalize(self.out(self.trunk(x)), dim=1)


class ImageText(nn.Module):
    """Unit vectors of pictures and of captions in one space: this world's CLIP.

    Args:
        words: How many there are.
    """

    def __init__(self, words: int, width: int = 64, size: int = 64) -> None:
        super().__init__()
        self.trunk, self.out = Trunk(width), nn.Linear(3 * width, size)
        self.words = nn.Embedding(words + 1, 3 * width, padding_idx=0)
        self.reader = nn.Sequential(nn.Linear(3 * width, 3 * width), nn.SiLU(), nn.Linear(3 * width, size))

    def pictures(self, x: Tensor) -> Tensor:
        """``(B, 3, 64, 64)`` to ``(B, size)``, of length 1."""
        return F.normalize(self.out(self.trunk(x)), dim=1)

    def captions(self, words: Tensor) -> Tensor:
        """``(B, LONGEST)`` from `spelled` to ``(B, size)``, of length 1. The grammar is fixed, so which words there are says it all."""
        return F.normalize(self.reader(self.words(words).sum(1)), dim=1)


def spelled(captions: Sequence[str], vocabulary: Sequence[str]) -> Tensor:
    """Captions as numbers of words ``(B, LONGEST)``, 0 behind the end; unknown words (a subject's own) are left out."""
    numbers = {word: n + 1 for n, word in enumerate(vocabulary)}
    lines = [[numbers[word] for word in caption.split() if word in numbers][:LONGEST] for caption in captions]
    return torch.tensor([line + [0] * (LONGEST - len(line)) for line in lines])


class SmallWorldJudge:
    """All three, from their file. A `krona_train.evaluation.Judge`.

    Attributes:
        attributes: Names what a picture shows.
        subject: Tells characters apart.
        image_text: Compares pictures with captions.
        heads: Attribute to its values; ``none`` where nothing of the kind is there.

    Raises:
        AdapterFileError: The file is missing, or holds something else.
    """

    def __init__(self, file: str | os.PathLike[str] = FILE) -> None:
        read_header(file)  # checks what could hurt, with errors that say which file
        with safe_open(file, "pt") as opened:
            told, tensors = opened.metadata() or {}, {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118
        try:
            self.heads: dict[str, list[str]] = json.loads(told["heads"])
            self.vocabulary: list[str] = json.loads(told["words"])
            with torch.random.fork_rng(devices=[]):  # new layers draw numbers, which the process's generator must not miss
                self.attributes, self.subject = Attributes(self.heads), SubjectEncoder()
                self.image_text = ImageText(len(self.vocabulary))
            for name, net in self.parts().items():
                own = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
                net.load_state_dict(own)
                net.requires_grad_(False).eval()
        except (KeyError, ValueError, RuntimeError) as error:
            raise AdapterFileError(
                f"These are not the small world's judges: {error}",
                where=str(file),
                found="other tensors",
                expected="the tensors that benchmarks/world/train_judges.py writes",
                remedy="Get the pack again, or make them anew with 'make world'.",
            ) from error

    def parts(self) -> dict[str, nn.Module]:
        """The networks, by the names of their tensors."""
        return {"attributes": self.attributes, "subject": self.subject, "image-text": self.image_text}

    def see(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """See `krona_train.evaluation.Judge`."""
        return {LIKENESS: self.subject(pixels(images))}

    def read(self, images: Sequence[Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
        """The cosine with the caption, and for each attribute whether the picture shows what the words say."""
        x = pixels(images)
        said = self.image_text.captions(spelled(prompts, self.vocabulary))
        found = {FIDELITY: (self.image_text.pictures(x) * said).sum(1)}
        for name, scores in self.attributes(x).items():
            wanted = torch.tensor([self._wanted(name, prompt) for prompt in prompts])
            right = (scores.argmax(1) == wanted).float()
            found[name] = torch.where(wanted < 0, torch.nan, right)
        return found

    def _wanted(self, name: str, prompt: str) -> int:
        """The number of the value that the prompt names, -1 where it names none and there need not be none."""
        values, words = self.heads[name], prompt.split()
        named = next((n for n, value in enumerate(values) if value in words), -1)
        return values.index("none") if named < 0 and "none" in values else named


def pixels(images: Sequence[Tensor]) -> Tensor:
    """``N`` pictures ``(H, W, 3)`` in [0, 1] as ``(N, 3, 64, 64)`` in [-1, 1]; other sizes are scaled."""
    return torch.cat([_scaled(image[..., :3].permute(2, 0, 1)[None].float().cpu() * 2 - 1) for image in images])


def _scaled(x: Tensor) -> Tensor:
    return x if x.shape[2:] == (SIDE, SIDE) else F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
