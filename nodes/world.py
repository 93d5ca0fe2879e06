"""The pack's own small model."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from krona_host.model.small_world import BRANCHES, FILE, PICTURES, load_world
from krona_ops import load
from krona_ops.errors import DataError

from .images import as_image
from .node import Node
from .server.text import tell
from .sockets import CATEGORY, Krona

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
                Krona.Output(
                    display_name="reference",
                    tooltip="A parallel branch for Apply KronA Branch: it looks at a picture and draws that character elsewhere.",
                ),
                Krona.Output(
                    display_name="first",
                    tooltip="A parallel branch for Apply KronA Branch: all pictures of a batch show the character of the first, which stays as it is.",
                ),
                Krona.Output(
                    display_name="views",
                    tooltip="A parallel branch for Apply KronA Branch: all pictures of a batch show one and the same new character.",
                ),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="Of two characters that nothing here was trained on: four of a robot, then four of a bird.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: object) -> object:
        return [file.stat().st_mtime_ns if file.is_file() else None for file in (FILE, *BRANCHES.values(), *PICTURES)]

    @classmethod
    def execute(cls) -> io.NodeOutput:
        parts = load_world()
        tell(HINT, cls.hidden.unique_id)
        return io.NodeOutput(*parts, *(load(file) for file in BRANCHES.values()), _pictures())


def _pictures() -> Tensor:
    """`PICTURES` as the host's ``IMAGE``: ``(8, 64, 64, 3)``.

    Raises:
        DataError: One is missing, or is no picture.
    """
    try:
        return torch.cat([as_image(Image.open(file)) for file in PICTURES])
    except OSError as error:
        raise DataError(
            f"A picture of the small world cannot be read: {error}",
            where=str(PICTURES[0].parents[1]),
            expected="the pictures that come with the pack",
            remedy="Get the pack again.",
        ) from error
