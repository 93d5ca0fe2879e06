"""What an adapter does, as a table and pictures."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from krona_ops import Adapter
from krona_ops.report import Measure, report

from .host.drawing import factor_spectra, heat_map
from .host.types import CATEGORY, Krona

TABLES = ("layer", "block", "role")
MEASURES: dict[str, Measure] = {"how far weights move": "rms", "how much all of them move": "norm"}


class KronaInspect(io.ComfyNode):
    """Adapter to table and pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaInspect",
            display_name="Inspect KronA",
            category=CATEGORY,
            description="Which layers an adapter moves, and by how much: a heat map by block and projection, the spectra of the factors, and a table.",
            search_aliases=["analyse", "lora info", "heat map", "spectrum"],
            inputs=[
                Krona.Input("krona", tooltip="The adapter, from Load KronA or Train KronA."),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    default="how far weights move",
                    tooltip="How far: the average change of one weight, which compares layers of different size. How much: the change of the whole layer.",
                ),
                io.Combo.Input(
                    "table_by",
                    options=list(TABLES),
                    default="block",
                    tooltip="A line of the table for each layer, block or projection.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table"),
                io.Image.Output(display_name="heat map"),
                io.Image.Output(
                    display_name="spectra",
                    tooltip="Singular values of the factors: a line that falls early uses few directions.",
                ),
                io.String.Output(
                    display_name="metadata", tooltip="What the file says about itself, and how its scale was read."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, krona: Adapter, measure: str, table_by: str) -> io.NodeOutput:
        found = report(krona)
        title = krona.metadata.get("modelspec.title") or krona.metadata.get("ss_output_name") or "Adapter"
        subtitle = f"{len(found.layers)} layers, {found.parameters:,} parameters"
        heat = as_image(heat_map(found.grid(MEASURES[measure]), title, subtitle))
        spectra = as_image(factor_spectra(found.layers, title))
        told = [
            *krona.notes,
            *(f"{key}: {value[:200]}" for key, value in krona.metadata.items() if key not in ("prompt", "workflow")),
        ]
        return io.NodeOutput(found.table(table_by), heat, spectra, "\n".join(told), ui=ui.PreviewImage(heat, cls=cls))


def as_image(picture: Image.Image) -> torch.Tensor:
    """A picture as the host's ``IMAGE (1, height, width, 3)``."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]
