"""Save an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io

from krona_ops import Adapter, save

from .host.types import CATEGORY, Krona


class KronaSave(io.ComfyNode):
    """Adapter to file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaSave",
            display_name="Save KronA",
            category=CATEGORY,
            description="Saves an adapter as a .safetensors file that ComfyUI's own Load LoRA node reads too, with or without this pack.",
            search_aliases=["lokr", "kronecker", "save lora"],
            inputs=[
                Krona.Input("krona", tooltip="The adapter, from Load KronA or Train KronA."),
                io.String.Input(
                    "filename_prefix",
                    default="krona/adapter",
                    tooltip="Folder and name below ComfyUI's output folder; a number is added, nothing is overwritten. "
                    "Files below krona/ appear in the KronA loaders, files below loras/ also in Load LoRA.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The path of the file that was written.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, krona: Adapter, filename_prefix: str) -> io.NodeOutput:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = save(krona.with_metadata(**cls._workflow()), Path(folder) / f"{name}_{counter:05}_.safetensors")
        return io.NodeOutput(str(path), ui={"files": [{"filename": path.name, "subfolder": subfolder, "type": "output"}]})

    @classmethod
    def _workflow(cls) -> dict[str, str]:
        """The graph that made the file, as the host puts it into its pictures: dropping the file opens it."""
        if args.disable_metadata:
            return {}
        entries = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        return {name: json.dumps(value) for name, value in entries.items() if value is not None}
