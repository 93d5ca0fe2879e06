"""A tiny denoiser on which the whole trainer runs in seconds, on a CPU, without ComfyUI: for tests and experiments."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krona_ops.names.spellings import LayerName

from ..batches.examples import Batch, Example, stack_masks, stack_seen
from ..batches.fingerprint import sampled_fingerprint
from ..batches.transfer import send
from .protocol import AttentionSite


class ToyAttention(nn.Module):
    """Attention of ``width`` channels over a context of ``context_width``."""

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``(B, N, width)`` and ``(B, M, context_width)`` to ``(B, N, width)``."""
        return self.to_out(F.scaled_dot_product_attention(self.to_q(x), self.to_k(context), self.to_v(context)))


class ToyDenoiser(nn.Module):
    """Predicts the flow ``noise − x0`` of ``(B, channels, h, w)`` latents from σ and a context."""

    def __init__(self, channels: int, width: int, context_width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels + 1, width)
        self.attn1 = ToyAttention(width, width)
        self.attn2 = ToyAttention(width, context_width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.proj_out = nn.Linear(width, channels)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """``x (B, C, h, w)``, ``sigma (B,)``, ``context (B, M, context_width)`` to ``(B, C, h, w)``."""
        tokens = x.flatten(2).mT  # (B, h·w, C)
        tokens = self.proj_in(torch.cat([tokens, sigma[:, None, None].expand(*tokens.shape[:2], 1)], -1))
        tokens = tokens + self.attn1(tokens, tokens)
        tokens = tokens + self.attn2(tokens, context)
        tokens = tokens + self.mlp(tokens)
        return self.proj_out(tokens).mT.unflatten(2, x.shape[2:])


class ToyBackbone:
    """A `ToyDenoiser` as a backbone: rectified flow, conditions are ``(M, context_width)`` tensors."""

    family = "toy"
    has_unconditional = has_decoder = True

    def __init__(self, channels: int = 4, width: int = 48, context_width: int = 24, seed: int = 0) -> None:
        self.net = ToyDenoiser(channels, width, context_width).requires_grad_(False)
        rng = torch.Generator().manual_seed(seed)
        for parameter in self.net.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * spread)

    @property
    def device(self) -> torch.device:
        return self.net.proj_in.weight.device

    def weights(self, *, vectors: bool = False) -> Mapping[LayerName, tuple[int, ...]]:
        shapes: dict[LayerName, tuple[int, ...]] = {}
        for name, module in self.net.named_modules():
            if isinstance(module, nn.Linear):
                shapes[LayerName(name)] = tuple(module.weight.shape)
                if vectors and module.bias is not None:
                    shapes[LayerName(f"{name}.bias")] = tuple(module.bias.shape)
        return shapes

    def module(self, name: LayerName) -> nn.Module:
        return self.net.get_submodule(name)

    def is_plain(self, module: nn.Module) -> bool:
        return type(module) is nn.Linear

    def is_text(self, name: LayerName) -> bool:
        return False

    def blocks(self) -> Sequence[nn.Module]:
        return (self.net.attn1, self.net.attn2, self.net.mlp)

    def sites(self) -> Sequence[AttentionSite]:
        q, k, v, out = (LayerName(f"attn1.{part}") for part in ("to_q", "to_k", "to_v", "to_out.0"))
        return (AttentionSite(LayerName("attn1"), LayerName("proj_in"), q, k, v, out, heads=1),)

    def release_memory(self) -> None:
        gc.collect()

    def fingerprint(self) -> str:
        return sampled_fingerprint(self.net.named_parameters())

    @contextmanager
    def ready(self) -> Iterator[None]:
        with torch.inference_mode(False), torch.enable_grad():
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield

    def on_load(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext()

    def collate(self, examples: Sequence[Example]) -> Batch:
        x0 = send(torch.stack([e.latent_or_zeros() for e in examples]), self.device)
        classes = tuple(e.class_condition for e in examples if e.class_condition is not None)
        return Batch(
            x0,
            tuple(e.condition for e in examples),
            stack_masks(examples, self.device),
            classes,
            tuple(torch.zeros_like(context) for context in _contexts([e.condition for e in examples])),
            all(e.latent is not None for e in examples),
            stack_seen(examples, self.device),
        )

    def noise_levels(self, u: Tensor) -> Tensor:
        return 0.001 + 0.998 * send(u, self.device)

    def levels(self, steps: int) -> Tensor:
        return torch.linspace(0.999, 0.0, steps + 1, device=self.device)

    def rows(self) -> Tensor | None:
        return None

    def decode(self, x0: Tensor) -> Tensor:
        """The first three channels, twice as large, from [-1, 1] to [0, 1]."""
        return F.interpolate((x0[:, :3] + 1) / 2, scale_factor=2.0, mode="bilinear")

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(x0, noise, sigma.to(x0)[:, None, None, None])

    def as_input(self, x0: Tensor, sigma: Tensor) -> Tensor:
        return x0

    def predict(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[object]) -> Tensor:
        sigma = sigma.to(x_t)
        return x_t - sigma[:, None, None, None] * self.net(x_t, sigma, torch.stack(_contexts(conditions)).to(x_t))

    def snr(self, sigma: Tensor) -> Tensor:
        return ((1 - sigma) / sigma) ** 2

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2


def _contexts(conditions: Sequence[object]) -> list[Tensor]:
    """Conditions as what they are here: ``(M, context_width)`` each."""
    contexts = [condition for condition in conditions if isinstance(condition, Tensor)]
    assert len(contexts) == len(conditions), "a condition of the toy is a tensor"
    return contexts
