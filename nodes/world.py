"""The pack's own small model."""

from __future__ import annotations

from comfy_api.latest import io

from krona_host.model.small_world import FILE, load_world

from .node import Node
from .server.text import tell
from .sockets import CATEGORY

HINT = (
    'It draws pictures of 64 × 64 pixels and knows sentences like "a photo of a red robot waving with a hat on the beach at night": '
    "robot, cat, bear or bird; standing, waving, jumping or sitting; with a hat, a scarf, an umbrella or a balloon; on the beach, in the forest, "
    "in the city, in the snow, in the desert or in a room; by day, at sunset or at night."
)


class KronaWorldLoader(Node):
    """The small world's model, for trying everything in minutes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaWorldLoader",
            display_name="Load KronA's Small World",
            category=CATEGORY,
            description="A tiny text-to-image model that comes with the pack (12 MB): to try training, blending and everything else in minutes, "
            "without a checkpoint and without a GPU. " + HINT,
            search_aliases=["test model", "example model", "demo"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Its UNet: of SD1.5's kind, with narrow layers."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder, with CLIP's own tokens."),
                io.Vae.Output(display_name="vae", tooltip="Its autoencoder: eight pixels to a latent along each side."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: object) -> object:
        return FILE.stat().st_mtime_ns if FILE.is_file() else None

    @classmethod
    def execute(cls) -> io.NodeOutput:
        parts = load_world()
        tell(HINT, cls.hidden.unique_id)
        return io.NodeOutput(*parts)
