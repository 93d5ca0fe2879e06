"""An adapter that has learnt guidance, at a guidance."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.patching.apply import apply_adapter
from krona_ops import Adapter
from krona_ops.formats.guidance import Guided, guidance_of

from .inputs import NONE, FileOrWire, adapter_of, number_input, optional_file_input
from .server.text import tell
from .sockets import CATEGORY, Krona

if TYPE_CHECKING:
    from krona_host.types import Model


class KronaGuidance(FileOrWire):
    """Applies an adapter that has learnt guidance, as strong as a guidance wants it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaGuidance",
            display_name="KronA Guidance",
            category=CATEGORY,
            description="Guidance without its second pass: applies an adapter from Distill KronA, as strong as your guidance wants it. "
            "Draw with cfg 1, which takes half the work.",
            search_aliases=["cfg", "agd", "guidance distillation", "faster"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapter was trained for, or one of its family. Other adapters on it stay."),
                optional_file_input("The file of an adapter that has learnt guidance. It is not used where 'krona' is connected."),
                number_input(
                    "guidance",
                    default=4.0,
                    low=0.0,
                    high=100.0,
                    decimals=4,
                    arrows=0.1,
                    tooltip="What you would give a sampler as cfg; the sampler's own stays at 1. The negative prompt is the one of the training.",
                ),
                Krona.Input("krona", optional=True, tooltip="An adapter that was just trained; it takes the place of 'file'."),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.String.Output(display_name="report", tooltip="Which strength the guidance is, and for what the adapter was trained."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Model, guidance: float, file: str = NONE, krona: Adapter | None = None) -> io.NodeOutput:
        adapter = adapter_of(krona, file, "KronA Guidance")
        guided = guidance_of(adapter.metadata)
        strength = guided.strength(guidance)
        show = partial(tell, node_id=cls.hidden.unique_id)
        applied = apply_adapter(adapter, model, None, strength, tell=show)
        report = describe(guided, guidance)
        show("\n".join((report, applied.report, *applied.notes)))
        return io.NodeOutput(applied.model, report)


def describe(guided: Guided, guidance: float) -> str:
    """What the adapter does at this guidance, for the user."""
    lines = [f"Guidance {guidance:g} is strength {guided.strength(guidance):g}; draw with cfg 1."]
    if not guided.lowest <= guidance <= guided.highest:
        lines.append(f"It was trained for guidance from {guided.lowest:g} to {guided.highest:g}: this is outside.")
    away = f'"{guided.negative}"' if guided.negative else "no prompt"
    lines.append(f"It leads away from {away}, as trained; another negative prompt does nothing at cfg 1.")
    return " ".join(lines)
