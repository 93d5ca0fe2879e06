"""Every layer of a family under every name that some tool writes for it, and where it belongs: made from the model's own paths.

The oracle for the first five dialects is the path itself; for the names of diffusers it is the host's ``*_to_diffusers`` function
where there is one, else the table here, written from diffusers' own conversion scripts (scripts/convert_*_to_diffusers.py).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from families import class_name

from krona_ops.names import projection

Where = tuple[str, tuple[int, int, int] | None]
"""A state dict key and the part of it."""

ROOT = "diffusion_model."

DIALECTS: Mapping[str, Callable[[str], str]] = {
    "diffusion_model.": lambda name: f"diffusion_model.{name}",
    "lora_unet_": lambda name: f"lora_unet_{_flat(name)}",
    "lycoris_": lambda name: f"lycoris_{_flat(name)}",
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "transformer.": lambda name: f"transformer.{name}",
    "no prefix": lambda name: name,
}
DIFFUSERS: Mapping[str, Callable[[str], str]] = {
    "transformer.": lambda name: f"transformer.{name}",
    "lycoris_": lambda name: f"lycoris_{_flat(name)}",
    "lora_transformer_": lambda name: f"lora_transformer_{_flat(name)}",
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "no prefix": lambda name: name,
}
DIFFUSERS_UNET: Mapping[str, Callable[[str], str]] = {
    "unet.": lambda name: f"unet.{name}",
    "lora_unet_": lambda name: f"lora_unet_{_flat(name)}",
    "lycoris_": lambda name: f"lycoris_{_flat(name)}",
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "processor": lambda name: "unet." + re.sub(r"\.(to_[qkv]|to_out)(\.0)?$", r".processor.\1_lora", name),
    "no prefix": lambda name: name,
}


def _flat(name: str) -> str:
    return name.replace(".", "_")


def layer_shape(module: Any) -> tuple[int, ...] | None:
    """As the pack reads it; imported late, because importing ComfyUI before the tests have put it on the CPU fails without a GPU."""
    return importlib.import_module("krona_train.backbone.comfyui").layer_shape(module)


def attention_layers(net: Any) -> dict[str, tuple[int, ...]]:
    """Paths inside the diffusion model, and shapes, of the layers that a trainer's "attention" means."""
    modules = net.diffusion_model.named_modules()
    return {path: shape for path, module in modules if (shape := layer_shape(module)) is not None and projection(path)}


def native(net: Any) -> dict[str, Where]:
    """The model's own names."""
    return {path: (f"{ROOT}{path}.weight", None) for path in attention_layers(net)}


def diffusers(family: str, net: Any) -> dict[str, Where]:
    """Diffusers' names of the attention layers; empty where diffusers has no such model or calls its layers the same."""
    by_host = _host_function(family, net)
    if by_host is not None:
        names = by_host(net.model_config.unet_config)
        layers = {f"{path}.weight" for path in attention_layers(net)}
        return {
            name.removesuffix(".weight"): _where(target)
            for name, target in names.items()
            if name.endswith(".weight")
            and projection(name.removesuffix(".weight"))
            and _where(target)[0].removeprefix(ROOT) in layers
        }
    return {name: where for path, shape in attention_layers(net).items() for name, where in _by_hand(family, path, shape)}


def _where(target: Any) -> Where:
    key, offset = (target, None) if isinstance(target, str) else target[:2]
    return (key if key.startswith(ROOT) else ROOT + key, offset)


def _host_function(family: str, net: Any) -> Callable[[Mapping[str, Any]], Mapping[str, Any]] | None:
    import comfy.model_base as base
    import comfy.utils as utils

    if "num_res_blocks" in net.model_config.unet_config:
        return utils.unet_to_diffusers
    kinds = {
        base.SD3: utils.mmdit_to_diffusers, base.AuraFlow: utils.auraflow_to_diffusers, base.PixArt: utils.pixart_to_diffusers,
        base.Flux: utils.flux_to_diffusers, base.Krea2: utils.krea2_to_diffusers,
    }  # fmt: skip
    if class_name(family).startswith("ZImage"):
        return utils.z_image_to_diffusers  # for Lumina 2 it divides q, k and v wrongly
    return next((function for kind, function in kinds.items() if isinstance(net, kind)), None)


_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
_HUNYUAN = (
    (r"double_blocks\.(\d+)\.img_attn\.qkv", r"transformer_blocks.\1.attn.", _QKV),
    (r"double_blocks\.(\d+)\.txt_attn\.qkv", r"transformer_blocks.\1.attn.", _ADDED),
    (r"double_blocks\.(\d+)\.img_attn\.proj", r"transformer_blocks.\1.attn.to_out.0", ()),
    (r"double_blocks\.(\d+)\.txt_attn\.proj", r"transformer_blocks.\1.attn.to_add_out", ()),
    (r"single_blocks\.(\d+)\.linear1", r"single_transformer_blocks.\1.attn.", _QKV),
    (r"single_blocks\.(\d+)\.linear2", r"single_transformer_blocks.\1.proj_out", ()),
    (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.self_attn\.qkv", r"context_embedder.token_refiner.refiner_blocks.\1.attn.", _QKV),
    (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.self_attn\.proj", r"context_embedder.token_refiner.refiner_blocks.\1.attn.to_out.0", ()),
)  # fmt: skip
_WAN = (
    (r"((?:vace_)?blocks)\.(\d+)\.self_attn\.([qkv])", r"\1.\2.attn1.to_\3", ()),
    (r"((?:vace_)?blocks)\.(\d+)\.self_attn\.o", r"\1.\2.attn1.to_out.0", ()),
    (r"((?:vace_)?blocks)\.(\d+)\.cross_attn\.([qkv])", r"\1.\2.attn2.to_\3", ()),
    (r"((?:vace_)?blocks)\.(\d+)\.cross_attn\.o", r"\1.\2.attn2.to_out.0", ()),
    (r"((?:vace_)?blocks)\.(\d+)\.cross_attn\.([kv])_img", r"\1.\2.attn2.add_\3_proj", ()),
)
_PREDICT2 = (
    (r"blocks\.(\d+)\.self_attn\.([qkv])_proj", r"transformer_blocks.\1.attn1.to_\2", ()),
    (r"blocks\.(\d+)\.self_attn\.output_proj", r"transformer_blocks.\1.attn1.to_out.0", ()),
    (r"blocks\.(\d+)\.cross_attn\.([qkv])_proj", r"transformer_blocks.\1.attn2.to_\2", ()),
    (r"blocks\.(\d+)\.cross_attn\.output_proj", r"transformer_blocks.\1.attn2.to_out.0", ()),
)
_BY_HAND: Mapping[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "HunyuanVideo": _HUNYUAN,
    "HunyuanImage21": _HUNYUAN,
    "WAN2": _WAN,
    "CosmosT2IPredict2": _PREDICT2,
    "CosmosI2VPredict2": _PREDICT2,
    "Anima": _PREDICT2,
    "Cosmos": tuple(
        (rf"blocks\.block(\d+)\.blocks\.{i}\.block\.attn\.{native}", rf"transformer_blocks.\1.attn{i + 1}.{theirs}", ())
        for i in (0, 1)
        for native, theirs in ((r"(to_[qkv])\.0", r"\2"), (r"to_out\.0", "to_out.0"))
    ),
    "GenmoMochi": (
        (r"blocks\.(\d+)\.attn\.qkv_x", r"transformer_blocks.\1.attn1.", _QKV),
        (r"blocks\.(\d+)\.attn\.qkv_y", r"transformer_blocks.\1.attn1.", _ADDED),
        (r"blocks\.(\d+)\.attn\.proj_x", r"transformer_blocks.\1.attn1.to_out.0", ()),
        (r"blocks\.(\d+)\.attn\.proj_y", r"transformer_blocks.\1.attn1.to_add_out", ()),
    ),
    "CogVideoX": (
        (r"blocks\.(\d+)\.([qkv])", r"transformer_blocks.\1.attn1.to_\2", ()),
        (r"blocks\.(\d+)\.attn_out", r"transformer_blocks.\1.attn1.to_out.0", ()),
    ),
    "Lumina2": (
        (r"(\w+)\.(\d+)\.attention\.qkv", r"\1.\2.attn.", _QKV),
        (r"(\w+)\.(\d+)\.attention\.out", r"\1.\2.attn.to_out.0", ()),
    ),
    "HunyuanDiT": (
        (r"blocks\.(\d+)\.attn1\.Wqkv", r"blocks.\1.attn1.", _QKV),
        (r"blocks\.(\d+)\.attn2\.q_proj", r"blocks.\1.attn2.to_q", ()),
        (r"blocks\.(\d+)\.attn2\.kv_proj", r"blocks.\1.attn2.", _QKV[1:]),
        (r"blocks\.(\d+)\.(attn[12])\.out_proj", r"blocks.\1.\2.to_out.0", ()),
    ),
    "Stable_Cascade": (
        (r"(.*)\.attention\.attn\.(to_[qkv])", r"\1.attention.\2", ()),
        (r"(.*)\.attention\.attn\.out_proj", r"\1.attention.to_out.0", ()),
    ),
    "StableAudio3": ((r"transformer\.layers\.(\d+)\.(.*)", r"transformer_blocks.\1.\2", ()),),
    "StableAudio": (
        (r"transformer\.layers\.(\d+)\.self_attn\.to_qkv", r"transformer_blocks.\1.attn1.", _QKV),
        (r"transformer\.layers\.(\d+)\.self_attn\.to_out", r"transformer_blocks.\1.attn1.to_out.0", ()),
        (r"transformer\.layers\.(\d+)\.cross_attn\.to_q", r"transformer_blocks.\1.attn2.to_q", ()),
        (r"transformer\.layers\.(\d+)\.cross_attn\.to_kv", r"transformer_blocks.\1.attn2.", _QKV[1:]),
        (r"transformer\.layers\.(\d+)\.cross_attn\.to_out", r"transformer_blocks.\1.attn2.to_out.0", ()),
    ),
    "Ideogram4": (
        (r"layers\.(\d+)\.attention\.qkv", r"layers.\1.attention.", _QKV),
        (r"layers\.(\d+)\.attention\.o", r"layers.\1.attention.to_out.0", ()),
    ),
    "MiniMaxH3": (
        (r"blocks\.(\d+)\.attn\.qkv_proj", r"transformer_blocks.\1.attn.", _QKV),
        (r"blocks\.(\d+)\.attn\.out_proj", r"transformer_blocks.\1.attn.to_out.0", ()),
        (r"token_refiner\.blocks\.(\d+)\.attn\.qkv_proj", r"token_refiner.refiner_blocks.\1.attn.", _QKV),
        (r"token_refiner\.blocks\.(\d+)\.attn\.out_proj", r"token_refiner.refiner_blocks.\1.attn.to_out.0", ()),
    ),
    "ACEStep15": (
        (r"decoder\.layers\.(\d+)\.(\w+_attn)\.([qkv])_proj", r"layers.\1.\2.to_\3", ()),
        (r"decoder\.layers\.(\d+)\.(\w+_attn)\.o_proj", r"layers.\1.\2.to_out.0", ()),
    ),
}  # fmt: skip


def _by_hand(family: str, path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Where]]:
    rules = next((rules for start, rules in _BY_HAND.items() if family.startswith(start)), ())
    for pattern, name, parts in rules:
        if match := re.fullmatch(pattern, path):
            key = f"{ROOT}{path}.weight"
            sizes = _sizes(family, path, shape, len(parts))
            for index, part in enumerate(parts):
                yield match.expand(name) + part, (key, (0, sum(sizes[:index]), sizes[index]))
            if not parts:
                yield match.expand(name), (key, None)


def _sizes(family: str, path: str, shape: tuple[int, ...], parts: int) -> tuple[int, ...]:
    if family == "Lumina2":
        return (2304, 768, 768)  # 24 heads of 96 for q, 8 of 96 for k and v
    if path.endswith("linear1"):
        return (shape[1],) * 3
    return (shape[0] // parts,) * parts if parts else ()
