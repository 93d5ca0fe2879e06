"""Adapters in the shapes that ComfyUI itself and other packs hand around."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from krona_ops import Adapter, load
from krona_ops.blend import blend
from krona_ops.errors import ConfigError

from .host import paths
from .host.lora_model import from_lora_model, to_lora_model
from .host.types import CATEGORY, Krona, LoraStack
from .inputs import number_input

NONE = "(none)"
Row = tuple[str, float, float]
"""``(name relative to the LoRA folders, strength of the model, strength of the text encoder)``."""


class KronaStack(io.ComfyNode):
    """Stack, ``LORA_MODEL`` and adapter, each into the others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = {"default": 1.0, "low": -100.0, "high": 100.0, "decimals": 4, "arrows": 0.01}
        return io.Schema(
            node_id="KronaStack",
            display_name="KronA Stack",
            category=CATEGORY,
            description="Adds a file to a LORA_STACK of other packs, and sums a whole stack, a LORA_MODEL and an adapter into one adapter.",
            search_aliases=["lora stack", "lora_stack", "lora model", "efficiency", "easy use"],
            inputs=[
                LoraStack.Input(
                    "lora_stack", optional=True, tooltip="From the stack nodes of other packs; the new row is added behind it."
                ),
                io.Combo.Input(
                    "file",
                    options=[NONE, *paths.adapter_files()],
                    default=NONE,
                    tooltip="A file to add to the stack, from models/krona, models/loras or output/krona.",
                ),
                number_input("strength_model", **strength, tooltip="The new row's strength for the model."),
                number_input(
                    "strength_clip", **strength, tooltip="The new row's strength for the text encoder.", advanced=True
                ),
                io.LoraModel.Input(
                    "lora_model",
                    optional=True,
                    tooltip="From ComfyUI's own Train LoRA or Load LoRA Model; added at strength 1.",
                ),
                Krona.Input("krona", optional=True, tooltip="An adapter; added at strength 1."),
            ],
            outputs=[
                LoraStack.Output(display_name="lora_stack", tooltip="The stack with the new row."),
                Krona.Output(display_name="krona", tooltip="The sum of everything, each row at its strength for the model."),
                io.LoraModel.Output(
                    display_name="lora_model", tooltip="The same for ComfyUI's own Save LoRA and Load LoRA Model."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return True if file == NONE else paths.check_adapter(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: Any) -> object:
        return NONE if file == NONE else paths.adapter_fingerprint(file)

    @classmethod
    def execute(
        cls,
        file: str,
        strength_model: float,
        strength_clip: float,
        lora_stack: list[Row] | None = None,
        lora_model: dict | None = None,
        krona: Adapter | None = None,
    ) -> io.NodeOutput:
        stack = [*(lora_stack or []), *([(file, strength_model, strength_clip)] if file != NONE else [])]
        pairs = [(load(paths.adapter_path(str(name))), float(strength)) for name, strength, _ in stack if str(name) != "None"]
        pairs += [(from_lora_model(lora_model), 1.0)] if lora_model else []
        pairs += [(krona, 1.0)] if krona is not None else []
        if not pairs:
            raise ConfigError(
                "There is nothing to stack.",
                layer="KronA Stack",
                found="no file, stack, LORA_MODEL or adapter",
                expected="at least one of them",
                remedy="Choose a file or connect something.",
            )
        total = pairs[0][0].scaled(pairs[0][1]) if len(pairs) == 1 else blend(pairs)
        return io.NodeOutput(stack, total, to_lora_model(total))
