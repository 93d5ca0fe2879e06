"""The noise levels of one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from krona_ops import Adapter
from krona_ops.errors import ConfigError
from krona_ops.formats.one_step import one_step_of

from .inputs import NONE, FileOrWire, adapter_of, number_input, optional_file_input
from .sockets import CATEGORY, Krona

if TYPE_CHECKING:
    from krona_host.types import Model

NODE = "KronA One Step"
"""The node's name, for errors."""


class KronaOneStep(FileOrWire):
    """Gives the noise levels for a picture in one step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaOneStep",
            display_name="KronA One Step",
            category=CATEGORY,
            description="The noise levels of a picture in one step, for SamplerCustom with euler and cfg 1: from the level at which "
            "an adapter for one step was trained straight to none.",
            search_aliases=["sigmas", "one step", "sim", "hipa", "turbo", "distillation"],
            inputs=[
                io.Model.Input("model", tooltip="The model with the adapter on it."),
                number_input(
                    "sigma",
                    default=0.0,
                    low=0.0,
                    high=100_000.0,
                    decimals=4,
                    arrows=0.1,
                    tooltip="The noise level that the step begins at. 0 takes the adapter's own from 'file' or 'krona', and without them the model's "
                    "largest: adapters of this pack are trained there unless told otherwise, and KSampler with one step begins there too.",
                ),
                optional_file_input(
                    "The adapter that is on the model: its file says which level it was trained at. Not used where 'krona' is connected.",
                    optional=True,
                ),
                Krona.Input("krona", optional=True, tooltip="The same, from Distill KronA or Load KronA; it takes the place of 'file'."),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(cls, model: Model, sigma: float, file: str = NONE, krona: Adapter | None = None) -> io.NodeOutput:
        largest = float(model.get_model_object("model_sampling").sigma_max)
        level, remedy = sigma, "Set sigma to 0, which takes the model's largest, or the adapter's own."
        if krona is not None or file != NONE:
            trained = one_step_of(adapter_of(krona, file, NODE).metadata).sigma
            if not sigma:
                level, remedy = trained, "The adapter was trained for another model: take that, or set sigma yourself."
        if level > largest * 1.0001:
            raise ConfigError(
                f"The model knows no noise level {level:g}.",
                where=NODE,
                found=level,
                expected=f"at most {largest:g}",
                remedy=remedy,
            )
        return io.NodeOutput(torch.tensor([level or largest, 0.0]))
