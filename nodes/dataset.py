"""Pictures and captions for a training."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from krona_ops.errors import DataError
from krona_train.data.choices import Captions

from .inputs import optional_count, optional_number, optional_switch, optional_text
from .node import Node
from .server.picture_choices import NODE, Choices
from .sockets import CATEGORY
from .sockets import KronaDataset as DatasetSocket
from .wires import one, several

FROM_FILES = "from .txt files, else the prompt"
ALL_PROMPT = "the prompt for every picture"
FROM_FOLDERS = "from .txt files, else from folder names"
SOURCES: dict[str, Captions] = {FROM_FILES: "files", ALL_PROMPT: "prompt", FROM_FOLDERS: "folders"}


class KronaDataset(Node):
    """Collects pictures and captions, from a folder or the graph, for a training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaDataset",
            display_name="KronA Dataset",
            category=CATEGORY,
            description="The pictures to train on, from a folder, from the graph, or both. Three to five of one subject are enough.",
            search_aliases=["dreambooth", "training images", "captions"],
            is_input_list=True,  # a list of pictures is one data set, not one training for each of them
            hidden=[io.Hidden.unique_id],
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
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures from the graph, in addition to those of the folder: a batch, a list such as Load Image (from Folder) "
                    "gives, or a list of batches, of any sizes. They become one data set.",
                ),
                io.Combo.Input(
                    "captions",
                    options=list(SOURCES),
                    default=FROM_FILES,
                    tooltip="A text file next to a picture (dog.png with dog.txt or dog.caption, or a line of metadata.jsonl) describes that "
                    "picture alone. "
                    "Describing what is NOT the subject keeps it out of what is learnt. 'From folder names': pictures in a "
                    "subfolder like '10_sks dog' without a text file get 'sks dog'.",
                    advanced=True,
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Pictures are scaled and cut to about the area of a square of this side. 0 takes what the model was trained at, "
                    "512 for SD1.5 and 1024 for SDXL; smaller is faster and coarser.",
                    advanced=True,
                ),
                *_mask_inputs(),
                *_class_inputs(),
                *_cut_inputs(),
                *_caption_inputs(),
                io.String.Input(
                    "texts",
                    optional=True,
                    force_input=True,
                    tooltip="Captions for the pictures from 'images': a list with one per picture, as Load Image-Text (from Folder) gives, "
                    "one text for all, or one with a line per picture. An empty one takes the prompt.",
                    advanced=True,
                ),
                optional_switch(
                    "groups",
                    Choices.groups,
                    "Each subfolder, and each batch of 'images', is one subject, one clip, or the views of one thing: its pictures become "
                    "one size and stay together in a step, and batch_size counts groups. A cameras.json tells the views' cameras.",
                ),
                optional_text(
                    "resolutions",
                    "Several sizes instead of one, to train a UNet for those that it was never trained at (preset 'resolution' of KronA "
                    "Targets): each picture at every one of them, those far from the model's own most often. "
                    "SD1.5: 128, 256, 384, 768, 1024. SDXL: 256, 384, 512, 768, 1280, 1408, 1536.",
                ),
            ],
            outputs=[
                DatasetSocket.Output(display_name="dataset"),
                io.Image.Output(
                    display_name="preview",
                    tooltip="Every picture with its cut, mask, size and caption: dark is cut off, red is not learnt, blue is a class picture, "
                    "a frame is a group. Below: the files of the folder that are not used, and why.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | list[str] | None = None) -> bool | str:
        """Before anything of the graph runs: whether the folder that is typed in has pictures.

        The host reports what this returns once for each input that it names, so it names the one that it is about; what
        else may be wrong is found when the node runs.
        """
        folder = one(folder, "folder", NODE)
        if folder is None or not folder.strip():
            return True
        from .server.data_set import mistake  # what reads pictures: no start of ComfyUI should wait for it

        return mistake(folder) or True

    @classmethod
    def fingerprint_inputs(
        cls,
        folder: str | None = "",
        class_folder: str | None = "",
        groups: bool | list[bool] = Choices.groups,
        **kwargs: object,
    ) -> object:
        from .server.data_set import fingerprint

        folders = (one(folder, "folder", NODE), one(class_folder, "class_folder", NODE))
        return fingerprint(*folders, groups=one(groups, "groups", NODE))

    @classmethod
    def execute(
        cls,
        prompt: str | list[str],
        images: torch.Tensor | list[torch.Tensor] | None = None,
        images_mask: torch.Tensor | list[torch.Tensor] | None = None,
        texts: str | list[str] | None = None,
        **typed_in: object,
    ) -> io.NodeOutput:
        from .server.data_set import read, sheet_of

        node = cls.hidden.unique_id if cls.hidden is not None else None
        values = {name: one(value, name, NODE) for name, value in typed_in.items()}
        choices = Choices.of(values | {"captions": _source(values["captions"])})
        dataset = read(choices, several(prompt), several(images), several(images_mask), several(texts), node)
        return io.NodeOutput(dataset, sheet_of(dataset, node))


def _mask_inputs() -> list[io.Input]:
    return [
        io.Mask.Input(
            "images_mask",
            optional=True,
            tooltip="For the pictures from 'images': only what is white is learnt. Load Image gives white where a picture is "
            "transparent; invert that mask to learn what is opaque.",
            advanced=True,
        ),
        optional_switch(
            "masks",
            Choices.masks,
            "Learn only what is white in a second picture next to each one (dog.png, dog-mask.png), or what is opaque in it. "
            "Keeps a background out that all your pictures share.",
        ),
    ]


def _class_inputs() -> list[io.Input]:
    return [
        optional_text(
            "trigger",
            "The rare word for your subject, as it stands in the captions ('sks'). Only needed for prior preservation: "
            "the captions without it say what the model shall keep.",
        ),
        optional_text(
            "class_prompt",
            "What your subject is a kind of ('a photo of a dog'). Only needed for prior preservation, which keeps other dogs "
            "from looking like yours. Empty takes the captions without the trigger.",
        ),
        optional_text(
            "class_folder",
            "A folder with pictures of others of the kind, for prior preservation with pictures. Needs class_prompt or trigger.",
        ),
        optional_count(
            "class_pictures",
            Choices.class_pictures,
            "How many class pictures there shall be, for prior preservation with pictures; what the folder lacks is drawn by "
            "the model before the training. DreamBooth takes 100 to 200.",
            high=10_000,
        ),
    ]


def _cut_inputs() -> list[io.Input]:
    return [
        optional_count(
            "repeats",
            Choices.repeats,
            "How often each picture comes per epoch. It makes a difference where two sets are joined or subfolders have "
            "numbers ('10_sks dog' comes 10 times as often).",
            low=1,
            high=10_000,
        ),
        optional_switch(
            "buckets",
            Choices.buckets,
            "Keep each picture's shape, upright or wide. Off cuts everything to squares, which loses heads and feet.",
        ),
        optional_count(
            "crops",
            Choices.crops,
            "Different cuts of each picture, spread over what does not fit. More show the subject in other places; "
            "useful with few pictures and buckets off.",
            low=1,
            high=64,
        ),
        optional_switch(
            "flip",
            Choices.flip,
            "Train on mirrored pictures too: twice the pictures. Not for faces, writing, or anything with a left and a right.",
        ),
    ]


def _caption_inputs() -> list[io.Input]:
    return [
        optional_number(
            "caption_dropout",
            Choices.caption_dropout,
            "Share of steps without a caption. 0.1 keeps pictures without a prompt, and strong guidance, in order in a long training.",
            arrows=0.05,
        ),
        optional_count(
            "shuffles",
            Choices.shuffles,
            "Orders of each caption's comma-separated tags to train with, so that their order means nothing later. "
            "0 leaves captions as they are; sentences should stay as they are.",
            high=64,
        ),
        optional_count(
            "keep_tags",
            Choices.keep_tags,
            "Tags at the start that stay in place when the others are shuffled; the subject's word should be among them.",
            high=64,
        ),
    ]


def _source(captions: object) -> Captions:
    """What a choice of the menu means.

    Raises:
        DataError: There is no such choice.
    """
    if not isinstance(captions, str) or captions not in SOURCES:
        raise DataError(
            f"There is no choice '{captions}' for captions.",
            where=NODE,
            found=captions,
            expected=", ".join(SOURCES),
            remedy="Choose another one.",
        )
    return SOURCES[captions]
