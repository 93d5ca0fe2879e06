"""Prompts for a training that needs no pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_train.data.choices import MOST_PIXELS, MOST_PROMPTS, PictureFiles

from .inputs import optional_text
from .node import Node
from .server.text import tell
from .sockets import CATEGORY
from .sockets import KronaDataset as DatasetSocket

if TYPE_CHECKING:
    from krona_train.data.pictures import Dataset


class KronaPrompts(Node):
    """Collects prompts for a training that learns from prompts alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaPrompts",
            display_name="KronA Prompts",
            category=CATEGORY,
            description="Prompts in the place of pictures, for trainings that learn from what the model itself draws. "
            "Without any of your own there are 300 neutral ones.",
            search_aliases=["prompt list", "distillation", "text file", "wildcards", "captions"],
            inputs=[
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="One prompt per line; empty lines and those that begin with # do not count. "
                    "Left empty, and with no file and no dataset: 300 neutral prompts that come with the pack.",
                ),
                io.Int.Input(
                    "count",
                    default=PictureFiles.prompt_count,
                    min=0,
                    max=MOST_PROMPTS,
                    tooltip="How many of them are taken, drawn by the seed; 0 takes all. Fewer are encoded sooner, more show "
                    "the training more of what the model knows.",
                ),
                io.Int.Input(
                    "seed",
                    default=PictureFiles.prompt_seed,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,  # other prompts after each run would be another training each time
                    tooltip="Which prompts are taken, where count leaves some out.",
                ),
                DatasetSocket.Input(
                    "dataset",
                    optional=True,
                    tooltip="From KronA Dataset: the captions of its pictures are the prompts, each different one once. "
                    "The pictures themselves are not used.",
                ),
                optional_text(
                    "file",
                    "A .txt file with one prompt per line: its full path, or its name inside ComfyUI's input folder.",
                    advanced=False,
                ),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=MOST_PIXELS,
                        step=8,
                        optional=True,
                        tooltip="Of what is drawn from the prompts, in pixels. 0 takes what the model was trained at, "
                        "or the resolution of the connected dataset.",
                        advanced=True,
                    )
                    for side in ("width", "height")
                ),
            ],
            outputs=[
                DatasetSocket.Output(display_name="dataset"),
                io.String.Output(display_name="report", tooltip="How many prompts there are, and the first of them."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        """Before anything of the graph runs: whether the file that is typed in has prompts."""
        if file is None or not file.strip():
            return True
        from .server.prompt_set import mistake  # what reads pictures: no start of ComfyUI should wait for it

        return mistake(file) or True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = "", **kwargs: object) -> object:
        from .server.prompt_set import fingerprint

        return fingerprint(file or "")

    @classmethod
    def execute(
        cls,
        prompts: str,
        count: int,
        seed: int,
        dataset: Dataset | None = None,
        file: str = "",
        width: int = 0,
        height: int = 0,
    ) -> io.NodeOutput:
        from .server.prompt_set import read, report_of

        how = PictureFiles(prompt_count=count, prompt_seed=seed, width=width, height=height)
        made = read(prompts, file, dataset, how)
        report = report_of(made)
        tell(report, cls.hidden.unique_id if cls.hidden is not None else None)
        return io.NodeOutput(made, report)
