"""Adapters in the shapes that ComfyUI itself and other packs hand around."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.patching.lora_model import from_lora_model, to_lora_model
from krona_ops import Adapter, load
from krona_ops.errors import ConfigError

from .inputs import NONE, optional_file_input, strength_input
from .node import Node
from .server import paths
from .server.lora_folders import lora_name, lora_path
from .server.text import tell
from .sockets import CATEGORY, Krona, LoraStack

if TYPE_CHECKING:
    from krona_host.types import LoraModel

log = logging.getLogger(__name__)
Row = tuple[str, float, float]
"""``(name relative to the LoRA folders, strength of the model, strength of the text encoder)``."""
Part = tuple[Adapter, float]


class Rows(list[Row]):
    """A ``LORA_STACK``: rows for everybody, and what no row can name, which only another KronA Stack sees."""

    def __init__(self, rows: Iterable[Row] = (), beside: tuple[Part, ...] = ()) -> None:
        super().__init__(rows)
        self.beside = beside


class KronaStack(Node):
    """Brings a ``LORA_STACK``, a ``LORA_MODEL`` and an adapter into each other's form."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaStack",
            display_name="KronA Stack",
            category=CATEGORY,
            description="Adds a file to a LORA_STACK of other packs, and sums a whole stack, a LORA_MODEL and an adapter into one adapter. "
            "A row names a file in the LoRA folders; a file elsewhere gets no row and travels in 'krona'.",
            search_aliases=["lora stack", "lora_stack", "lora model", "efficiency", "easy use"],
            inputs=[
                LoraStack.Input(
                    "lora_stack", optional=True, tooltip="From the stack nodes of other packs; the new row is added behind it."
                ),
                optional_file_input(
                    "A file to add. From models/loras or output/loras it becomes a row of the stack; other packs cannot find "
                    "one from models/krona or output/krona: it is only in 'krona' and 'lora_model'."
                ),
                strength_input("strength_model", "The new row's strength for the model."),
                strength_input("strength_clip", "The new row's strength for the text encoder.", advanced=True),
                io.LoraModel.Input(
                    "lora_model",
                    optional=True,
                    tooltip="From ComfyUI's own Train LoRA or Load LoRA Model; added at strength 1.",
                ),
                Krona.Input("krona", optional=True, tooltip="An adapter; added at strength 1."),
            ],
            outputs=[
                LoraStack.Output(
                    display_name="lora_stack",
                    tooltip="The stack with the new row, for other packs; without it where they cannot find the file.",
                ),
                Krona.Output(display_name="krona", tooltip="The sum of everything, each row at its strength for the model."),
                io.LoraModel.Output(
                    display_name="lora_model", tooltip="The same for ComfyUI's own Save LoRA and Load LoRA Model."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return True if file == NONE else paths.check_adapter(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: object) -> object:
        return NONE if file == NONE else paths.adapter_fingerprint(file)

    @classmethod
    def execute(
        cls,
        file: str,
        strength_model: float,
        strength_clip: float,
        lora_stack: list[Row] | None = None,
        lora_model: LoraModel | None = None,
        krona: Adapter | None = None,
    ) -> io.NodeOutput:
        rows = Rows(lora_stack or [], getattr(lora_stack, "beside", ()))
        files = [(str(name), float(strength)) for name, strength, _ in rows if str(name) != "None"]
        parts = [(name, load(lora_path(name)), strength) for name, strength in files]
        parts += [("", *part) for part in rows.beside]  # told of by the node that has read it
        elsewhere = ""
        if file != NONE:
            part = load(paths.adapter_path(file)), strength_model
            parts.append((file, *part))
            rows, elsewhere = cls._with(rows, file, part, strength_clip)
        parts += [("lora_model", from_lora_model(lora_model), 1.0)] if lora_model else []
        parts += [("", krona, 1.0)] if krona is not None else []
        pairs: list[Part] = [(adapter, strength) for _, adapter, strength in parts]
        if not pairs:
            raise ConfigError(
                "There is nothing to stack.",
                where="KronA Stack",
                found="no file, stack, LORA_MODEL or adapter",
                expected="at least one of them",
                remedy="Choose a file or connect something.",
            )
        total = pairs[0][0].scaled(pairs[0][1]) if len(pairs) == 1 else _sum(pairs)
        notes = dict.fromkeys(f"{name}: {note}" for name, adapter, _ in parts if name for note in adapter.notes)
        tell("\n".join(filter(None, (elsewhere, *notes))), cls.hidden.unique_id)
        return io.NodeOutput(rows, total, to_lora_model(total))

    @staticmethod
    def _with(rows: Rows, file: str, part: Part, strength_clip: float) -> tuple[Rows, str]:
        """The stack with one more file, as a row where other packs find it; else a sentence for the user says so."""
        name = lora_name(paths.adapter_path(file))
        if name is not None:
            return Rows([*rows, (name, part[1], strength_clip)], rows.beside), ""
        text = (
            f"{file} is in no LoRA folder, so other packs cannot find it: it has no row in 'lora_stack' and is only in 'krona' "
            "and 'lora_model'. Move it to models/loras for a row."
        )
        log.info("KronA: %s", text)
        return Rows(rows, (*rows.beside, part)), text


def _sum(pairs: list[tuple[Adapter, float]]) -> Adapter:
    """The rows added; two names of one weight become one, as ComfyUI's nodes would apply only one of them."""
    from krona_ops.operations.blend import blend
    from krona_ops.operations.respell import unified

    adapters = unified([adapter for adapter, _ in pairs])
    return blend(list(zip(adapters, (strength for _, strength in pairs), strict=True)))
