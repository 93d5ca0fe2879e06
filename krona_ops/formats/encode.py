"""An adapter in the tensors of one format, with what was lost on the way: nothing, or an error that is reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..errors import ConfigError, FormatError, KronaError, SizeError
from ..left_out import LeftOut
from ..names.branches import place_of, places_by_mode
from ..names.spellings import LayerName
from ..nearest.low_rank import to_low_rank, without_core
from ..room import layer_by_layer
from ..updates.absolute import require_base
from ..updates.adapter import Adapter
from ..updates.control import Enlarged, Replacement
from ..updates.delta import Delta, Dora, Matrix
from ..updates.factor import LowRank, Tucker
from ..updates.joined import joined
from ..updates.reading import READING
from . import diffusekrona, kohya, lokr, lokr_sum, lora, peft
from .layers import Rename
from .metadata import MODELSPEC, network_facts
from .registry import writers

LORA = {"lora": lora, "kohya-lora": kohya}
"""The formats in which everything becomes a LoRA first."""
WITH_BRANCHES = (lokr.NAME, lokr_sum.NAME)
"""The formats that keep the names of parallel branches, whose parts may be of any form."""
BRANCH = "krona.branch"
"""The entry of the metadata that lists the modes of parallel branches in a file."""
RECIPE = ("ss_network_module", "ss_network_args", "ss_network_dim", "ss_network_alpha")


def writable() -> tuple[str, ...]:
    """The names of the formats that `krona_ops.save` can write, those that are exact first."""
    exact = writers()
    return (*exact, *(name for name in LORA if name not in exact))


@dataclass(frozen=True)
class Encoded:
    """An adapter as the contents of a file: tensors, metadata and what is written beside it."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    sidecar: str | None = None
    """The text of ``adapter_config.json``, which belongs beside a PEFT file."""
    errors: Mapping[LayerName, float] = field(default_factory=dict)
    """By layer, how far a converted update is from the adapter's, ``‖ΔW − written‖ / ‖ΔW‖``;
    exact layers are not listed."""
    notes: tuple[str, ...] = ()
    """What other programs will make of the file, for the user."""


def encode(adapter: Adapter, format: str = "lokr", *, rank: int | None = None, rename: Rename | None = None) -> Encoded:
    """The tensors and metadata of an adapter in a format.

    Args:
        rank: For LoRA formats; updates that are LoRAs of at most this rank stay as they are,
            others become the nearest one.
        rename: What a layer is called in the file; ``None`` keeps names, or makes kohya's.

    Raises:
        FormatError: The format cannot hold one of the layers, or no parallel branch.
        ConfigError: There is no such format, or it needs a rank.
        KronaError: It holds values that wait for a base model.
    """
    if format not in writable():
        raise ConfigError(
            f'There is no format "{format}" to write.',
            found=format,
            expected=" or ".join(writable()),
            remedy='Take "lokr".',
        )
    _require_place(adapter, format)
    require_base(adapter.layers, "saved")
    adapter = replace(adapter, layers={name: _joined(name, delta) for name, delta in adapter.layers.items()})
    errors: dict[LayerName, float] = {}
    if format in LORA:
        adapter, errors = as_lora(adapter, rank, format)
    module = LORA.get(format) or writers()[format]
    options = {} if rename is None else {"rename": rename}
    sidecar = peft.sidecar(adapter, **options) if module is peft else None
    tensors = module.write(adapter, **options)
    return Encoded(tensors, _metadata(adapter, sidecar), sidecar, errors, notes_on_file(tensors, format))


def _require_place(adapter: Adapter, format: str) -> None:
    """Refuse parallel branches in files for other programs, none of which knows them."""
    layer = next((name for name in adapter.layers if place_of(name) is not None), None)
    if layer is not None and format not in WITH_BRANCHES:
        raise FormatError(
            "A parallel branch has a place in ComfyUI's LoKr files alone.",
            layer=layer,
            found=format,
            expected=" or ".join(WITH_BRANCHES),
            remedy="Save it as ComfyUI LoKr (lokr); LoRAs in it stay as they are.",
        )


def _joined(name: LayerName, delta: Delta) -> Delta:
    with layer_by_layer(name):
        return joined(delta)


def notes_on_file(tensors: Iterable[str], format: str) -> tuple[str, ...]:
    """What other programs make of a file in a format with tensors of these names,
    where the user would not expect it."""
    return diffusekrona.notes_on(tensors) if format == diffusekrona.NAME else ()


def _metadata(adapter: Adapter, sidecar: str | None) -> dict[str, str]:
    """What the adapter says about itself, and what every file should say.
    A recipe that the file names is left whole."""
    facts = {} if any(key in adapter.metadata for key in RECIPE) else network_facts(adapter)
    standard = {"modelspec.sai_model_spec": MODELSPEC, "modelspec.implementation": "krona", **facts}
    modes = places_by_mode(adapter.layers)
    of_others = {BRANCH} if "first" in modes else {BRANCH, READING}
    metadata = {key: value for key, value in {**standard, **adapter.metadata}.items() if key not in of_others}
    if modes:
        metadata[BRANCH] = ", ".join(modes)
    return metadata if sidecar is None else {**metadata, "adapter_config": sidecar}


def as_lora(adapter: Adapter, rank: int | None, format: str = "lora") -> tuple[Adapter, dict[LayerName, float]]:
    """Every update of a matrix as a LoRA, by its structure where it has one (`krona_ops.nearest.low_rank`).

    Args:
        format: One of `LORA`. PEFT's has no place for a core, which goes into ``down``, exactly; kohya's keeps it.

    Returns:
        The adapter, and by layer the relative error where an update was converted.

    Raises:
        ConfigError: A layer has to be converted and no rank is given, or it is not positive.
        FormatError: A DoRA update of something other than a LoRA, or a parallel branch, which no LoRA file holds;
            a vector that PEFT's does not.
    """
    _require_place(adapter, format)
    if rank is not None and rank < 1:
        raise ConfigError(f"A rank of {rank} is not possible.", found=rank, expected="1 or more", remedy="Take 16.")
    if format == "lora":
        _require_matrices(adapter)
    layers, errors = {}, {}
    for name, delta in adapter.layers.items():
        with layer_by_layer(name):
            layers[name] = without_core(delta) if format == "lora" and _is_lora(delta, rank) else delta
        if len(delta.shape) > 1 and not isinstance(delta, Replacement) and not _is_lora(delta, rank):
            layers[name], errors[name] = _convert(name, delta, rank)
    return replace(adapter, layers=layers), errors


def _require_matrices(adapter: Adapter) -> None:
    """Refuse norms and biases before a rank is asked for: they have none."""
    vectors = [name for name, delta in adapter.layers.items() if len(delta.shape) < 2]
    if vectors:
        others = f" and {len(vectors) - 1} more" if len(vectors) > 1 else ""
        raise FormatError(
            f"The LoRA files of diffusers and PEFT hold matrices only, and this is the update of a norm or a bias{others}.",
            layer=vectors[0],
            found=f"{len(vectors)} vectors",
            expected="matrices",
            remedy="Save in the kohya-lora format, which keeps them, or leave them out: --leave-out-vectors at a prompt, "
            "in a graph KronA Weights with their names and 0.",
        )


def without_vectors(adapter: Adapter) -> tuple[Adapter, tuple[LayerName, ...]]:
    """The adapter without the updates of norms and biases, and the names of those. A branch keeps its gates and biases."""
    vectors = tuple(name for name, delta in adapter.layers.items() if len(delta.shape) < 2 and place_of(name) is None)
    return replace(adapter, layers={n: d for n, d in adapter.layers.items() if n not in set(vectors)}), vectors


def switched_off(adapter: Adapter) -> tuple[LeftOut, ...]:
    """Weights that the adapter would replace, at strength 0: no file holds a replacement that is not made."""
    names = tuple(
        str(name) for name, delta in adapter.layers.items() if isinstance(delta, Replacement) and not delta.strength
    )
    return (
        (LeftOut("replaced weights", "At strength 0 they are not replaced, and a file cannot say that.", names),)
        if names
        else ()
    )


def _is_lora(delta: Delta, rank: int | None) -> bool:
    delta = delta.delta if isinstance(delta, Enlarged) else delta
    inner = delta.delta if isinstance(delta, Dora) else delta
    factor = inner.factor if isinstance(inner, Matrix) else None
    return isinstance(factor, LowRank | Tucker) and (
        rank is None or isinstance(delta, Dora) or factor.down.shape[0] <= rank
    )


def _convert(name: LayerName, delta: Delta, rank: int | None) -> tuple[Delta, float]:
    if rank is None:
        raise ConfigError(
            "It is no LoRA yet, and no rank to convert it to was chosen.",
            layer=name,
            found=type(delta).__name__,
            expected="a rank",
            remedy="Choose one; 16 to 64 are usual, and the error of each layer is told.",
        )
    with layer_by_layer(name):
        try:
            return to_low_rank(delta, rank)
        except SizeError:
            raise
        except KronaError as error:
            raise FormatError(error.reason, found=error.found, expected=error.expected) from error
