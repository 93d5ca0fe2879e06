"""Load an adapter file."""

from __future__ import annotations

from comfy_api.latest import io

from krona_ops import load
from krona_ops.formats.metadata import trigger_words
from krona_ops.formats.scale_rules import ScaleRule
from krona_ops.names.branches import branches_in_words

from .inputs import file_input, scale_input, trigger_output
from .node import Node
from .server import paths
from .server.text import tell
from .sockets import CATEGORY, Krona


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
            inputs=[file_input(), scale_input()],
            outputs=[Krona.Output(display_name="krona", tooltip="The adapter, not applied to anything yet."), trigger_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return paths.check_adapter(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: object) -> object:
        return paths.adapter_fingerprint(file)

    @classmethod
    def execute(cls, file: str, scale: ScaleRule = "auto") -> io.NodeOutput:
        adapter = load(paths.adapter_path(file), scale)
        size = f"{len(adapter)} layers, {adapter.parameters:,} parameters."
        branch = branches_in_words(adapter.layers)
        lines = (size, f"{branch}: Apply KronA Branch applies it." if branch else "", *adapter.notes)
        tell("\n".join(filter(None, lines)), cls.hidden.unique_id)
        return io.NodeOutput(adapter, ", ".join(trigger_words(adapter.metadata)))
