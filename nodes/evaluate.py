"""Judge pictures of a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management
import torch
from comfy_api.latest import io

from .images import as_image
from .node import Node
from .server import paths
from .server.text import tell
from .sockets import CATEGORY

if TYPE_CHECKING:
    from krona_train.evaluation import Judge

REAL, SMALL_WORLD = "CLIP and DINO", "small world"


class KronaEvaluate(Node):
    """Scores pictures by their likeness to real ones and to their prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaEvaluate",
            display_name="Evaluate KronA",
            category=CATEGORY,
            description="How much do drawn pictures look like the subject, and do they show what was asked for? CLIP-I, DINO and CLIP-T, as in the papers "
            "of DreamBooth and DiffuseKronA; or the judges of the pack's small world.",
            search_aliases=["clip score", "dino", "metrics", "dreambooth"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to judge: what a model has drawn."),
                io.Image.Input("references", tooltip="Real pictures of the subject, such as those that were trained on."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="a photo of sks dog",
                    tooltip="What the pictures were to show: one line for all of them, or one line for each, in their order; "
                    "with several pictures per prompt, those of one prompt together.",
                ),
                io.String.Input(
                    "trigger",
                    default="sks",
                    tooltip="The subject's own word. It is taken out of the prompts, because no judge knows it.",
                ),
                io.Combo.Input(
                    "judges",
                    options=[REAL, SMALL_WORLD],
                    default=REAL,
                    tooltip="CLIP and DINO are models of your own, from the folder below. The small world's judges come with the pack and know nothing else.",
                ),
                io.String.Input(
                    "folder",
                    default="krona_judges",
                    tooltip="Where CLIP (clip-vit-base-patch32) and DINO (dino-vits16) are: a full path, or a folder inside ComfyUI's models folder. "
                    "Nothing is downloaded; the error says how to get them.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.String.Output(display_name="table", tooltip="All measures with their spread, then prompt by prompt."),
                io.Image.Output(
                    display_name="sheet", tooltip="The subject's pictures, then every picture with its prompt and scores."
                ),
                io.Float.Output(
                    display_name="likeness",
                    tooltip="How much the pictures look like the subject: DINO, or the small world's subject cosine.",
                ),
                io.Float.Output(
                    display_name="fidelity",
                    tooltip="How well they show their prompts: CLIP-T, or the small world's caption cosine.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        references: torch.Tensor,
        prompts: str,
        trigger: str = "sks",
        judges: str = REAL,
        folder: str = "krona_judges",
    ) -> io.NodeOutput:
        from krona_train.evaluation import evaluate  # what judges pictures: no start of ComfyUI should wait for it
        from krona_train.evaluation.sheet import score_sheet

        judge, likeness, fidelity = judge_of(judges, folder)
        drawn, real = images.unbind(), references.unbind()
        scores = evaluate(judge, drawn, real, prompts.splitlines(), trigger)
        table, means = scores.table(), scores.means()
        tell(table, cls.hidden.unique_id)
        sheet = score_sheet(scores, drawn, real)
        return io.NodeOutput(table, as_image(sheet), means[likeness], means[fidelity])


def judge_of(judges: str, folder: str) -> tuple[Judge, str, str]:
    """The judge, and the names of the two of its measures that are outputs of their own: likeness and fidelity.

    Raises:
        ConfigError: There is no such folder, or something is missing in it.
    """
    if judges == SMALL_WORLD:
        from krona_train.evaluation.small_world import SmallWorldJudge

        return SmallWorldJudge(), "subject", "caption"
    from krona_train.evaluation.clip_dino import ClipDinoJudge

    return ClipDinoJudge(paths.judges_folder(folder), comfy.model_management.get_torch_device()), "DINO", "CLIP-T"
