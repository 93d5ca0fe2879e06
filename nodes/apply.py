"""Apply an adapter to a model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from server import PromptServer

from krona_ops import Adapter, load

from .host import paths
from .host.patch import MODES, Mode, apply_adapter
from .host.types import CATEGORY, Krona
from .load import file_input


def strength_inputs() -> list[io.Input]:
    """The two strengths that every node has which applies an adapter."""
    return [
        io.Float.Input(
            "strength_model",
            default=1.0,
            min=-100.0,
            max=100.0,
            step=0.01,
            tooltip="How strongly the adapter changes the picture: 0 is the base model, 1 is as trained, "
            "below 1 keeps more of the base, negative values push away from the subject.",
        ),
        io.Float.Input(
            "strength_clip",
            default=1.0,
            min=-100.0,
            max=100.0,
            step=0.01,
            tooltip="The same for the text encoder. Only matters when the adapter has layers for it and a CLIP is connected.",
            advanced=True,
        ),
    ]


def clip_input() -> io.Input:
    """The optional text encoder."""
    return io.Clip.Input("clip", optional=True, tooltip="Connect it when the adapter also adapts the text encoder.")


def tell(report: str, node_id: str | None) -> None:
    """Show a line on a node."""
    if node_id is not None:
        PromptServer.instance.send_progress_text(report, node_id)


class KronaLoadApply(io.ComfyNode):
    """File to patched model."""

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
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                Krona.Output(display_name="krona", tooltip="The adapter itself."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return paths.check_adapter(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: Any) -> object:
        return paths.adapter_fingerprint(file)

    @classmethod
    def execute(cls, model: Any, file: str, strength_model: float, strength_clip: float, clip: Any = None) -> io.NodeOutput:
        adapter = load(paths.adapter_path(file))
        applied = apply_adapter(adapter, model, clip, strength_model, strength_clip)
        tell(applied.report, cls.hidden.unique_id)
        return io.NodeOutput(applied.model, applied.clip, adapter)


class KronaApply(io.ComfyNode):
    """Adapter to patched model."""

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
                Krona.Input("krona", tooltip="The adapter, from Load KronA or Train KronA."),
                *strength_inputs(),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="auto",
                    tooltip="merge: added into the weights once, no cost while sampling. bypass: computed beside each layer, "
                    "exact on quantised models (fp8, int8, nvfp4), a little slower. auto: bypass for quantised layers only.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.String.Output(display_name="report", tooltip="How many of the adapter's layers the model has."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, krona: Adapter, strength_model: float, strength_clip: float, mode: Mode, clip: Any = None
    ) -> io.NodeOutput:
        applied = apply_adapter(krona, model, clip, strength_model, strength_clip, mode)
        tell(applied.report, cls.hidden.unique_id)
        return io.NodeOutput(applied.model, applied.clip, applied.report)
