"""Load an adapter file."""

from __future__ import annotations

from comfy_api.latest import io

from krona_ops import load

from .host import paths
from .host.types import CATEGORY, Krona


def file_input() -> io.Combo.Input:
    """The menu of adapter files that every loader has."""
    return io.Combo.Input(
        "file",
        options=paths.adapter_files(),
        tooltip="A .safetensors adapter from models/krona, models/loras or output/krona.",
    )


class KronaLoad(io.ComfyNode):
    """File to adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaLoad",
            display_name="Load KronA",
            category=CATEGORY,
            description="Loads a Kronecker adapter (LoKr) file as a value that other KronA nodes scale, blend, apply or save.",
            search_aliases=["lokr", "kronecker", "lora", "lycoris"],
            inputs=[file_input()],
            outputs=[Krona.Output(display_name="krona", tooltip="The adapter, not applied to anything yet.")],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return paths.check_adapter(file)

    @classmethod
    def fingerprint_inputs(cls, file: str) -> object:
        return paths.adapter_fingerprint(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load(paths.adapter_path(file)))
