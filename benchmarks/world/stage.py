"""A long optimisation that can be stopped at any time and goes on where it was."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

SECONDS_BETWEEN_SAVES = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """What is optimised for how long."""

    name: str
    steps: int
    batch: int
    rate: float
    """Learning rate at its height; it rises over the first 4 % of the steps and falls as a cosine."""
    decay: float = 0.998
    """Of the moving average, which is the result; it is shorter at the start: ``(1 + n) / (10 + n)`` after ``n`` steps, as in diffusers."""
    weight_decay: float = 0.0

    def rate_at(self, step: int) -> float:
        warm = max(1, round(0.04 * self.steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm))))


def fast() -> AbstractContextManager:
    """bfloat16 products where the processor has units for them."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def order(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Which of ``count`` pictures a step sees: each once per epoch, epochs in other orders, a function of the step alone."""
    found = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        found.append((epoch, place))
    orders = {epoch: np.random.default_rng([20_29, seed, epoch]).permutation(count) for epoch in {e for e, _ in found}}
    return np.array([orders[epoch][place] for epoch, place in found])


def optimise(stage: Stage, module: nn.Module, loss: Callable[[int], Tensor], folder: Path, say: Say) -> None:
    """Train ``module`` in place; at the end it holds the moving average of its weights.

    Args:
        loss: Of a step, by its number; must depend on nothing else but the weights.
        folder: For the state, from which a stopped stage goes on bit for bit.
    """
    file = folder / f"{stage.name}.state.safetensors"
    average = AveragedModel(module, multi_avg_fn=partial(_averaged, stage.decay))
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.rate, betas=(0.9, 0.98), weight_decay=stage.weight_decay, fused=True)
    done = _restore(file, stage, module, average, optimizer) if file.exists() else 0
    began, saved, recent = time.monotonic(), time.monotonic(), []
    first = done
    while done < stage.steps:
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(done)
        value = loss(done)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update_parameters(module)
        done += 1
        recent.append(value.item())
        if done % max(1, stage.steps // 60) == 0 or done == stage.steps:
            each = (time.monotonic() - began) / (done - first)
            say(
                f"{stage.name}: step {done} of {stage.steps}, loss {np.mean(recent):.4f}, {each:.2f} s each, {each * (stage.steps - done) / 60:.0f} min left"
            )
            recent.clear()
        if time.monotonic() - saved > SECONDS_BETWEEN_SAVES or done == stage.steps:
            _save(file, stage, done, module, average, optimizer)
            saved = time.monotonic()
    with torch.no_grad():
        for parameter, mean in zip(module.parameters(), average.module.parameters(), strict=True):
            parameter.copy_(mean)


@torch.no_grad()
def _averaged(decay: float, means: list[Tensor], values: list[Tensor], n: Tensor) -> None:
    torch._foreach_lerp_(means, values, 1 - min(decay, (1 + int(n)) / (10 + int(n))))


def _state(module: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
    found = {f"weights.{name}": p for name, p in module.named_parameters()}
    found |= {f"average.{name}": p for name, p in average.named_parameters()}
    found["average.n"] = average.n_averaged
    for index, values in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    return found


def _save(file: Path, stage: Stage, done: int, *parts: object) -> None:
    tensors = {name: tensor.detach().contiguous() for name, tensor in _state(*parts).items()}  # type: ignore[arg-type]
    told = {"step": str(done), "stage": json.dumps(stage.__dict__)}
    waiting = file.with_suffix(".part")
    save_file(tensors, waiting, metadata=told)
    os.replace(waiting, file)


@torch.no_grad()
def _restore(file: Path, stage: Stage, module: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer) -> int:
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
        if json.loads(told["stage"]) != stage.__dict__:
            raise SystemExit(f"{file} belongs to another recipe; delete it to begin this stage anew.")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dictionary)
    for prefix, named in (("weights", module), ("average", average)):
        for name, parameter in named.named_parameters():
            parameter.copy_(tensors[f"{prefix}.{name}"])
    average.n_averaged.copy_(tensors["average.n"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(told["step"])
