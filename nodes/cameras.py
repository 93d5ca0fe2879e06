"""Cameras around a thing."""

from __future__ import annotations

from comfy_api.latest import io

from krona_ops.branches.cameras import PROJECTIONS, SIX, Cameras, Projection, orbit, read_elevations, read_views

from .images import as_image
from .inputs import number_input, optional_combo, optional_number
from .node import Node
from .server.text import tell
from .sockets import CATEGORY, KronaCamerasSocket

ORBIT, OFFICIAL, TYPED = "an orbit", "MV-Adapter's six", "typed lines"


def views_of(where: str, views: int, start: float, elevations: str, lines: str) -> tuple[tuple[float, float], ...]:
    """What the inputs say: ``(azimuth, elevation)`` of each camera."""
    if where == TYPED:
        return read_views(lines)
    return SIX if where == OFFICIAL else orbit(views, start, read_elevations(elevations))


class KronaCameras(Node):
    """Places cameras around a thing, and draws what they are as maps of rays."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaCameras",
            display_name="KronA Cameras",
            category=CATEGORY,
            description="Where the cameras of several views of one thing stand: an orbit, MV-Adapter's own six, or any list. "
            "Connect them to KronA View Condition.",
            search_aliases=["multi view", "orbit", "plucker", "plücker", "azimuth", "mv adapter", "turntable"],
            inputs=[
                io.Combo.Input(
                    "where",
                    options=[ORBIT, OFFICIAL, TYPED],
                    default=OFFICIAL,
                    tooltip="an orbit: at equal distances around. MV-Adapter's six: azimuth 0, 45, 90, 180, 270 and 315, as its files were trained. "
                    "typed lines: what stands below.",
                ),
                io.Int.Input("views", default=4, min=1, max=64, tooltip="an orbit: cameras in one round."),
                number_input(
                    "start",
                    default=0.0,
                    low=-360.0,
                    high=360.0,
                    decimals=4,
                    arrows=15.0,
                    tooltip="an orbit: azimuth of the first camera in degrees. 0 is in front, 90 to the right of that camera.",
                ),
                io.String.Input(
                    "elevations",
                    default="0",
                    tooltip="an orbit: how high the cameras stand, in degrees from -90 (straight below) to 90 (straight above). "
                    "Several, separated by commas, are one round each.",
                ),
                io.String.Input(
                    "lines",
                    default="",
                    multiline=True,
                    tooltip="typed lines: azimuth and elevation of a camera in each line, in degrees, such as 45, 0",
                ),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Of the pictures, in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Of the pictures, in pixels."),
                optional_combo(
                    "projection",
                    PROJECTIONS,
                    "orthographic",
                    "orthographic: parallel rays, as MV-Adapter's files were trained. perspective: rays from a point, for files that were.",
                ),
                optional_number(
                    "distance",
                    1.8,
                    "perspective: from the camera to the middle, where the thing is about 1 wide.",
                    low=0.001,
                    high=1000.0,
                    arrows=0.1,
                ),
                optional_number(
                    "field_of_view",
                    40.0,
                    "perspective: what the width of the picture spans, in degrees.",
                    low=0.1,
                    high=179.0,
                    arrows=5.0,
                ),
            ],
            outputs=[
                KronaCamerasSocket.Output(display_name="cameras"),
                io.Image.Output(
                    display_name="drawing",
                    tooltip="The cameras from above, and the maps of each view: directions as colours, below them where the camera stands, "
                    "or the moments of its rays.",
                ),
                io.Int.Output(
                    display_name="count", tooltip="How many views there are: the batch_size of the empty latent."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        where: str,
        views: int,
        start: float,
        elevations: str,
        lines: str,
        width: int,
        height: int,
        projection: Projection = "orthographic",
        distance: float = 1.8,
        field_of_view: float = 40.0,
    ) -> io.NodeOutput:
        from krona_ops.branches.rays import share_cut
        from krona_train.drawing.camera_sheet import camera_sheet

        around = views_of(where, views, start, elevations, lines)
        cameras = Cameras(around, width, height, projection, distance, field_of_view)
        cut = share_cut(cameras)
        if cut:
            text = f"{cut:.1%} of the maps' numbers are cut: take a smaller distance or field of view."
            tell(text, cls.hidden.unique_id)
        return io.NodeOutput(cameras, as_image(camera_sheet(cameras)), len(cameras.views))
