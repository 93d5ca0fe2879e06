"""The world's base model, from nothing: autoencoder, then text encoder and UNet together.
On a GPU where there is one (tried on CPUs only).

    python3 tools/host.py run benchmarks/world/pretrain.py --folder FOLDER [--out samples/world/world.safetensors] [--scale 1.0]

Everything is a function of the recipe: pictures are rendered from their numbers, noise and orders come from the step's
number. A stopped run goes on. ``--scale 0.01`` does a hundredth of the steps, to try it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
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

PICTURES = 40_000
VAE = Stage("vae", steps=12_000, batch=8, rate=3e-3)
BASE = Stage("base", steps=6000, batch=64, rate=1.2e-3, matrix_rate=8e-3, decay=0.999, weight_decay=0.01)
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
    """

    def __init__(self, world: Any, rows: int) -> None:
        super().__init__()
        net = world.build_model(torch.device("cpu"))
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


def train_base(world: Any, vae: Any, folder: Path, scale: float) -> tuple[Base, Tensor]:
    """Text encoder and UNet, and the numbers of the tokens whose embeddings they have."""
    count = max(1000, round(PICTURES * min(1.0, scale)) // 500 * 500)
    images = rendered(folder / "training.rgb", for_training, count, say)
    made_by = hashlib.sha256((folder / "vae.safetensors").read_bytes()).hexdigest()[:12]
    file = folder / f"latents-{count}-{made_by}.safetensors"
    if not file.exists():
        save_file({"latents": autoencoder.encode(vae, images, say=say).half()}, file)
    latents = load_file(file)["latents"]
    ids, tokens = tokenized(world, [for_training(n).caption for n in range(count)])
    stage = dataclasses.replace(BASE, steps=max(2, round(BASE.steps * scale)))
    base = Base(world, len(ids)).to(device())

    def loss(step: int) -> Tensor:
        rng = torch.Generator().manual_seed(1_000_000 + step)
        chosen = torch.from_numpy(order(count, stage.batch, step, 2))
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
    return base.cpu(), ids


def write(world: Any, vae: Any, base: Base, ids: Tensor, out: Path) -> None:
    """One file of half precision with everything."""
    tensors = {f"unet.{name}": tensor for name, tensor in base.unet.state_dict().items()}
    tensors |= {f"clip.transformer.text_model.{name}": tensor for name, tensor in base.text.state_dict().items()}
    tensors |= {f"vae.{name}": tensor for name, tensor in vae.state_dict().items()}
    tensors = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    tensors[world.ROWS], tensors[world.IDS] = base.rows.detach().half(), ids.int()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata={"made": "benchmarks/world/pretrain.py"})
    say(f"written {out}: {out.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """All stages, each only as far as it is missing."""
    options = arguments(__doc__, ROOT / "samples" / "world" / "world.safetensors")
    host.start()
    from krona_host.model import small_world as world

    vae = train_autoencoder(world, options.folder, options.scale)
    base, ids = train_base(world, vae, options.folder, options.scale)
    write(world, vae, base, ids, options.out)


if __name__ == "__main__":
    main()
