"""The host's fused kernels that have no gradient, and formulas that have."""

from __future__ import annotations

import comfy.quant_ops
import torch

from ..backbone.exact_gradients import Operation, Substitutes

_NAMES = (
    "apply_rope", "apply_rope1", "apply_rope_split_half", "apply_rope_split_half1",
    "rms_rope", "rms_rope1", "rms_rope_split_half", "rms_rope_split_half1",
    "adaln", "rms_adaln",
)  # fmt: skip


def formulas() -> Substitutes:
    """The kernels' own reference implementations, which are plain PyTorch, by operator.

    Most of the host's models avoid its kernels while it trains. Cosmos-Predict2, Anima, Ernie-Image, JoyImage and
    others (comfyui 0.30.0) do not, and fail with "no autograd formula was registered". An older or newer host may lack
    some.
    """
    kitchen = comfy.quant_ops.ck
    eager = getattr(getattr(kitchen, "backends", None), "eager", None)
    by_operator: dict[object, Operation] = {}
    for name in _NAMES:
        formula, operator = getattr(eager, name, None), getattr(torch.ops.comfy_kitchen, name, None)
        if formula is not None and operator is not None:
            by_operator[operator] = formula
    return by_operator
