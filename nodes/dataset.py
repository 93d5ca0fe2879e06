"""Pictures and captions for a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from krona_ops.errors import DataError
from krona_train.data.contact_sheet import contact_sheet
from krona_train.data.pictures import Dataset, check_folder, find_pictures, from_folder, from_tensor, require_prompt

from .host import paths
from .host.types import CATEGORY
from .host.types import KronaDataset as DatasetSocket

FROM_FILES = "from .txt files, else the prompt"
ALL_PROMPT = "the prompt for every picture"


class KronaDataset(io.ComfyNode):
    """Folder or pictures to data set."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaDataset",
            display_name="KronA Dataset",
            category=CATEGORY,
            description="The pictures to train on, from a folder, from the graph, or both. Three to five of one subject are enough.",
            search_aliases=["dreambooth", "training images", "captions"],
            inputs=[
                io.String.Input(
                    "prompt",
                    default="a photo of sks dog",
                    multiline=True,
                    tooltip="What the pictures show: a rare word that will mean your subject, and a plain word for its kind. "
                    "Write the same words later to see the subject again.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder with pictures: its full path, or its name inside ComfyUI's input folder. "
                    "May stay empty when pictures are connected.",
                ),
                io.Image.Input("images", optional=True, tooltip="Pictures from the graph, in addition to those of the folder."),
                io.Combo.Input(
                    "captions",
                    options=[FROM_FILES, ALL_PROMPT],
                    default=FROM_FILES,
                    tooltip="A text file next to a picture (dog.png, dog.txt) describes that picture alone. "
                    "Describing what is NOT the subject keeps it out of what is learnt.",
                    advanced=True,
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Pictures are scaled and cut to squares of this side. 0 takes what the model was trained at, "
                    "512 for SD1.5 and 1024 for SDXL; smaller is faster and coarser.",
                    advanced=True,
                ),
            ],
            outputs=[
                DatasetSocket.Output(display_name="dataset"),
                io.Image.Output(display_name="preview", tooltip="Every picture as it will be cut, with its caption."),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None, folder: str | None = None, captions: str | None = None) -> bool | str:
        """Only what is typed in reaches this, before anything of the graph runs; what comes over a wire is checked later."""
        try:
            if folder is not None and folder.strip():
                # A prompt that comes over a wire is not known yet; any text stands for it.
                check_folder(
                    paths.picture_folder(folder), "…" if prompt is None else prompt, read_captions=captions != ALL_PROMPT
                )
            elif folder is not None and prompt is not None:
                require_prompt(prompt, "KronA Dataset")
        except DataError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **kwargs: Any) -> object:
        if not folder.strip():
            return ""
        files = find_pictures(paths.picture_folder(folder))
        beside = [path.with_suffix(".txt") for path in files]
        return [(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in (*files, *beside) if p.is_file()]

    @classmethod
    def execute(
        cls, prompt: str, folder: str, captions: str, resolution: int, images: torch.Tensor | None = None
    ) -> io.NodeOutput:
        pictures = ()
        if folder.strip():
            pictures += from_folder(paths.picture_folder(folder), prompt, read_captions=captions == FROM_FILES)
        if images is not None:
            pictures += from_tensor(images, prompt)
        if not pictures:
            raise DataError(
                "There are no pictures.",
                layer="KronA Dataset",
                found="no folder and nothing connected",
                expected="at least one picture",
                remedy="Name a folder, or connect pictures.",
            )
        sheet = np.asarray(contact_sheet(pictures), dtype=np.float32) / 255.0
        return io.NodeOutput(Dataset(pictures, resolution), torch.from_numpy(sheet)[None])
