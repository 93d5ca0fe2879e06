"""Adapter files written by the libraries that invented them, and the updates that those libraries compute from them."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LAYERS = {
    "linear": lambda: nn.Linear(12, 10),
    "conv1d": lambda: nn.Conv1d(12, 10, 3, padding=1),
    "conv2d": lambda: nn.Conv2d(12, 10, (3, 2), padding=1),
    "conv1x1": lambda: nn.Conv2d(12, 10, 1),
    "conv3d": lambda: nn.Conv3d(12, 10, (3, 2, 2)),
}
FUNCTIONS = {"linear": F.linear, "conv1d": F.conv1d, "conv2d": F.conv2d, "conv1x1": F.conv2d, "conv3d": F.conv3d}


@dataclass
class Original:
    """One adapter file and what its own library makes of it."""

    path: Path
    layer: str
    weight: Tensor
    """The base weight ``(out, in, *kernel)``."""
    merged: Tensor
    """The weight with the update, by the library."""
    tensors: dict[str, Tensor]
    update: Tensor | None = None
    """The update alone, where it is known without the weight."""

    @property
    def delta(self) -> Tensor:
        return self.merged - self.weight if self.update is None else self.update


def seeded(build, seed=0):
    torch.manual_seed(seed)
    return build()


def lycoris(kind, layer, folder, *, name="lora_unet_block", metadata=None, dtype=None, **options) -> Original:
    """A file of one LyCORIS module with random factors around a layer of `LAYERS`."""
    base = seeded(LAYERS[layer]).requires_grad_(False)
    with quiet():
        from lycoris.modules import locon, loha, lokr

        module = {"lokr": lokr.LokrModule, "loha": loha.LohaModule, "locon": locon.LoConModule}[kind](
            name, base, 1.0, **{"lora_dim": 2, "alpha": 1.0, **options}
        )
    with torch.no_grad():
        for parameter_name, parameter in module.named_parameters():
            parameter.copy_(
                torch.randn_like(parameter).abs() + 0.5 if "dora" in parameter_name else torch.randn_like(parameter)
            )
        state = {f"{name}.{key}": value.detach().clone() for key, value in module.custom_state_dict().items()}
        if dtype is not None:
            state = {key: value.to(dtype) for key, value in state.items()}
        merged = forward_weight(module, base, layer)
    path = Path(folder) / f"{kind}-{layer}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata or {})
    return Original(path, name, base.weight.detach(), merged, state)


def forward_weight(module, base, layer):
    """The weight that a LyCORIS module computes with: its forward's, since `get_merged_weight` applies the scale twice."""
    if module.wd if hasattr(module, "wd") else False:
        plain = module.get_weight(module.shape) if hasattr(module, "get_weight") else module.make_weight() * module.scale
        return module.apply_weight_decompose(base.weight + plain * module.scalar).detach()
    x = torch.randn(2, 12, *(4,) * (base.weight.ndim - 2)) if base.weight.ndim > 2 else torch.randn(2, 12)
    plain = (
        module.get_weight(module.shape) * module.scalar
        if hasattr(module, "get_weight")
        else module.make_weight() * module.scale
    )
    options = {k: getattr(base, k) for k in ("stride", "padding", "dilation")} if base.weight.ndim > 2 else {}
    expected = FUNCTIONS[layer](x, base.weight + plain.reshape(base.weight.shape), base.bias, **options)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)  # what it says is what it does
    return (base.weight + plain.reshape(base.weight.shape)).detach()


def peft_lokr(layer, folder, **options) -> Original:
    """A file of a PEFT LoKr model with random factors around a layer of `LAYERS`."""
    import peft

    model = nn.Sequential()
    model.add_module("block", seeded(LAYERS[layer]))
    weight = model.block.weight.detach().clone()
    config = peft.LoKrConfig(target_modules=["block"], init_weights=False, **{"r": 2, "alpha": 3, **options})
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(folder)
    update = wrapped.base_model.model.block.get_delta_weight("default").detach()
    path = Path(folder) / "adapter_model.safetensors"
    return Original(path, "base_model.model.block", weight, weight + update, load_file(path), update)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


@contextlib.contextmanager
def quiet():
    """LyCORIS prints and logs while it is imported and used."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
