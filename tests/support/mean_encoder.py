"""An encoder of pictures and captions that is small enough to write down."""

from dataclasses import dataclass, field

import torch

from krona_ops.errors import DataError


@dataclass
class MeanEncoder:
    """Latents are the mean colours of 8 × 8 pixels, embeddings count letters; it remembers what it was asked."""

    identity: str | None = "mean"
    extras: dict = field(default_factory=lambda: {"pooled_output": torch.arange(3.0), "weight": 0.5, "none": None})
    asked: list = field(default_factory=list)

    def picture_identity(self):
        return self.identity

    def text_identity(self, caption):
        return self.identity

    def encode_picture(self, pixels):
        self.asked.append(tuple(pixels.shape))
        if pixels[0, 0, 0] > 0.999 and pixels.min() > 0.999:
            raise DataError("The VAE turns a picture into NaN.")
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 0), 8)

    def encode_captions(self, captions):
        self.asked += captions
        return {c: (torch.tensor([[[len(c), c.count("s")]]], dtype=torch.float32), dict(self.extras)) for c in captions}

    def condition(self, text, size, caption):
        return (*text, caption, size)
