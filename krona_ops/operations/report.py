"""What an adapter does, in numbers: a line per layer, and a grid of blocks and roles that a heat map is drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ..errors import SizeError
from ..formats.inspection import Inspection, LayerFacts, method_of_branch
from ..left_out import LeftOut
from ..names.branches import branches_in_words
from ..names.places import block_of, role_of, sorted_blocks, sorted_roles
from ..names.spellings import LayerName
from ..nearest.linalg import singular_values
from ..nearest.low_rank import spectrum
from ..room import layer_by_layer
from ..shown import shown
from ..updates.absolute import Absolute
from ..updates.adapter import Adapter
from ..updates.contraction import norm, terms_of, wide
from ..updates.control import Enlarged, Replacement
from ..updates.delta import Delta, Dora, Kron, Matrix, Sum
from ..updates.factor import Factor, Full, LowRank, Tucker
from ..updates.gates import is_gate
from ..updates.rows import Rows

Key = TypeVar("Key")
Measure = Literal["rms", "norm"]
"""``rms``: how far a weight of this part moves on average; ``norm``: how much all its weights move together."""
By = Literal["layer", "block", "role"]
MEASURED = ("‖ΔW‖", "rms of ΔW", "eff. rank")
LONGEST_CELL = 200
"""Characters of a name in a table."""
LARGEST_RANK = 256
"""Larger sums are measured, but not decomposed: their spectrum would take a second per layer."""


@dataclass(frozen=True)
class LayerReport:
    """The measures of one layer's update."""

    name: LayerName
    block: str
    role: str
    """What the layer does: ``cross v``, ``qkv``, ``feed-forward``, …"""
    shape: tuple[int, ...]
    """``(out, in, *kernel)``."""
    form: str
    """``64×4 ⊗ 20×320``, ``LoRA 16``, ``3 × (64×4 ⊗ 20×320)``, …"""
    parameters: int
    norm: float | None
    """``‖ΔW‖``; ``None`` for DoRA, whose update depends on the base model,
    and for one that is too large to be formed."""
    effective_rank: float | None
    """``exp`` of the entropy of the normalised singular values (Roy and Vetterli 2007);
    ``None`` where it is not known."""
    spectra: tuple[tuple[str, tuple[float, ...]], ...]
    """Singular values, descending: of ``A`` and of ``B`` for a Kronecker product, else of ``ΔW``;
    empty where not known."""

    @property
    def rms(self) -> float | None:
        """Root mean square of the entries of ``ΔW``."""
        return None if self.norm is None else self.norm / prod(self.shape) ** 0.5


@dataclass(frozen=True)
class Grid:
    """A number for each block and role; ``None`` where there is no such layer."""

    blocks: tuple[str, ...]
    roles: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """A row per block, a column per role."""
    of_blocks: tuple[float, ...]
    """The same measure for whole blocks."""
    of_roles: tuple[float, ...]
    measure: Measure


@dataclass(frozen=True)
class Report:
    """The measures of an adapter, layer by layer."""

    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """What the file held besides, by method; `notes` says it in words."""

    @property
    def parameters(self) -> int:
        """Stored numbers of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def norm(self) -> float:
        """``‖ΔW‖`` of all layers together, those left out whose update depends on the base model."""
        return _together(self.layers, "norm")

    def grid(self, measure: Measure = "rms") -> Grid:
        """All layers gathered by block and role, in the order of the model."""
        measured = [layer for layer in self.layers if layer.norm is not None]
        blocks, roles = sorted_blocks(layer.block for layer in measured), sorted_roles(layer.role for layer in measured)
        cells = _groups(measured, lambda layer: (layer.block, layer.role))
        rows, columns = _groups(measured, lambda layer: layer.block), _groups(measured, lambda layer: layer.role)
        return Grid(
            blocks,
            roles,
            tuple(tuple(_together(cells[b, r], measure) if (b, r) in cells else None for r in roles) for b in blocks),
            tuple(_together(rows[b], measure) for b in blocks),
            tuple(_together(columns[r], measure) for r in roles),
            measure,
        )

    def table(self, by: By = "layer") -> str:
        """Aligned text: a line per layer, block or role, in the order of the model, and the sum."""
        names, rows = self._layer_rows() if by == "layer" else self._group_rows(by)
        if all(layer.norm is None for layer in self.layers):  # only the header was read, or all is DoRA
            kept = [n for n, name in enumerate(names) if name not in MEASURED]
            names, rows = [names[n] for n in kept], [tuple(row[n] for n in kept) for row in rows]
        return aligned(names, rows, total=True)

    def _group_rows(self, by: By) -> tuple[Sequence[str], list[tuple[str, ...]]]:
        key: Callable[[LayerReport], str] = (lambda layer: layer.block) if by == "block" else (lambda layer: layer.role)
        groups = _groups(self.layers, key)
        ordered = sorted_blocks(groups) if by == "block" else sorted_roles(groups)
        rows = [(name, *self._of_group(groups[name])) for name in ordered]
        return (by, "layers", "parameters", "form", *MEASURED[:2]), [*rows, ("all", *self._of_group(self.layers))]

    @staticmethod
    def _of_group(layers: Sequence[LayerReport]) -> tuple[str, ...]:
        forms = list(dict.fromkeys(layer.form for layer in layers))
        form = forms[0] if len(forms) == 1 else f"{len(forms)} forms" if forms else ""
        return f"{len(layers)}", f"{sum(layer.parameters for layer in layers):,}", form, *_measures(layers)

    def _layer_rows(self) -> tuple[Sequence[str], list[tuple[str, ...]]]:
        order = {block: n for n, block in enumerate(sorted_blocks(layer.block for layer in self.layers))}
        rows: list[tuple[str, ...]] = [
            (
                layer.block,
                layer.role,
                "×".join(map(str, layer.shape)),
                layer.form,
                f"{layer.parameters:,}",
                _number(layer.norm),
                _number(layer.rms),
                "–" if layer.effective_rank is None else f"{layer.effective_rank:.1f}",
                layer.name,
            )
            for layer in sorted(self.layers, key=lambda layer: order[layer.block])
        ]
        rows.append(
            ("all", "", f"{len(self.layers)} layers", "", f"{self.parameters:,}", *_measures(self.layers), "", "")
        )
        return ("block", "role", "shape", "form", "parameters", *MEASURED, "layer"), rows


def report(adapter: Adapter) -> Report:
    """Measure every layer, by its structure: no ``ΔW`` is formed but where a term is dense.

    Gates of a parallel branch are told as they are: they move no weight.
    """
    layers: list[LayerReport] = []
    notes = []
    for name, delta in adapter.layers.items():
        try:
            with layer_by_layer(name):
                layers.append(_layer(name, delta))
        except SizeError as error:  # the others can be measured
            layers.append(_unmeasured(name, delta))
            notes.append(f"Not measured: {error}")
    return Report(tuple(layers), (*adapter.notes, *_on_branches(layers), *notes), adapter.left_out)


def _on_branches(layers: Sequence[LayerReport]) -> tuple[str, ...]:
    """What parallel branches there are, for the notes."""
    said = branches_in_words(layer.name for layer in layers)
    return (f"{said[0].upper()}{said[1:]}. Apply KronA Branch applies it.",) if said else ()


def _unmeasured(name: LayerName, delta: Delta) -> LayerReport:
    return LayerReport(
        name, block_of(name), role_of(name), delta.shape, describe(delta), delta.parameters, None, None, ()
    )


def report_of_header(inspection: Inspection) -> Report:
    """What a file's header alone says; norms and spectra are not known."""
    layers = tuple(
        LayerReport(f.name, block_of(f.name), role_of(f.name), f.shape, _form(f), f.parameters, None, None, ())
        for f in inspection.layers
    )
    return Report(layers, (*map(str, inspection.left_out), *_on_branches(layers)), inspection.left_out)


def _form(facts: LayerFacts) -> str:
    rank = "" if facts.rank is None else f" rank {facts.rank}"
    sides = " ⊗ ".join("×".join(map(str, shape)) for shape in facts.factors)
    return f"{facts.method} {sides}{rank}".replace("  ", " ").strip()


def _layer(name: LayerName, delta: Delta) -> LayerReport:
    if is_gate(name):
        form = f"gate {_number(float(delta.dense().mean()))}"
        return LayerReport(name, block_of(name), role_of(name), delta.shape, form, delta.parameters, None, None, ())
    spectra = () if delta.needs_weight else _spectra(delta)
    return LayerReport(
        name,
        block_of(name),
        role_of(name),
        delta.shape,
        method_of_branch(name, delta) or describe(delta),
        delta.parameters,
        None if delta.needs_weight else norm(delta),
        prod(effective_rank(values) for _, values in spectra) if spectra else None,  # entropies of A and of B add up
        tuple((label, tuple(values.tolist())) for label, values in spectra),
    )


def _spectra(delta: Delta) -> list[tuple[str, Tensor]]:
    (first, *rest) = terms_of(delta)
    if isinstance(first, Kron) and not rest:
        first = wide(first)
        sides = (("A", first.a), ("B", first.b))
        return [(label, singular_values(side.dense().flatten(1))) for label, side in sides]
    values = spectrum(delta, LARGEST_RANK)
    return [] if values is None else [("ΔW", values)]


def effective_rank(values: Tensor) -> float:
    """``exp(−Σ p log p)`` with ``p = σ / Σσ`` (Roy and Vetterli 2007):
    ``n`` equal singular values have ``n``; 0 of zero."""
    total = values.sum()
    if not total > 0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


def describe(delta: Delta) -> str:
    """The form of an update in a few characters: ``64×4 ⊗ 20×320``, ``LoRA 16``."""
    if isinstance(delta, Dora):
        return f"DoRA of {describe(delta.delta)}"
    if isinstance(delta, Enlarged):
        return f"{describe(delta.delta)}, enlarges the weight"
    if isinstance(delta, Replacement | Absolute):
        return "replacement" if isinstance(delta, Replacement) else "norm value"
    if isinstance(delta, Rows):
        return f"rows of {describe(delta.whole)}"
    terms = [_describe_term(term) if isinstance(term, Kron | Matrix) else describe(term) for term in _terms(delta)]
    counts = {text: terms.count(text) for text in dict.fromkeys(terms)}
    if len(terms) == 1:
        return terms[0]
    return " + ".join(f"{count} × ({text})" if count > 1 else text for text, count in counts.items())


def _terms(delta: Delta) -> list[Delta]:
    """The terms of a sum, nested ones too; nothing is formed for it."""
    return [term for part in delta.terms for term in _terms(part)] if isinstance(delta, Sum) else [delta]


def _describe_term(term: Kron | Matrix) -> str:
    if isinstance(term, Kron):
        shuffled = ", shuffled" if term.layout == "shuffled" else ""
        return f"{_describe_factor(term.a)} ⊗ {_describe_factor(term.b)}{shuffled}"
    factor = term.factor
    if isinstance(factor, LowRank):
        return f"LoRA {factor.up.shape[1]}"
    if isinstance(factor, Tucker):
        return f"Tucker {factor.core.shape[0]}×{factor.core.shape[1]}"
    return "dense" if isinstance(factor, Full) else type(factor).__name__


def _describe_factor(factor: Factor) -> str:
    size = "×".join(map(str, factor.shape))
    if isinstance(factor, LowRank):
        return f"{size} (rank {factor.up.shape[1]})"
    return f"{size} (Tucker)" if isinstance(factor, Tucker) else size


def aligned(names: Sequence[str], rows: Sequence[Sequence[object]], total: bool = False) -> str:
    """A text table: columns of numbers to the right, of words to the left; with ``total`` a rule above the last row."""
    cells = [[shown(str(cell), LONGEST_CELL) for cell in row] for row in rows]
    is_number = [all(_looks_like_a_number(row[n]) for row in cells) for n in range(len(names))]
    widths = [max(len(name), *(len(row[n]) for row in cells)) for n, name in enumerate(names)]

    def line(row: Iterable[str]) -> str:
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, is_number, strict=True))
        return "  ".join(padded).rstrip()

    rule = "─" * min(sum(widths) + 2 * (len(widths) - 1), 160)
    body = [line(row) for row in cells]
    if total:
        body.insert(-1, rule)
    return "\n".join([line(names), rule, *body])


def _looks_like_a_number(text: str) -> bool:
    return text in ("", "–") or text.replace(",", "").replace(".", "").replace("e-", "").replace("e+", "").isdigit()


def _groups(layers: Iterable[LayerReport], key: Callable[[LayerReport], Key]) -> dict[Key, list[LayerReport]]:
    groups: dict[Key, list[LayerReport]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    return groups


def _together(layers: Iterable[LayerReport], measure: Measure) -> float:
    measured = [layer for layer in layers if layer.norm is not None]
    norm = math.hypot(*(layer.norm for layer in measured if layer.norm is not None))  # no square of a large number
    entries = sum(prod(layer.shape) for layer in measured) if measure == "rms" else 1
    return norm / math.sqrt(entries) if entries else 0.0


def _measures(layers: Sequence[LayerReport]) -> tuple[str, str]:
    if all(layer.norm is None for layer in layers):
        return "–", "–"
    return _number(_together(layers, "norm")), _number(_together(layers, "rms"))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
