"""LoKr as PEFT saves it: the tensors without ``alpha``, and the scale in ``adapter_config.json`` beside them.

PEFT has one ``decompose_factor`` for all layers and decides from the rank which factor it decomposes, so it holds fewer
adapters than the other formats: `settings_of` finds settings under which it would make exactly these shapes, or says
why there are none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ..errors import FormatError
from ..names.spellings import LayerName
from ..room import require_room
from ..updates.adapter import Adapter
from ..updates.delta import Delta, Kron, Matrix
from ..updates.factor import Full, LowRank, Tucker
from . import diffusekrona, layers, parts
from .header import Header
from .kinds.layer import times
from .layers import Rename, cannot_hold, describe
from .peft_config import PEFT_PREFIX as PREFIX
from .scale_rules import ScaleRule
from .trainer import Trainer

NAME = "peft"


@lru_cache(maxsize=2)  # other formats ask this too
def sniff(header: Header) -> bool:
    """Whether a file holds LoKr layers without alpha that PEFT's settings, or its prefix on every name, claim."""
    if "lokr" not in parts.methods(header) or diffusekrona.sniff(header):
        return False
    config = Trainer.of(header).settings("")
    if config is None and not any(key.startswith(PREFIX) for key in header.shapes):
        return False
    layers_of = parts.layers_of(header.shapes, "lokr")
    if any(f"{name}.alpha" in header.shapes for name in layers_of):
        return False
    return config.kind == "LOKR" if config else all(name.startswith(PREFIX) for name in layers_of)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors; scale ``alpha / r`` also where both factors are whole.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`; or the settings speak of other ranks than the tensors have.
    """
    adapter = layers.read(tensors, header, rule)
    adapter = replace(adapter, layers={name: _as_computed(delta) for name, delta in adapter.layers.items()})
    trainer = Trainer.of(header)
    if not trainer.peft:
        note = "PEFT's adapter_config.json is not beside the file: alpha = r was assumed, scale 1."
        adapter = replace(adapter, notes=(*(trainer.notes or (note,)), *map(str, adapter.left_out)))
    return adapter


def _as_computed(delta: Delta) -> Delta:
    """The update that PEFT trains: of a one-dimensional convolution with a whole ``w2`` it is no Kronecker product.

    PEFT lines ``w1`` up with the last two axes of ``w2 (out_b, in_b, kernel)`` instead of the first two, and views the
    result as the weight. What was trained that way must be applied that way;
    ComfyUI does (for all such files, which is L2).
    """
    if not isinstance(delta, Kron) or not isinstance(delta.b, Full) or len(delta.b.shape) != 3:
        return delta
    require_room(delta.shape)
    product = torch.kron(delta.a.dense(), delta.b.dense())  # (out_b, out_a·in_b, in_a·kernel)
    return Matrix(Full(product.reshape(delta.shape)), delta.scale)


def write(adapter: Adapter, rename: Rename = str) -> dict[str, Tensor]:
    """``base_model.model.<layer>.lokr_*``; the settings that belong to them come from `sidecar`.

    Raises:
        FormatError: PEFT would make other factors, or none of this kind.
    """
    settings_of(adapter, rename)
    tensors: dict[str, Tensor] = {}
    for name, delta in adapter.layers.items():
        path = _path(rename, name)
        for part, tensor in _write_layer(name, delta).items():
            tensors[f"{PREFIX}{path}.{part}"] = tensor.contiguous()
    return tensors


def _path(rename: Rename, name: LayerName) -> str:
    return rename(name).removeprefix(PREFIX)


def _write_layer(name: str, delta: Delta) -> dict[str, Tensor]:
    delta = _plain(name, delta)
    tensors: dict[str, Tensor] = {}
    for factor, key in ((delta.a, "lokr_w1"), (delta.b, "lokr_w2")):
        if isinstance(factor, LowRank):
            tensors |= {f"{key}_a": factor.up, f"{key}_b": factor.down.flatten(1)}
        elif isinstance(factor, Tucker):
            # PEFT's core of a one-dimensional convolution is (r, r, k, 1).
            core = factor.core if factor.core.ndim == 4 else factor.core.unsqueeze(-1)
            tensors |= {"lokr_t2": core, f"{key}_a": factor.up, f"{key}_b": factor.down}
        elif isinstance(factor, Full):
            tensors[key] = factor.value
    return tensors


def sidecar(adapter: Adapter, rename: Rename = str) -> str:
    """The text of the ``adapter_config.json`` that belongs beside the file of `write`."""
    return json.dumps(settings_of(adapter, rename).config(), indent=2, sort_keys=True)


@dataclass(frozen=True)
class LoKrSettings:
    """Settings of `peft.LoKrConfig` under which PEFT makes exactly an adapter's factors."""

    factor: int
    """PEFT's ``decompose_factor``."""
    decompose_both: bool
    use_effective_conv2d: bool
    ranks: Mapping[str, int]
    """By path."""
    alphas: Mapping[str, float]

    def config(self) -> dict[str, object]:
        """The values of the file; ranks and alphas that differ from the commonest are
        patterns that match one path only."""
        rank = Counter(self.ranks.values()).most_common(1)[0][0]
        alpha = Counter(self.alphas.values()).most_common(1)[0][0]
        return {
            "peft_type": "LOKR",
            "auto_mapping": None,
            "base_model_name_or_path": None,
            "inference_mode": True,
            "task_type": None,
            "init_weights": True,
            "target_modules": sorted(self.ranks),
            "r": rank,
            "alpha": _plain_number(alpha),
            "rank_pattern": {f"^{re.escape(path)}": r for path, r in self.ranks.items() if r != rank},
            "alpha_pattern": {f"^{re.escape(path)}": _plain_number(a) for path, a in self.alphas.items() if a != alpha},
            "decompose_both": self.decompose_both,
            "decompose_factor": self.factor,
            "use_effective_conv2d": self.use_effective_conv2d,
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "rank_dropout_scale": False,
        }


def _plain_number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def settings_of(adapter: Adapter, rename: Rename = str) -> LoKrSettings:
    """Settings under which PEFT makes an adapter's factors.

    Raises:
        FormatError: There are none: another kind of update, factors that no single ``decompose_factor`` gives, ranks
            that PEFT would store whole, or layers that need opposite settings.
    """
    if not adapter.layers:
        raise cannot_hold("adapter", "empty", "Train or load one first.", "PEFT")
    deltas = {name: _plain(name, delta) for name, delta in adapter.layers.items()}
    factor = _decompose_factor(deltas.values())
    decompose_both = any(isinstance(d.a, LowRank) for d in deltas.values())
    tuckers = [name for name, d in deltas.items() if isinstance(d.b, Tucker)]
    flat = [
        name
        for name, d in deltas.items()
        if isinstance(d.b, LowRank) and d.b.down.ndim > 2 and prod(d.b.down.shape[2:]) > 1
    ]
    if tuckers and flat:
        raise cannot_hold(
            flat[0], "without a Tucker core, while another layer has one", "Drop one of the two kinds.", "PEFT"
        )
    paths = {name: _path(rename, name) for name in deltas}
    ranks = {paths[name]: _rank(name, delta, decompose_both) for name, delta in deltas.items()}
    alphas = {paths[name]: delta.scale * ranks[paths[name]] for name, delta in deltas.items()}
    return LoKrSettings(factor, decompose_both, bool(tuckers), ranks, alphas)


def _plain(name: str, delta: Delta) -> Kron:
    if not isinstance(delta, Kron) or delta.layout != "kron" or len(delta.b.shape) > 4:
        raise cannot_hold(name, describe(delta), "Save it as lokr, or convert it to LoRA.", "PEFT LoKr")
    if isinstance(delta.b, Full) and len(delta.b.shape) == 3:
        raise cannot_hold(
            name, "of a one-dimensional convolution, which PEFT multiplies in another order", "Save it as lokr.", NAME
        )
    if isinstance(delta.b, Tucker) and delta.b.core.shape[0] != delta.b.core.shape[1]:
        raise cannot_hold(name, "a Tucker core with two ranks", "Save it as lokr.", "PEFT LoKr")
    return delta


def _rank(name: str, delta: Kron, decompose_both: bool) -> int:
    """The ``r`` of a layer: PEFT keeps a factor whole where ``r`` is at least half of its larger side."""
    whole_a, whole_b = max(delta.a.shape) / 2, max(delta.b.shape[:2]) / 2
    stored = {f.down.shape[0] for f in (delta.a, delta.b) if isinstance(f, LowRank | Tucker)}
    least = max(
        (whole_b if isinstance(delta.b, Full) else 0),
        (whole_a if isinstance(delta.a, Full) and decompose_both else 0),
        1,
    )
    rank = stored.pop() if stored else -int(-least // 1)
    too_large = (isinstance(delta.b, LowRank | Tucker) and rank >= whole_b) or (
        isinstance(delta.a, LowRank) and rank >= whole_a
    )
    if stored or rank < least or too_large:
        raise cannot_hold(
            name,
            f"{describe(delta)} of a rank for which PEFT stores the other factor differently",
            "Save it as lokr.",
            "PEFT LoKr",
        )
    return rank


def _decompose_factor(deltas: Iterable[Kron]) -> int:
    """The ``decompose_factor`` under which PEFT splits every layer's sides as these updates are split."""
    sizes = dict.fromkeys((d.a.shape[0], d.b.shape[0], d.a.shape[1], d.b.shape[1]) for d in deltas)
    largest = max(max(out_a, in_a) for out_a, _, in_a, _ in sizes)
    for factor in (-1, *range(1, largest + 1)):
        if all(
            _split(out_a * out_b, factor) == (out_a, out_b) and _split(in_a * in_b, factor) == (in_a, in_b)
            for out_a, out_b, in_a, in_b in sizes
        ):
            return factor
    raise _no_factor(sizes)


def _no_factor(sizes: Iterable[tuple[int, int, int, int]]) -> FormatError:
    splits = sorted({f"{times((out_a, in_a))} ⊗ {times((out_b, in_b))}" for out_a, out_b, in_a, in_b in sizes})
    return FormatError(
        f"PEFT has one factor for all layers and both sides; none gives {', '.join(splits[:4])}{', …' if len(splits) > 4 else ''}.",
        where="adapter",
        found=splits,
        expected="factors that one decompose_factor gives",
        remedy="Save it as lokr, or compress it to square factors first.",
    )


def _split(size: int, factor: int) -> tuple[int, int]:
    """How PEFT splits a side (its `factorization`): the factor itself where it divides,
    else the best divisors below it.

    >>> _split(640, 32), _split(640, -1), _split(12, 5)
    ((32, 20), (20, 32), (3, 4))
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    small, large = 1, size
    for divisor in range(2, int(size**0.5) + 1):
        if size % divisor == 0 and divisor <= limit:
            small, large = divisor, size // divisor
    return small, large
