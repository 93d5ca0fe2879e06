"""The noise levels of one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from krona_ops.errors import ConfigError

from .inputs import number_input
from .node import Node
from .sockets import CATEGORY

if TYPE_CHECKING:
    from krona_host.types import Model


class KronaOneStep(Node):
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
                    tooltip="The noise level that the step begins at. 0 takes the model's largest, at which adapters of this pack are trained "
                    "unless told otherwise; KSampler with one step begins there too.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(cls, model: Model, sigma: float) -> io.NodeOutput:
        largest = float(model.get_model_object("model_sampling").sigma_max)
        if sigma > largest * 1.0001:
            raise ConfigError(
                f"The model knows no noise level {sigma:g}.",
                where="KronA One Step",
                found=sigma,
                expected=f"at most {largest:g}",
                remedy="Set sigma to 0, which takes the model's largest.",
            )
        return io.NodeOutput(torch.tensor([sigma or largest, 0.0]))
