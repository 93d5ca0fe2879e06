"""Every layer of a family under every name that some tool writes for it, and where it belongs: made from the model's own paths.

The oracle for the first dialects is the path itself; for the names of diffusers it is diffusers' own converter (`converters`), and where
its library has none the rules here, written from its conversion scripts (scripts/convert_*_to_diffusers.py).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import converters
from converters import ROOT, Where

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
    return importlib.import_module("krona_host.model.layer_shape").layer_shape(module)


def layers(net: Any) -> dict[str, tuple[int, ...]]:
    """Paths inside the diffusion model, and shapes, of its linear layers and convolutions."""
    modules = net.diffusion_model.named_modules()
    return {path: shape for path, module in modules if (shape := layer_shape(module)) is not None}


def native(net: Any) -> dict[str, Where]:
    """The model's own names."""
    return {path: Where(f"{ROOT}{path}.weight") for path in layers(net)}


def diffusers(family: str, net: Any) -> dict[str, Where]:
    """Diffusers' names of the layers; empty where diffusers has no such model or calls its layers the same."""
    shapes = layers(net)
    found = converters.names(family, net, shapes)
    if found is None:
        found = {name: where for path, shape in shapes.items() for name, where in _by_hand(family, path, shape)}
    return {name: where for name, where in found.items() if where != Where(f"{ROOT}{name}.weight")} if _is_own(found) else found


def _is_own(found: Mapping[str, Where]) -> bool:
    return all(where.key == f"{ROOT}{name}.weight" for name, where in found.items())


_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
_EMBEDDER = {"in": "linear_1", "out": "linear_2"}
_REFINER = r"context_embedder.token_refiner.refiner_blocks.\1"
_SWAP = ("<1 0>",)
Rule = tuple[str, str, tuple[str, ...]]


def _hunyuan(time: str) -> tuple[Rule, ...]:
    """scripts/convert_hunyuan_image_to_diffusers.py and convert_hunyuan_video1_5_to_diffusers.py."""
    return (
        (r"img_in\.proj", "x_embedder.proj", ()),
        *((rf"time_in\.{end}_layer", f"{time}.timestep_embedder.{name}", ()) for end, name in _EMBEDDER.items()),
        *((rf"time_r_in\.{end}_layer", f"{time}.timestep_embedder_r.{name}", ()) for end, name in _EMBEDDER.items()),
        *((rf"guidance_in\.{end}_layer", f"{time}.guidance_embedder.{name}", ()) for end, name in _EMBEDDER.items()),
        (r"txt_in\.input_embedder", "context_embedder.proj_in", ()),
        *(
            (rf"txt_in\.t_embedder\.{end}_layer", f"context_embedder.time_text_embed.timestep_embedder.{name}", ())
            for end, name in _EMBEDDER.items()
        ),
        *(
            (rf"txt_in\.c_embedder\.{end}_layer", f"context_embedder.time_text_embed.text_embedder.{name}", ())
            for end, name in _EMBEDDER.items()
        ),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.self_attn\.qkv", f"{_REFINER}.attn.", _QKV),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.self_attn\.proj", f"{_REFINER}.attn.to_out.0", ()),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.mlp\.0", f"{_REFINER}.ff.net.0.proj", ()),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.mlp\.2", f"{_REFINER}.ff.net.2", ()),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.adaLN_modulation\.1", f"{_REFINER}.norm_out.linear", ()),
        (r"byt5_in\.fc(\d)", r"context_embedder_2.linear_\1", ()),
        (r"vision_in\.proj\.1", "image_embedder.linear_1", ()),
        (r"vision_in\.proj\.3", "image_embedder.linear_2", ()),
        (r"double_blocks\.(\d+)\.img_attn\.qkv", r"transformer_blocks.\1.attn.", _QKV),
        (r"double_blocks\.(\d+)\.txt_attn\.qkv", r"transformer_blocks.\1.attn.", _ADDED),
        (r"double_blocks\.(\d+)\.img_attn\.proj", r"transformer_blocks.\1.attn.to_out.0", ()),
        (r"double_blocks\.(\d+)\.txt_attn\.proj", r"transformer_blocks.\1.attn.to_add_out", ()),
        (r"double_blocks\.(\d+)\.img_mod\.lin", r"transformer_blocks.\1.norm1.linear", ()),
        (r"double_blocks\.(\d+)\.txt_mod\.lin", r"transformer_blocks.\1.norm1_context.linear", ()),
        (r"double_blocks\.(\d+)\.img_mlp\.0", r"transformer_blocks.\1.ff.net.0.proj", ()),
        (r"double_blocks\.(\d+)\.img_mlp\.2", r"transformer_blocks.\1.ff.net.2", ()),
        (r"double_blocks\.(\d+)\.txt_mlp\.0", r"transformer_blocks.\1.ff_context.net.0.proj", ()),
        (r"double_blocks\.(\d+)\.txt_mlp\.2", r"transformer_blocks.\1.ff_context.net.2", ()),
        (
            r"single_blocks\.(\d+)\.linear1",
            r"single_transformer_blocks.\1.",
            ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        ),
        (r"single_blocks\.(\d+)\.linear2", r"single_transformer_blocks.\1.proj_out", ()),
        (r"single_blocks\.(\d+)\.modulation\.lin", r"single_transformer_blocks.\1.norm.linear", ()),
        (r"final_layer\.linear", "proj_out", ()),
        (r"final_layer\.adaLN_modulation\.1", "norm_out.linear", _SWAP),
    )


def _svd(ours: str, theirs: str, number: int) -> tuple[Rule, ...]:
    """A ResNet and an attention of SVD's UNet, each over the picture and over time."""
    resnet = (
        ("in_layers.2", "conv1"),
        ("out_layers.3", "conv2"),
        ("emb_layers.1", "time_emb_proj"),
        ("skip_connection", "conv_shortcut"),
    )
    attention = f"{theirs}attentions.{number}"
    return (
        *((rf"{ours}0\.{re.escape(a)}", f"{theirs}resnets.{number}.spatial_res_block.{b}", ()) for a, b in resnet),
        *((rf"{ours}0\.time_stack\.{re.escape(a)}", f"{theirs}resnets.{number}.temporal_res_block.{b}", ()) for a, b in resnet),
        (rf"{ours}1\.time_stack\.(.*)", rf"{attention}.temporal_transformer_blocks.\1", ()),
        (rf"{ours}1\.time_pos_embed\.0", f"{attention}.time_pos_embed.linear_1", ()),
        (rf"{ours}1\.time_pos_embed\.2", f"{attention}.time_pos_embed.linear_2", ()),
        (rf"{ours}1\.(proj_(?:in|out)|transformer_blocks\..*)", rf"{attention}.\1", ()),
    )  # fmt: skip


_BY_HAND: Mapping[str, tuple[Rule, ...]] = {
    "HunyuanVideo15": _hunyuan("time_embed"),
    "HunyuanImage21": _hunyuan("time_guidance_embed"),
    "PixArt": (  # scripts/convert_pixart_alpha_to_diffusers.py, convert_pixart_sigma_to_diffusers.py
        (r"x_embedder\.proj", "pos_embed.proj", ()),
        (r"y_embedder\.y_proj\.fc(\d)", r"caption_projection.linear_\1", ()),
        *(
            (rf"{ours}_embedder\.mlp\.{i}", f"adaln_single.emb.{theirs}_embedder.linear_{n}", ())
            for ours, theirs in (("t", "timestep"), ("csize", "resolution"), ("ar", "aspect_ratio"))
            for i, n in ((0, 1), (2, 2))
        ),
        (r"t_block\.1", "adaln_single.linear", ()),
        (r"blocks\.(\d+)\.attn\.qkv", r"transformer_blocks.\1.attn1.", _QKV),
        (r"blocks\.(\d+)\.attn\.proj", r"transformer_blocks.\1.attn1.to_out.0", ()),
        (r"blocks\.(\d+)\.mlp\.fc1", r"transformer_blocks.\1.ff.net.0.proj", ()),
        (r"blocks\.(\d+)\.mlp\.fc2", r"transformer_blocks.\1.ff.net.2", ()),
        (r"blocks\.(\d+)\.cross_attn\.q_linear", r"transformer_blocks.\1.attn2.to_q", ()),
        (r"blocks\.(\d+)\.cross_attn\.kv_linear", r"transformer_blocks.\1.attn2.", _QKV[1:]),
        (r"blocks\.(\d+)\.cross_attn\.proj", r"transformer_blocks.\1.attn2.to_out.0", ()),
        (r"final_layer\.linear", "proj_out", ()),
    ),
    "CogVideoX": (  # the host's class is written after diffusers'
        (r"blocks\.(\d+)\.([qkv])", r"transformer_blocks.\1.attn1.to_\2", ()),
        (r"blocks\.(\d+)\.attn_out", r"transformer_blocks.\1.attn1.to_out.0", ()),
        (r"blocks\.(\d+)\.(norm[12]\.linear)", r"transformer_blocks.\1.\2", ()),
        (r"blocks\.(\d+)\.ff_proj", r"transformer_blocks.\1.ff.net.0.proj", ()),
        (r"blocks\.(\d+)\.ff_out", r"transformer_blocks.\1.ff.net.2", ()),
        (r"(time|ofs)_embedding_linear_(\d)", r"\1_embedding.linear_\2", ()),
        (r"(patch_embed\..*|norm_out\.linear|proj_out)", r"\1", ()),
    ),
    "HunyuanDiT": (  # scripts/convert_hunyuandit_to_diffusers.py
        (r"blocks\.(\d+)\.attn1\.Wqkv", r"blocks.\1.attn1.", _QKV),
        (r"blocks\.(\d+)\.attn2\.q_proj", r"blocks.\1.attn2.to_q", ()),
        (r"blocks\.(\d+)\.attn2\.kv_proj", r"blocks.\1.attn2.", _QKV[1:]),
        (r"blocks\.(\d+)\.(attn[12])\.out_proj", r"blocks.\1.\2.to_out.0", ()),
        (r"blocks\.(\d+)\.default_modulation\.1", r"blocks.\1.norm1.linear", ()),
        (r"blocks\.(\d+)\.mlp\.fc1", r"blocks.\1.ff.net.0.proj", ()),
        (r"blocks\.(\d+)\.mlp\.fc2", r"blocks.\1.ff.net.2", ()),
        (r"(blocks\.\d+\.skip_linear)", r"\1", ()),
        (r"(pooler\.\w_proj)", r"time_extra_emb.\1", ()),
        (r"t_embedder\.mlp\.0", "time_extra_emb.timestep_embedder.linear_1", ()),
        (r"t_embedder\.mlp\.2", "time_extra_emb.timestep_embedder.linear_2", ()),
        (r"extra_embedder\.0", "time_extra_emb.extra_embedder.linear_1", ()),
        (r"extra_embedder\.2", "time_extra_emb.extra_embedder.linear_2", ()),
        (r"mlp_t5\.0", "text_embedder.linear_1", ()),
        (r"mlp_t5\.2", "text_embedder.linear_2", ()),
        (r"x_embedder\.proj", "pos_embed.proj", ()),
        (r"final_layer\.adaLN_modulation\.1", "norm_out.linear", _SWAP),
        (r"final_layer\.linear", "proj_out", ()),
    ),
    "StableAudio3": (  # scripts/convert_stable_audio_3_to_diffusers.py
        (r"(to_\w+_embed\.\d|p\w+process_conv)", r"\1", ()),
        (r"transformer\.project_(in|out)", r"proj_\1", ()),
        (r"transformer\.(global_cond_embedder\.\d)", r"\1", ()),
        (r"transformer\.layers\.(\d+)\.self_attn\.to_qkv", r"transformer_blocks.\1.self_attn.to_qkv", ("<0 3 1 4 2>",)),
        (r"transformer\.layers\.(\d+)\.(self_attn\.to_out|cross_attn\..*|to_local_embed\.\d)", r"transformer_blocks.\1.\2", ()),
        (r"transformer\.layers\.(\d+)\.ff\.ff\.0\.proj", r"transformer_blocks.\1.ff.proj_in", ()),
        (r"transformer\.layers\.(\d+)\.ff\.ff\.2", r"transformer_blocks.\1.ff.proj_out", ()),
    ),
    "StableAudio": (  # scripts/convert_stable_audio.py
        (r"to_timestep_embed\.(\d)", r"timestep_proj.\1", ()),
        (r"to_global_embed\.(\d)", r"global_proj.\1", ()),
        (r"to_cond_embed\.(\d)", r"cross_attention_proj.\1", ()),
        (r"(p\w+process_conv)", r"\1", ()),
        (r"transformer\.project_(in|out)", r"proj_\1", ()),
        (r"transformer\.layers\.(\d+)\.self_attn\.to_qkv", r"transformer_blocks.\1.attn1.", _QKV),
        (r"transformer\.layers\.(\d+)\.self_attn\.to_out", r"transformer_blocks.\1.attn1.to_out.0", ()),
        (r"transformer\.layers\.(\d+)\.cross_attn\.to_q", r"transformer_blocks.\1.attn2.to_q", ()),
        (r"transformer\.layers\.(\d+)\.cross_attn\.to_kv", r"transformer_blocks.\1.attn2.", _QKV[1:]),
        (r"transformer\.layers\.(\d+)\.cross_attn\.to_out", r"transformer_blocks.\1.attn2.to_out.0", ()),
        (r"transformer\.layers\.(\d+)\.ff\.ff\.(.*)", r"transformer_blocks.\1.ff.net.\2", ()),
    ),
    "Ideogram4": (  # diffusers.loaders.lora_conversion_utils
        (r"layers\.(\d+)\.attention\.qkv", r"layers.\1.attention.", _QKV),
        (r"layers\.(\d+)\.attention\.o", r"layers.\1.attention.to_out.0", ()),
        (r"((?!.*\.attention\.).*)", r"\1", ()),
    ),
    "ACEStep15": (  # scripts/convert_ace_step_to_diffusers.py
        (r"decoder\.proj_(in|out)\.1", r"proj_\1_conv", ()),
        (r"decoder\.layers\.(\d+)\.(\w+_attn)\.([qkv])_proj", r"layers.\1.\2.to_\3", ()),
        (r"decoder\.layers\.(\d+)\.(\w+_attn)\.o_proj", r"layers.\1.\2.to_out.0", ()),
        (r"decoder\.(time_embed.*|condition_embedder|layers\.\d+\.mlp\..*)", r"\1", ()),
    ),
    **dict.fromkeys(
        ("SVD_img2vid", "SV3D_u", "SV3D_p"),
        (  # scripts/convert_svd_to_diffusers.py
            (r"input_blocks\.0\.0", "conv_in", ()),
            (r"out\.2", "conv_out", ()),
            *((rf"time_embed\.{i}", f"time_embedding.linear_{n}", ()) for i, n in ((0, 1), (2, 2))),
            *((rf"label_emb\.0\.{i}", f"add_embedding.linear_{n}", ()) for i, n in ((0, 1), (2, 2))),
            *(
                rule
                for number in range(1, 12)
                for rule in (
                    (rf"input_blocks\.{number}\.0\.op", f"down_blocks.{(number - 1) // 3}.downsamplers.0.conv", ()),
                    *_svd(rf"input_blocks\.{number}\.", f"down_blocks.{(number - 1) // 3}.", (number - 1) % 3),
                )
            ),
            *_svd(r"middle_block\.", "mid_block.", 0),
            *((pattern.replace("0", "2", 1), name.replace("resnets.0", "resnets.1"), ()) for pattern, name, _ in _svd(r"middle_block\.", "mid_block.", 0)[:8]),
            *(
                rule
                for number in range(12)
                for rule in (
                    (rf"output_blocks\.{number}\.[12]\.conv", f"up_blocks.{number // 3}.upsamplers.0.conv", ()),
                    *_svd(rf"output_blocks\.{number}\.", f"up_blocks.{number // 3}.", number % 3),
                )
            ),
        ),
    ),
}  # fmt: skip


def _by_hand(family: str, path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Where]]:
    rules = next((rules for start, rules in _BY_HAND.items() if family.startswith(start)), ())
    for pattern, name, parts in rules:
        if match := re.fullmatch(pattern, path):
            key = f"{ROOT}{path}.weight"
            if parts and parts[0].startswith("<"):
                yield match.expand(name), Where(key, None, tuple(map(int, parts[0][1:-1].split())))
            elif parts:
                sizes = (
                    (shape[1],) * 3 + (shape[0] - 3 * shape[1],) if len(parts) == 4 else (shape[0] // len(parts),) * len(parts)
                )
                for index, part in enumerate(parts):
                    yield match.expand(name) + part, Where(key, (0, sum(sizes[:index]), sizes[index]))
            else:
                yield match.expand(name), Where(key)
            return
