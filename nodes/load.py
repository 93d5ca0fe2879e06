"""Load an adapter file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.names.canonical import canonical
from krona_ops.formats.metadata import trigger_words
from krona_ops.formats.scale_rules import ScaleRule
from krona_ops.names.branches import branches_in_words
from krona_ops.updates.absolute import in_words, waiting

from .inputs import NONE, file_input, files_fingerprint, load_files, other_file_input, scale_input, trigger_output
from .node import Node
from .server import paths
from .server.text import tell
from .sockets import CATEGORY, Krona

if TYPE_CHECKING:
    from krona_host.types import Model


class KronaLoad(Node):
    """Loads an adapter file as a value for other nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaLoad",
            display_name="Load KronA",
            category=CATEGORY,
            description="Loads a Kronecker adapter (LoKr) file as a value that other KronA nodes scale, blend, apply or save.",
            search_aliases=["lokr", "kronecker", "lora", "lycoris"],
            inputs=[
                file_input(),
                scale_input(),
                other_file_input(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only for files that hold values instead of changes, as ResAdapter's norms: with the model that they are "
                    "for they become changes, which are blended, converted and saved as any. Apply KronA needs nothing here.",
                ),
            ],
            outputs=[Krona.Output(display_name="krona", tooltip="The adapter, not applied to anything yet."), trigger_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return paths.check_adapter(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, other_file: str = NONE, **kwargs: object) -> object:
        return files_fingerprint(file, other_file)

    @classmethod
    def execute(
        cls, file: str, scale: ScaleRule = "auto", other_file: str = NONE, model: Model | None = None
    ) -> io.NodeOutput:
        adapter = load_files(file, other_file, scale)
        if model is not None and waiting(adapter.layers):
            adapter = canonical(adapter, model)
        size = f"{len(adapter)} layers, {adapter.parameters:,} parameters."
        branch = branches_in_words(adapter.layers)
        applied = f"{branch}: Apply KronA Branch applies it." if branch else in_words(adapter.layers)
        lines = (size, applied, *adapter.notes)
        tell("\n".join(filter(None, lines)), cls.hidden.unique_id)
        return io.NodeOutput(adapter, ", ".join(trigger_words(adapter.metadata)))
