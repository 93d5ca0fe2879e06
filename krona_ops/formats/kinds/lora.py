"""LoRA and LoCon: ``ΔW = up @ down · scale``, with a ``mid`` convolution between the two where LyCORIS has one."""

from __future__ import annotations

from torch import Tensor

from ...updates.delta import Matrix
from ...updates.factor import Factor, Full, LowRank, Tucker
from ..scale import Sizes
from .layer import LayerError, StoredLayer, times
from .lokr import number

PARTS = frozenset({"lora_up", "lora_down", "lora_mid", "lora_bias", "lora_embedding_a", "lora_embedding_b"})


def read(layer: StoredLayer) -> Matrix:
    """The update in a layer's LoRA tensors: ``up (out, r, 1…)``, ``down (r, in, *kernel)``,
    and perhaps ``mid (r, s, *kernel)``.

    Raises:
        FormatError: A tensor is missing or does not fit.
    """
    if layer.has("lora_embedding_a") or layer.has("lora_embedding_b"):
        return _embedding(layer)
    up, down = layer.pair("lora_up", "lora_down")
    _require_no_groups(layer, up, down)
    if not 2 <= down.ndim <= 5 or not _is_pointwise(up) or up.shape[1] != (middle_rank := _middle(layer, down))[0]:
        raise layer.error(
            f"lora_up ({times(up.shape)}) and lora_down ({times(down.shape)}) share no rank.",
            (tuple(up.shape), tuple(down.shape)),
            "lora_up (out, rank), lora_down (rank, in)",
        )
    rank = middle_rank[1]
    scale = layer.scale(Sizes(layer.name, "lora", layer.alpha, rank))
    return Matrix(_factor(layer, up.flatten(1), down), scale)


def _embedding(layer: StoredLayer) -> Matrix:
    """PEFT's LoRA of an embedding ``(words, width)``: ``A (r, words)`` and ``B (width, r)``,
    whose product is transposed."""
    b, a = layer.pair("lora_embedding_b", "lora_embedding_a")
    if (a.ndim, b.ndim) != (2, 2) or a.shape[0] != b.shape[1]:
        raise layer.error(
            f"lora_embedding_B ({times(b.shape)}) and lora_embedding_A ({times(a.shape)}) share no rank.",
            (tuple(b.shape), tuple(a.shape)),
            "lora_embedding_B (width, rank), lora_embedding_A (rank, words)",
        )
    return Matrix(LowRank(a.mT, b.mT), layer.scale(Sizes(layer.name, "lora", layer.alpha, a.shape[0])))


def _require_no_groups(layer: StoredLayer, up: Tensor, down: Tensor) -> None:
    """PEFT's ``lora_B`` of a convolution in groups has groups, and ``lora_A`` none:
    what they do fits into no grouped weight."""
    if (
        up.ndim == down.ndim >= 3
        and _is_pointwise(up)
        and 0 < up.shape[1] < down.shape[0]
        and not down.shape[0] % up.shape[1]
    ):
        groups = down.shape[0] // up.shape[1]
        if up.shape[0] % groups == 0 and not layer.has("lora_mid"):
            raise LayerError(
                f"It is a LoRA of a convolution in {groups} groups, whose weight cannot hold the update: it mixes the groups.",
                layer=layer.name,
                found=(tuple(up.shape), tuple(down.shape)),
                expected="a convolution without groups",
                remedy="PEFT cannot merge it either; train again without such layers.",
            )


def bias(layer: StoredLayer, scale: float) -> Matrix | None:
    """The update of the bias that PEFT trains with ``lora_bias``: it is scaled like the weight's."""
    if not layer.has("lora_bias"):
        return None
    value = layer.tensor("lora_bias")
    if value.ndim != 1:
        raise layer.error(f"lora_B.bias is {times(value.shape)}.", tuple(value.shape), "a vector")
    return Matrix(Full(value), scale)


def _middle(layer: StoredLayer, down: Tensor) -> tuple[int, int]:
    """The rank towards ``up`` and the one towards ``down``."""
    if not layer.has("lora_mid"):
        return down.shape[0], down.shape[0]
    mid = layer.tensor("lora_mid")
    if not 3 <= mid.ndim <= 5 or mid.shape[1] != down.shape[0] or not _is_pointwise(down):
        raise layer.error(
            f"lora_mid ({times(mid.shape)}) does not fit lora_down ({times(down.shape)}).",
            tuple(mid.shape),
            "lora_mid (rank, rank, *kernel), lora_down (rank, in, 1, …)",
        )
    return mid.shape[0], down.shape[0]


def _factor(layer: StoredLayer, up: Tensor, down: Tensor) -> Factor:
    if layer.has("lora_mid"):
        return Tucker(layer.tensor("lora_mid"), up.mT, down.flatten(1))
    return LowRank(up, down)


def _is_pointwise(tensor: Tensor) -> bool:
    return 2 <= tensor.ndim <= 5 and all(n == 1 for n in tensor.shape[2:])


def write(delta: Matrix) -> dict[str, Tensor] | None:
    """``lora_up``, ``lora_down``, perhaps ``lora_mid``, and ``alpha``; ``None`` where the update is no LoRA."""
    factor = delta.factor
    if isinstance(factor, LowRank):
        up = factor.up.reshape(*factor.up.shape, *(1,) * (factor.down.ndim - 2))
        return {"lora_up": up, "lora_down": factor.down, "alpha": number(delta.scale * factor.down.shape[0])}
    if isinstance(factor, Tucker):
        ones = (1,) * (factor.core.ndim - 2)
        return {
            "lora_up": factor.up.mT.reshape(*factor.up.mT.shape, *ones),
            "lora_down": factor.down.reshape(*factor.down.shape, *ones),
            "lora_mid": factor.core,
            "alpha": number(delta.scale * factor.down.shape[0]),
        }
    return None
