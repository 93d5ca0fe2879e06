"""A training that begins at an adapter instead of at nothing: its updates in the form that is trained, and the loss.

What is trained and what comes out is the start and its change together. The optimizer, the order of the pictures and
the noise begin anew; layers that the adapter lacks begin as they would without it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from krona_ops import Adapter, LayerName
from krona_ops.errors import ConfigError, CoverageError, NonFiniteError
from krona_ops.nearest.kronecker import Nearest
from krona_ops.shown import shown
from krona_ops.targets.rules import Target
from krona_ops.updates.contraction import norm
from krona_ops.updates.delta import Delta, tensors

from ..settings.groups import AdapterConfig
from .layers import layer_type_of

METADATA = "krona.start"


@dataclass(frozen=True, eq=False)
class Start:
    """Where a training begins."""

    adapter: Adapter
    """Updates by the model's own names, each in the form of its target; targets that are missing begin at nothing."""
    error: float
    """What the form cost, all layers together: ``√(Σ‖ΔW − kept‖² / Σ‖ΔW‖²)``; 0 where all of them had the form."""
    converted: int
    """Layers that had another form."""
    notes: tuple[str, ...]
    """What the user should read: how much of the adapter is used, in which form, and what is left out."""

    @property
    def fingerprint(self) -> str:
        """Differs for starts with other numbers; the same for the copy in a run's folder."""
        digest = hashlib.sha256()
        for name, delta in sorted(self.adapter.layers.items()):
            for tensor in tensors(delta):
                digest.update(f"{name} {tuple(tensor.shape)} ".encode())
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def metadata(self) -> dict[str, str]:
        """What the trained adapter's file says about its start, as JSON under `METADATA`.

        That is its title, how much of it was used, and what that adapter itself began at.
        """
        metadata = self.adapter.metadata
        entries = {
            "title": title(self.adapter),
            "fingerprint": self.fingerprint,
            "layers": len(self.adapter.layers),
            "converted": self.converted,
            "error": float(f"{self.error:.6g}"),
            "steps": metadata.get("ss_steps", ""),
            "start": _parsed(metadata.get(METADATA)),
        }
        return {METADATA: json.dumps({name: value for name, value in entries.items() if value not in ("", None)})}


def begin_at(adapter: Adapter, targets: Sequence[Target], config: AdapterConfig) -> Start:
    """The adapter's updates of the layers that are trained, in the form in which they are.

    Args:
        adapter: By the model's own names (a node's and the command line's ``canonical``); other names are no targets.

    Raises:
        CoverageError: No layer that is trained is in the adapter.
        ConfigError: A layer's update is DoRA, which has no factors of its own.
        NonFiniteError: An update is NaN or infinite.
    """
    kept: dict[LayerName, Delta] = {}
    lost, energy, converted = 0.0, 0.0, []
    by_name = {target.name: target for target in targets}
    for name, target in by_name.items():
        delta = adapter.layers.get(name)
        if delta is None:
            continue
        _require_usable(name, delta)
        size = norm(delta)
        if not math.isfinite(size):
            raise NonFiniteError(
                "The update that the training shall start from is not finite.",
                layer=name,
                found="NaN or infinity",
                expected="numbers",
                remedy="Start from another adapter.",
            )
        if not size:
            continue  # an update of zero is where every layer begins; two factors of zero would never leave it
        form = layer_type_of(target, config)
        exact = form.as_it_is(delta, target, config)
        nearest = Nearest(exact, 0.0) if exact is not None else form.nearest(delta, target, config)
        kept[name] = nearest.delta
        energy += size**2
        lost += (size * nearest.error) ** 2
        if exact is None:
            converted.append((nearest.error, name))
    if not kept:
        raise CoverageError(
            f"None of the {len(targets)} layers that are trained is in the adapter to start from.",
            layer=next(iter(adapter.layers), None),
            found=f"{len(adapter.layers)} layers of {shown(title(adapter)) or 'the adapter'}",
            expected=str(next(iter(by_name))),
            remedy="Train the layers that it has (KronA Targets), or start from another adapter.",
        )
    error = (lost / energy) ** 0.5
    notes = _notes(adapter, by_name, kept, converted, error)
    return Start(Adapter(kept, adapter.metadata), error, len(converted), notes)


def _require_usable(name: LayerName, delta: Delta) -> None:
    if delta.needs_weight:
        raise ConfigError(
            "The update that the training shall start from is DoRA, which depends on the base model's weight and has "
            "no factors of its own.",
            layer=name,
            found="DoRA",
            expected="an update that is known without the weight",
            remedy="Merge it into its model, take the difference with Extract KronA, and start from that.",
        )


def _notes(
    adapter: Adapter,
    targets: Mapping[LayerName, Target],
    kept: Mapping[LayerName, Delta],
    converted: Sequence[tuple[float, LayerName]],
    error: float,
) -> tuple[str, ...]:
    named = f' "{shown(title(adapter))}"' if title(adapter) else ""
    how = "exactly"
    if converted:
        worst, layer = max(converted)
        how = (
            f"{len(converted)} of them brought into the form that is trained, which loses {error:.2%} of the update "
            f"(at most {worst:.2%}, in {shown(layer)})"
        )
    notes = [f"The training starts from the adapter{named}: {len(kept)} of its {len(adapter.layers)} layers, {how}."]
    unused = [str(name) for name in adapter.layers if name not in targets]
    if unused:
        notes.append(f"{len(unused)} layers of that adapter are not trained and left out: {_some(unused)}.")
    fresh = [str(name) for name in targets if name not in kept]
    if fresh:
        which = _some(fresh)
        notes.append(f"{len(fresh)} layers that are trained are not in that adapter and start at nothing: {which}.")
    notes += [f"Of that adapter's file: {left}" for left in adapter.left_out]
    return tuple(notes)


def title(adapter: Adapter) -> str:
    """What an adapter calls itself; may be empty."""
    metadata = adapter.metadata
    return metadata.get("modelspec.title") or metadata.get("ss_output_name") or ""


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(map(shown, names[:4]))}{', …' if len(names) > 4 else ''}"


def _parsed(text: str | None) -> object:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
