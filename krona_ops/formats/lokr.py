"""LoKr as ComfyUI itself reads and writes it: ``<layer>.lokr_w1`` and ``lokr_w2``, each whole or as a product of two.

``ΔW = kron(w1, w2) · scale``. The scale is ``alpha / rank`` where a factor is stored as a product of rank ``rank`` (that
of ``w2`` where both are), and 1 where both are whole: the rule of LyCORIS and of ComfyUI, whatever ``alpha`` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..adapter import Adapter
from ..delta import Delta, Kron
from ..errors import FormatError
from ..factor import Factor, Full, LowRank, Tucker
from ..names import LayerName

NAME = "lokr"
_PARTS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha", "dora_scale")


def sniff(keys: Iterable[str]) -> bool:
    """Whether these tensor names are those of a LoKr file."""
    return any(key.rpartition(".")[2].startswith("lokr_w") for key in keys)


def read(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Adapter:
    """The adapter in a LoKr file's tensors.

    Raises:
        FormatError: A tensor belongs to no LoKr layer, a factor is missing or has no possible shape, or the layer uses
            something that this reader does not know.
    """
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        layer, _, part = key.rpartition(".")
        if part not in _PARTS or not layer:
            raise FormatError(
                f'A LoKr file with the tensor "{part}", which LoKr does not have.',
                layer=layer or key,
                found=key,
                expected=" or ".join(_PARTS),
                remedy="Was the file mixed from several formats? Convert it with the tool that made it.",
            )
        layers[layer][part] = tensor
    return Adapter({LayerName(name): _read_layer(name, parts) for name, parts in layers.items()}, metadata)


def _read_layer(name: str, parts: Mapping[str, Tensor]) -> Kron:
    if "dora_scale" in parts:
        raise FormatError(
            "The layer has a DoRA norm, which this version cannot apply yet.",
            layer=name,
            found="dora_scale",
            expected="LoKr without DoRA",
            remedy="Load the file with ComfyUI's own Load LoRA node for now.",
        )
    a, rank_a = _read_factor(name, parts, "lokr_w1")
    b, rank_b = _read_factor(name, parts, "lokr_w2")
    if len(a.shape) != 2 or len(b.shape) < 2:
        raise FormatError(
            f"lokr_w1 {a.shape} and lokr_w2 {b.shape} make no Kronecker product.",
            layer=name,
            found=(a.shape, b.shape),
            expected="lokr_w1 with two dimensions, lokr_w2 with two to five",
            remedy="The file is damaged or of another format.",
        )
    rank = rank_b or rank_a
    scale = float(parts["alpha"]) / rank if rank and "alpha" in parts else 1.0
    return Kron(a, b, scale)


def _read_factor(name: str, parts: Mapping[str, Tensor], factor: str) -> tuple[Factor, int | None]:
    """The factor and, where it is stored as a product, its rank."""
    if factor in parts:
        return Full(parts[factor]), None
    up, down, core = parts.get(f"{factor}_a"), parts.get(f"{factor}_b"), None
    if factor == "lokr_w2":
        core = parts.get("lokr_t2")
    if up is None or down is None:
        raise FormatError(
            f"The factor {factor} is missing.",
            layer=name,
            found=", ".join(sorted(parts)),
            expected=f"{factor}, or {factor}_a and {factor}_b",
            remedy="The file was cut short or edited; get it again.",
        )
    inner = (up.shape[0], down.shape[0]) if core is not None else (up.shape[-1], down.shape[0])
    outer = tuple(core.shape[:2]) if core is not None else (down.shape[0], up.shape[-1])
    if up.ndim != 2 or down.ndim < 2 or inner != outer:
        raise FormatError(
            f"The parts of {factor} do not fit together: {tuple(up.shape)}, {tuple(down.shape)}"
            + (f" around {tuple(core.shape)}." if core is not None else "."),
            layer=name,
            found=(tuple(up.shape), tuple(down.shape)),
            expected="matrices that share the rank",
            remedy="The file is damaged.",
        )
    return (LowRank(up, down) if core is None else Tucker(core, up, down)), down.shape[0]


def write(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of an adapter as a LoKr file, which ComfyUI's own Load LoRA node reads without this pack.

    The host ignores ``alpha`` where both factors are whole, so a scale is multiplied into ``lokr_w1``, the smaller factor.

    Raises:
        FormatError: A layer is no plain Kronecker product.
    """
    tensors: dict[str, Tensor] = {}
    for name, delta in adapter.layers.items():
        tensors.update(_write_layer(name, delta))
    return tensors


def _write_layer(name: str, delta: Delta) -> dict[str, Tensor]:
    if not isinstance(delta, Kron) or delta.layout != "kron":
        found = f"a {delta.layout} Kronecker product" if isinstance(delta, Kron) else type(delta).__name__
        raise FormatError(
            f"LoKr holds plain Kronecker products; this update is {found}.",
            layer=name,
            found=found,
            expected="a Kronecker product in the kron layout",
            remedy="Train with the kron layout, or save in another format.",
        )
    parts: dict[str, Tensor] = {}
    scale = delta.scale
    for factor, key in ((delta.a, "lokr_w1"), (delta.b, "lokr_w2")):
        if isinstance(factor, Full):
            parts[key] = factor.value
        elif isinstance(factor, LowRank):
            parts |= {f"{key}_a": factor.up, f"{key}_b": factor.down}
        elif isinstance(factor, Tucker):
            parts |= {"lokr_t2": factor.core, f"{key}_a": factor.up, f"{key}_b": factor.down}
    rank = parts[key].shape[0] if (key := "lokr_w2_b") in parts or (key := "lokr_w1_b") in parts else None
    if rank is not None:
        parts["alpha"] = torch.tensor(scale * rank, dtype=torch.float32)
    elif scale != 1.0:
        parts["lokr_w1"] = (parts["lokr_w1"].float() * scale).to(parts["lokr_w1"].dtype)
    return {f"{name}.{key}": tensor.contiguous() for key, tensor in parts.items()}
