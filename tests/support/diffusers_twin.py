"""The host's tiny models as diffusers models with the same weights, and examples that both understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from krona_train.batches.examples import Example

TIME_IDS = (480, 640, 3, 11, 56, 72)
"""What diffusers tells SDXL: height and width of the picture, top and left of its cut, height and width that it is made for."""


def load(comfy: Any, kind: str, marks: tuple[str, ...] = (), **options: Any) -> Any:
    """A tiny model as a loader node hands it out; ``marks`` are keys without weight that the host looks for."""
    from tools import tiny_models

    with torch.inference_mode():
        weights = comfy.utils.load_torch_file(str(tiny_models.cached(kind, vae=False, **options)))
        weights |= {mark: torch.tensor([]) for mark in marks}
        return comfy.sd.load_state_dict_guess_config(weights, output_vae=False, output_clip=False)[0]


def unet(comfy: Any, model: Any) -> nn.Module:
    """diffusers' ``UNet2DConditionModel`` with the weights of the host's UNet, in float32."""
    from diffusers import UNet2DConditionModel

    told = model.model.model_config.unet_config
    levels = len(told["channel_mult"])
    downs = [max(told["transformer_depth"][i : i + n]) for i, n in _levels(told["num_res_blocks"])]
    has_middle = told["transformer_depth_middle"] >= 0
    has_ups = any(told["transformer_depth_output"])
    is_sdxl = told.get("num_classes") == "sequential"
    width = told["model_channels"]
    heads = told["num_heads"] if told["num_heads"] > 0 else width // told["num_head_channels"]
    twin = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(width,) * levels,
        down_block_types=tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in downs),
        mid_block_type="UNetMidBlock2DCrossAttn" if has_middle else None,
        up_block_types=("CrossAttnUpBlock2D" if has_ups else "UpBlock2D",) * levels,
        transformer_layers_per_block=tuple(depth or 1 for depth in downs),
        layers_per_block=told["num_res_blocks"][0],
        cross_attention_dim=told["context_dim"],
        attention_head_dim=heads,  # diffusers' name for their number
        use_linear_projection=told["use_linear_in_transformer"],
        addition_embed_type="text_time" if is_sdxl else None,
        addition_time_embed_dim=256 if is_sdxl else None,
        projection_class_embeddings_input_dim=told["adm_in_channels"] if is_sdxl else None,
    )
    weights = model.model.state_dict()
    names = {key: f"diffusion_model.{name}" for key, name in diffusers_names(comfy, model).items()}
    twin.load_state_dict({key: weights[name].clone() for key, name in names.items()})  # strict: nothing is left out
    return twin.eval().requires_grad_(False)


def diffusers_names(comfy: Any, model: Any) -> Mapping[str, str]:
    """The host's own table: the diffusers name of each of its weights that the model has."""
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    had = model.model.diffusion_model.state_dict().keys()
    # The host knows SDXL's added embedding under an older name as well.
    return {key: name for key, name in names.items() if name in had and not key.startswith("class_embedding.")}


def _levels(blocks: list[int]) -> list[tuple[int, int]]:
    return [(sum(blocks[:level]), count) for level, count in enumerate(blocks)]


def sd3(model: Any) -> nn.Module:
    """diffusers' ``SD3Transformer2DModel`` with the weights of the host's MMDiT, by diffusers' own conversion."""
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    told = model.model.model_config.unet_config
    width = 64 * told["depth"]
    twin = SD3Transformer2DModel(
        sample_size=64,
        patch_size=told["patch_size"],
        in_channels=told["in_channels"],
        out_channels=told["out_channels"],
        num_layers=told["depth"],
        attention_head_dim=64,
        num_attention_heads=told["depth"],
        joint_attention_dim=told["context_embedder_config"]["params"]["in_features"],
        caption_projection_dim=width,
        pooled_projection_dim=told["adm_in_channels"],
        pos_embed_max_size=told["pos_embed_max_size"],
        qk_norm="rms_norm",
    )
    weights = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    twin.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(weights))
    return twin.eval().requires_grad_(False)


def examples(kind: str, count: int, seed: int = 0) -> list[Example]:
    """Random pictures (as a VAE gives them) and prompts, made under inference mode, as the host hands them out."""
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from tools.tiny_models import FAMILIES

    size = PictureSize(width=640, height=480, crop_left=11, crop_top=3, target_width=72, target_height=56)
    family, rng = FAMILIES[kind], torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        made = []
        for number in range(count):
            text = torch.randn(1, family.tokens, family.context, generator=rng)
            pooled = {"pooled_output": torch.randn(1, family.pooled, generator=rng)} if family.pooled else {}
            latent = torch.randn(family.channels, 8, 8, generator=rng) / family.scale + family.shift
            made.append(Example(latent, TextCondition(text, pooled, size), f"caption {number}"))
    return made


def clean(kind: str, data: list[Example]) -> Tensor:
    """What diffusers' scripts call ``model_input``: ``(B, C, h, w)`` latents in the model's scale."""
    from tools.tiny_models import FAMILIES

    shift = FAMILIES[kind].shift
    return (torch.stack([example.latent for example in data]).clone() - shift) * FAMILIES[kind].scale


def predict(twin: nn.Module, x_t: Tensor, timesteps: Tensor, data: list[Example]) -> Tensor:
    """What the twin predicts, each sample under its own prompt."""
    text = torch.cat([example.condition.embedding for example in data]).clone()
    extras = [example.condition.extras for example in data]
    pooled = torch.cat([extra["pooled_output"] for extra in extras]).clone() if extras[0] else None
    if type(twin).__name__ == "SD3Transformer2DModel":
        return twin(x_t, encoder_hidden_states=text, pooled_projections=pooled, timestep=timesteps).sample
    if pooled is None:
        return twin(x_t, timesteps, encoder_hidden_states=text).sample
    added = {"text_embeds": pooled, "time_ids": torch.tensor([TIME_IDS] * len(data))}
    return twin(x_t, timesteps, encoder_hidden_states=text, added_cond_kwargs=added).sample
