"""Updates as small tensor networks: inner products, norms and Gram matrices without forming ``ΔW``.

The rows and the columns of ``ΔW (out, in, *kernel)`` are counted in mixed radix, with digits so fine that every factor
of every term holds whole digits. A term is then a handful of tensors that share legs, and whatever is asked about a sum
of terms is a contraction of pairs of them. ``A (64, 4) ⊗ B (20, 320)`` on 1280 × 1280, for example, has the row digits
64 · 20 and the column digits 4 · 320; beside a second term with ``A (4, 4)`` the row digits are 4 · 16 · 20.

All numbers are float64 here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, count
from math import prod

import torch
from torch import Tensor

from ..errors import KronaError, ShapeError
from ..names.branches import place_of
from ..room import require_room
from .delta import Delta, Dora, Kron, Matrix, Part, Sum, map_tensors
from .factor import Factor, Full, LowRank, Tucker
from .kron import Layout
from .rows import Rows
from .shapes import KronShape

Leg = str
"""``r0, r1, …`` row digits, ``c0, …`` column digits, ``w`` the kernel window, ``b…`` a bond inside one term."""


@dataclass(frozen=True)
class Node:
    """One tensor of a network and the names of its axes."""

    tensor: Tensor
    legs: tuple[Leg, ...]


Network = tuple[Node, ...]


@dataclass(frozen=True)
class Digits:
    """How rows and columns are counted, most significant digit first."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    window: int = 1

    def row_legs(self, size: int, end: str) -> tuple[Leg, ...]:
        """The legs of the first or the last row digits whose product is ``size``."""
        return _legs("r", self.rows, size, end)

    def column_legs(self, size: int, end: str) -> tuple[Leg, ...]:
        """The legs of the first or the last column digits whose product is ``size``."""
        return _legs("c", self.columns, size, end)

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The legs of ``ΔW`` itself: rows, columns, window; no bonds."""
        return (*(f"r{n}" for n in range(len(self.rows))), *(f"c{n}" for n in range(len(self.columns))), "w")

    def size(self, leg: Leg) -> int:
        """How many values a leg of ``ΔW`` takes."""
        if leg == "w":
            return self.window
        return (self.rows if leg[0] == "r" else self.columns)[int(leg[1:])]


def _legs(letter: str, digits: tuple[int, ...], size: int, end: str) -> tuple[Leg, ...]:
    indices = range(len(digits)) if end == "first" else reversed(range(len(digits)))
    taken, reached = [], 1
    for n in indices:
        if reached == size:
            break
        reached *= digits[n]
        taken.append(n)
    return tuple(f"{letter}{n}" for n in sorted(taken))


def terms_of(delta: Delta) -> tuple[Delta, ...]:
    """The terms of an update with nested sums taken apart;
    one that is no sum is its only term, rows of a product a dense one."""
    if isinstance(delta, Sum):
        return tuple(term for part in delta.terms for term in terms_of(part))
    if isinstance(delta, Rows):
        return (Matrix(Full(delta.dense())),)
    return (delta,)


def require_plain(delta: Delta, use: str, layer: str | None = None) -> None:
    """Refuse an update that depends on the base model's weight.

    Raises:
        KronaError: It is, or contains, a DoRA update.
    """
    if delta.needs_weight and layer is not None and place_of(layer) is not None:
        raise KronaError(
            f"The branch has a matrix of its own here, which is no update, so it cannot be {use}.",
            layer=layer,
            found=type(delta).__name__,
            expected="an update of the base model's projection",
            remedy="Use it as it is, or train a branch of this pack, which has small updates.",
        )
    if delta.needs_weight:
        what = "A DoRA update" if isinstance(delta, Dora | Sum) else "A replaced or enlarged weight"
        raise KronaError(
            f"{what} depends on the base model's weight, so it cannot be {use}.",
            layer=layer,
            found=type(delta).__name__,
            expected="an update that is known without the weight",
            remedy="Merge it into its base model, extract the difference, and use that; or leave this layer out.",
        )


def wide(part: Part) -> Part:
    """The same update or factor in float64."""
    return map_tensors(part, lambda tensor: tensor.double())


def common_digits(shape: tuple[int, ...], terms: Iterable[Delta], *more: tuple[int, int]) -> Digits | None:
    """Digits in which every term's factors are whole; ``None`` where their sizes do not divide one another.

    Args:
        shape: ``(out, in, *kernel)``.
        more: Further cuts ``(rows, columns)``: products of leading digits.
    """
    cuts = [_cut(term) for term in terms if isinstance(term, Kron)] + list(more)
    rows = _chain(shape[0], {cut[0] for cut in cuts})
    columns = _chain(shape[1] if len(shape) > 1 else 1, {cut[1] for cut in cuts})
    return Digits(rows, columns, prod(shape[2:])) if rows is not None and columns is not None else None


def _cut(term: Kron) -> tuple[int, int]:
    return (term.sizes.out_a if term.layout == "kron" else term.sizes.out_b, term.sizes.in_a)


def _chain(total: int, cuts: set[int]) -> tuple[int, ...] | None:
    digits, reached = [], 1
    for cut in sorted({*cuts, total} - {1}):
        if cut % reached:
            return None
        digits.append(cut // reached)
        reached = cut
    return tuple(digits) or (1,)


def networks(terms: Sequence[Delta], digits: Digits) -> list[Network]:
    """The terms as networks, those of one form stacked into a single one.

    Ten Kronecker products with equal factors become one with a bond of ten; LoRAs become one of their summed rank.
    """
    krons: dict[tuple[Layout, KronShape], list[Kron]] = defaultdict(list)
    pairs: list[tuple[Tensor, Tensor]] = []
    result: list[Network] = []
    dense: Tensor | None = None
    names = (f"b{n}" for n in count())
    for term in terms:
        if isinstance(term, Kron):
            krons[(term.layout, term.sizes)].append(term)
        elif isinstance(term, Matrix) and isinstance(term.factor, LowRank):
            pairs.append((term.factor.up.double() * term.scale, term.factor.down.double()))
        elif isinstance(term, Matrix) and isinstance(term.factor, Tucker):
            result.append(_tucker(wide(term.factor), term.scale, digits, (next(names), next(names))))
        else:
            formed = wide(term).dense()
            dense = formed if dense is None else dense + formed
    result += [_stacked(group, digits, next(names)) for group in krons.values()]
    if pairs:
        result.append(_low_rank(pairs, digits, next(names)))
    if dense is not None:
        result.append((_node(dense, digits, digits.legs),))
    return result


def _node(tensor: Tensor, digits: Digits, legs: tuple[Leg, ...], bonds: tuple[Leg, ...] = (), *bond_sizes: int) -> Node:
    return Node(tensor.reshape(*bond_sizes, *(digits.size(leg) for leg in legs)), (*bonds, *legs))


def _stacked(group: Sequence[Kron], digits: Digits, bond: Leg) -> Network:
    sizes, plain = group[0].sizes, group[0].layout == "kron"
    ends = ("first", "last") if plain else ("last", "first")
    a_legs = (*digits.row_legs(sizes.out_a, ends[0]), *digits.column_legs(sizes.in_a, "first"))
    b_legs = (*digits.row_legs(sizes.out_b, ends[1]), *digits.column_legs(sizes.in_b, "last"), "w")
    a = torch.stack([_dense(term.a).double() for term in group])
    b = torch.stack([_dense(term.b).double() for term in group])
    a *= torch.tensor([term.scale for term in group], dtype=a.dtype, device=a.device)[:, None, None]
    return (_node(a, digits, a_legs, (bond,), len(group)), _node(b, digits, b_legs, (bond,), len(group)))


def _dense(factor: Factor) -> Tensor:
    """A factor as one tensor: one that is stored so without a copy, others multiplied out in float64."""
    return factor.value if isinstance(factor, Full) else wide(factor).dense()


def _low_rank(pairs: Sequence[tuple[Tensor, Tensor]], digits: Digits, bond: Leg) -> Network:
    up = torch.cat([pair[0] for pair in pairs], 1).mT  # (rank, out)
    down = torch.cat([pair[1] for pair in pairs], 0)  # (rank, in, *kernel)
    rows, columns = digits.row_legs(prod(digits.rows), "first"), digits.column_legs(prod(digits.columns), "first")
    rank = up.shape[0]
    return (_node(up, digits, rows, (bond,), rank), _node(down, digits, (*columns, "w"), (bond,), rank))


def _tucker(factor: Tucker, scale: float, digits: Digits, bonds: tuple[Leg, Leg]) -> Network:
    core, up, down = factor.core * scale, factor.up, factor.down
    rows, columns = digits.row_legs(prod(digits.rows), "first"), digits.column_legs(prod(digits.columns), "first")
    return (
        Node(core.flatten(2), (*bonds, "w")),
        _node(up, digits, rows, bonds[:1], up.shape[0]),
        _node(down, digits, columns, bonds[1:], down.shape[0]),
    )


# ---------------------------------------------------------------------------------------------------------- contraction


@dataclass(frozen=True)
class Plan:
    """In which order a network is contracted, and what that costs."""

    steps: tuple[tuple[int, int, tuple[Leg, ...]], ...]
    """Positions of two nodes, which leave the list, and the legs of their product, which joins its end."""
    multiplications: int
    peak: int
    """Numbers in the largest tensor on the way."""


@lru_cache(maxsize=4096)
def plan(nodes: tuple[tuple[tuple[Leg, int], ...], ...], output: tuple[Leg, ...]) -> Plan:
    """Contract the cheapest pair first; pairs without a common leg only when no other is left.

    Args:
        nodes: For each node its legs with their sizes.
    """
    live, steps, total, peak = [dict(node) for node in nodes], [], 0, 0
    while len(live) > 1:
        best = min(combinations(range(len(live)), 2), key=lambda ij: _pair_cost(live, *ij))
        left, right = live[best[0]], live[best[1]]
        live = [node for n, node in enumerate(live) if n not in best]
        union = {**left, **right}
        needed = {leg for node in live for leg in node} | set(output)
        product = {leg: size for leg, size in union.items() if leg in needed}
        live.append(product)
        steps.append((*best, tuple(product)))
        total += prod(union.values())
        peak = max(peak, prod(product.values()))
    return Plan(tuple(steps), total, peak)


def _pair_cost(live: Sequence[dict[Leg, int]], i: int, j: int) -> tuple[bool, int]:
    return (not live[i].keys() & live[j].keys(), prod({**live[i], **live[j]}.values()))


def plan_of(nodes: Sequence[Node], output: tuple[Leg, ...]) -> Plan:
    """The `plan` for these nodes, which may be one of an earlier call."""
    return plan(tuple(tuple(zip(node.legs, node.tensor.shape, strict=True)) for node in nodes), output)


def contract(nodes: Sequence[Node], output: tuple[Leg, ...]) -> Tensor:
    """Multiply all nodes, sum over the legs that are not in ``output``; the result has its axes in that order."""
    live = list(nodes)
    planned = plan_of(nodes, output)
    require_room((planned.peak,), "What is needed to compute with it")
    for i, j, legs in planned.steps:
        left, right = live[i], live[j]
        live = [node for n, node in enumerate(live) if n not in (i, j)]
        live.append(Node(_einsum((left, right), legs), legs))
    return _einsum((live[0],), output)


def _einsum(nodes: Sequence[Node], output: tuple[Leg, ...]) -> Tensor:
    index: dict[Leg, int] = {}
    operands: list[object] = []
    for node in nodes:
        operands += [node.tensor, [index.setdefault(leg, len(index)) for leg in node.legs]]
    return torch.einsum(*operands, [index[leg] for leg in output])


def bra(network: Network, opened: Iterable[Leg] = ()) -> Network:
    """A copy to be contracted with another network: own bonds, and own legs in place of ``opened``."""
    renamed = set(opened)
    return tuple(
        Node(node.tensor, tuple(f"{leg}'" if leg[0] == "b" or leg in renamed else leg for leg in node.legs))
        for node in network
    )


# ------------------------------------------------------------------------------------------------------- inner products


def inner(x: Delta, y: Delta) -> float:
    """``⟨ΔW₁, ΔW₂⟩``, the sum of the products of their entries, in float64.

    Raises:
        ShapeError: The shapes differ.
        KronaError: One is a DoRA update.
    """
    if x.shape != y.shape:
        raise ShapeError(
            f"Updates of {x.shape} and {y.shape} have no inner product.",
            found=y.shape,
            expected=x.shape,
            remedy="Compare adapters of one base model.",
        )
    for delta in (x, y):
        require_plain(delta, "measured")
    terms, others = terms_of(x), terms_of(y)
    digits = common_digits(x.shape, (*terms, *others))
    if digits is None:  # factors that do not divide one another, such as 64 and 80 rows: one side is formed
        others = (dense_term(y),)
        digits = common_digits(x.shape, terms)
    if digits is None:
        terms = (dense_term(x),)
        digits = common_digits(x.shape, ())
    assert digits is not None  # without factors to keep whole there always are some
    return sum(
        float(contract((*left, *bra(right)), ()))
        for left in networks(terms, digits)
        for right in networks(others, digits)
    )


def norm(delta: Delta) -> float:
    """``‖ΔW‖``, the Frobenius norm; ``‖A ⊗ B‖ = ‖A‖·‖B‖`` where it is one Kronecker product."""
    require_plain(delta, "measured")
    if isinstance(delta, Kron):
        return abs(delta.scale) * float(delta.a.dense().double().norm() * delta.b.dense().double().norm())
    if isinstance(delta, Matrix) and isinstance(delta.factor, Full):
        return abs(delta.scale) * float(delta.factor.dense().double().norm())
    return max(inner(delta, delta), 0.0) ** 0.5


def dense_term(delta: Delta) -> Matrix:
    """The update formed, as one dense term in float64."""
    require_room(delta.shape)
    return Matrix(Full(wide(delta).dense()))
