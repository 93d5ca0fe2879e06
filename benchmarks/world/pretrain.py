"""The world's base model, from nothing: autoencoder, then text encoder and UNet together.
On a GPU where there is one (tried on CPUs only).

    python3 tools/host.py run benchmarks/world/pretrain.py --folder FOLDER [--base "two levels"] [--out samples/world/world.safetensors] [--scale 1.0]

The base of two levels is a second UNet for the autoencoder and the text encoder that world.safetensors has, beside the
result, and begins with the weights of the UNet there.

Everything is a function of the recipe: pictures are rendered from their numbers, noise and orders come from the step's
number. A stopped run goes on. ``--scale 0.01`` does a hundredth of the steps, to try it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world import autoencoder  # noqa: E402
from benchmarks.world.command import arguments, say  # noqa: E402
from benchmarks.world.pictures import for_training, held_out, rendered  # noqa: E402
from benchmarks.world.stage import Stage, device, fast, optimise, order  # noqa: E402
from krona_ops import read_header  # noqa: E402

PICTURES, PICTURES_OF_TWO_LEVELS = 40_000, 20_000
VAE = Stage("vae", steps=12_000, batch=8, rate=3e-3)
BASE = Stage("base", steps=6000, batch=64, rate=1.2e-3, matrix_rate=8e-3, decay=0.999, weight_decay=0.01)
TWO_LEVELS = Stage("two-levels", steps=400, batch=64, rate=6e-4, matrix_rate=4e-3, decay=0.998, weight_decay=0.01)
"""Fewer steps and lower rates than those of `BASE`: it begins where that ended."""
SECOND_LEVEL = ("input_blocks.3.", "output_blocks.0.", "output_blocks.1.0.")
"""Blocks of the UNet with two levels that are below."""
NO_CAPTION = 0.1
"""Share of samples that are trained without a caption, for classifier-free guidance (Ho and Salimans 2022)."""
ZERO = ("proj_out.weight", "out_layers.3.weight", "out.2.weight", "last.weight")
"""Layers that begin at zero, as in the published UNet: each block is first the identity."""


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Weights that keep the norm, biases of zero, norms of one; the host's classes leave memory as they find it."""
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            spread = 0.02 if "embedding" in name else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * (0.0 if name.endswith(ZERO) else spread))
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def attention(chosen: Any, q: Tensor, k: Tensor, v: Tensor, *more: Any, **options: Any) -> Tensor:
    """PyTorch's own, in float32: its fused kernel takes six times as long in bfloat16 on a CPU,
    most of it in the backward pass."""
    from comfy.ldm.modules.attention import attention_pytorch

    if q.device.type != "cpu":
        return attention_pytorch(q, k, v, *more, **options)
    with torch.autocast("cpu", enabled=False):
        return attention_pytorch(q.float(), k.float(), v.float(), *more, **options)


def train_autoencoder(world: Any, folder: Path, scale: float) -> Any:
    """The autoencoder, its latents of unit variance."""
    vae, file = world.build_vae().first_stage_model.requires_grad_(True), folder / "vae.safetensors"
    stage = dataclasses.replace(VAE, steps=max(2, round(VAE.steps * scale)))
    if file.exists():
        if (read_header(file).metadata or {}).get("stage") != json.dumps(stage.__dict__):
            raise SystemExit(f"{file} belongs to another recipe; delete it to begin this stage anew.")
        vae.load_state_dict(load_file(file))
        return vae
    count = max(1000, round(PICTURES * min(1.0, scale)) // 500 * 500)
    images = rendered(folder / "training.rgb", for_training, count, say)
    initialise(vae, 1)
    vae.to(device())

    def loss(step: int) -> Tensor:
        x = autoencoder.pixels(images[np.sort(order(count, stage.batch, step, 1))]).to(device())
        with fast():
            return autoencoder.loss(vae, x, torch.Generator().manual_seed(step))

    optimise(stage, vae, loss, folder, say)
    vae.cpu()
    autoencoder.standardise(vae, autoencoder.encode(vae, images[:1000]))
    say(
        f"vae: error of held-out pictures {autoencoder.error(vae, rendered(folder / 'held-out.rgb', held_out, 500)):.4f} of 1"
    )
    save_file(vae.state_dict(), file, metadata={"stage": json.dumps(stage.__dict__)})
    return vae


class Base(nn.Module):
    """Text encoder and UNet, and the embeddings of the tokens that captions have.

    Args:
        world: `krona_host.model.small_world`, which imports the host.
        rows: Tokens that occur in captions.
        base: Which UNet.
    """

    def __init__(self, world: Any, rows: int, base: str = "one level") -> None:
        super().__init__()
        net = world.build_model(torch.device("cpu"), base)
        self.unet = net.diffusion_model
        # The host builds it in float16
        self.text = world.build_clip().cond_stage_model.clip_l.transformer.text_model.float()
        self.text.embeddings.token_embedding = None  # as rows, of those that occur
        self.rows = nn.Parameter(torch.zeros(rows, world.CLIP["hidden_size"]))
        self.requires_grad_(True)
        initialise(self.unet, 2)
        initialise(self.text, 3)
        with torch.no_grad():
            self.rows.copy_(torch.randn(self.rows.shape, generator=torch.Generator().manual_seed(4)) * 0.02)
        self.sigmas: Tensor
        self.register_buffer("sigmas", net.model_sampling.sigmas.clone(), persistent=False)

    def forward(self, x0: Tensor, noise: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        """Error of the predicted v (Salimans and Ho 2022), mean over everything."""
        signal = (self.sigmas[timestep].square() + 1).rsqrt().view(-1, 1, 1, 1)
        spread = (1 - signal.square()).sqrt()
        context = self.read(tokens)
        v = self.unet(
            signal * x0 + spread * noise,
            timestep.float(),
            context=context,
            transformer_options={"optimized_attention_override": attention},
        )
        return F.mse_loss(v.float(), signal * noise - spread * x0)

    def read(self, tokens: Tensor) -> Tensor:
        """What the UNet is told, ``(B, 24)`` to ``(B, 24, width)``:
        the host's own text encoder, whose layers add in place and so have no gradient."""
        x = self.rows[tokens] + self.text.embeddings.position_embedding.weight
        mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, device=x.device).triu_(1)
        for layer in self.text.encoder.layers:
            x = x + layer.self_attn(layer.layer_norm1(x), mask, partial(attention, None))
            x = x + layer.mlp(layer.layer_norm2(x))
        return self.text.final_layer_norm(x)


def tokenized(world: Any, captions: list[str]) -> tuple[Tensor, Tensor]:
    """The tokens that occur ``(M,)``, and captions as places in them ``(N, 24)``; the last caption is empty."""
    tokenize = world.build_clip().tokenize
    tokens = [[token for token, *_ in tokenize(caption)["l"][0]] for caption in [*captions, ""]]
    ids = sorted({token for line in tokens for token in line})
    place = {token: n for n, token in enumerate(ids)}
    return torch.tensor(ids), torch.tensor([[place[token] for token in line] for line in tokens])


def latents_of(vae: Any, made_by: Path, folder: Path, count: int) -> Tensor:
    """Of the first pictures ``(count, 32, 8, 8)``, half precision, from a file where that has been made.

    Args:
        made_by: The file with the autoencoder's weights.
    """
    images = rendered(folder / "training.rgb", for_training, count, say)
    file = folder / f"latents-{count}-{hashlib.sha256(made_by.read_bytes()).hexdigest()[:12]}.safetensors"
    if not file.exists():
        save_file({"latents": autoencoder.encode(vae, images, say=say).half()}, file)
    return load_file(file)["latents"]


def train_base(world: Any, vae: Any, folder: Path, scale: float) -> tuple[Base, Tensor]:
    """Text encoder and UNet, and the numbers of the tokens whose embeddings they have."""
    count = max(1000, round(PICTURES * min(1.0, scale)) // 500 * 500)
    latents = latents_of(vae, folder / "vae.safetensors", folder, count)
    ids, tokens = tokenized(world, [for_training(n).caption for n in range(count)])
    base = Base(world, len(ids)).to(device())
    denoise(BASE, base, latents, tokens, folder, scale)
    return base.cpu(), ids


def train_two_levels(world: Any, file: Path, folder: Path, scale: float) -> Base:
    """The UNet with two levels, for the autoencoder and the text encoder of a file of the world."""
    weights = {name: tensor.float() for name, tensor in load_file(file).items()}
    count = max(1000, round(PICTURES_OF_TWO_LEVELS * min(1.0, scale)) // 500 * 500)
    vae = world.build_vae(part(weights, "vae.")).first_stage_model
    latents = latents_of(vae, file, folder, count)
    ids, tokens = tokenized(world, [for_training(n).caption for n in range(count)])
    if not torch.equal(ids, weights[world.IDS].long()):
        raise SystemExit(f"{file} was trained with other words; make it anew.")
    one_level = with_text(world, Base(world, len(ids)), weights)
    one_level.unet.load_state_dict(part(weights, "unet."))
    base = with_text(world, Base(world, len(ids), "two levels"), weights)
    start_two_levels(base.unet, one_level.unet, layers_that_matter(one_level, latents[:64].float(), tokens[:64]))
    base.to(device())
    denoise(TWO_LEVELS, base, latents, tokens, folder, scale)
    return base.cpu()


@torch.no_grad()
def with_text(world: Any, base: Base, weights: Mapping[str, Tensor]) -> Base:
    """The base with the text encoder of a file of the world, which stays as it is."""
    base.text.load_state_dict(part(weights, "clip.transformer.text_model."))
    base.text.requires_grad_(False)
    base.rows.requires_grad_(False).copy_(weights[world.ROWS])
    return base


@torch.no_grad()
def layers_that_matter(base: Base, latents: Tensor, tokens: Tensor) -> dict[str, list[int]]:
    """Numbers of the transformer layers of each block of the UNet with one level, those first without which the error of
    v is largest.

    Args:
        latents: Of a few pictures ``(N, 32, 8, 8)``.
        tokens: Of their captions ``(N, 24)``.
    """
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.arange(len(latents)) * 1000 // len(latents)
    ranked = {}
    for block in ("input_blocks.1.", "output_blocks.0.", "output_blocks.1."):
        holder: Any = base.unet.get_submodule(f"{block}1")
        layers, errors = holder.transformer_blocks, []
        for left_out in range(len(layers)):
            holder.transformer_blocks = nn.ModuleList(layer for n, layer in enumerate(layers) if n != left_out)
            errors.append(float(base(latents, noise, timesteps, tokens)))
        holder.transformer_blocks = layers
        ranked[block] = sorted(range(len(layers)), key=lambda n: -errors[n])
        say(f"{block}1 without one of its layers: error {', '.join(f'{error:.3f}' for error in errors)}")
    return ranked


@torch.no_grad()
def start_two_levels(unet: nn.Module, one_level: nn.Module, ranked: Mapping[str, list[int]]) -> None:
    """Begin as near as there is to a trained UNet with one level.

    Its blocks move to the first level, with as many of their transformer layers as there is room for. Copies of them go
    to the second level, which changes nothing at first (see `ZERO`). The downsampler begins as a blur and the upsampler
    as the identity.

    Args:
        ranked: See `layers_that_matter`.
    """
    first, middle, last = (ranked[block] for block in ("input_blocks.1.", "output_blocks.0.", "output_blocks.1."))
    moves: dict[str, tuple[str, list[int]]] = {
        "input_blocks.1.": ("input_blocks.1.", first[:1]), "input_blocks.3.": ("input_blocks.1.", first[1:2]),
        "output_blocks.0.": ("output_blocks.0.", []), "output_blocks.1.": ("output_blocks.1.", []),
        "output_blocks.2.": ("output_blocks.0.", sorted(middle[:2])), "output_blocks.3.": ("output_blocks.1.", sorted(last[:2])),
    }  # fmt: skip
    start: dict[str, dict[str, Tensor]] = {"": dict(one_level.named_parameters())}
    for block, (origin, layers) in moves.items():
        own = part(start[""], origin)
        for n, layer in enumerate(layers):
            own |= {
                f"1.transformer_blocks.{n}.{name}": tensor
                for name, tensor in part(start[""], f"{origin}1.transformer_blocks.{layer}.").items()
            }
        start[block] = own
    taps = {"op.weight": torch.tensor([0.25, 0.5, 0.25]), "conv.weight": torch.tensor([0.0, 1.0, 0.0])}
    for name, parameter in unet.named_parameters():
        end = ".".join(name.split(".")[-2:])
        if end in taps:
            parameter.zero_()
            for channel in range(parameter.shape[0]):
                parameter[channel, channel] = torch.outer(taps[end], taps[end])
        elif end in ("op.bias", "conv.bias"):
            parameter.zero_()
        else:
            block = next((block for block in moves if name.startswith(block)), "")
            parameter.copy_(start[block][name[len(block) :]])
        if name.startswith(SECOND_LEVEL):
            if name.endswith((*ZERO, "proj_out.bias", "out_layers.3.bias", "skip_connection.bias")):
                parameter.zero_()
            elif name.endswith("skip_connection.weight"):  # of what comes from below, and of what was kept going down
                parameter.zero_()[:, : parameter.shape[0], 0, 0] = torch.eye(parameter.shape[0])


def denoise(stage: Stage, base: Base, latents: Tensor, tokens: Tensor, folder: Path, scale: float) -> None:
    """Train what of a base wants a gradient, in place.

    Args:
        latents: Of the pictures ``(N, 32, 8, 8)``.
        tokens: Of their captions, and of the empty one, ``(N + 1, 24)``.
    """
    stage = dataclasses.replace(stage, steps=max(2, round(stage.steps * scale)))

    def loss(step: int) -> Tensor:
        rng = torch.Generator().manual_seed(1_000_000 + step)
        chosen = torch.from_numpy(order(len(latents), stage.batch, step, 2))
        x0 = latents[chosen].float()
        # One timestep in each of as many equal parts: the step's loss has less noise (Kingma et al. 2021,
        # "low-discrepancy sampler").
        u = (torch.rand((), generator=rng) + torch.arange(stage.batch) / stage.batch) % 1
        silent = torch.rand(stage.batch, generator=rng) < NO_CAPTION
        prompts = torch.where(silent[:, None], tokens[-1], tokens[chosen])
        with fast():
            return base(
                *(t.to(device()) for t in (x0, torch.randn(x0.shape, generator=rng), (u * 1000).long(), prompts))
            )

    optimise(stage, base, loss, folder, say)


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}


def write(world: Any, vae: Any, base: Base, ids: Tensor, out: Path) -> None:
    """One file of half precision with everything."""
    tensors = {f"unet.{name}": tensor for name, tensor in base.unet.state_dict().items()}
    tensors |= {f"clip.transformer.text_model.{name}": tensor for name, tensor in base.text.state_dict().items()}
    tensors |= {f"vae.{name}": tensor for name, tensor in vae.state_dict().items()}
    tensors = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    tensors[world.ROWS], tensors[world.IDS] = base.rows.detach().half(), ids.int()
    write_file(tensors, out)


def write_two_levels(base: Base, out: Path) -> None:
    """One file of half precision with the UNet alone."""
    write_file({f"unet.{name}": tensor.half().contiguous() for name, tensor in base.unet.state_dict().items()}, out)


def write_file(tensors: Mapping[str, Tensor], out: Path) -> None:
    """Tensors, and what made them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), out, metadata={"made": "benchmarks/world/pretrain.py"})
    say(f"written {out}: {out.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """All stages, each only as far as it is missing."""
    options = arguments(__doc__, ROOT / "samples" / "world" / "world.safetensors", base="one level")
    host.start()
    from krona_host.model import small_world as world

    if options.base == "two levels":
        base = train_two_levels(world, options.out, options.folder, options.scale)
        write_two_levels(base, options.out.with_name(world.TWO_LEVELS))
        return
    if options.base != "one level":
        raise SystemExit(f"{options.base!r} is no base of the small world; there are {', '.join(world.UNETS)}.")
    vae = train_autoencoder(world, options.folder, options.scale)
    base, ids = train_base(world, vae, options.folder, options.scale)
    write(world, vae, base, ids, options.out)


if __name__ == "__main__":
    main()
