"""Save an adapter."""

from __future__ import annotations

import io as bytes_io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import io
from PIL import Image

from krona_host.model.families import family_of
from krona_host.names.canonical import canonical, named_for_core
from krona_host.names.diffusers_names import renamer
from krona_ops import Adapter, save
from krona_ops.errors import ConfigError
from krona_ops.files import read_header
from krona_ops.formats.metadata import with_standard_metadata

from .inputs import krona_input, optional_combo, optional_count, optional_text
from .node import Node
from .server import paths, sidecar
from .server.lora_folders import lora_name
from .server.text import tell
from .sockets import CATEGORY

if TYPE_CHECKING:
    from krona_host.types import Model

FILE_FORMATS = {
    "ComfyUI LoKr": ("lokr", None),
    "kohya / LyCORIS LoKr": ("kohya", None),
    "PEFT LoKr": ("peft", "peft"),
    "LoRA (kohya)": ("kohya-lora", None),
    "LoRA (diffusers)": ("lora", "diffusers"),
    "DiffuseKronA (official)": ("diffusekrona", "processor"),
}
"""What the menu says: the format, and the style of names that only the model knows."""
THUMBNAIL = 256


class KronaSave(Node):
    """Saves an adapter as a file, in any of the formats."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaSave",
            display_name="Save KronA",
            category=CATEGORY,
            description="Saves an adapter as a .safetensors file that ComfyUI's own Load LoRA node reads too, with or without this pack.",
            search_aliases=["lokr", "kronecker", "save lora"],
            inputs=[
                krona_input(),
                io.String.Input(
                    "filename_prefix",
                    default="loras/adapter",
                    tooltip="Folder and name below ComfyUI's output folder; a number is added, nothing is overwritten. Files below loras/ appear in Load LoRA, "
                    "in LoRA managers and in the KronA loaders, files below krona/ in the KronA loaders only; the node says which.",
                ),
                optional_combo(
                    "format",
                    FILE_FORMATS,
                    "ComfyUI LoKr",
                    "ComfyUI LoKr: exact, for ComfyUI. kohya: exact, for other programs. LoRA: for everything that knows no LoKr, cut off at "
                    "'rank'. PEFT and diffusers names need the model. What a format cannot hold is an error, never a silent loss.",
                ),
                optional_count("rank", 32, "For the LoRA formats: higher is closer and larger.", low=1, high=4096),
                optional_text(
                    "trigger_words",
                    "The words that call up the subject; LoRA managers show them. Empty keeps what the adapter says.",
                ),
                io.Image.Input(
                    "thumbnail",
                    optional=True,
                    tooltip="A picture that LoRA managers show for the file; in a LoRA folder it also lies beside it.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Needed for formats with the layer names of diffusers, and for adapters whose names do not tell which layers they are.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The path of the file that was written.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        krona: Adapter,
        filename_prefix: str,
        format: str = "ComfyUI LoKr",
        rank: int = 32,
        trigger_words: str = "",
        thumbnail: torch.Tensor | None = None,
        model: Model | None = None,
    ) -> io.NodeOutput:
        kind, style = FILE_FORMATS[format]
        if style is not None and model is None:
            raise ConfigError(
                f"{format} has the layer names of diffusers, which only the model knows.",
                where="Save KronA",
                found="no model",
                expected="a model",
                remedy="Connect the model that the adapter is for.",
            )
        # The writers of diffusers' names ask the model for each; the others get names that ComfyUI is known to load.
        adapter = canonical(krona, model) if style is not None else named_for_core(krona, kind, model)
        picture = jpeg(thumbnail) if thumbnail is not None else None
        has_base = bool(adapter.metadata.get("ss_base_model_version"))
        base = None if model is None or has_base else family_of(model)
        adapter = with_standard_metadata(
            adapter, base_model=base, trigger=trigger_words.strip() or None, thumbnail=picture
        )
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        if kind == "peft":  # PEFT keeps its settings in a file of one name, so each adapter has a folder
            path = Path(folder) / f"{name}_{counter:05}_" / "adapter_model.safetensors"
        path = save(
            adapter.with_metadata(**cls._workflow()),
            path,
            kind,
            rank=rank,
            rename=renamer(model, style) if style is not None and model is not None else str,
        )
        from krona_ops.formats.encode import notes_on_file, switched_off

        notes = (*map(str, switched_off(adapter)), *notes_on_file(read_header(path).shapes, kind))
        tell("\n".join((cls._whereabouts(path, adapter, picture), *notes)), cls.hidden.unique_id)
        shown = Path(subfolder) / path.parent.name if kind == "peft" else Path(subfolder)
        return io.NodeOutput(
            str(path), ui={"files": [{"filename": path.name, "subfolder": str(shown), "type": "output"}]}
        )

    @classmethod
    def _whereabouts(cls, path: Path, adapter: Adapter, picture: bytes | None) -> str:
        """Which loaders list the new file, in words; in a LoRA folder, what LoRA managers read is written beside it."""
        paths.forget_list()
        place = (Path("output") / path.relative_to(folder_paths.get_output_directory())).as_posix()
        name = lora_name(path)
        if name is not None:
            sidecar.write(path, adapter, picture)
            return f"Saved as {place}. Load LoRA lists it as {name}."
        listed = "the KronA loaders list it" if paths.lists(path) else "no loader lists it"
        return (
            f"Saved as {place}: {listed}, Load LoRA does not, because it is in no LoRA folder. "
            "Begin filename_prefix with loras/ for that."
        )

    @classmethod
    def _workflow(cls) -> dict[str, str]:
        """The graph that made the file, as the host puts it into its pictures: dropping the file opens it."""
        if args.disable_metadata:
            return {}
        entries = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        return {name: json.dumps(value) for name, value in entries.items() if value is not None}


def jpeg(image: torch.Tensor) -> bytes:
    """The first picture of an ``IMAGE`` batch ``(count, height, width, 3)`` as a small JPEG."""
    pixels = (image[0, ..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    small = Image.fromarray(np.ascontiguousarray(pixels))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = bytes_io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
