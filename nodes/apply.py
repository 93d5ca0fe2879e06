"""Apply an adapter to a model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.patching.apply import MODES, Applied, Mode, apply_adapter
from krona_ops import Adapter
from krona_ops.formats.metadata import trigger_words
from krona_ops.formats.scale_rules import ScaleRule
from krona_ops.operations.strengths import Weights

from .inputs import (
    NONE,
    clip_input,
    file_input,
    files_fingerprint,
    krona_input,
    load_files,
    other_file_input,
    scale_input,
    strength_inputs,
    trigger_output,
    weighted,
    weights_input,
)
from .node import Node
from .server import paths
from .server.text import tell
from .sockets import CATEGORY, Krona

if TYPE_CHECKING:
    from krona_host.types import Clip, Model


def coverage(applied: Applied) -> dict[str, list[dict[str, object]]]:
    """How much of the adapter the model has, as the node's ``ui`` for the page."""
    return {"krona_coverage": [{"matched": applied.matched, "layers": applied.layers, "report": applied.report}]}


class KronaLoadApply(Node):
    """Loads an adapter file and applies it to a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaLoadApply",
            display_name="Load and Apply KronA",
            category=CATEGORY,
            description="Loads a Kronecker adapter (LoKr) file and applies it: a drop-in for Load LoRA.",
            search_aliases=["lokr", "kronecker", "lora", "load lora", "lycoris"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapter was trained for."),
                clip_input(),
                file_input(),
                *strength_inputs(),
                scale_input(),
                other_file_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                Krona.Output(display_name="krona", tooltip="The adapter itself."),
                trigger_output(),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return paths.check_adapter(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, other_file: str = NONE, **kwargs: object) -> object:
        return files_fingerprint(file, other_file)

    @classmethod
    def execute(
        cls,
        model: Model,
        file: str,
        strength_model: float,
        strength_clip: float,
        clip: Clip | None = None,
        scale: ScaleRule = "auto",
        other_file: str = NONE,
    ) -> io.NodeOutput:
        adapter = load_files(file, other_file, scale)
        show = partial(tell, node_id=cls.hidden.unique_id)
        applied = apply_adapter(adapter, model, clip, strength_model, strength_clip, tell=show)
        show("\n".join((applied.report, *applied.notes, *adapter.notes)))
        words = ", ".join(trigger_words(adapter.metadata))
        return io.NodeOutput(applied.model, applied.clip, adapter, words, ui=coverage(applied))


class KronaApply(Node):
    """Applies an adapter to a model, all of it or by weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaApply",
            display_name="Apply KronA",
            category=CATEGORY,
            description="Applies an adapter to a model, and to its text encoder when one is connected. Several in a row add up.",
            search_aliases=["lokr", "kronecker", "apply lora"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapter was trained for."),
                clip_input(),
                krona_input(),
                *strength_inputs(),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="auto",
                    tooltip="merge: added into the weights once, no cost while sampling. bypass: computed beside each layer, "
                    "exact on quantised models (fp8, int8, nvfp4), a little slower; Save Checkpoint and the second model of a ModelMerge node "
                    "leave it out. auto: bypass for quantised layers only.",
                    advanced=True,
                ),
                weights_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.String.Output(display_name="report", tooltip="How many of the adapter's layers the model has."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        krona: Adapter,
        strength_model: float,
        strength_clip: float,
        mode: Mode,
        clip: Clip | None = None,
        weights: Weights | None = None,
    ) -> io.NodeOutput:
        adapter, acting = weighted(krona, weights)
        show = partial(tell, node_id=cls.hidden.unique_id)
        applied = apply_adapter(adapter, model, clip, strength_model, strength_clip, mode, show)
        report = "\n".join(line for line in (applied.report, *applied.notes, acting) if line)
        show(report)
        return io.NodeOutput(applied.model, applied.clip, report, ui=coverage(applied))
