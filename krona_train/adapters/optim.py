"""What moves the factors: optimizers from their own packages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from krona_ops.errors import ConfigError

from ..packages import load
from ..settings.groups import OptimizerConfig
from .layers.protocol import Layer, Role
from .rate_schedules import rate_factor

FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices for which PyTorch has AdamW as one kernel."""
PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedulefree": "schedulefree"}
"""Optimizers that a package of their own brings."""


def parameter_groups(layers: Mapping[str, Layer], rates: Mapping[str, float], config: OptimizerConfig) -> list[dict[str, Any]]:
    """The factors by learning rate: those that start random, those that start at zero, and whatever a target rule sets apart.

    Args:
        rates: For each layer, what its learning rate is multiplied by.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    by_role: Mapping[Role, float] = {"random": config.rate_a, "zero": config.rate_b, "weight": 1.0}
    for name, layer in layers.items():
        for role, parameters in layer.by_role().items():
            groups.setdefault(config.learning_rate * by_role[role] * rates[name], []).extend(parameters)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def build_optimizer(groups: Iterable[Mapping[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of the settings.

    Raises:
        ConfigError: It comes in a package that is not installed.
    """
    shared = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    parameters = [dict(group) for group in groups]
    if config.name == "adamw":
        # One kernel for all factors: PyTorch's loop costs a CPU 4 ms for 64 of them, this 0.6 ms.
        return torch.optim.AdamW(parameters, eps=config.eps, fused=_device(parameters) in FUSED or None, **shared)
    package = load(PACKAGES[config.name], f"The optimizer {config.name}", "take adamw")
    if config.name == "adamw8bit":
        return package.optim.AdamW8bit(parameters, eps=config.eps, **shared)
    if config.name == "prodigy":
        _require_one_rate(parameters)
        # As Prodigy's authors set it for diffusion models: decoupled decay, bias correction, no warmup to safeguard.
        options = {"decouple": True, "use_bias_correction": True, "safeguard_warmup": config.warmup > 0}
        return package.Prodigy(parameters, eps=config.eps, **options, **shared)
    return package.AdamWScheduleFree(parameters, eps=config.eps, warmup_steps=config.warmup, **shared)


def _device(groups: Sequence[Mapping[str, Any]]) -> str:
    """The kind of device that the parameters are on; nothing where there are none."""
    return next((parameter.device.type for group in groups for parameter in group["params"]), "")


def _require_one_rate(groups: Sequence[Mapping[str, Any]]) -> None:
    """
    Raises:
        ConfigError: Prodigy would have to find several learning rates at once.
    """
    rates = sorted({group["lr"] for group in groups if group["lr"]})
    if len(rates) > 1:
        raise ConfigError(
            "Prodigy finds one learning rate for all factors.",
            found=f"rates of {', '.join(map(str, rates))}",
            expected="one rate",
            remedy="Set rate_a, rate_b, rate_text and the rates of all target rules to 1, or to 0 for what shall stay as it is.",
        )


def learning_rate_factor(config: OptimizerConfig, optimizer: torch.optim.Optimizer, steps: int) -> Callable[[int], float]:
    """``factor(steps done)``, what every learning rate is multiplied by in the next step.

    Raises:
        ConfigError: See `rate_factor`.
    """
    if config.name == "schedulefree":
        return lambda done: 1.0
    return rate_factor(config, optimizer.defaults["lr"], steps)
