"""A long optimisation that can be stopped at any time and goes on where it was."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
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
BROKEN = 10
"""Steps that are not finite, one after the other, until nothing is believed any more."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """What is optimised for how long."""

    name: str
    steps: int
    batch: int
    rate: float
    """Learning rate at its height; it rises over the first 4 % of the steps and falls as a cosine."""
    matrix_rate: float = 0.0
    """The same of matrices and convolutions by Muon (Jordan et al. 2024), in units of AdamW's (Liu et al. 2025); 0:
    AdamW moves them too."""
    decay: float = 0.998
    """Of the moving average, which is the result; it is shorter at the start:
    ``(1 + n) / (10 + n)`` after ``n`` steps, as in diffusers."""
    weight_decay: float = 0.0

    def share_at(self, step: int) -> float:
        """Of the learning rate's height."""
        warm = max(1, round(0.04 * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


class Movers:
    """AdamW, and Muon for matrices where the stage says so.

    Muon takes matrices only: a convolution ``(out, in, h, w)`` is shown to it as ``(out, in · h · w)``, in the same
    memory. Embeddings are left to AdamW, as Muon's authors advise.
    """

    def __init__(self, stage: Stage, module: nn.Module) -> None:
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        matrices = [
            p for name, p in named.items() if stage.matrix_rate and p.ndim > 1 and not re.search("embedding|rows", name)
        ]
        self._views = [(p, nn.Parameter(p.detach().flatten(1))) for p in matrices]
        others = [p for p in named.values() if all(p is not m for m in matrices)]
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.98), weight_decay=stage.weight_decay, fused=True)
        ]
        if matrices:
            views = [view for _, view in self._views]
            self.all.append(
                torch.optim.Muon(
                    views, lr=stage.matrix_rate, weight_decay=stage.weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        self._heights = [group["lr"] for each in self.all for group in each.param_groups]

    def slow_to(self, share: float) -> None:
        """Learning rates as a share of their height."""
        groups = (group for each in self.all for group in each.param_groups)
        for group, height in zip(groups, self._heights, strict=True):
            group["lr"] = height * share

    def step(self) -> None:
        """Move every parameter by its gradient."""
        for parameter, view in self._views:
            assert parameter.grad is not None  # of a step's loss
            view.grad = parameter.grad.flatten(1)
        for each in self.all:
            each.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for each in self.all:
            each.zero_grad()
        for parameter, _ in self._views:
            parameter.grad = None


def device() -> torch.device:
    """Where stages compute: on a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast() -> AbstractContextManager:
    """bfloat16 products where the device has units for them."""
    if device().type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def order(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Which of ``count`` pictures a step sees: each once per epoch, epochs in other orders,
    a function of the step alone."""
    numbers = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        numbers.append((epoch, place))
    orders = {
        epoch: np.random.default_rng([20_29, seed, epoch]).permutation(count) for epoch in {e for e, _ in numbers}
    }
    return np.array([orders[epoch][place] for epoch, place in numbers])


def optimise(stage: Stage, module: nn.Module, loss: Callable[[int], Tensor], folder: Path, say: Say) -> None:
    """Train ``module`` in place; at the end it holds the moving average of its weights.

    Args:
        loss: Of a step, by its number; must depend on nothing else but the weights.
        folder: For the state, from which a stopped stage goes on bit for bit.
    """
    file = folder / f"{stage.name}.state.safetensors"
    average = AveragedModel(module, multi_avg_fn=partial(_averaged, stage.decay))
    parameters = [p for p in module.parameters() if p.requires_grad]
    movers = Movers(stage, module)
    done = _restore(file, stage, module, average, movers) if file.exists() else 0
    began, saved, recent = time.monotonic(), time.monotonic(), []
    first, broken = done, 0
    while done < stage.steps:
        movers.slow_to(stage.share_at(done))
        value = loss(done)
        movers.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        done += 1
        if torch.isfinite(norm):
            movers.step()
            average.update_parameters(module)
            recent.append(value.item())
            broken = 0
        else:  # one bad batch must not end hours of work
            broken += 1
            say(f"{stage.name}: step {done} left out: loss {value.item():.4f}, gradient {norm.item():.4f}")
            if broken == BROKEN:
                raise SystemExit(
                    f"{stage.name}: {BROKEN} steps one after the other were not finite; {file} is from before."
                )
        if done % max(1, stage.steps // 60) == 0 or done == stage.steps:
            each = (time.monotonic() - began) / (done - first)
            say(
                f"{stage.name}: step {done} of {stage.steps}, loss {np.mean(recent or [np.nan]):.4f}, {each:.2f} s each, {each * (stage.steps - done) / 60:.0f} min left"
            )
            recent.clear()
        is_time = time.monotonic() - saved > SECONDS_BETWEEN_SAVES or done == stage.steps
        if is_time and not broken and _is_finite(parameters):
            _save(file, stage, done, module, average, movers)
            saved = time.monotonic()
    with torch.no_grad():
        for parameter, mean in zip(module.parameters(), average.module.parameters(), strict=True):
            parameter.copy_(mean)


def _is_finite(parameters: Iterable[Tensor]) -> bool:
    return bool(torch.stack(torch._foreach_norm([p.detach() for p in parameters])).isfinite().all())


@torch.no_grad()
def _averaged(decay: float, means: list[Tensor], values: list[Tensor], n: Tensor) -> None:
    torch._foreach_lerp_(means, values, 1 - min(decay, (1 + int(n)) / (10 + int(n))))


def _state(module: nn.Module, average: AveragedModel, movers: Movers) -> Mapping[str, Tensor]:
    tensors: dict[str, Tensor] = {f"weights.{name}": p for name, p in module.named_parameters()}
    tensors |= {f"average.{name}": p for name, p in average.named_parameters()}
    tensors["average.n"] = average.n_averaged
    for place, each in enumerate(movers.all):
        for index, values in each.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{index}.{name}": value for name, value in values.items()}
    return tensors


def _save(file: Path, stage: Stage, done: int, module: nn.Module, average: AveragedModel, movers: Movers) -> None:
    tensors = {name: tensor.detach().contiguous() for name, tensor in _state(module, average, movers).items()}
    metadata = {"step": str(done), "stage": json.dumps(stage.__dict__)}
    waiting = file.with_suffix(".part")
    save_file(tensors, waiting, metadata=metadata)
    os.replace(waiting, file)


@torch.no_grad()
def _restore(file: Path, stage: Stage, module: nn.Module, average: AveragedModel, movers: Movers) -> int:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        if json.loads(metadata["stage"]) != stage.__dict__:
            raise SystemExit(f"{file} belongs to another recipe; delete it to begin this stage anew.")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dictionary)
    for prefix, named in (("weights", module), ("average", average)):
        for name, parameter in named.named_parameters():
            parameter.copy_(tensors[f"{prefix}.{name}"])
    average.n_averaged.copy_(tensors["average.n"])
    for place, each in enumerate(movers.all):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{place}."):
                _, _, index, key = name.split(".", 3)
                state.setdefault(int(index), {})[key] = tensor
        each.load_state_dict({"state": state, "param_groups": each.state_dict()["param_groups"]})
    return int(metadata["step"])
