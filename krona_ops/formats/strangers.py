"""What a tensor is that no reader here knows: its method, told by the name, and who can use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ..left_out import LeftOut
from .parts import split

BY_COMFYUI = "ComfyUI's own Load LoRA applies them; load the file there too."
NOBODY = "The pack does not read this method; use the program that the file was made for."
OF_NO_LAYER = "They are no updates of layers."
WEIGHTS = "whole weights"
BIASES = "whole biases (PEFT's bias='all' or 'lora_only')"
QUANTISATION = "numbers of a quantisation"
OF_THE_WEIGHTS = "They replace weights of the base model; an adapter only adds to them."

SPECIAL: dict[str, tuple[str, str]] = {
    "diff_m": ("lightx2v's diff_m", "A change of a block's modulation; ComfyUI does not apply it either."),
    "emb_params": ("an embedding", "A textual inversion; put it into models/embeddings."),
    "string_to_param": ("an embedding", "A textual inversion; put it into models/embeddings."),
    "prompt_embeddings": ("a learned prompt", NOBODY),
    "modules_to_save": ("whole weights (PEFT's modules_to_save)", OF_THE_WEIGHTS),
    "lora_diag": ("KaSA", "It cuts the base model's weights down before it adds to them; use PEFT."),
    "lora_E": ("AdaLoRA", NOBODY),
    "ranknum": ("AdaLoRA", NOBODY),
    "on_input": ("(IA)³", NOBODY),
    "rescale": ("OFT", BY_COMFYUI),
    "lokr_t1": ("LoKr with a core in its first factor", NOBODY),
    "lora_latent_mapping": ("LoRA-XS", NOBODY),
    "lora_controlnet": ("a control LoRA of Stability AI", "ComfyUI's own Load ControlNet Model loads it."),
    "logit_scale": (WEIGHTS, OF_THE_WEIGHTS),
}  # fmt: skip
"""By the part's name."""
STARTS: tuple[tuple[str, str], ...] = (
    ("oft_", "OFT"), ("boft_", "BOFT"), ("ia3_", "(IA)³"), ("glora_", "GLoRA"), ("vera_", "VeRA"), ("pvera_", "PVeRA"),
    ("fourierft_", "FourierFT"), ("waveft_", "WaveFT"), ("hra_", "HRA"), ("c3a_", "C³A"), ("road_", "RoAd"), ("shira_", "SHiRA"),
    ("randlora_", "RandLora"), ("vblora_", "VB-LoRA"), ("gralora_", "GraLoRA"), ("miss_", "MiSS"), ("bone_", "Bone"),
    ("delora_", "DeLoRA"), ("poly_", "Poly"), ("lily_", "Lily"), ("hira_", "HiRA"), ("osf_", "OSF"), ("peanut_", "PEANuT"),
    ("psoft_", "PSOFT"), ("supertuning_", "SuperTuning"), ("tinylora_", "TinyLoRA"), ("trainable_tokens_", "trained tokens"),
    ("unilora_", "Uni-LoRA"), ("adamss_", "AdaMSS"), ("beft_", "BEFT"), ("deft_", "DEFT"), ("frod_", "FRoD"),
    ("ln_tuning_", "LN tuning"), ("dylora_", "DyLoRA"), ("abba_", "ABBA"), ("hydra_", "HydraLoRA"), ("lokr_", "LoKr"),
    ("hada_", "LoHa"), ("lora_", "LoRA"), ("loha_", "LoHa"), ("cdka_", "CDKA"), ("krona_", "KronA"),
)  # fmt: skip
"""By how the part's name begins, as PEFT and LyCORIS call them."""
BY_PART = {
    "T-LoRA": frozenset({"q_layer", "p_layer", "lambda_layer", "base_q", "base_p", "base_lambda"}),
    "GLoRA": frozenset({"a1", "a2", "b1", "b2", "bm"}),
}
"""By the part's name; GLoRA's are too short to say anything unless ``weight`` follows."""
READ = frozenset({"LoKr", "LoHa", "LoRA", "CDKA", "KronA"})
"""Methods that the pack reads, so that a part of theirs that it does not know is told by its name."""
NO_PARTS = ("lora_unet", "lora_te", "lora_transformer", "lora_prior")
"""Prefixes of layers' names, which no part of a LoRA is."""
NO_METHODS = frozenset({WEIGHTS, "an embedding", "whole weights (PEFT's modules_to_save)"})
"""What in `SPECIAL` is no method of an adapter."""
QUANTISED = re.compile(
    r"(?:^|[._])(?:weight_scale(?:_2)?|scale_weight|scale_input|input_scale|comfy_quant|absmax|quant_state|quant_map|zero_point)(?:$|[._])|^scaled_fp8$"
)
_EMBEDDINGS = re.compile(r"bundle_emb\.|learned_embeds|(?:clip_[glh]|t5xxl|qwen\w*|gemma\w*)$")
_WHOLE = frozenset(
    {"weight", "bias", "scale", "gamma", "beta", "modulation", "running_mean", "running_var", "position_ids"}
)
_OF_MODEL = re.compile(
    r"(?:model\.diffusion_model|first_stage_model|cond_stage_model|conditioner\.embedders|control_model|model\.control_model)\."
)
_WEIGHTS_OF_A_MODEL = 8
DEEPEST = 5
"""So many words at the end of a name may say what a tensor is; those before them are the layer's path."""


def named(key: str, shape: tuple[int, ...] = ()) -> tuple[str, str, str]:
    """What a tensor is: the layer it would belong to, its method, and a sentence about it.

    >>> named("x.to_q.oft_blocks", (4, 3, 3))[:2]
    ('x.to_q', 'OFT')
    """
    if _EMBEDDINGS.match(key):
        return key, "an embedding", "A textual inversion; put it into models/embeddings."
    tail = key.split(".")
    if QUANTISED.search(key):
        inner = split(".".join(tail[:-1]))
        return inner[0] if inner else ".".join(tail[:-1]) or key, QUANTISATION, NOBODY
    for n in range(len(tail) - 1, max(-1, len(tail) - DEEPEST), -1):
        if tail[n].isdigit():  # of a block: there are thousands, and none is a word
            continue
        meaning = _by_part(tail[n], tail[n + 1 :] == ["weight"], len(shape))
        if meaning is not None:
            return ".".join(tail[:n]) or key, *meaning
    if key.startswith("lllite_"):
        return tail[0], "ControlNet-LLLite", NOBODY
    if tail[-1] in ("up", "down"):
        why = "ComfyUI's own Load ControlNet Model loads it."
        return ".".join(tail[:-1]) or key, "a control LoRA of Stability AI", why
    if tail[-1] == "bias" and key.startswith("base_model.model."):
        return ".".join(tail[:-1]), BIASES, OF_THE_WEIGHTS
    if tail[-1] in _WHOLE:
        return ".".join(tail[:-1]) or key, WEIGHTS, OF_THE_WEIGHTS
    return (
        key,
        f'tensors called "{tail[-1][:60]}"',
        "No method that is known here has such tensors; is the file mixed or damaged?",
    )


@lru_cache(maxsize=2_000)  # files of ten thousand tensors have a hundred such words
def _by_part(part: str, is_of_weight: bool, axes: int) -> tuple[str, str] | None:
    if part in SPECIAL:
        return SPECIAL[part]
    if part == "oft_blocks":
        return ("BOFT" if axes == 4 else "OFT"), BY_COMFYUI if axes in (3, 4) else NOBODY
    other = next((method for method, parts in BY_PART.items() if part in parts), None)
    if other is not None and (other != "GLoRA" or is_of_weight):
        return other, NOBODY
    family = next((name for start, name in STARTS if part.startswith(start)), None)
    if family is None or (family == "LoRA" and part.startswith(NO_PARTS)):
        return None
    if family in READ:
        return f'{family} with "{part}"', NOBODY
    return family, NOBODY


def changes_the_rest(method: str) -> bool:
    """Whether tensors of this method say how the others of their layer are to be read,
    so that these mean nothing without."""
    return method in (QUANTISATION, "AdaLoRA", "KaSA") or ' with "' in method or method.startswith("LoKr with")


def unknown(keys: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LeftOut]:
    """Tensors of no known method, by the layer that they would belong to.

    The ``weight`` of a layer whose other tensors tell its method ((IA)³'s ``on_input``) is of that method too.
    """
    left_out: dict[str, LeftOut] = {}
    for key in keys:
        layer, method, why = named(key, shapes.get(key, ()))
        if layer not in left_out or left_out[layer].method == WEIGHTS:
            left_out[layer] = LeftOut(method, why, (layer,))
    return left_out


def is_model(keys: Iterable[str], shapes: Mapping[str, tuple[int, ...]], layers: int) -> bool:
    """Whether unknown tensors are the weights of a whole model,
    beside which a few that look like an adapter's say nothing.

    Args:
        layers: How many layers the adapter would have.
    """
    weights = [key for key in keys if key.endswith(".weight") and len(shapes.get(key, ())) > 1]
    weights = [key for key in weights if named(key, shapes[key])[1] == WEIGHTS]
    return len(weights) > layers and (
        len(weights) >= _WEIGHTS_OF_A_MODEL or any(_OF_MODEL.match(key) for key in weights)
    )
