"""What nodes that train have in common: when they run again, and what they give to the rest of a graph."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io, ui
from PIL import Image

from krona_host.patching.apply import apply_adapter
from krona_host.patching.lora_model import to_lora_model
from krona_ops.branches.branch import is_branch
from krona_ops.errors import KronaError
from krona_ops.files import write_atomically
from krona_train.drawing.placard import drawn
from krona_train.drawing.preview_sheet import preview_sheet
from krona_train.run import layout
from krona_train.run.state import newest_whole

from .images import as_image
from .node import Node
from .server import paths
from .server.choices import NEW, SAME
from .sockets import Krona

if TYPE_CHECKING:
    from krona_host.types import Clip, Model

    from .server.training import Result

log = logging.getLogger(__name__)


class TrainingNode(Node):
    """A node with the inputs ``name``, ``steps`` and ``resume`` of a training."""

    @classmethod
    def validate_inputs(cls, resume: str = SAME) -> bool | str:
        try:
            if resume not in (NEW, SAME):
                newest_whole(paths.run_folder(resume), peek=True)
        except KronaError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, name: str | None = None, steps: int | None = None, resume: str | None = SAME, **kwargs: object
    ) -> str:
        """Queued again, a training that was ended early goes on, instead of giving what it had then."""
        return paths.unfinished(name, steps) if resume == SAME and name and steps else ""


def trained_outputs() -> list[io.Output]:
    """The outputs of every node that trains; `output_of` fills them."""
    return [
        Krona.Output(display_name="krona", tooltip="The trained adapter."),
        io.Model.Output(display_name="model", tooltip="The model with the adapter applied at strength 1."),
        io.Image.Output(display_name="loss curve"),
        io.String.Output(
            display_name="run",
            tooltip="The run's folder, below output/krona: settings, metrics, adapter. The KronA loaders list that adapter; Load LoRA does "
            "not, because a run's folder is no LoRA folder: Save KronA writes a file that it lists.",
        ),
        io.LoraModel.Output(
            display_name="lora_model", tooltip="For ComfyUI's own Save LoRA and Load LoRA Model nodes."
        ),
        io.LossMap.Output(display_name="loss_map", tooltip="For ComfyUI's own Plot Loss Graph node."),
        io.Image.Output(
            display_name="previews", tooltip="All previews on one sheet; the loss curve where there are none."
        ),
        io.Clip.Output(display_name="clip", tooltip="The text encoder, with the adapter where it was trained too."),
    ]


def output_of(cls: type[io.ComfyNode], result: Result, model: Model, clip: Clip) -> io.NodeOutput:
    """What a node that trains returns.

    Args:
        cls: The node.
        model, clip: Without the adapter.
    """
    curve, sheet = draw(result)
    # A branch is put on a model by its own node, which knows what it shall look at.
    applied = None if is_branch(result.adapter) else apply_adapter(result.adapter, model, clip)
    return io.NodeOutput(
        result.adapter,
        model if applied is None else applied.model,
        curve,
        str(result.run.folder),
        to_lora_model(result.adapter),
        {"loss": result.run.losses},
        curve if sheet is None else sheet,
        clip if applied is None else applied.clip,
        ui={**ui.PreviewImage(curve, cls=cls).as_dict(), "krona_run": [result.run.folder.name]},
    )


def draw(result: Result) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss curve and the sheet of previews, as ``IMAGE``; both are also kept in the run's folder."""
    run = result.run
    rows = [(step, [Image.open(file) for file in files if file.is_file()]) for step, files in run.previews]
    rows = [(step, pictures) for step, pictures in rows if pictures]
    optimizer = result.config.optimizer

    def draw_curve() -> Image.Image:
        from krona_train.drawing.plot import loss_curve  # matplotlib: no start of ComfyUI should wait for it

        return loss_curve(
            run.losses,
            f"{run.folder.name}: {result.config.steps} steps at {optimizer.learning_rate:g}",
            steps=run.steps,
            validation=run.validations,
            learning_rates=run.learning_rates,
            previews=[(step, pictures[0]) for step, pictures in rows],
        )

    curve = drawn("The loss curve", draw_curve)
    _keep(curve, run.folder / layout.LOSS_CURVE)
    if not rows:
        return as_image(curve), None
    sheet = preview_sheet(rows, result.prompts)
    _keep(sheet, run.folder / layout.PREVIEW_SHEET)
    return as_image(curve), as_image(sheet)


def _keep(picture: Image.Image, path: Path) -> None:
    """Save a picture beside an adapter that is saved already; on a full disk, the node still gives the adapter."""
    try:
        write_atomically(path, lambda file: picture.save(file, "PNG"))
    except KronaError as error:
        log.warning("KronA: %s", error)
