"""Points of the plane as a model's latents: a denoiser of 36,000 weights where the truth is known, for tests and toys.

A latent is ``(2, 1, 1)``. What is drawn is a mixture of Gaussians with a class for each; a condition is a class's
number, or 0 for none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from krona_train.backbone.protocol import AttentionSite
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Batch, Example, Item, Seen, stack_seen
from krona_train.batches.transfer import send

NO_CLASS = 0
"""The condition without a class."""
_WIDTH, _LEVELS = 128, 8


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one width in the plane, all equally likely."""

    means: Tensor
    """``(K, 2)``."""
    spread: float
    """Standard deviation of each."""
    classes: tuple[int, ...]
    """Of each of them, from 1 on."""

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points ``(count, 2)`` and their classes ``(count,)``."""
        which = torch.randint(len(self.means), (count,), generator=rng)
        points = self.means[which] + self.spread * torch.randn(count, 2, generator=rng)
        return points, torch.tensor(self.classes)[which]

    def modes(self, points: Tensor) -> Tensor:
        """Share ``(K,)`` of the points that lie nearest to each mean, and within three standard deviations of it."""
        distance, nearest = torch.cdist(points, self.means).min(1)
        counted = torch.bincount(nearest[distance < 3 * self.spread], minlength=len(self.means))
        return counted / len(points)


def ring(count: int = 8, spread: float = 0.15) -> Mixture:
    """Gaussians on a circle, so far out that each coordinate has unit variance; each is a class of its own."""
    radius = math.sqrt(2 * (1 - spread**2))
    angles = torch.arange(count) * (2 * math.pi / count)
    return Mixture(radius * torch.stack([angles.cos(), angles.sin()], 1), spread, tuple(range(1, count + 1)))


def energy_distance(x: Tensor, y: Tensor) -> float:
    """``2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖`` of points ``(N, 2)`` and ``(M, 2)``; 0 where they are of one distribution
    (Székely & Rizzo 2013), and without bias: no point is compared with itself."""

    def within(z: Tensor) -> Tensor:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))


class PlaneDenoiser(nn.Module):
    """Predicts the flow ``noise − x0`` of ``(B, 2, 1, 1)`` latents from σ and a class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.of_class = nn.Embedding(classes + 1, _WIDTH)
        self.proj_in = nn.Linear(2 + 2 * _LEVELS, _WIDTH)
        self.hidden = nn.ModuleList(nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.SiLU()) for _ in range(2))
        self.proj_out = nn.Linear(_WIDTH, 2)

    def forward(self, x: Tensor, sigma: Tensor, which: Tensor) -> Tensor:
        """``x (B, 2, 1, 1)``, ``sigma (B,)``, ``which (B,)`` to ``(B, 2, 1, 1)``."""
        waves = sigma[:, None] * (torch.arange(1, _LEVELS + 1).to(sigma) * math.pi / 2)
        tokens = torch.cat([x.flatten(1), waves.sin(), waves.cos()], 1)
        tokens = nn.functional.silu(self.proj_in(tokens) + self.of_class(which))
        for block in self.hidden:
            tokens = tokens + block(tokens)
        return self.proj_out(tokens)[:, :, None, None]


class PlaneBackbone(ToyBackbone):
    """A `PlaneDenoiser` as a backbone: rectified flow, conditions are ``()`` tensors with the class's number.

    Args:
        classes: So many, besides none.
    """

    family = "plane"
    has_decoder = False

    net: PlaneDenoiser  # type: ignore[assignment]  # all that the toy does with its own works with this one

    def __init__(self, classes: int, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.net = PlaneDenoiser(classes).requires_grad_(False)

    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.net.hidden)

    def sites(self) -> Sequence[AttentionSite]:
        return ()

    def collate(self, examples: Sequence[Example]) -> Batch:
        x0 = send(torch.stack([e.latent_or_zeros() for e in examples]), self.device)
        has_pictures = all(e.latent is not None for e in examples)
        without = (torch.tensor(NO_CLASS),) * len(examples)
        seen = stack_seen(examples, self.device)
        return Batch(x0, tuple(e.condition for e in examples), None, (), without, has_pictures, seen)

    def predict(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[object]) -> Tensor:
        sigma, which = sigma.to(x_t), torch.stack([c for c in conditions if isinstance(c, Tensor)])
        return x_t - sigma[:, None, None, None] * self.net(x_t, sigma, which.to(x_t.device))


def learn(backbone: PlaneBackbone, mixture: Mixture, steps: int = 3000, seed: int = 0, batch: int = 512) -> None:
    """Train all weights on the mixture, with the class left out of every fifth point."""
    rng = torch.Generator().manual_seed(seed)
    parameters = list(backbone.net.requires_grad_(True).parameters())
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average = torch.optim.swa_utils.AveragedModel(
        backbone.net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    for _ in range(steps):
        points, classes = mixture.draw(batch, rng)
        classes = classes * (torch.rand(batch, generator=rng) > 0.2)
        noise, sigma = torch.randn(batch, 2, generator=rng), torch.rand(batch, generator=rng)
        x_t = torch.lerp(points, noise, sigma[:, None])
        flow = backbone.net(x_t[:, :, None, None], sigma, classes).flatten(1)
        loss = (flow - (noise - points)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(backbone.net)
    backbone.net.load_state_dict(average.module.state_dict())
    backbone.net.requires_grad_(False)


@torch.no_grad()
def drawn(backbone: PlaneBackbone, classes: Tensor, steps: int, seed: int = 0, guidance: float = 1.0) -> Tensor:
    """Points ``(N, 2)`` of Euler's method, each of its class ``(N,)``, with what is attached to the network."""
    x = torch.randn(len(classes), 2, 1, 1, generator=torch.Generator().manual_seed(seed))
    conditions, without = list(classes), [torch.tensor(NO_CLASS)] * len(classes)
    levels = backbone.levels(steps).to(x)
    for now, after in pairwise(levels):
        sigma = now.expand(len(x))
        x0 = backbone.predict(x, sigma, conditions)
        if guidance != 1:
            x0 = torch.lerp(backbone.predict(x, sigma, without), x0, guidance)
        x = x0 + (x - x0) * (after / now)
    return x.flatten(1)


@torch.no_grad()
def rolled_out(
    backbone: PlaneBackbone, classes: int, count: int, steps: int, highest: float, seed: int = 0, *, guided: bool = True
) -> tuple[Item, ...]:
    """Drawings of Euler's method with guidance from 1 to the highest, one each, and what the model saw on its way.

    Args:
        guided: Whether they follow the guided prediction that is noted; otherwise the plain one.
    """
    rng = torch.Generator().manual_seed(seed)
    guidance = 1 + (highest - 1) * torch.rand(count, generator=rng)
    which, without = torch.randint(1, classes + 1, (count,), generator=rng), torch.full((count,), NO_CLASS)
    x, levels = torch.randn(count, 2, 1, 1, generator=rng), backbone.levels(steps)
    moments: list[list[Example]] = [[] for _ in range(count)]
    for now, after in pairwise(levels):
        sigma = now.expand(count)
        plain, bare = (backbone.predict(x, sigma, list(conditions)) for conditions in (which, without))
        x0 = bare + guidance[:, None, None, None] * (plain - bare)
        for n in range(count):
            seen = Seen(x[n], float(now), float(guidance[n]), x0[n])
            moments[n].append(Example(None, which[n], f"class {int(which[n])}", shape=(2, 1, 1), seen=seen))
        follows = x0 if guided else plain
        x = follows + (x - follows) * (after / now)
    return tuple(Item(tuple(forms)) for forms in moments)
