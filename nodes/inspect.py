"""What an adapter does, as a table and pictures."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from comfy_api.latest import io
from PIL import Image

from krona_ops import Adapter
from krona_ops.formats.metadata import title_of
from krona_ops.operations.strengths import selectors
from krona_train.drawing.placard import drawn
from krona_train.run.reading import finite

from .images import as_image
from .inputs import krona_input
from .node import Node
from .sockets import CATEGORY

if TYPE_CHECKING:
    from krona_ops.operations.report import By, Grid, Measure, Report

TABLES: tuple[By, ...] = ("layer", "block", "role")
MEASURES: dict[str, Measure] = {"how far weights move": "rms", "how much all of them move": "norm"}


class KronaInspect(Node):
    """Shows how far an adapter moves which layers: a table, a heat map, spectra."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaInspect",
            display_name="Inspect KronA",
            category=CATEGORY,
            description="Which layers an adapter moves, and by how much: a heat map by block and projection, the spectra of the factors, and a table.",
            search_aliases=["analyse", "lora info", "heat map", "spectrum"],
            inputs=[
                krona_input(),
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
    def execute(cls, krona: Adapter, measure: str, table_by: By) -> io.NodeOutput:
        from krona_ops.operations.report import report

        measured = report(krona)
        title = title_of(krona.metadata) or "Adapter"
        subtitle = f"{len(measured.layers)} layers, {measured.parameters:,} parameters"
        grid = measured.grid(MEASURES[measure])
        heat = as_image(drawn("The heat map", lambda: _heat_map(grid, title, subtitle)))
        spectra = as_image(drawn("The picture of spectra", lambda: _spectra(measured, title)))
        facts = [
            *measured.notes,
            *(f"{key}: {value[:200]}" for key, value in krona.metadata.items() if key not in ("prompt", "workflow")),
        ]
        shown = {"krona_grid": [{"title": title, "subtitle": subtitle, **for_browser(measured, grid)}]}
        return io.NodeOutput(measured.table(table_by), heat, spectra, "\n".join(facts), ui=shown)


# matplotlib: half a second that no start of ComfyUI should wait for
def _heat_map(grid: Grid, title: str, subtitle: str) -> Image.Image:
    from .drawing import heat_map

    return heat_map(grid, title, subtitle)


def _spectra(measured: Report, title: str) -> Image.Image:
    from .drawing import factor_spectra

    return factor_spectra(measured.layers, title)


def for_browser(measured: Report, grid: Grid) -> dict[str, object]:
    """The grid and its layers as JSON values, from which the browser makes the map that can be pointed at."""
    layers = [
        {
            "name": layer.name, "block": layer.block, "role": layer.role, "form": layer.form,
            "parameters": layer.parameters, "norm": layer.norm, "rms": layer.rms, "effective_rank": layer.effective_rank,
        }
        for layer in measured.layers
    ]  # fmt: skip
    chosen = selectors(layer.name for layer in measured.layers)
    return finite({**dataclasses.asdict(grid), "selectors": [chosen[block] for block in grid.blocks], "layers": layers})
