"""Latents of clips that begin with a picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from krona_ops.branches.similarity import groups_of_frames
from krona_ops.errors import DataError

from .inputs import number_input
from .node import Node
from .server.text import tell
from .sockets import CATEGORY


class KronaFirstFrame(Node):
    """Makes a batch of frames for each picture: the picture, then what the others begin as."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaFirstFrame",
            display_name="KronA First Frame",
            category=CATEGORY,
            description="A batch of frames that begins with your picture, for a branch that keeps the first frame: the others start from "
            "the picture, blurred in some places, instead of from noise alone (I2V-Adapter's frame similarity prior).",
            search_aliases=["i2v adapter", "image to video", "frame similarity prior", "repeat latent"],
            inputs=[
                io.Latent.Input(
                    "image", tooltip="The picture, from VAE Encode. Of several, each begins a group of its own."
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=2,
                    max=1024,
                    tooltip="Rows of the batch for each picture, the first one included.",
                ),
                number_input(
                    "p",
                    default=0.5,
                    low=0.0,
                    high=1.0,
                    decimals=4,
                    arrows=0.05,
                    tooltip="The share of places that stay sharp in the later frames, others in each. 1: copies of the picture. "
                    "0: blurred everywhere.",
                ),
                number_input(
                    "blur",
                    default=2.0,
                    low=0.0,
                    high=1000.0,
                    decimals=4,
                    arrows=0.5,
                    tooltip="How wide the other places are blurred: the deviation of a Gaussian in places of the latent, of 8 pixels with "
                    "Stable Diffusion. 0: not at all.",
                ),
                number_input(
                    "start",
                    default=0.9,
                    low=0.0,
                    high=1.0,
                    decimals=4,
                    arrows=0.05,
                    tooltip="Where the sampling starts: 1 is almost noise alone; lower keeps more of the picture and moves less. "
                    "Connect the output denoise to the sampler.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Of the places that stay sharp. The same on every computer.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The frames, group after group; row 0 of each is the picture."
                ),
                io.Float.Output(
                    display_name="denoise", tooltip="For the sampler that draws these frames: what start says."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: dict, frames: int, p: float, blur: float, start: float, seed: int) -> io.NodeOutput:
        pictures = image["samples"]
        if not isinstance(pictures, torch.Tensor) or pictures.is_nested:
            raise DataError(
                "This latent is made of several of different sizes.",
                where="image",
                found=type(pictures).__name__,
                expected="the latent of a picture",
                remedy="Connect the latent of a picture, from VAE Encode.",
            )
        made = {"samples": groups_of_frames(pictures, frames, p, blur, seed)}
        mask = image.get("noise_mask")
        if mask is not None:
            made["noise_mask"] = mask.repeat_interleave(frames, 0) if len(mask) == len(pictures) else mask
        groups = "one group" if len(pictures) == 1 else f"{len(pictures)} groups"
        tell(f"{groups} of {frames} frames; set the sampler's denoise to {start:g}.", cls.hidden.unique_id)
        return io.NodeOutput(made, start)
