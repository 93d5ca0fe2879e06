"""Model families of the host, narrow and shallow, with random weights: small enough to train and to differentiate numerically.

The host's own configuration classes build the models (`families.FAMILIES` holds what detection reads off real checkpoints);
here widths and depths are smaller, as far as the class lets them.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import families
import torch

from tools.tiny_models import _initial


@dataclass(frozen=True)
class Tiny:
    """A small member of a family."""

    base: str
    """The family in `families.FAMILIES`."""
    context: tuple[int, ...]
    """Shape of an encoded caption without the batch."""
    latent: tuple[int, ...]
    """``(C, *space)``."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """What else the text encoder gives, by name, with shapes."""
    unused: tuple[str, ...] = ()
    """Ends of the names of layers that take no part in a picture from a caption."""
    float64: bool = True
    """Whether the host's code for it can compute in float64."""
    directions: int = 3
    """In which difference quotients are taken; fewer for a model that the host does not let be small."""


_UNET = {"model_channels": 32, "channel_mult": [1, 1], "num_res_blocks": [1, 1], "transformer_depth": [1, 1],
         "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1}  # fmt: skip
_FLUX = {"hidden_size": 128, "num_heads": 1, "context_in_dim": 24, "vec_in_dim": 16, "depth": 2, "depth_single_blocks": 2}
_WAN = {"dim": 64, "num_heads": 2, "ffn_dim": 96, "num_layers": 2, "freq_dim": 32, "text_dim": 24}
_COSMOS2 = {"model_channels": 64, "num_heads": 2, "num_blocks": 2, "crossattn_emb_channels": 24, "adaln_lora_dim": 8}
_LUMINA = {
    "dim": 96,
    "cap_feat_dim": 24,
    "n_layers": 2,
    "n_heads": 3,
    "n_kv_heads": 1,
    "axes_dims": [8, 12, 12],
    "n_refiner_layers": 1,
}
_POOLED = {"pooled_output": (1, 16)}
_K5 = {
    "model_dim": 64,
    "time_dim": 32,
    "ff_dim": 96,
    "num_visual_blocks": 2,
    "in_text_dim": 24,
    "in_text_dim2": 16,
    "axes_dims": (8, 12, 12),
}

TINY: Mapping[str, Tiny] = {
    "SD15": Tiny("SD15", (7, 24), (4, 8, 8), {**_UNET, "context_dim": 24}),
    "SD20": Tiny("SD20", (7, 24), (4, 8, 8), {**_UNET, "context_dim": 24, "model_channels": 64}),
    "SDXL": Tiny("SDXL", (7, 24), (4, 8, 8),
                 {**_UNET, "context_dim": 24, "model_channels": 64, "adm_in_channels": 16 + 1536, "transformer_depth": [0, 2],
                  "transformer_depth_output": [0, 0, 2, 2], "transformer_depth_middle": 2}, _POOLED),
    "SSD1B": Tiny("SSD1B", (7, 24), (4, 8, 8),
                  {**_UNET, "context_dim": 24, "model_channels": 64, "adm_in_channels": 16 + 1536, "transformer_depth_middle": -1},
                  _POOLED),
    "SDXLRefiner": Tiny("SDXLRefiner", (7, 24), (4, 8, 8),
                        {**_UNET, "context_dim": 24, "model_channels": 64, "adm_in_channels": 16 + 1280}, _POOLED),
    "SD3": Tiny("SD3", (7, 24), (16, 8, 8),
                {"depth": 2, "num_blocks": 2, "adm_in_channels": 16, "num_patches": 256, "pos_embed_max_size": 16,
                 "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 24, "out_features": 128}}}, _POOLED),
    "SD3 (3.5 medium)": Tiny("SD3 (3.5 medium)", (7, 24), (16, 8, 8),
                {"depth": 2, "num_blocks": 2, "adm_in_channels": 16, "num_patches": 256, "pos_embed_max_size": 16, "x_block_self_attn_layers": [0],
                 "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 24, "out_features": 128}}}, _POOLED),
    "AuraFlow": Tiny("AuraFlow", (7, 24), (4, 8, 8),
                     {"dim": 48, "n_heads": 3, "cond_seq_dim": 24, "n_double_layers": 2, "n_layers": 4, "global_conddim": 48}),
    "PixArtAlpha": Tiny("PixArtAlpha", (7, 24), (4, 64, 64), {"hidden_size": 48, "num_heads": 3, "depth": 2, "caption_channels": 24, "patch_size": 8}),
    "PixArtSigma": Tiny("PixArtSigma", (7, 24), (4, 64, 64), {"hidden_size": 48, "num_heads": 3, "depth": 2, "caption_channels": 24, "patch_size": 8}),
    "HunyuanDiT": Tiny("HunyuanDiT", (77, 24), (4, 8, 8),
                       {"hidden_size": 96, "num_heads": 3, "depth": 2, "text_states_dim": 24, "text_states_dim_t5": 32, "mlp_ratio": 2.0},
                       {"attention_mask": (1, 77), "conditioning_mt5xl": (1, 256, 32), "attention_mask_mt5xl": (1, 256)}),
    "Flux": Tiny("Flux", (7, 24), (16, 8, 8), _FLUX, _POOLED),
    "FluxSchnell": Tiny("FluxSchnell", (7, 24), (16, 8, 8), _FLUX, _POOLED),
    "LongCatImage": Tiny("LongCatImage", (7, 24), (16, 8, 8), {**_FLUX, "vec_in_dim": None}),
    "Flux2": Tiny("Flux2", (7, 24), (128, 4, 4), {**_FLUX, "vec_in_dim": None}),
    "Chroma": Tiny("Chroma", (7, 24), (16, 8, 8), {**_FLUX, "vec_in_dim": None, "hidden_dim": 32, "out_dim": 128, "n_layers": 2}),
    "ChromaRadiance": Tiny("ChromaRadiance", (7, 24), (3, 32, 32),
                           {**_FLUX, "vec_in_dim": None, "hidden_dim": 32, "out_dim": 128, "n_layers": 2, "nerf_hidden_size": 16, "nerf_depth": 2}),
    "Lumina2": Tiny("Lumina2", (7, 24), (16, 8, 8), _LUMINA),
    "ZImage": Tiny("ZImage", (7, 24), (16, 8, 8), {**_LUMINA, "dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48]}),
    "QwenImage": Tiny("QwenImage", (7, 24), (16, 1, 8, 8),
                      {"num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12)}, unused=("transformer_blocks.1.attn.to_add_out",)),
    "Krea2": Tiny("Krea2", (7, 72), (16, 1, 8, 8),
                  {"features": 128, "heads": 2, "kvheads": 1, "layers": 2, "txtlayers": 3, "txtdim": 24, "txtheads": 2, "txtkvheads": 2, "tdim": 16}),
    "HiDream": Tiny("HiDream", (7, 24), (16, 8, 8),
                    {"attention_head_dim": 32, "axes_dims_rope": [16, 8, 8], "caption_channels": [24, 24], "num_attention_heads": 2, "num_layers": 2,
                     "num_single_layers": 2, "text_emb_dim": 16, "llama_layers": [0, 1, 2, 3]},
                    {"pooled_output": (1, 16), "conditioning_llama3": (1, 4, 7, 24)}),
    "Omnigen2": Tiny("Omnigen2", (7, 24), (16, 8, 8),
                     {"axes_dim_rope": [8, 12, 12], "hidden_size": 96, "num_attention_heads": 3, "num_kv_heads": 1, "num_layers": 2,
                      "num_refiner_layers": 1, "text_feat_dim": 24, "multiple_of": 32}, {"attention_mask": (1, 7)}, unused=tuple(f"ref_image_refiner.0.attn.{end}" for end in ("to_q", "to_k", "to_v", "to_out.0"))),
    "Boogu": Tiny("Boogu", (7, 24), (16, 8, 8),
                  {"axes_dim_rope": [8, 12, 12], "hidden_size": 96, "num_attention_heads": 3, "num_kv_heads": 1, "num_layers": 2,
                   "num_double_stream_layers": 1, "num_refiner_layers": 1, "instruction_feat_dim": 24, "multiple_of": 32}, {"attention_mask": (1, 7)}, unused=tuple(f"ref_image_refiner.0.attn.{end}" for end in ("to_q", "to_k", "to_v", "to_out.0"))),
    "MageFlow": Tiny("MageFlow", (7, 24), (128, 8, 8),
                     {"num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12)}, unused=("transformer_blocks.1.attn.to_add_out",)),
    "JoyImage": Tiny("JoyImage", (7, 24), (16, 1, 8, 8),
                     {"hidden_size": 256, "num_attention_heads": 2, "num_layers": 2, "text_dim": 24}, unused=("double_blocks.1.attn.txt_attn_proj",)),
    "ErnieImage": Tiny("ErnieImage", (7, 24), (128, 4, 4),
                       {"hidden_size": 64, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 64, "text_in_dim": 24, "rope_axes_dim": (8, 12, 12)}),
    "Lens": Tiny("Lens", (7, 96), (128, 8, 8),
                 {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "enc_hidden_dim": 24, "axes_dims_rope": (8, 12, 12)}, unused=("transformer_blocks.1.attn.to_add_out",)),
    "HunyuanImage21": Tiny("HunyuanImage21", (7, 24), (64, 4, 4),
                           {"hidden_size": 64, "num_heads": 2, "axes_dim": [16, 16], "depth": 2, "depth_single_blocks": 2, "context_in_dim": 24,
                            "byt5": False}),
    "CosmosT2IPredict2": Tiny("CosmosT2IPredict2", (7, 24), (16, 1, 8, 8), _COSMOS2),
    "Anima": Tiny("Anima", (7, 1024), (16, 1, 8, 8), {**_COSMOS2, "crossattn_emb_channels": 1024}, {"t5xxl_ids": (7,), "t5xxl_weights": (7,)}, directions=1),
    "Kandinsky5Image": Tiny("Kandinsky5Image", (7, 24), (16, 8, 8), _K5, {"pooled_output": (1, 16)}),
    "HunyuanVideo": Tiny("HunyuanVideo", (7, 24), (16, 2, 8, 8),
                         {"hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12], "depth": 2, "depth_single_blocks": 2, "context_in_dim": 24,
                          "vec_in_dim": 16}, _POOLED),
    "HunyuanVideo15": Tiny("HunyuanVideo15", (7, 24), (32, 2, 8, 8),
                           {"hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12], "depth": 2, "depth_single_blocks": 0, "context_in_dim": 24,
                            "out_channels": 32, "vision_in_dim": 16, "byt5": False}, _POOLED),
    "CosmosT2V": Tiny("CosmosT2V", (7, 24), (16, 2, 8, 8),
                      {"model_channels": 64, "num_heads": 2, "num_blocks": 2, "crossattn_emb_channels": 24, "adaln_lora_dim": 8,
                       "max_img_h": 16, "max_img_w": 16, "max_frames": 16}, float64=False),
    "LTXV": Tiny("LTXV", (7, 24), (128, 2, 4, 4),
                 {"num_layers": 2, "attention_head_dim": 32, "cross_attention_dim": 64, "num_attention_heads": 2, "caption_channels": 24}, {"attention_mask": (1, 7)}),
    "WAN21_T2V": Tiny("WAN21_T2V", (7, 24), (16, 2, 8, 8), _WAN),
    "WAN22_T2V": Tiny("WAN22_T2V", (7, 24), (48, 2, 8, 8), {**_WAN, "in_dim": 48, "out_dim": 48}),
    "Kandinsky5": Tiny("Kandinsky5", (7, 24), (16, 2, 8, 8), _K5, {"pooled_output": (1, 16)}),
    "CogVideoX_T2V": Tiny("CogVideoX_T2V", (226, 24), (16, 2, 8, 8),
                          {"num_attention_heads": 2, "attention_head_dim": 32, "time_embed_dim": 16, "num_layers": 2, "text_embed_dim": 24}),
    "Hunyuan3Dv2": Tiny("Hunyuan3Dv2", (7, 24), (64, 16), {"context_in_dim": 24, "hidden_size": 64, "num_heads": 2, "depth": 2, "depth_single_blocks": 2}),
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A ``ModelPatcher`` of the family on the CPU, its weights drawn from their names and the seed."""
    supported = importlib.import_module("comfy.supported_models")
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher
    tiny = TINY[name]
    config = getattr(supported, families.class_name(tiny.base))({**families.FAMILIES[tiny.base], **tiny.changes})
    config.set_inference_dtype(dtype, None)
    weights = {key: torch.zeros(shape) for key, shape in families._WANTED.get(tiny.base, {}).items()}
    with warnings.catch_warnings(), torch.inference_mode():  # as a loader node builds it
        warnings.simplefilter("ignore")
        net = config.get_model(weights, "", device="cpu")
        for key, parameter in net.diffusion_model.named_parameters():
            parameter.copy_(_weight(key, parameter.shape, seed).to(parameter.dtype))
        for key in net.diffusion_model.state_dict().keys() - dict(net.diffusion_model.named_parameters()).keys():
            buffer = net.diffusion_model.get_buffer(key)
            buffer.copy_(_weight(key, buffer.shape, seed).to(buffer.dtype))
        net.eval()
    return patcher(net, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def _weight(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """Matrices that keep the norm; scales near 1 and biases near 0 but not exactly, so that each has a part in the gradient."""
    drawn = _initial(name, shape, seed)
    if len(shape) >= 2:
        return drawn
    return drawn + 0.1 * _initial(f"{name} shift", (*shape, 1), seed).reshape(shape) if len(shape) else drawn


def example(name: str, seed: int = 0) -> Any:
    """One picture with its caption, as an `Example`."""
    from krona_train.batches.examples import Example
    from krona_train.comfyui.encode import PictureSize, TextCondition

    tiny, rng = TINY[name], torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        extras = {}
        for key, shape in tiny.extras.items():
            if key.endswith("_ids"):
                extras[key] = torch.arange(*shape)
            else:
                extras[key] = torch.ones(shape, dtype=torch.long) if "mask" in key else torch.randn(shape, generator=rng)
        context = torch.randn(1, *tiny.context, generator=rng)
        latent = torch.randn(tiny.latent, generator=rng)
        return Example(latent, TextCondition(context, extras, PictureSize(64, 64, 0, 0, 64, 64)), f"caption {seed}")
