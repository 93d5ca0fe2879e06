"""The judges of the pack's own small world: networks of a few hundred thousand weights, trained on rendered pictures.

``benchmarks/world`` trains them.
"""

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
"""Side of the judges' pictures in pixels."""
LONGEST = 24
"""Words of a caption at most."""
LIKENESS, FIDELITY = "subject", "caption"


class Trunk(nn.Sequential):
    """``(B, 3, 64, 64)`` in [-1, 1] to ``(B, 3 * width)``;
    it begins with patches, as large and narrow layers are slow."""

    def __init__(self, width: int = 64) -> None:
        def block(into: int, out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.GroupNorm(8, out), nn.SiLU()]

        layers = [nn.PixelUnshuffle(4), *block(48, width, 1), *block(width, width, 1)]
        for level in (1, 2):
            wider = width * (level + 1)
            layers += [*block(width * level, wider, 2), *block(wider, wider, 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12 * width, 3 * width), nn.SiLU())


class Attributes(nn.Module):
    """A score for every value of every attribute of a picture.

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
    """Pictures to unit vectors of their character, whatever it does and wherever it is: this world's DINO."""

    def __init__(self, width: int = 64, size: int = 64) -> None:
        super().__init__()
        self.trunk, self.out = Trunk(width), nn.Linear(3 * width, size)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, 64, 64)`` to ``(B, size)``, of length 1."""
        return F.normalize(self.out(self.trunk(x)), dim=1)


class ImageText(nn.Module):
    """Pictures and captions to unit vectors in one space: this world's CLIP.

    Args:
        words: Number of different words.
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
        """``(B, LONGEST)`` from `spelled` to ``(B, size)``, of length 1.

        The order of the words does not count: the grammar is fixed, so the words alone decide the meaning.
        """
        return F.normalize(self.reader(self.words(words).sum(1)), dim=1)


def spelled(captions: Sequence[str], vocabulary: Sequence[str]) -> Tensor:
    """Captions as numbers of words ``(B, LONGEST)``, 0 behind the end; unknown words (a subject's own) are left out."""
    numbers = {word: n + 1 for n, word in enumerate(vocabulary)}
    lines = [[numbers[word] for word in caption.split() if word in numbers][:LONGEST] for caption in captions]
    return torch.tensor([line + [0] * (LONGEST - len(line)) for line in lines])


class SmallWorldJudge:
    """The three networks, from their file. A `krona_train.evaluation.Judge`.

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
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118
        try:
            self.heads: dict[str, list[str]] = json.loads(metadata["heads"])
            self.vocabulary: list[str] = json.loads(metadata["words"])
            # New layers draw numbers; the process's generator must not advance by them.
            with torch.random.fork_rng(devices=[]):
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
        """The cosine with the caption, and for each attribute 1 where the picture shows what the prompt names,
        else 0."""
        x = pixels(images)
        captions = self.image_text.captions(spelled(prompts, self.vocabulary))
        scores_by_name = {FIDELITY: (self.image_text.pictures(x) * captions).sum(1)}
        for name, scores in self.attributes(x).items():
            wanted = torch.tensor([self._wanted(name, prompt) for prompt in prompts])
            right = (scores.argmax(1) == wanted).float()
            scores_by_name[name] = torch.where(wanted < 0, torch.nan, right)
        return scores_by_name

    def _wanted(self, name: str, prompt: str) -> int:
        """The number of the attribute's value that the prompt names, -1 where it names none.

        Attributes that have a value ``none`` get that one instead.
        """
        values, words = self.heads[name], prompt.split()
        named = next((n for n, value in enumerate(values) if value in words), -1)
        return values.index("none") if named < 0 and "none" in values else named


def pixels(images: Sequence[Tensor]) -> Tensor:
    """``N`` pictures ``(H, W, 3)`` in [0, 1] as ``(N, 3, 64, 64)`` in [-1, 1]; other sizes are scaled."""
    return torch.cat([_scaled(image[..., :3].permute(2, 0, 1)[None].float().cpu() * 2 - 1) for image in images])


def _scaled(x: Tensor) -> Tensor:
    """``(1, 3, H, W)`` scaled to the judges' size."""
    return x if x.shape[2:] == (SIDE, SIDE) else F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
