"""What moves the factors: optimizers from their own packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import torch
from torch import nn

from krona_ops import LayerName
from krona_ops.errors import ConfigError

from ..packages import load
from ..settings.groups import OptimizerConfig
from .layers.protocol import Layer, Role
from .rate_schedules import rate_factor

FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices for which PyTorch has AdamW as one kernel."""
PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedulefree": "schedulefree"}
"""Optimizers that a package of their own brings."""


class Group(TypedDict):
    """Parameters that learn equally fast, as PyTorch's optimizers take them."""

    params: list[nn.Parameter]
    lr: float


def parameter_groups(
    layers: Mapping[LayerName, Layer], rates: Mapping[str, float], config: OptimizerConfig
) -> list[Group]:
    """The factors by learning rate.

    Those that start random are apart from those that start at zero, and from whatever a target rule sets apart.

    Args:
        rates: For each layer, what its learning rate is multiplied by.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    by_role: Mapping[Role, float] = {"random": config.rate_a, "zero": config.rate_b, "weight": 1.0}
    for name, layer in layers.items():
        for role, parameters in layer.by_role().items():
            groups.setdefault(config.learning_rate * by_role[role] * rates[name], []).extend(parameters)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def build_optimizer(groups: Sequence[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of the settings.

    Raises:
        ConfigError: It comes in a package that is not installed.
    """
    rate, betas, decay = config.learning_rate, config.betas, config.weight_decay
    parameters = [dict(group) for group in groups]
    if config.name == "adamw":
        # One kernel for all factors: PyTorch's loop costs a CPU 4 ms for 64 of them, this 0.6 ms.
        fused = _device(groups) in FUSED or None
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, eps=config.eps, weight_decay=decay, fused=fused)
    shared = {"lr": rate, "betas": betas, "weight_decay": decay}
    package = load(PACKAGES[config.name], f"The optimizer {config.name}", "take adamw")
    if config.name == "adamw8bit":
        return package.optim.AdamW8bit(parameters, eps=config.eps, **shared)
    if config.name == "prodigy":
        _require_one_rate(groups)
        # As Prodigy's authors set it for diffusion models: decoupled decay, bias correction, no warmup to safeguard.
        options = {"decouple": True, "use_bias_correction": True, "safeguard_warmup": config.warmup > 0}
        return package.Prodigy(parameters, eps=config.eps, **options, **shared)
    return package.AdamWScheduleFree(parameters, eps=config.eps, warmup_steps=config.warmup, **shared)


def _device(groups: Sequence[Group]) -> str:
    """The kind of device that the parameters are on, such as ``cuda``; empty where there are none."""
    return next((parameter.device.type for group in groups for parameter in group["params"]), "")


def _require_one_rate(groups: Sequence[Group]) -> None:
    """Refuse rates that Prodigy would have to find apart.

    Raises:
        ConfigError: There are several learning rates above 0.
    """
    rates = sorted({group["lr"] for group in groups if group["lr"]})
    if len(rates) > 1:
        raise ConfigError(
            "Prodigy finds one learning rate for all factors.",
            found=f"rates of {', '.join(map(str, rates))}",
            expected="one rate",
            remedy="Set rate_a, rate_b, rate_text and the rates of all target rules to 1, or to 0 for what shall stay "
            "as it is.",
        )


def learning_rate_factor(
    config: OptimizerConfig, optimizer: torch.optim.Optimizer, steps: int
) -> Callable[[int], float]:
    """``factor(steps done)``, what every learning rate is multiplied by in the next step.

    Raises:
        ConfigError: See `rate_factor`.
    """
    if config.name == "schedulefree":
        return lambda done: 1.0
    return rate_factor(config, optimizer.defaults["lr"], steps)
