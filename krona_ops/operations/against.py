"""Values of norms as changes of a base model whose checkpoint lies on disk, without ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from ..errors import CoverageError
from ..names.core_names import bases
from ..names.resadapter import base_model, residual_blocks
from ..names.spellings import LayerName
from ..updates.absolute import Absolute, waiting
from ..updates.adapter import Adapter

_ROOTS = ("model.diffusion_model.", "diffusion_model.", "unet.", "")
"""What checkpoints put in front of a UNet's layers."""
Read = Callable[[list[str]], Mapping[str, Tensor]]
"""Reads tensors of a checkpoint by name."""


def against(adapter: Adapter, keys: Iterable[str], read: Read) -> Adapter:
    """Every value as the change that leads to it from a base's own weight; all else stays as it is.

    Args:
        keys: The names of the checkpoint's tensors: one of Stability's, ComfyUI's or diffusers' layouts.
        read: Reads the ones that are needed.

    Raises:
        CoverageError: The checkpoint has not all of them: it is another model.
        ShapeError: One has another shape.
    """
    there = set(keys)
    residual = residual_blocks(adapter.layers)
    wanted = {name: _place(name, there, residual) for name in waiting(adapter.layers)}
    names = [name for name, key in wanted.items() if key is None]
    if names:
        kind = base_model(adapter.layers)
        raise CoverageError(
            f"The checkpoint has {len(wanted) - len(names)} of the {len(wanted)} norms and biases that the file has values for.",
            layer=names[0],
            found=f"{len(wanted) - len(names)} of them",
            expected=f"a UNet of the same levels{f', as {kind} has' if kind else ''}",
            remedy="Name the checkpoint of the base model that the file was made for.",
        )
    weights = read([key for key in wanted.values() if key is not None])
    layers = dict(adapter.layers)
    for name, key in wanted.items():
        value = layers[name]
        assert isinstance(value, Absolute), "`waiting` names values"
        assert key is not None, "missing ones are refused above"
        layers[name] = value.against(weights[key])
    return replace(adapter, layers=layers)


def _place(name: LayerName, keys: set[str], residual: int) -> str | None:
    """The tensor of a checkpoint that a norm's weight or bias is; ``None`` where it has none."""
    end = "bias" if name.endswith(".bias") else "weight"
    plain = name.removesuffix(".bias").removeprefix("unet.")
    paths = {plain: None}
    for base in bases():
        if base.residual == residual and (weight := base.means(plain)) is not None:
            paths[weight.path] = None
    return next((key for path in paths for root in _ROOTS if (key := f"{root}{path}.{end}") in keys), None)
