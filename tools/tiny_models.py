"""Builds the smallest checkpoints that ComfyUI loads: random backbones, for tests and for a demo without downloads.

    python tools/tiny_models.py sd15|sdxl|flux|sd3 OUT.safetensors [options]

Runs in ComfyUI's Python with COMFYUI_PATH set. Key names and shapes come from ComfyUI's own classes, sizes from what
its model detection reads off the weights (comfy/model_detection.py). Each tensor is drawn from its name and the seed
alone, so that the same options write the same bytes. The text encoder is random too; the VAE is not:
see ``picture_vae``.
"""

import argparse
import hashlib
import importlib
import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

PACK = Path(os.path.abspath(__file__)).parents[1]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools.install.cache import cache_folder, digest, make_folder  # noqa: E402  (needs the line above)

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["sd15", "sdxl", "flux", "sd3"]
DType = Literal["fp16", "fp32", "bf16"]
Weights = dict[str, "Tensor"]

DAYS_KEPT = 14
"""A cached checkpoint that nobody asked for in this time is removed."""


@dataclass(frozen=True)
class Family:
    """What a kind of model expects from outside."""

    channels: int
    """Of the latents."""
    scale: float
    shift: float
    """``latent = (vae output - shift) * scale``, the family's latent format."""
    tokens: int
    """Length of a prompt's encoding."""
    context: int
    """Width of a prompt's encoding."""
    pooled: int
    """Width of the pooled encoding; 0 where the family has none."""
    vae_prefix: str = "first_stage_model."


FAMILIES: Mapping[Kind, Family] = {
    "sd15": Family(4, 0.18215, 0.0, 77, 768, 0),
    "sdxl": Family(4, 0.13025, 0.0, 77, 2048, 1280),
    "flux": Family(16, 0.3611, 0.1159, 8, 64, 32, "vae."),
    "sd3": Family(16, 1.5305, 0.0609, 8, 64, 32),
}

_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,  # pinned by detection, as are context_dim and adm_in_channels
    "use_checkpoint": False,
    "use_spatial_transformer": True,
    "legacy": False,
}

SD15_LAYOUTS = {
    # one level, one transformer block on the way in, no middle: 13.6 M parameters
    "minimal": {
        "num_res_blocks": [1],
        "channel_mult": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [0, 0],
        "transformer_depth_middle": -2,
    },
    # two levels, transformers on the way in, in the middle and on the way out: 44 M
    "shaped": {
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 1],
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1,
    },
}

SDXL_KINDS = {
    # residual blocks per level, transformer depths on the way in: what detection tells the family by
    "koala": ([1, 1, 1], [0, 2, 5]),
    "vega": ([2, 2, 2], [0, 0, 1, 1, 2, 2]),
    "sdxl": ([2, 2, 2], [0, 0, 2, 2, 10, 10]),
}


class TinyModelError(RuntimeError):
    """A checkpoint cannot be built; the text says what is missing."""


def comfyui_folder() -> Path:
    """The ComfyUI whose classes are used.

    Raises:
        TinyModelError: Neither is ComfyUI imported nor does COMFYUI_PATH name one.
    """
    if "comfy" in sys.modules:
        return Path(next(iter(sys.modules["comfy"].__path__))).parent
    folder = os.environ.get("COMFYUI_PATH", "")
    if not (Path(folder) / "comfy").is_dir() or not folder:
        raise TinyModelError(
            f"COMFYUI_PATH is {folder!r}, which is no ComfyUI. "
            "Set it to the folder with ComfyUI's main.py, or run: python3 tools/host.py run tools/tiny_models.py …"
        )
    return Path(folder).absolute()


def _comfy(module: str) -> Any:
    """Import a module of ComfyUI; on the CPU where this is the first of its modules."""
    if "comfy" not in sys.modules:
        sys.path.insert(0, str(comfyui_folder()))
        importlib.import_module("comfy.cli_args").args.cpu = True
    return importlib.import_module(module)


def build_sd15(
    path: Path,
    *,
    layout: Literal["minimal", "shaped"] = "minimal",
    clip: bool = True,
    vae: bool = True,
    dtype: DType = "fp16",
    seed: int = 0,
) -> Path:
    """Stable Diffusion 1.5's class with few layers; 32 MB without CLIP-L,
    246 MB more with it (it has one size only)."""
    unet = _unet(
        context_dim=768, num_heads=8, num_head_channels=-1, use_linear_in_transformer=False, **SD15_LAYOUTS[layout]
    )
    weights = _drawn(unet, "model.diffusion_model.", dtype, seed)
    if clip:
        encoder = _comfy("comfy.sd1_clip").SDClipModel
        weights |= _text_encoder(encoder, "cond_stage_model.", seed)
    return _save(path, weights, "sd15", vae, dtype)


def build_sdxl(
    path: Path,
    kind: Literal["koala", "vega", "sdxl"] = "koala",
    *,
    clip: bool = False,
    vae: bool = True,
    dtype: DType = "fp16",
    seed: int = 0,
) -> Path:
    """SDXL's class with few layers; 126 MB, and 1.6 GB more with its two text encoders."""
    blocks, depths = SDXL_KINDS[kind]
    unet = _unet(
        context_dim=2048,
        num_heads=-1,
        num_head_channels=64,
        use_linear_in_transformer=True,
        adm_in_channels=2816,
        num_classes="sequential",
        num_res_blocks=blocks,
        channel_mult=[1] * len(blocks),  # real ones have [1, 2, 4]; detection does not look
        transformer_depth=list(depths),
        transformer_depth_output=[0] * sum(n + 1 for n in blocks),
        transformer_depth_middle=-2,
    )
    weights = _drawn(unet, "model.diffusion_model.", dtype, seed)
    if clip:
        l_options = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False}
        weights |= _text_encoder(_comfy("comfy.sd1_clip").SDClipModel, "conditioner.embedders.0.", seed, **l_options)
        weights |= _text_encoder(_comfy("comfy.sdxl_clip").SDXLClipG, "conditioner.embedders.1.model.", seed)
    return _save(path, weights, "sdxl", vae, dtype)


def build_flux(path: Path, *, depth: int = 1, vae: bool = True, dtype: DType = "bf16", seed: int = 0) -> Path:
    """Flux's class, ``depth`` double and ``depth`` single blocks; 1.0 M parameters at depth 1."""
    family = FAMILIES["flux"]
    flux = _comfy("comfy.ldm.flux.model").Flux(
        image_model="flux",
        in_channels=family.channels,
        out_channels=family.channels,
        vec_in_dim=family.pooled,
        context_in_dim=family.context,
        hidden_size=128,  # num_heads is computed as hidden_size / 128
        mlp_ratio=4.0,
        num_heads=1,
        depth=depth,
        depth_single_blocks=depth,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,  # without it: FluxSchnell
        txt_ids_dims=[],
        **_meta(),
    )
    return _save(path, _drawn(flux, "model.diffusion_model.", dtype, seed), "flux", vae, dtype)


def build_sd3(path: Path, *, depth: int = 1, vae: bool = True, dtype: DType = "bf16", seed: int = 0) -> Path:
    """Stable Diffusion 3's class; width and heads follow from ``depth``; 0.15 M parameters at depth 1."""
    family = FAMILIES["sd3"]
    width = 64 * depth
    mmdit = _comfy("comfy.ldm.modules.diffusionmodules.mmdit").MMDiT(
        in_channels=family.channels,
        patch_size=2,
        depth=depth,
        input_size=None,
        adm_in_channels=family.pooled,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": family.context, "out_features": width},
        },
        num_patches=64 * 64,
        pos_embed_max_size=64,  # in patches: pictures up to 1024 × 1024
        pos_embed_scaling_factor=None,
        qk_norm="rms",
        **_meta(),
    )
    return _save(path, _drawn(mmdit, "model.diffusion_model.", dtype, seed), "sd3", vae, dtype)


BUILDERS: Mapping[Kind, Callable[..., Path]] = {
    "sd15": build_sd15,
    "sdxl": build_sdxl,
    "flux": build_flux,
    "sd3": build_sd3,
}


def conditioning(kind: Kind, captions: Sequence[str], seed: int = 0) -> list[list]:
    """Stand-in for a text encoder: one random ``[(1, tokens, context), {...}]`` per caption,
    the same for the same caption.

    One entry in a list of its own is a CONDITIONING of ComfyUI.
    """
    family = FAMILIES[kind]
    encoded = []
    for caption in captions:
        extra = {}
        if family.pooled:
            extra["pooled_output"] = _normal((1, family.pooled), f"pooled {caption}", seed)
        encoded.append([_normal((1, family.tokens, family.context), f"tokens {caption}", seed), extra])
    return encoded


def cached(kind: Kind, **options: Any) -> Path:
    """The checkpoint that ``build_<kind>(path, **options)`` writes,
    built on the first call and kept in the cache folder."""
    version = comfyui_folder() / "comfyui_version.py"
    made_from = [options, hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), version.read_text("utf-8")]
    folder = make_folder(cache_folder() / "tiny")
    path = folder / f"{kind}-{digest(made_from)}.safetensors"
    if path.exists():
        os.utime(path)
    else:
        partial = folder / f".{path.stem}-{os.getpid()}.partial.safetensors"
        try:
            os.replace(BUILDERS[kind](partial, **options), path)
        finally:
            partial.unlink(missing_ok=True)
    _forget_unused(folder)
    return path


def _forget_unused(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        try:
            if time.time() - path.stat().st_mtime > DAYS_KEPT * 86400:
                path.unlink()
        except OSError:
            continue  # another process was faster, or has it open


def picture_vae(channels: int, scale: float, shift: float) -> Weights:
    """Weights for the TAESD classes that encode a picture's colours, 8 × 8 pixels to a latent,
    and decode them smoothly.

    A random VAE would make noise of every picture, and nobody could see what training did. This one keeps a thumbnail:
    ``latent = gain · M (mean colour - ½)`` with orthonormal columns ``M (channels, 3)``, and back by ``Mᵀ``. ReLU
    passes values that are not negative, so the decoder carries ``+v`` and ``-v`` side by side;
    its residual branches are zero.
    """
    import torch

    taesd = _comfy("comfy.taesd.taesd").TAESD(latent_channels=channels)
    weights = {name: torch.zeros(tensor.shape) for name, tensor in taesd.state_dict().items()}
    weights["vae_scale"], weights["vae_shift"] = torch.tensor(scale), torch.tensor(shift)
    row, column = torch.arange(channels).unsqueeze(1), torch.arange(3)
    mixing = torch.cos(torch.pi * (row + 0.5) * column / channels) * math.sqrt(2.0 / channels)  # (channels, 3), DCT-II
    mixing[:, 0] /= math.sqrt(2.0)
    # Photographs get latents of deviation 0.7; the decoder's clamp begins to bend at 1.5
    gain = 1.5 * math.sqrt(channels)

    def set_convolution(name: str, matrix: "Tensor", kernel: Sequence[Sequence[float]]) -> None:
        """``matrix (out, in)`` on the first channels, spread over the 3 × 3 ``kernel``."""
        out, in_ = matrix.shape
        weights[f"{name}.weight"][:out, :in_] = matrix[:, :, None, None] * torch.tensor(kernel)

    here = [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    halved = [[0.0, 0.0, 0.0], [0.0, 0.25, 0.25], [0.0, 0.25, 0.25]]  # with stride 2: the mean of 2 × 2 pixels
    smooth = [[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]]  # after doubling: linear
    signs = torch.cat([torch.eye(3), -torch.eye(3)])  # (6, 3)

    set_convolution("taesd_encoder.0", torch.eye(3), here)
    for layer in (2, 6, 10):
        set_convolution(f"taesd_encoder.{layer}", torch.eye(3), halved)
    set_convolution("taesd_encoder.14", gain * mixing, here)
    weights["taesd_encoder.14.bias"] = -0.5 * gain * mixing.sum(dim=1)

    set_convolution("taesd_decoder.1", signs @ mixing.mT / gain, here)
    for layer in (7, 12, 17):
        set_convolution(f"taesd_decoder.{layer}", torch.eye(6), smooth)
    set_convolution("taesd_decoder.19", signs.mT, here)
    weights["taesd_decoder.19.bias"] += 0.5
    return weights


def _meta() -> dict[str, Any]:
    """Constructor arguments for modules of which only names and shapes are wanted."""
    import torch

    return {"dtype": torch.float32, "device": "meta", "operations": _comfy("comfy.ops").disable_weight_init}


def _unet(**options: Any) -> "nn.Module":
    return _comfy("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel(**_UNET, **options, **_meta())


def _normal(shape: Sequence[int], name: str, seed: int) -> "Tensor":
    """Standard normal numbers that depend on the arguments alone."""
    import torch

    drawn_from = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(drawn_from[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=generator)


def _initial(name: str, shape: Sequence[int], seed: int) -> "Tensor":
    """Matrices that keep the norm, embeddings of norm-like size, scales of 1, biases of 0."""
    import torch

    if len(shape) >= 2:
        fan_in = 1.0 if "embedding.weight" in name else math.prod(shape[1:])
        return _normal(shape, name, seed) / math.sqrt(fan_in)
    return torch.ones(shape) if name.endswith(("weight", "scale")) else torch.zeros(shape)


def _torch_dtype(dtype: DType) -> Any:
    import torch

    return {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}[dtype]


def _drawn(module: "nn.Module", prefix: str, dtype: DType, seed: int) -> Weights:
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    return {prefix + name: _initial(name, shape, seed).to(_torch_dtype(dtype)) for name, shape in shapes.items()}


def _text_encoder(encoder: type, prefix: str, seed: int, **options: Any) -> Weights:
    """Every layer of a CLIP text model in fp16: ComfyUI leaves a missing one uninitialised,
    and pictures come out NaN."""
    import torch

    with torch.device("meta"):
        module = encoder(device="meta", dtype=torch.float32, **options)
    unused = ("logit_scale",) if "embedders.1" in prefix else ("logit_scale", "text_projection.weight")
    drawn = _drawn(module, "", "fp16", seed)
    return {prefix + name: tensor for name, tensor in drawn.items() if not name.endswith(unused)}


def _save(path: Path, weights: Weights, kind: Kind, vae: bool, dtype: DType) -> Path:
    """Add the VAE and write the file."""
    from safetensors.torch import save_file

    family = FAMILIES[kind]
    if vae:
        for name, tensor in picture_vae(family.channels, family.scale, family.shift).items():
            # the two scalars stay in float32: bfloat16 would change the scale of all latents by up to 0.4 %
            weights[family.vae_prefix + name] = tensor.to(_torch_dtype(dtype)) if tensor.ndim else tensor
    # one entry only: safetensors writes several in no fixed order
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata={"krona_tiny": kind})
    return Path(path)


def main() -> None:
    """Build one checkpoint from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(BUILDERS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--layout", choices=sorted(SD15_LAYOUTS), help="sd15 only; default minimal")
    parser.add_argument("--variant", choices=sorted(SDXL_KINDS), help="sdxl only; default koala")
    parser.add_argument("--depth", type=int, help="flux and sd3 only; default 1")
    parser.add_argument("--clip", choices=("full", "none"), help="sd15 (default full) and sdxl (default none) only")
    parser.add_argument("--dtype", choices=("fp16", "fp32", "bf16"))
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    kind, out = given.pop("kind"), given.pop("out")
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "clip" in options:
        options["clip"] = options["clip"] == "full"
    if "variant" in options:
        options["kind"] = options.pop("variant")
    unknown = sorted(options.keys() - inspect.signature(BUILDERS[kind]).parameters.keys())
    if unknown:
        parser.error(f"{kind} has no option {', '.join(unknown)}")
    try:
        path = BUILDERS[kind](out, **options)
    except TinyModelError as error:
        sys.exit(f"error: {error}")
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
