"""An adapter whose strength changes while a picture is sampled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.patching.schedule import CURVES, Curve, scheduled_hooks, strengths
from krona_ops import Adapter

from .inputs import krona_input, number_input, strength_input
from .node import Node
from .sockets import CATEGORY

if TYPE_CHECKING:
    from krona_host.types import Clip, Hooks, Model


class KronaSchedule(Node):
    """Makes hooks of an adapter whose strength changes while sampling."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        progress_input = partial(number_input, low=0.0, high=1.0, decimals=4, arrows=0.01)
        return io.Schema(
            node_id="KronaSchedule",
            display_name="Schedule KronA",
            category=CATEGORY,
            description="Changes an adapter's strength while a picture is sampled: strong at first shapes the composition, "
            "strong at the end the details. Connect the hooks to Cond Set Props or Set CLIP Hooks.",
            search_aliases=["lora schedule", "strength over time", "hooks", "keyframes"],
            inputs=[
                krona_input(),
                io.Model.Input(
                    "model", tooltip="The model that will be sampled, without this adapter on it. It only tells the names."
                ),
                io.Clip.Input("clip", optional=True, tooltip="Connect it when the adapter also adapts the text encoder."),
                io.Hooks.Input("prev_hooks", optional=True, tooltip="Hooks to add these to."),
                strength_input("strength_start", "Strength from the first step until 'start'."),
                strength_input("strength_end", "Strength from 'end' to the last step.", default=0.0),
                progress_input("start", default=0.0, tooltip="When the strength begins to change: 0 is pure noise."),
                progress_input("end", default=1.0, tooltip="When it has arrived: 1 is the finished picture."),
                io.Combo.Input(
                    "curve",
                    options=list(CURVES),
                    default="linear",
                    tooltip="linear: evenly. ease: slowly at both ends. step: all at once, at 'end'.",
                ),
                io.Int.Input(
                    "keyframes",
                    default=8,
                    min=0,
                    max=100,
                    tooltip="How many values in between. Each one is merged into the weights when its time comes; more is smoother and slower.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Hooks.Output(display_name="hooks"),
                io.String.Output(display_name="report", tooltip="How many of the adapter's layers the model has."),
            ],
        )

    @classmethod
    def execute(
        cls,
        krona: Adapter,
        model: Model,
        strength_start: float,
        strength_end: float,
        start: float,
        end: float,
        curve: Curve,
        keyframes: int,
        clip: Clip | None = None,
        prev_hooks: Hooks | None = None,
    ) -> io.NodeOutput:
        pairs = strengths(strength_start, strength_end, start, end, curve, keyframes)
        return io.NodeOutput(*scheduled_hooks(krona, pairs, model, clip, prev_hooks))
