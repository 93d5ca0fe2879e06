"""Adapters as material: weighted sums of any number, exact or with two ways of settling their disagreements.

``"sum"`` keeps every term as it is, so it is exact, whatever formats are mixed.
The others work on one dense layer at a time:

- ``"ties"`` (Yadav et al. 2023, arXiv 2306.01708): of each update keep the part ``density`` of largest magnitude, elect
  the sign of each weight by the sum, average those that agree.
- ``"dare"`` (Yu et al. 2024, arXiv 2311.03099): of each update drop the part ``1 − density`` at random, divide the rest
  by ``density``, add.
- ``"dare ties"``: drop at random, then elect and average.

Parallel branches are blended place by place: the gates as all else, undiminished by a ``density``; the projections
averaged, with the adapters' weights divided by their sum. So one branch of weight 0.5 is `Adapter.scaled` by 0.5, and
two of weight 0.5 are the mean of both. Matrices of a branch's own, as MV-Adapter's files have them, have a mean among
themselves and none with updates of the base's projections; neither have branches that read the first frame in different
ways.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..errors import ConfigError, FormatError, ShapeError
from ..names.branches import Reading, place_of
from ..names.spellings import LayerName
from ..nearest.fit import fit
from ..nearest.forms import Form
from ..room import layer_by_layer
from ..updates.absolute import require_base
from ..updates.adapter import Adapter
from ..updates.contraction import require_plain
from ..updates.control import Enlarged, Replacement
from ..updates.delta import Delta, Dora, Kron, Matrix, Sum, skeleton, tensors
from ..updates.factor import Full, widened
from ..updates.gates import acting, gates_unsaid, is_gate
from ..updates.reading import READING, in_metadata, reading_of
from ..updates.rows import Rows
from .methods import METHODS, Method


def blend(
    pairs: Sequence[tuple[Adapter, float]],
    *,
    normalise: bool = False,
    method: Method = "sum",
    density: float = 0.5,
    seed: int = 0,
    form: Form | None = None,
) -> Adapter:
    """The weighted sum ``Σ wᵢ·ΔWᵢ`` of adapters, layer by layer; a layer that one of them lacks counts as zero there.

    Args:
        pairs: Adapters and their weights, any number, any mix of formats.
        normalise: Divide by the sum of the weights (in ``"ties"``: average with the weights), so that the blend of
            equal adapters is one of them.
        method: How layers are combined; see the module.
        density: The part of each update that ``"ties"`` and ``"dare"`` keep.
        seed: Of the random choice of ``"dare"``; each adapter's each layer has its own, told by its name.
        form: What each layer of the result is brought into at once. Without it, ``"sum"`` has the terms of all
            adapters, and the other methods have dense layers, which are as large as the model's.

    Returns:
        An adapter with the layers of all; the metadata is what all of them agree on, and ``krona.blend``.

    Raises:
        ConfigError: There is no adapter, the weights to normalise by add up to zero, or those of parallel branches at
            one place; or the density is not in (0, 1].
        ShapeError: Two adapters have one layer in different shapes: they belong to different base models.
        FormatError: Of branches at one place some have matrices of their own, and some have updates; or some read the
            first frame alone, and some with the others.
        KronaError: A DoRA update, or a branch's own matrix, in another method than ``"sum"``, or with a ``form``; values
            that wait for a base model.
    """
    _check(pairs, method, density)
    for adapter, _ in pairs:
        require_base(adapter.layers, "blended")
    reading = _reading(pairs)
    weights = (
        _normalised([weight for _, weight in pairs])
        if normalise and method in ("sum", "dare")
        else [w for _, w in pairs]
    )
    ways: dict[Method, Callable[..., Delta | None]] = {
        "sum": _add,
        "ties": partial(_ties, trim=_largest),
        "dare": _dare,
        "dare ties": partial(_ties, trim=_survivors),
    }
    combine = ways[method]
    # Gates of 1 that nobody names are the same ones in all adapters, so that equal branches cancel.
    unsaid = gates_unsaid({n: delta for adapter, _ in pairs for n, delta in adapter.layers.items() if not is_gate(n)})
    whole = [{**{n: unsaid[n] for n in gates_unsaid(adapter.layers)}, **adapter.layers} for adapter, _ in pairs]
    names = list(dict.fromkeys(name for layers in whole for name in layers))
    layers: dict[LayerName, Delta] = {}
    for name in names:
        is_averaged = acting(name) != name
        among = _shares(acting(name), whole, weights) if is_averaged else weights
        parts = [
            (n, layers_of[name], weight)
            for n, (layers_of, weight) in enumerate(zip(whole, among, strict=True))
            if name in layers_of and weight != 0
        ]
        _check_layer(name, [delta for _, delta, _ in parts], is_exact=method == "sum" and form is None)
        how = {"density": 1.0 if is_gate(name) else density, "normalise": normalise or is_averaged}
        with layer_by_layer(name):
            delta = combine(parts, name=name, seed=seed, **how) if parts else None
            if delta is not None:
                layers[name] = delta if form is None else fit(delta, form).delta
    layers = {name: delta for name, delta in layers.items() if acting(name) in layers}  # a gate that is gone was 0
    _require_means(layers, whole, weights)
    notes = dict.fromkeys(note for adapter, _ in pairs for note in adapter.notes)
    left_out = dict.fromkeys(entry for adapter, _ in pairs for entry in adapter.left_out)
    metadata = {**_metadata([adapter for adapter, _ in pairs], weights, method, density), **reading}
    return Adapter(layers, metadata, tuple(notes), tuple(left_out))


def negate(adapter: Adapter) -> Adapter:
    """``−ΔW`` for every layer, exactly: what takes an adapter out of a model that it was merged into."""
    return adapter.scaled(-1.0)


def difference(adapter: Adapter, other: Adapter) -> Adapter:
    """``ΔW₁ − ΔW₂`` layer by layer, exactly; layers in which both hold the same
    tensors with the same scale are gone."""
    return blend([(adapter, 1.0), (other, -1.0)])


def _shares(gate: LayerName, adapters: Sequence[Mapping[LayerName, Delta]], weights: Sequence[float]) -> list[float]:
    """The weights of branches at one place divided by their sum; all 0 where that is 0."""
    own = [weight if gate in layers else 0.0 for layers, weight in zip(adapters, weights, strict=True)]
    total = sum(own)
    has_mean = abs(total) > 1e-9 * sum(map(abs, own))
    return [weight / total if has_mean else 0.0 for weight in own]


def _require_means(
    layers: Mapping[LayerName, Delta], adapters: Sequence[Mapping[LayerName, Delta]], weights: Sequence[float]
) -> None:
    for gate in layers:
        if is_gate(gate) and not any(_shares(gate, adapters, weights)):
            raise ConfigError(
                "The strengths of the parallel branches add up to 0 here, so their projections have no mean.",
                where=gate,
                found=list(weights),
                expected="strengths with a sum",
                remedy="Change a strength. A branch is turned around by a negative one of its own.",
            )


# ------------------------------------------------------------------------------------------------------------- the ways

Part = tuple[int, Delta, float]
"""An adapter's position, its update and its weight."""


def _add(parts: Sequence[Part], *, name: str, **_: object) -> Delta | None:
    """The terms of all, those over the same tensors as one; ``None`` where nothing is left."""
    if place_of(name) is not None and any(isinstance(delta, Replacement) for _, delta, _ in parts):
        return _mean_matrix(parts, name)
    terms_by_memory: dict[object, Delta] = {}
    for _n, delta, weight in parts:
        for term in _terms(delta):
            key, scale = _memory(term), _scale(term) * weight
            twin = terms_by_memory.get(key)
            terms_by_memory[key] = _with_scale(term, scale if twin is None else _scale(twin) + scale)
    terms = tuple(term for term in terms_by_memory.values() if _scale(term) != 0)
    return (terms[0] if len(terms) == 1 else Sum(terms)) if terms else None


def _mean_matrix(parts: Sequence[Part], name: str) -> Replacement:
    """The mean of projections that branches have as matrices of their own, in float32 or wider.

    Raises:
        FormatError: One of the branches has the base's projection there, with or without an update.
    """
    own = [(delta, share) for _, delta, share in parts if isinstance(delta, Replacement)]
    if len(own) < len(parts) or abs(sum(share for _, share in own) - 1) > 1e-9:
        raise FormatError(
            "One of the branches has a matrix of its own here and another one has the base's projection, so there is no mean.",
            layer=name,
            found="a matrix of its own, and the base's projection",
            expected="the same in all of them",
            remedy="Apply them one after the other with Apply KronA Branch; what they add is summed.",
        )
    [first, *rest] = own
    if not rest:
        return first[0]
    return Replacement(sum((share * widened(d.value) for d, share in rest), first[1] * widened(first[0].value)))


def _terms(delta: Delta) -> Iterator[Delta]:
    """The terms of an update, each as it is stored."""
    if isinstance(delta, Sum):
        for term in delta.terms:
            yield from _terms(term)
    elif isinstance(delta, Rows):
        yield from (replace(delta, whole=term) for term in _terms(delta.whole))
    elif isinstance(delta, Enlarged):
        yield from (Enlarged(term) for term in _terms(delta.delta))
    else:
        yield delta


def _scale(term: Delta) -> float:
    if isinstance(term, Dora | Replacement):
        return term.strength
    if isinstance(term, Rows | Enlarged):
        return _scale(term.whole if isinstance(term, Rows) else term.delta)
    assert isinstance(term, Kron | Matrix)
    return term.scale


def _with_scale(term: Delta, scale: float) -> Delta:
    if isinstance(term, Dora | Replacement):
        return replace(term, strength=scale)
    if isinstance(term, Rows):
        return replace(term, whole=_with_scale(term.whole, scale))
    if isinstance(term, Enlarged):
        return replace(term, delta=_with_scale(term.delta, scale))
    assert isinstance(term, Kron | Matrix)
    return replace(term, scale=scale)


def _memory(term: Delta) -> tuple[object, ...]:
    """Where the tensors lie, and all else but the scale:
    equal for terms that are one and the same, nothing is compared."""
    places = tuple((t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors(term))
    return type(term), places, skeleton(_with_scale(term, 1.0))


def _dare(parts: Sequence[Part], *, name: str, density: float, seed: int, **_: object) -> Delta:
    kept = (weight * _survivors(delta.dense(), density, _generator(seed, n, name)) for n, delta, weight in parts)
    return Matrix(Full(sum(kept, torch.zeros(()))))


def _ties(
    parts: Sequence[Part],
    *,
    name: str,
    density: float,
    seed: int,
    trim: Callable[[Tensor, float, torch.Generator], Tensor],
    normalise: bool,
) -> Delta:
    """Trim, elect the sign, average those that agree: each counts once, or with ``normalise`` by its weight's size."""
    kept = torch.stack([weight * trim(delta.dense(), density, _generator(seed, n, name)) for n, delta, weight in parts])
    sign = kept.sum(0).sign()
    agrees = (kept.sign() == sign) & (kept != 0)
    votes = torch.tensor([abs(weight) if normalise else 1.0 for *_, weight in parts], dtype=kept.dtype)
    count = torch.einsum("n,n...->...", votes, agrees.to(kept.dtype))
    return Matrix(Full(torch.where(agrees, kept, 0).sum(0) / count.where(count > 0, torch.ones_like(count))))


def _largest(delta: Tensor, density: float, _: torch.Generator) -> Tensor:
    """The entries of largest magnitude, ``density`` of all; those that equal the smallest one kept stay too."""
    count = max(1, round(density * delta.numel()))
    size = delta.abs()
    threshold = size.flatten().kthvalue(delta.numel() - count + 1).values
    return torch.where(size >= threshold, delta, 0)


def _survivors(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """The entries that are kept with the probability ``density``, divided by it; the others are 0."""
    keep = torch.rand(delta.shape, generator=generator) < density
    return torch.where(keep.to(delta.device), delta / density, 0)


def _generator(seed: int, position: int, name: str) -> torch.Generator:
    """A generator for one layer of one adapter, so that no layer's choice depends on which others there are."""
    digest = hashlib.blake2b(f"{seed}|{position}|{name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


# ---------------------------------------------------------------------------------------------------------- small print


def _check(pairs: Sequence[tuple[Adapter, float]], method: str, density: float) -> None:
    if not pairs:
        raise ConfigError(
            "There is nothing to blend.", found=0, expected="one adapter or more", remedy="Connect an adapter."
        )
    if method not in METHODS:
        raise ConfigError(
            f'"{method}" is no way of blending.',
            found=method,
            expected=" or ".join(METHODS),
            remedy="Choose one of those.",
        )
    if not 0 < density <= 1:
        raise ConfigError(
            f"A density of {density} is not possible.",
            found=density,
            expected="more than 0, at most 1",
            remedy="0.2 to 0.5 are usual; 1 keeps everything.",
        )


def _reading(pairs: Sequence[tuple[Adapter, float]]) -> dict[str, str]:
    """How the branches of the mode ``first`` that are blended read the first frame, as the metadata says it.

    Raises:
        FormatError: They do so in different ways.
    """
    readings: dict[Reading, LayerName] = {}
    for adapter, weight in pairs:
        layer = next((name for name in adapter.layers if (place := place_of(name)) and place.mode == "first"), None)
        if layer is not None and weight:
            readings.setdefault(reading_of(adapter.metadata), layer)
    if len(readings) > 1:
        layer = readings["alone"]
        raise FormatError(
            "One of the branches reads the first frame alone and another one with the others, so there is no mean.",
            layer=layer,
            found=" and ".join(readings),
            expected="one of them",
            remedy="Apply them one after the other with Apply KronA Branch; what they add is summed.",
        )
    return {key: value for reading in readings for key, value in in_metadata(reading).items()}


def _normalised(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    if abs(total) <= 1e-9 * sum(map(abs, weights)):
        raise ConfigError(
            "The weights add up to 0, so they cannot be normalised.",
            found=list(weights),
            expected="weights with a sum",
            remedy="Turn normalising off, or change a weight.",
        )
    return [weight / total for weight in weights]


def _check_layer(name: str, deltas: Sequence[Delta], is_exact: bool) -> None:
    shapes = list(dict.fromkeys(delta.shape for delta in deltas))
    if len(shapes) > 1:
        raise ShapeError(
            f"The adapters' updates have the shapes {' and '.join(map(str, shapes))}.",
            layer=name,
            found=shapes,
            expected="one shape",
            remedy="They belong to different base models, which cannot be blended.",
        )
    for delta in () if is_exact else deltas:
        require_plain(delta, "combined in any other way than an exact sum", name)


def _metadata(adapters: Sequence[Adapter], weights: Sequence[float], method: str, density: float) -> dict[str, str]:
    first, *rest = (adapter.metadata for adapter in adapters)
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in rest)}
    common.pop(READING, None)
    how = {"method": method, "weights": list(weights), **({} if method == "sum" else {"density": density})}
    return {**common, "krona.blend": json.dumps(how)}
