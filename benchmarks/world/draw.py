"""Pictures that a model of the world draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .render import SIDE

STEPS, GUIDANCE = 12, 3.0


def draw(
    model: Any,
    clip: Any,
    vae: Any,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    batch: int = 12,
    guidance: float = GUIDANCE,
    side: int = SIDE,
) -> NDArray[np.uint8]:
    """One picture for each caption, by the host's own sampler: ``(N, side, side, 3)``.

    Few at a time: the host reads prompt and no prompt together only where it finds memory for both, and rounds
    otherwise differently. Each picture's noise comes from its own seed,
    so it does not depend on which others are drawn with it.
    """
    pictures = []
    for start in range(0, len(captions), batch):
        here = slice(start, start + batch)
        pictures.append(_batch(model, clip, vae, captions[here], seeds[here], guidance, side))
    return np.concatenate(pictures)


@torch.inference_mode()
def _batch(
    model: Any, clip: Any, vae: Any, captions: Sequence[str], seeds: Sequence[int], guidance: float, side: int
) -> NDArray[np.uint8]:
    import comfy.sample

    conditions = {caption: clip.encode_from_tokens(clip.tokenize(caption)) for caption in {*captions, ""}}
    positive = torch.cat([conditions[caption] for caption in captions])
    negative = conditions[""].expand_as(positive)
    space = model.get_model_object("latent_format")
    shape = (space.latent_channels, *(side // space.spacial_downscale_ratio,) * 2)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents = comfy.sample.sample(
        model, noise, STEPS, guidance, "dpmpp_2m", "karras", [[positive, {}]], [[negative, {}]], torch.zeros_like(noise), disable_pbar=True, seed=0
    )  # fmt: skip
    return (vae.decode(latents).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
