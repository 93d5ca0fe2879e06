"""CLIP-I, CLIP-T and DINO as DreamBooth and DiffuseKronA report them, by models that the user has.

CLIP is ViT-B/32 (Radford et al. 2021), DINO ViT-S/16 and its class token (Caron et al. 2021); cosines of pairs (Ruiz et al. 2022, section 4.2;
DiffuseKronA, appendix C). Both are loaded by transformers from a local folder. Nothing is downloaded, and nothing is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from krona_ops import read_header
from krona_ops.errors import ConfigError

CLIP, DINO = "clip-vit-base-patch32", "dino-vits16"
"""Subfolders, called as their repositories are."""
REPOSITORIES = {CLIP: "openai/clip-vit-base-patch32", DINO: "facebook/dino-vits16"}
CLASSES = {CLIP: ("CLIPModel", "CLIPProcessor"), DINO: ("ViTModel", "ViTImageProcessor")}
BATCH = 32
"""Pictures at once."""


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
        self._clip = self._model(transformers.CLIPModel, clip)
        self._dino = self._model(transformers.ViTModel, dino, add_pooling_layer=False)
        self._clip_pictures = _loaded(transformers.CLIPImageProcessor, clip)
        self._dino_pictures = _loaded(transformers.ViTImageProcessor, dino)
        self._words = _loaded(transformers.CLIPTokenizer, clip)

    def _model(self, kind: Any, folder: Path, **options: Any) -> Any:
        model = _loaded(kind, folder, use_safetensors=True, **options)
        return model.float().to(self.device).requires_grad_(False).eval()

    def see(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """See `krona_train.evaluation.Judge`; ``(N, 512)`` of CLIP and ``(N, 384)`` of DINO, on the CPU."""
        clip, dino = [], []
        for part in _parts(images):
            clip.append(self._clip_of(part))
            dino.append(self._dino(self._prepared(self._dino_pictures, part)).last_hidden_state[:, 0])
        return {name: F.normalize(torch.cat(found).float(), dim=1).cpu() for name, found in (("CLIP-I", clip), ("DINO", dino))}

    def read(self, images: Sequence[Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
        """See `krona_train.evaluation.Judge`."""
        seen = F.normalize(torch.cat([self._clip_of(part) for part in _parts(images)]).float(), dim=1).cpu()
        different = list(dict.fromkeys(prompts))
        tokens = self._words(different, padding=True, truncation=True, return_tensors="pt").to(self.device)
        said = F.normalize(_features(self._clip.get_text_features(**tokens)).float(), dim=1).cpu()
        return {"CLIP-T": (seen * said[[different.index(prompt) for prompt in prompts]]).sum(1)}

    def _clip_of(self, part: list[Any]) -> Tensor:
        return _features(self._clip.get_image_features(pixel_values=self._prepared(self._clip_pictures, part)))

    def _prepared(self, processor: Any, images: list[Any]) -> Tensor:
        """Scaled, cut and normalised as the model's own settings say."""
        return processor(images=images, return_tensors="pt").pixel_values.to(self.device)


def _features(found: Any) -> Tensor:
    """Projected features: transformers 5 hands them out in a structure, 4 as they are."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _parts(images: Sequence[Tensor]) -> Iterator[list[Any]]:
    """Some pictures at a time, as bytes: that is what their files would hold."""
    for start in range(0, len(images), BATCH):
        yield [
            (image[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy() for image in images[start : start + BATCH]
        ]


def _checked(folder: Path, name: str) -> Path:
    """
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
    raise ConfigError(
        f"There is no {name} to judge with" + (f"; {pickled[0]} could run any program and is not opened." if pickled else "."),
        where=str(path),
        found=pickled[0] if pickled else ("no model.safetensors" if path.is_dir() else "no such folder"),
        expected="config.json, preprocessor_config.json and model.safetensors",
        remedy=f'Get it once, in Python: import transformers as t; t.{model}.from_pretrained("{REPOSITORIES[name]}").save_pretrained("{path}"); '
        f't.{processor}.from_pretrained("{REPOSITORIES[name]}").save_pretrained("{path}").',
    )


def _loaded(kind: Any, folder: Path, **options: Any) -> Any:
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
