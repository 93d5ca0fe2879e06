"""The small world's own models as MODEL, CLIP and VAE: SD1.x with narrow layers, drawing 64 × 64 pixels.

``benchmarks/world`` trains them on rendered pictures (``make world``); the node ``KronaWorldLoader`` loads one.
There are two UNets for the same text encoder and autoencoder: one level deep, and two levels deep with a downsampler
and an upsampler between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from krona_ops.errors import AdapterFileError
from krona_ops.files import load_tensors
from krona_ops.names.branches import Mode

if TYPE_CHECKING:
    from ..types import Clip, Model, Patcher, Vae

FILE = Path(__file__).resolve().parents[2] / "samples" / "world" / "world.safetensors"
_BRANCHES: tuple[Mode, ...] = ("reference", "first", "views")
BRANCHES = {mode: FILE.with_name(f"{mode}.safetensors") for mode in _BRANCHES}
"""Its parallel branches, by what they look at."""
Base = Literal["one level", "two levels"]
"""Which UNet."""
TWO_LEVELS = "two-levels.safetensors"
"""Beside `FILE`: the UNet with two levels. The rest of the model is that of `FILE`."""
PICTURES = tuple(FILE.parent / who / f"{number}.png" for who in ("robot", "bird") for number in range(1, 5))
"""Of two characters that nothing was trained on."""
PATCH, CHANNELS, PACKED = 4, 8, 2
"""Pixels along a side that become one place; numbers of a place; places along a side that become one latent."""
LATENTS = CHANNELS * PACKED**2
"""Channels of a latent."""
UNET: dict[str, object] = {
    "image_size": 8, "in_channels": LATENTS, "out_channels": LATENTS, "model_channels": 128,
    "num_res_blocks": [1], "channel_mult": [1],
    "transformer_depth": [2], "transformer_depth_output": [2, 3], "transformer_depth_middle": -2, "context_dim": 128,
    "num_heads": -1, "num_head_channels": 64, "use_checkpoint": False, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": False, "use_temporal_attention": False,
}  # fmt: skip
UNETS: dict[Base, dict[str, object]] = {
    "one level": UNET,
    "two levels": {
        **UNET, "num_res_blocks": [1, 1], "channel_mult": [1, 1],
        "transformer_depth": [1, 1], "transformer_depth_output": [2, 2, 0, 0],
    },
}  # fmt: skip
SHRINKS = PATCH * PACKED
"""Pixels to a latent, along a side."""
TOKENS = 24
"""Of a sentence, its beginning and end included: no sentence of the world has more, and CLIP's 77 cost the UNet a tenth
of its time. Longer prompts are read in several parts, as the host always does."""
VOCABULARY = 49408
"""CLIP's tokens."""
CLIP: dict[str, object] = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": TOKENS, "hidden_act": "quick_gelu", "eos_token_id": 49407, "bos_token_id": 49406,
    "pad_token_id": 49407, "projection_dim": 128, "vocab_size": VOCABULARY,
}  # fmt: skip
UNUSED = {"logit_scale", "transformer.text_projection.weight"}
"""Parts of the host's text encoder that no picture depends on."""
ROWS, IDS = "clip.token_rows", "clip.token_ids"
"""Embeddings of the tokens that captions of the world use; all others are drawn from their number."""


class WorldLatents(comfy.latent_formats.LatentFormat):
    """Latents of unit variance and 32 channels, an eighth of the picture's side."""

    scale_factor = 1.0
    latent_channels = LATENTS
    spacial_downscale_ratio = SHRINKS


class WorldModel(comfy.supported_models.SD15):
    """What the host knows of SD1.5, for narrower layers; predicts v."""

    unet_config = UNET
    latent_format = WorldLatents

    def inpaint_model(self) -> bool:
        """The host takes more than four channels for a picture and its mask."""
        return False

    def model_type(self, state_dict: Mapping[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION


class WorldTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """CLIP's text encoder with three narrow layers."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: dict = {},  # noqa: B006 (the host's signature)
    ) -> None:
        narrow = partial(comfy.sd1_clip.SDClipModel, textmodel_json_config=dict(CLIP))
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=narrow)


def build_model(device: torch.device, base: Base = "one level") -> comfy.model_base.BaseModel:
    """The diffusion model, its weights as PyTorch leaves them."""
    config = WorldModel(dict(UNETS[base]))
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "", device=device)


class Residual(nn.Module):
    """``x + conv(silu(conv(silu(x))))``, at first the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(nn.functional.silu(self.first(nn.functional.silu(x))))


class WorldAutoencoder(nn.Module):
    """Patches of 4 × 4 pixels to eight numbers and back, four neighbours packed into one latent.

    Almost all of it computes at the patches' size. The UNet sees 8 × 8 latents and not 16 × 16: three times as many
    steps in the same time, and better ones (docs/LOG.md).

    Without normalisation: the host's own autoencoder normalises in 32 groups, and narrow groups forget a picture's
    colours. It was five times as slow, too (docs/LOG.md).
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        patch, half = 3 * PATCH**2, width // 2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(PATCH), nn.Conv2d(patch, width, 3, 1, 1), Residual(width), Residual(width),
            nn.Conv2d(width, 2 * CHANNELS, 3, 1, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, width, 1), Residual(width), Residual(width), Residual(width),
            nn.Conv2d(width, 4 * half, 1), nn.PixelShuffle(2), Residual(half),
            nn.Conv2d(half, 12, 3, 1, 1), nn.PixelShuffle(2),
        )  # fmt: skip

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] to mean and log variance of the latents, ``(B, 32, H/8, W/8)`` each."""
        mean, log_variance = (nn.functional.pixel_unshuffle(part, PACKED) for part in self.encoder(x).chunk(2, 1))
        return mean, log_variance

    def encode(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to latents ``(B, 32, H/8, W/8)``, their mean."""
        return self.moments(x)[0]

    def decode(self, z: Tensor, **options: object) -> Tensor:
        """``(B, 32, h, w)`` to ``(B, 3, 8 h, 8 w)``."""
        return self.decoder(nn.functional.pixel_shuffle(z, PACKED))


class WorldVAE(comfy.sd.VAE):
    """The host's VAE around a `WorldAutoencoder`."""

    patcher: Patcher

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        # Of the host's kinds, the one with least of its own.
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
        self.first_stage_model = WorldAutoencoder().eval()
        if weights is not None:
            self.first_stage_model.load_state_dict(dict(weights))
        self.downscale_ratio = self.upscale_ratio = SHRINKS
        self.latent_channels, self.size = LATENTS, comfy.model_management.module_size(self.first_stage_model)
        self.memory_used_encode = self.memory_used_decode = lambda shape, dtype: (
            4096 * shape[2] * shape[3] * comfy.model_management.dtype_size(dtype)
        )
        comfy.model_management.archive_model_dtypes(self.first_stage_model)
        kind: type = type(self.patcher)
        offload = comfy.model_management.vae_offload_device()
        self.patcher = kind(self.first_stage_model, load_device=self.device, offload_device=offload)


def build_vae(weights: Mapping[str, Tensor] | None = None) -> WorldVAE:
    """The autoencoder with these weights; without any, as PyTorch leaves them."""
    return WorldVAE(weights)


def build_clip() -> comfy.sd.CLIP:
    """The text encoder with the host's own tokenizer, its weights as PyTorch leaves them."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, WorldTextEncoder)
    return comfy.sd.CLIP(target, parameters=1_000_000, tokenizer_data={"clip_l_max_length": TOKENS})


def token_table(rows: Tensor, ids: Tensor) -> Tensor:
    """Embeddings of all of CLIP's tokens ``(49408, width)``: the trained rows, and noise of their size for the rest.

    So a word that the model has never seen means nothing to it, but the same on every computer.

    Args:
        rows: ``(tokens that were trained, width)``.
        ids: ``(tokens that were trained,)``, which ones they are.
    """
    spread = rows.float().std()
    table = torch.randn(VOCABULARY, rows.shape[1], generator=torch.Generator().manual_seed(0)) * spread
    table[ids.long()] = rows.float()
    return table


def load_world(file: Path = FILE, base: Base = "one level") -> tuple[Model, Clip, Vae]:
    """MODEL, CLIP and VAE from a file of the world.

    Args:
        base: With two levels, the UNet comes from the file `TWO_LEVELS` beside it.

    Raises:
        AdapterFileError: A file is missing, or holds something else.
    """
    weights = {name: tensor.float() for name, tensor in load_tensors(file).items()}
    if base == "two levels":
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("unet.")}
        file = file.with_name(TWO_LEVELS)
        weights |= {name: tensor.float() for name, tensor in load_tensors(file).items()}
    try:
        weights["clip.transformer.text_model.embeddings.token_embedding.weight"] = token_table(
            weights.pop(ROWS), weights.pop(IDS)
        )
        parts = {
            part: {name[len(part) + 1 :]: tensor for name, tensor in weights.items() if name.startswith(f"{part}.")}
            for part in ("unet", "clip", "vae")
        }
        device = comfy.model_management.get_torch_device()
        with torch.random.fork_rng(devices=[]):  # new layers draw numbers, which the process's generator must not miss
            net, clip, vae = build_model(torch.device("cpu"), base), build_clip(), build_vae(parts["vae"])
        net.diffusion_model.load_state_dict(parts["unet"])
        missing, unknown = clip.cond_stage_model.clip_l.load_state_dict(parts["clip"], strict=False)
        if unknown or set(missing) - UNUSED:
            raise KeyError(*unknown, *sorted(set(missing) - UNUSED))
    except (KeyError, RuntimeError) as error:
        raise AdapterFileError(
            f"This is no model of the small world: {error}",
            where=file.name,
            found="other tensors",
            expected="the tensors that benchmarks/world/pretrain.py writes",
            remedy="Get the pack again, or make it anew with 'make world'.",
        ) from error
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(net, load_device=device, offload_device=offload), clip, vae
