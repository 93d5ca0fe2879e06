"""Inputs that several nodes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from comfy_api.latest import io

from krona_ops import Adapter, load
from krona_ops.errors import ConfigError
from krona_ops.formats.scale_rules import RULES, ScaleRule
from krona_ops.nearest.forms import DenseForm, Form, KronForm, LowRankForm
from krona_ops.operations.strengths import Weights, apply_weights, describe_unmatched
from krona_ops.targets.rules import PAPER_FACTORS

from .node import Node
from .server import paths
from .sockets import Krona, KronaWeightsSocket

ARROWS = "krona_arrows"
"""Under this name the browser finds by how much the arrows of a number change it (web/numbers)."""


def number_input(
    id: str, *, default: float, low: float, high: float, decimals: int, arrows: float, tooltip: str, **options: object
) -> io.Float.Input:
    """A number that keeps every value with so many decimals, typed, loaded or imported.

    The editor rounds a number to the decimals of its ``step``, which is also what its arrows add: with a comfortable
    step a learning rate of 5e-6 becomes 0. So the step is the finest difference, and what the arrows add is given beside
    it.

    Args:
        decimals: Of the smallest difference that anybody uses; the default, ``low`` and ``high`` have no more.
        arrows: What one click on an arrow adds.
        options: As the host's ``Float.Input`` takes them.
    """
    finest = float(f"1e-{decimals}")
    return io.Float.Input(
        id,
        default=default,
        min=low,
        max=high,
        step=finest,
        round=finest,
        tooltip=tooltip,
        extra_dict={ARROWS: arrows},
        **options,
    )


def optional_combo(
    id: str, options: Iterable[str], default: str, tooltip: str, *, advanced: bool = True
) -> io.Combo.Input:
    """A choice that a graph need not make. This one and the next four stand among a node's advanced inputs."""
    return io.Combo.Input(id, options=list(options), default=default, optional=True, tooltip=tooltip, advanced=advanced)


def optional_number(
    id: str,
    default: float,
    tooltip: str,
    *,
    low: float = 0.0,
    high: float = 1.0,
    decimals: int = 4,
    arrows: float = 0.01,
) -> io.Float.Input:
    """A `number_input` that a graph need not have: most are a part of one."""
    return number_input(
        id,
        default=default,
        low=low,
        high=high,
        decimals=decimals,
        arrows=arrows,
        tooltip=tooltip,
        optional=True,
        advanced=True,
    )


def optional_count(
    id: str, default: int, tooltip: str, *, low: int = 0, high: int = 1_000_000, advanced: bool = True
) -> io.Int.Input:
    """A whole number that a graph need not have."""
    return io.Int.Input(id, default=default, min=low, max=high, optional=True, tooltip=tooltip, advanced=advanced)


def optional_text(id: str, tooltip: str, *, multiline: bool = False, advanced: bool = True) -> io.String.Input:
    """A text that a graph need not have; empty where it does not."""
    return io.String.Input(id, default="", multiline=multiline, optional=True, tooltip=tooltip, advanced=advanced)


def optional_switch(id: str, default: bool, tooltip: str) -> io.Boolean.Input:
    """A yes or no that a graph need not have."""
    return io.Boolean.Input(id, default=default, optional=True, tooltip=tooltip, advanced=True)


def krona_input() -> io.Input:
    """The adapter that a node works on, required."""
    return Krona.Input("krona", tooltip="The adapter, from Load KronA or Train KronA.")


def weights_input() -> io.Input:
    """Strengths by name for a node that applies or scales an adapter; `weighted` is what it does with them."""
    return KronaWeightsSocket.Input(
        "weights", optional=True, tooltip="Strengths by block and projection, from KronA Weights."
    )


def weighted(adapter: Adapter, weights: Weights | None) -> tuple[Adapter, str]:
    """The adapter with the strengths of a `weights_input`, and what they did, for the user; empty without them."""
    if weights is None:
        return adapter, ""
    result = apply_weights(adapter, weights)
    lines = (f"{len(result)} of {len(adapter)} layers act.", *describe_unmatched(adapter, weights))
    return result, "\n".join(lines)


def factor_inputs(
    out_tooltip: str, in_tooltip: str, default: tuple[int, int] = PAPER_FACTORS, *, advanced: bool | None = None
) -> list[io.Input]:
    """The shape ``(out_a, in_a)`` of the small factor A, as two inputs."""
    parts = (("factor_out", default[0], out_tooltip), ("factor_in", default[1], in_tooltip))
    return [
        io.Int.Input(id, default=value, min=1, max=65536, tooltip=tooltip, advanced=advanced)
        for id, value, tooltip in parts
    ]


AS_THEY_ARE, KRONECKER, LORA, DENSE = "as it is", "Kronecker product", "LoRA", "dense"


def form_inputs(default: str, exact: bool = True) -> list[io.Input]:
    """A choice of form, and the numbers that each form needs; `form_of` reads them."""
    forms = [AS_THEY_ARE, KRONECKER, LORA, DENSE] if exact else [KRONECKER, LORA, DENSE]
    return [
        io.Combo.Input(
            "form",
            options=forms,
            default=default,
            tooltip="as it is: exact, every term is kept. Kronecker product: small, and a LoKr file holds it. LoRA: any loader reads it. "
            "dense: exact, and as large as the model's layers.",
        ),
        *factor_inputs(
            "Kronecker: rows of the small factor A.", "Kronecker: columns of the small factor A.", advanced=True
        ),
        io.Int.Input(
            "terms",
            default=1,
            min=1,
            max=64,
            tooltip="Kronecker: products per layer. One fits into a LoKr file; more are closer to the original.",
            advanced=True,
        ),
        io.Int.Input(
            "rank", default=32, min=1, max=4096, tooltip="LoRA: its rank. Higher is closer and larger.", advanced=True
        ),
    ]


def form_of(form: str, factor_out: int, factor_in: int, terms: int, rank: int) -> Form | None:
    """What `form_inputs` say; ``None`` leaves every layer as it is."""
    return {
        AS_THEY_ARE: None,
        KRONECKER: KronForm((factor_out, factor_in), terms),
        LORA: LowRankForm(rank),
        DENSE: DenseForm(),
    }[form]


def file_input() -> io.Combo.Input:
    """The menu of adapter files that every loader has."""
    return io.Combo.Input(
        "file",
        options=paths.adapter_files(),
        tooltip="A .safetensors adapter from models/krona, models/loras or output/krona.",
    )


NONE = "(none)"
"""What a menu has for no file, where a node does without one."""


_APART = object()
"""In the place of an input without a wire, where the host has ``None`` for one with it."""


class FileOrWire(Node):
    """A node with an `optional_file_input`, and an input ``krona`` that takes its place; `adapter_of` reads them."""

    @classmethod
    def validate_inputs(cls, file: str = NONE) -> bool | str:
        """Whether the file is there is seen when the node runs: a connected adapter takes its place, and the host reports
        a mistake once for each input that is named here."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str = NONE, krona: object = _APART, **kwargs: object) -> object:
        return NONE if krona is not _APART or file == NONE else paths.adapter_fingerprint(file)


def optional_file_input(tooltip: str, *, optional: bool = False) -> io.Combo.Input:
    """The menu of adapter files, for a node that does without one: `NONE` stands first.

    Args:
        optional: Whether graphs from before it was there have no value of it.
    """
    options = [NONE, *paths.adapter_files()]
    return io.Combo.Input("file", options=options, default=NONE, tooltip=tooltip, optional=optional)


def other_file_input() -> io.Combo.Input:
    """The second file of an adapter that has two, where a graph need not have one: `NONE` stands first."""
    return optional_combo(
        "other_file",
        [NONE, *paths.adapter_files()],
        NONE,
        "The second file of an adapter that has two: ResAdapter's LoRA and its values of norms, in either order. "
        "Everything else is one file.",
    )


def files_fingerprint(file: str, other_file: str) -> object:
    """For ``fingerprint_inputs`` of a loader: changes when one of its files does; of one file as it always was."""
    own = paths.adapter_fingerprint(file)
    return own if other_file == NONE else (own, paths.adapter_fingerprint(other_file))


def load_files(file: str, other_file: str, scale: ScaleRule) -> Adapter:
    """The adapter in a loader's file, or in both of them."""
    other = None if other_file == NONE else paths.adapter_path(other_file)
    return load(paths.adapter_path(file), scale, other)


def adapter_of(
    krona: Adapter | None, file: str, node: str, what: str = "adapter", read: Callable[[Path], Adapter] = load
) -> Adapter:
    """The adapter that is connected, or that of the chosen file.

    Args:
        node: What the user calls the node, for the error.
        what: What is to be applied, for the error.
        read: Reads a file.

    Raises:
        ConfigError: There is neither.
    """
    if krona is not None:
        return krona
    if file == NONE:
        raise ConfigError(
            f"There is no {what} to apply.",
            where=node,
            found="no file, and nothing in 'krona'",
            expected="one of them",
            remedy=f"Choose a file or connect {'an' if what[0] in 'aeiou' else 'a'} {what}.",
        )
    return read(paths.adapter_path(file))


def scale_input() -> io.Combo.Input:
    """How strong the update is, where a file does not say it clearly."""
    return optional_combo(
        "scale",
        RULES,
        "auto",
        "How strong the file's update is at strength 1. auto follows the program that wrote it; the node says what it decided and why. "
        "Choose another rule only if the effect is plainly too strong or too weak.",
    )


def trigger_output() -> io.Output:
    """The trigger words in an adapter's file, for the prompt."""
    return io.String.Output(
        display_name="trigger words",
        tooltip="The words that call up the subject, as the file says; empty where it does not.",
    )


def strength_input(id: str, tooltip: str, *, default: float = 1.0, **options: object) -> io.Float.Input:
    """A strength from -100 to 100; ``options`` as for `number_input`."""
    return number_input(
        id, default=default, low=-100.0, high=100.0, decimals=4, arrows=0.01, tooltip=tooltip, **options
    )


def strength_inputs() -> list[io.Input]:
    """The two strengths that every node has which applies an adapter."""
    return [
        strength_input(
            "strength_model",
            "How strongly the adapter changes the picture: 0 is the base model, 1 is as trained, "
            "below 1 keeps more of the base, negative values push away from the subject.",
        ),
        strength_input(
            "strength_clip",
            "The same for the text encoder. Only matters when the adapter has layers for it and a CLIP is connected.",
            advanced=True,
        ),
    ]


def clip_input() -> io.Input:
    """The optional text encoder."""
    return io.Clip.Input("clip", optional=True, tooltip="Connect it when the adapter also adapts the text encoder.")


def report_output() -> io.Output:
    """A report in words: parameters before and after, and the error."""
    return io.String.Output(display_name="report", tooltip="Parameters before and after, and the relative error.")
