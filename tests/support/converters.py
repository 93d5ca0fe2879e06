"""What diffusers calls each layer of a family, and which rows of the host's weights it is: told by diffusers' own converters.

A converter is fed a state dict of the host's model in which every row of every weight is a number of its own, so that what
comes out tells where each of its rows came from: parts of fused weights, halves in the other order, whatever the code does.
One number per row is enough (the weights are one column wide), so a model of full width costs nothing.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = "diffusion_model."
State = dict[str, Tensor]


class Where(NamedTuple):
    """A state dict key, the part of it, and the order of its rows."""

    key: str
    offset: tuple[int, int, int] | None = None
    order: tuple[int, ...] | None = None
    """Where diffusers has blocks of these rows in another order: its first block is the model's block ``order[0]``."""


def names(family: str, net: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Where] | None:
    """``{diffusers' name: where its rows are}`` of every layer that diffusers' converter knows; ``None`` where there is none.

    Args:
        shapes: The layers of the model by their paths inside it.
    """
    found = next((c for start, c in _CONVERTERS.items() if re.match(rf"(?:{start})(?: |$)", family)), None)
    return _read(found(_tagged(shapes), net), shapes) if found else None


def _tagged(shapes: Mapping[str, tuple[int, ...]]) -> State:
    state, start = {}, 0
    for path, shape in shapes.items():
        state[f"{path}.weight"] = torch.arange(start, start + shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        state[f"{path}.bias"] = torch.full((shape[0],), -1)
        start += shape[0]
    return state


def _read(converted: State, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Where]:
    paths = list(shapes)
    ends = list(accumulate(shape[0] for shape in shapes.values()))
    result = {}
    for name, rows in converted.items():
        if isinstance(rows, Tensor) and rows.ndim > 1 and name.endswith(".weight") and rows.flatten()[0] >= 0:
            runs, order = _in_order(list(_runs(rows.flatten(), ends)))
            [(first, height)] = runs
            n = bisect(ends, first)
            whole = shapes[paths[n]][0]
            offset = None if height == whole else (0, first - ends[n] + whole, height)
            result[name.removesuffix(".weight")] = Where(f"{ROOT}{paths[n]}.weight", offset, order)
    return result


def _runs(rows: Tensor, ends: list[int]) -> Iterator[tuple[int, int]]:
    """Rows that follow each other in one weight: the first, and how many."""
    is_first = torch.cat([torch.tensor([True]), (rows.diff() != 1) | torch.isin(rows[1:], torch.tensor(ends))])
    firsts = is_first.nonzero().flatten().tolist()
    for first, end in zip(firsts, [*firsts[1:], len(rows)], strict=True):
        yield int(rows[first]), end - first


def _in_order(runs: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, ...] | None]:
    """One run, and the order of its blocks, where there are several that make up one; else as they are."""
    start, height = min(runs)
    blocks = [(start + n * height, height) for n in range(len(runs))]
    if len(runs) > 1 and sorted(runs) == blocks:
        return [(start, height * len(runs))], tuple(map(blocks.index, runs))
    return runs, None


Converter = Callable[[State, Any], State]
_UNUSED = torch.full((1, 1), -1)


class _Kept(dict):
    """For the converter of Cosmos 1, which takes everything out before it looks what is in."""

    def pop(self, key: str, *default: Any) -> Any:
        return self[key]


class _Lenient(dict):
    """What a checkpoint has besides layers (norms, biases, tables), or would have with more blocks, is given and forgotten."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, default[0] if default else _UNUSED.expand(30, 1))


def _single_file(
    name: str, rename: Callable[[str], str] = str, leave: str = "$", kind: type[dict] = _Lenient, **config: Any
) -> Converter:
    """A converter of ``diffusers.loaders.single_file_utils``; ``leave`` are layers that diffusers' model has not."""

    def convert(state: State, net: Any) -> State:
        from diffusers.loaders import single_file_utils

        checkpoint = kind({rename(key): rows for key, rows in state.items() if not re.match(leave, key)})
        return getattr(single_file_utils, name)(checkpoint, **config)

    return convert


def _unet(state: State, net: Any) -> State:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    told = net.model_config.unet_config
    config = {"layers_per_block": told["num_res_blocks"][0]}
    if told.get("num_classes") == "sequential":
        kind = "addition" if told["context_dim"] in (1280, 2048) else "class"
        config[f"{kind}_embed_type"] = "text_time" if kind == "addition" else "projection"
    made = convert_ldm_unet_checkpoint(_Lenient({f"model.diffusion_model.{key}": rows for key, rows in state.items()}), config)
    return {k: v for k, v in made.items() if v is not None}


def hunyuan_original(key: str) -> str:
    """The checkpoint's own name of a layer that the host renames while it loads a model of HunyuanVideo's kind."""
    key = re.sub(
        r"(txt_in\.t_embedder|(?:time|time_r|guidance)_in)\.(in|out)_layer", lambda m: f"{m[1]}.mlp.{'02'[m[2] == 'out']}", key
    )
    key = re.sub(r"(txt_in\.c_embedder)\.(in|out)_layer", lambda m: f"{m[1]}.linear_{'12'[m[2] == 'out']}", key)
    key = re.sub(
        r"mlp\.([02])\.(?=weight)(?<!embedder\.mlp\.[02]\.)(?<!_in\.mlp\.[02]\.)", lambda m: f"mlp.fc{'12'[m[1] == '2']}.", key
    )
    return (
        key.replace("_mod.lin.", "_mod.linear.")
        .replace("modulation.lin.", "modulation.linear.")
        .replace("_attn.qkv", "_attn_qkv")
        .replace("_attn.proj", "_attn_proj")
    )


def _mochi(state: State, net: Any) -> State:
    """The last of the 48 blocks of the released model is another kind of block."""
    state = {key.replace("blocks.2.", "blocks.47."): rows for key, rows in state.items()}
    made = _single_file("convert_mochi_transformer_checkpoint_to_diffusers")(state, net)
    return {key.replace("blocks.47.", "blocks.2."): rows for key, rows in made.items()}


def _longcat(state: State, net: Any) -> State:
    """A Flux by its layers; diffusers' class calls one of them otherwise."""
    made = _single_file("convert_flux_transformer_checkpoint_to_diffusers")(state, net)
    return {key.replace("time_text_embed.", "time_embed."): rows for key, rows in made.items()}


_WAN_EXTRAS = r".*audio|music_|casual_|control_adapter|cond_encoder|ref_conv|trainable_cond_mask|frame_packer"
"""What Wan's relatives without a model in diffusers (HuMo, S2V, WanDancer, Camera) have besides Wan's own layers."""


def _cascade(state: State, net: Any) -> State:
    whole: State = {}
    for key, rows in state.items():
        if match := re.fullmatch(r"(.*\.attention\.attn\.)to_([qkv])\.weight", key):
            whole[f"{match[1]}in_proj_weight"] = (
                torch.cat([whole[f"{match[1]}in_proj_weight"], rows]) if match[2] != "q" else rows
            )
        else:
            whole[key] = rows
    return _single_file("convert_stable_cascade_unet_single_file_to_diffusers")(whole, net)


_CONVERTERS: Mapping[str, Converter] = {
    "SD15|SD20|SD21Unclip.|SDXL|SSD1B|Segmind_Vega|KOALA_.*|SDXLRefiner|.*_instructpix2pix|LotusD|Stable_Zero123|SD_X4Upscaler": _unet,
    "Stable_Cascade_.": _cascade,
    "SD3": _single_file("convert_sd3_transformer_checkpoint_to_diffusers"),
    "AuraFlow": _single_file("convert_auraflow_transformer_checkpoint_to_diffusers"),
    "LongCatImage": _longcat,
    "Flux|FluxInpaint|FluxSchnell": _single_file("convert_flux_transformer_checkpoint_to_diffusers"),
    "Flux2": _single_file("convert_flux2_transformer_checkpoint_to_diffusers"),
    "Chroma|ChromaRadiance": _single_file("convert_chroma_transformer_checkpoint_to_diffusers", leave="nerf_|img_in_patch"),
    "Lumina2": _single_file("convert_lumina2_to_diffusers"),
    "ZImage|ZImagePixelSpace": _single_file("convert_z_image_transformer_checkpoint_to_diffusers", leave="dec_net"),
    "Krea2": _single_file("convert_krea2_transformer_checkpoint_to_diffusers"),
    "CosmosT2V|CosmosI2V": _single_file("convert_cosmos_transformer_checkpoint_to_diffusers", lambda key: f"net.{key}", kind=_Kept),
    "CosmosT2IPredict2|CosmosI2VPredict2|Anima": _single_file("convert_cosmos_transformer_checkpoint_to_diffusers", leave="llm_adapter"),
    "GenmoMochi": _mochi,
    "LTXV": _single_file("convert_ltx_transformer_checkpoint_to_diffusers"),
    "LTXAV": _single_file("convert_ltx2_transformer_to_diffusers"),
    "HunyuanVideo|HunyuanVideoI2V|HunyuanVideoSkyreelsI2V": _single_file("convert_hunyuan_video_transformer_to_diffusers", hunyuan_original),
    "WAN2._(?!CausalAR).*": _single_file("convert_wan_transformer_to_diffusers", leave=_WAN_EXTRAS),
    "QwenImage|HiDream|ErnieImage": lambda state, net: state,
    "MiniMaxH3": _single_file("convert_minimax_h3_transformer_checkpoint_to_diffusers", config={}),
}  # fmt: skip
