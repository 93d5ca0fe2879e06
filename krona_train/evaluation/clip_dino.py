"""CLIP-I, CLIP-T and DINO as DreamBooth and DiffuseKronA report them, by models that the user has.

CLIP is ViT-B/32 (Radford et al. 2021), DINO ViT-S/16 and its class token (Caron et al. 2021); cosines of pairs (Ruiz et
al. 2022, section 4.2; DiffuseKronA, appendix C). Both are loaded by transformers from a local folder. Nothing is
downloaded, and nothing is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krona_ops import read_header
from krona_ops.errors import ConfigError

from .pretrained import Clip, ImageProcessor, Loads, Pooled, Tokenizer, Vit

CLIP, DINO = "clip-vit-base-patch32", "dino-vits16"
"""Subfolders, called as their repositories are."""
REPOSITORIES = {CLIP: "openai/clip-vit-base-patch32", DINO: "facebook/dino-vits16"}
CLASSES = {CLIP: ("CLIPModel", "CLIPProcessor"), DINO: ("ViTModel", "ViTImageProcessor")}
BATCH = 32
"""Pictures at once."""
T = TypeVar("T")


class ClipDinoJudge:
    """A `krona_train.evaluation.Judge` of the measures ``CLIP-I``, ``DINO`` and ``CLIP-T``.

    Args:
        folder: Holds the folders `CLIP` and `DINO`, each as ``save_pretrained`` writes it, with ``model.safetensors``.
        device: Where to compute.

    Raises:
        ConfigError: One of them is missing or cannot be used.
        AdapterFileError: A file is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        import transformers

        self.device = torch.device(device)
        clip, dino = (_checked(Path(folder), name) for name in (CLIP, DINO))
        self._clip: Clip = self._model(transformers.CLIPModel, clip)
        self._dino: Vit = self._model(transformers.ViTModel, dino, add_pooling_layer=False)
        self._clip_pictures: ImageProcessor = _loaded(transformers.CLIPImageProcessor, clip)
        self._dino_pictures: ImageProcessor = _loaded(transformers.ViTImageProcessor, dino)
        self._tokenizer: Tokenizer = _loaded(transformers.CLIPTokenizer, clip)

    def _model(self, kind: Loads[T], folder: Path, **options: object) -> T:
        """A frozen float32 model on the judge's device."""
        model = _loaded(kind, folder, use_safetensors=True, **options)
        assert isinstance(model, nn.Module)
        model.float().to(self.device).requires_grad_(False).eval()
        return model

    def see(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """See `krona_train.evaluation.Judge`; ``(N, 512)`` of CLIP and ``(N, 384)`` of DINO, on the CPU."""
        clip: list[Tensor] = []
        dino: list[Tensor] = []
        for part in _parts(images):
            clip.append(self._clip_of(part))
            dino.append(self._dino(self._prepared(self._dino_pictures, part)).last_hidden_state[:, 0])
        measures = {"CLIP-I": clip, "DINO": dino}
        return {name: F.normalize(torch.cat(parts).float(), dim=1).cpu() for name, parts in measures.items()}

    def read(self, images: Sequence[Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
        """See `krona_train.evaluation.Judge`."""
        seen = F.normalize(torch.cat([self._clip_of(part) for part in _parts(images)]).float(), dim=1).cpu()
        different = list(dict.fromkeys(prompts))
        words = self._tokenizer(different, padding=True, truncation=True, return_tensors="pt")
        tokens = {name: values.to(self.device) for name, values in words.items()}
        captions = F.normalize(_features(self._clip.get_text_features(**tokens)).float(), dim=1).cpu()
        return {"CLIP-T": (seen * captions[[different.index(prompt) for prompt in prompts]]).sum(1)}

    def _clip_of(self, part: list[np.ndarray]) -> Tensor:
        """CLIP's features ``(B, 512)`` of some pictures."""
        return _features(self._clip.get_image_features(pixel_values=self._prepared(self._clip_pictures, part)))

    def _prepared(self, processor: ImageProcessor, images: list[np.ndarray]) -> Tensor:
        """Pictures scaled, cut and normalised as the model's own settings say, ``(B, 3, height, width)``."""
        return processor(images=images, return_tensors="pt").pixel_values.to(self.device)


def _features(output: Tensor | Pooled) -> Tensor:
    """Projected features: transformers 5 returns them in a structure, 4 as they are."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _parts(images: Sequence[Tensor]) -> Iterator[list[np.ndarray]]:
    """At most `BATCH` pictures at a time, as bytes, like the pixels of their files."""
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        yield [(image[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy() for image in part]


def _checked(folder: Path, name: str) -> Path:
    """The folder of one model.

    Raises:
        ConfigError: There is no such model.
        AdapterFileError: Its file is damaged.
    """
    path = folder / name
    if (path / "model.safetensors").is_file():
        read_header(path / "model.safetensors")
        return path
    pickled = sorted(file.name for file in path.glob("*.bin")) if path.is_dir() else []
    model, processor = CLASSES[name]
    ending = f"; {pickled[0]} could run any program and is not opened." if pickled else "."
    raise ConfigError(
        f"There is no {name} to judge with{ending}",
        where=str(path),
        found=pickled[0] if pickled else ("no model.safetensors" if path.is_dir() else "no such folder"),
        expected="config.json, preprocessor_config.json and model.safetensors",
        remedy="Get it once, in Python: import transformers as t; "
        f't.{model}.from_pretrained("{REPOSITORIES[name]}").save_pretrained("{path}"); '
        f't.{processor}.from_pretrained("{REPOSITORIES[name]}").save_pretrained("{path}").',
    )


def _loaded(kind: Loads[T], folder: Path, **options: object) -> T:
    """What transformers loads from a folder.

    Raises:
        ConfigError: It cannot.
    """
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"transformers cannot load a {kind.__name__}: {first.rstrip('.')}.",
            where=str(folder),
            found=type(error).__name__,
            expected="a folder as save_pretrained writes it",
            remedy="Get it again.",
        ) from error
