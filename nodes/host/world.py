"""The small world's own model as MODEL, CLIP and VAE: an SD1.x with narrow layers, drawing 64 × 64 pixels.

``benchmarks/world`` trains it on rendered pictures (``make world``). No trained file comes with the pack yet, and no node loads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor

from krona_ops.errors import AdapterFileError
from krona_ops.files import load_tensors

FILE = Path(__file__).resolve().parents[2] / "samples" / "world" / "world.safetensors"
UNET: dict[str, Any] = {
    "image_size": 16, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1, "context_dim": 128,
    "num_heads": -1, "num_head_channels": 64, "use_checkpoint": False, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": False, "use_temporal_attention": False,
}  # fmt: skip
VAE: dict[str, Any] = {
    "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1,
    "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
SHRINKS = 4
"""Pixels to a latent, along a side."""
CLIP: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 77,
    "hidden_act": "quick_gelu", "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407, "projection_dim": 128,
    "vocab_size": 49408,
}  # fmt: skip
UNUSED = {"logit_scale", "transformer.text_projection.weight"}
"""Parts of the host's text encoder that no picture depends on."""
ROWS, IDS = "clip.token_rows", "clip.token_ids"
"""Embeddings of the tokens that captions of the world use; all others are drawn from their number."""


class WorldLatents(comfy.latent_formats.SD15):
    """Latents of unit variance, a quarter of the picture's side."""

    scale_factor = 1.0
    spacial_downscale_ratio = SHRINKS
    latent_rgb_factors = None
    taesd_decoder_name = None


class WorldModel(comfy.supported_models.SD15):
    """What the host knows of SD1.5, for narrower layers; predicts v."""

    unet_config = UNET
    latent_format = WorldLatents

    def model_type(self, state_dict: Mapping[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION


class WorldTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """CLIP's text encoder with three narrow layers."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict = {}) -> None:  # noqa: B006 (the host's signature)
        narrow = partial(comfy.sd1_clip.SDClipModel, textmodel_json_config=dict(CLIP))
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=narrow)


def build_model(device: torch.device) -> comfy.model_base.BaseModel:
    """The diffusion model, its weights as PyTorch leaves them."""
    config = WorldModel(dict(UNET))
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "", device=device)


def build_vae(weights: Mapping[str, Tensor] | None = None) -> comfy.sd.VAE:
    """The autoencoder; without weights they are what the memory holds, and the host warns of each."""
    vae = comfy.sd.VAE(
        sd=dict(weights or {}), config={"params": {"ddconfig": dict(VAE), "embed_dim": VAE["z_channels"]}}, dtype=torch.float32
    )
    vae.downscale_ratio = vae.upscale_ratio = SHRINKS
    return vae


def build_clip() -> comfy.sd.CLIP:
    """The text encoder with the host's own tokenizer, its weights as PyTorch leaves them."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, WorldTextEncoder)
    return comfy.sd.CLIP(target, parameters=1_000_000)


def token_table(rows: Tensor, ids: Tensor) -> Tensor:
    """Embeddings of all of CLIP's tokens ``(49408, width)``: the rows that are known, and for the others noise of their size.

    A word that the model has never seen means nothing to it, and always the same nothing.
    """
    spread = rows.float().std()
    table = torch.randn(CLIP["vocab_size"], rows.shape[1], generator=torch.Generator().manual_seed(0)) * spread
    table[ids.long()] = rows.float()
    return table


def load_world(file: Path = FILE) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE from a file of the world.

    Raises:
        AdapterFileError: The file is missing, or holds something else.
    """
    weights = {name: tensor.float() for name, tensor in load_tensors(file).items()}
    try:
        weights["clip.transformer.text_model.embeddings.token_embedding.weight"] = token_table(
            weights.pop(ROWS), weights.pop(IDS)
        )
        parts = {
            part: {name.removeprefix(f"{part}."): tensor for name, tensor in weights.items() if name.startswith(f"{part}.")}
            for part in ("unet", "clip", "vae")
        }
        device = comfy.model_management.get_torch_device()
        net, clip, vae = build_model(torch.device("cpu")), build_clip(), build_vae(parts["vae"])
        net.diffusion_model.load_state_dict(parts["unet"])
        missing, unknown = clip.cond_stage_model.clip_l.load_state_dict(parts["clip"], strict=False)
        if unknown or set(missing) - UNUSED:
            raise KeyError(*unknown, *sorted(set(missing) - UNUSED))
        vae.first_stage_model.load_state_dict(parts["vae"])  # the host only warns of what is missing
    except (KeyError, RuntimeError) as error:
        raise AdapterFileError(
            f"This is no model of the small world: {error}",
            layer=file.name,
            found="other tensors",
            expected="the tensors that benchmarks/world/pretrain.py writes",
            remedy="Make it anew with: make world",
        ) from error
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(net, load_device=device, offload_device=offload), clip, vae
