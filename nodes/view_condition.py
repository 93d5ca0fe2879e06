"""Which view each picture of a batch shows, as a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.views.condition import NODE, ViewControl, maps_of, with_views
from krona_host.views.encoder import layout_of, load_encoder
from krona_ops.branches.cameras import Cameras
from krona_ops.branches.rays import conditions
from krona_ops.errors import ConfigError, KronaError

from .inputs import number_input
from .node import Node
from .server import paths
from .server.public import without_folders
from .server.text import tell
from .sockets import CATEGORY, KronaCamerasSocket

if TYPE_CHECKING:
    from torch import Tensor

    from krona_host.types import Conditioning


def maps_from(cameras: Cameras | None, position: Tensor | None, normal: Tensor | None) -> Tensor:
    """The maps that are connected: of cameras, or of positions and normals.

    Raises:
        ConfigError: It is not one of the two.
        DataError: Position and normal maps do not fit together.
    """
    connected = [
        name for name, value in (("cameras", cameras), ("position", position), ("normal", normal)) if value is not None
    ]
    if cameras is not None and len(connected) == 1:
        return conditions(cameras)
    if position is not None and normal is not None and cameras is None:
        return maps_of(position, normal)
    raise ConfigError(
        f"Connected are: {', '.join(connected) or 'no maps'}.",
        where=NODE,
        found=", ".join(connected) or "nothing",
        expected="cameras alone, or position and normal",
        remedy="Connect cameras for a t2mv or i2mv file; position and normal, and no cameras, for a tg2mv or ig2mv file.",
    )


class KronaViewCondition(Node):
    """Adds MV-Adapter's condition encoder to two conditionings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaViewCondition",
            display_name="KronA View Condition",
            category=CATEGORY,
            description="Says which view each picture of the batch shows: MV-Adapter's condition encoder, from cameras, or from "
            "position and normal maps of a mesh. Its attention is another node.",
            search_aliases=["mv adapter", "multi view", "t2i adapter", "position map", "normal map", "texture"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt. ControlNets that it has stay."),
                io.Conditioning.Input("negative", tooltip="The negative prompt: it gets the same views."),
                io.Combo.Input(
                    "file",
                    options=paths.adapter_files(),
                    tooltip="A file of MV-Adapter from models/krona or models/loras: mvadapter_t2mv_sdxl.safetensors and its like. "
                    "Only its condition encoder is read here.",
                ),
                KronaCamerasSocket.Input(
                    "cameras",
                    optional=True,
                    tooltip="From KronA Cameras, for t2mv and i2mv files: one view for each row of the batch.",
                ),
                io.Image.Input(
                    "position",
                    optional=True,
                    tooltip="Position maps, one for each row, for tg2mv and ig2mv files: x, y and z as red, green and blue, 0 to 1 being -0.5 to 0.5.",
                ),
                io.Image.Input(
                    "normal",
                    optional=True,
                    tooltip="Normal maps in the same order: x, y and z as red, green and blue, 0 to 1 being -1 to 1.",
                ),
                number_input(
                    "strength",
                    default=1.0,
                    low=0.0,
                    high=10.0,
                    decimals=4,
                    arrows=0.05,
                    tooltip="How strongly the views are followed. 0 changes nothing, 1 is as trained.",
                ),
                number_input(
                    "start_percent",
                    default=0.0,
                    low=0.0,
                    high=1.0,
                    decimals=4,
                    arrows=0.05,
                    tooltip="When it begins to act: 0 is pure noise, 1 the finished picture.",
                ),
                number_input(
                    "end_percent",
                    default=1.0,
                    low=0.0,
                    high=1.0,
                    decimals=4,
                    arrows=0.05,
                    tooltip="When it stops acting: 1 is the finished picture.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.String.Output(
                    display_name="report", tooltip="For which models the encoder is, and how many views there are."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        try:
            layout_of(paths.adapter_path(file))
        except KronaError as error:
            return without_folders(str(error))
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: object) -> object:
        return paths.adapter_fingerprint(file)

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        file: str,
        strength: float,
        start_percent: float,
        end_percent: float,
        cameras: Cameras | None = None,
        position: Tensor | None = None,
        normal: Tensor | None = None,
    ) -> io.NodeOutput:
        maps = maps_from(cameras, position, normal)
        encoder = load_encoder(paths.adapter_path(file))
        both = with_views((positive, negative), ViewControl(encoder, maps), strength, start_percent, end_percent)
        report = (
            f"Condition encoder for {encoder.layout.family}, {encoder.parameters:,} parameters; {len(maps)} views: "
            f"row 1 of the batch shows the first, and so on, in groups of {len(maps)}."
        )
        tell(report, cls.hidden.unique_id)
        return io.NodeOutput(*both, report)
