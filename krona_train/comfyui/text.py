"""A text encoder of the host that is trained too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from krona_host.model.blocks import blocks_of
from krona_host.model.layer_shape import layer_shape
from krona_host.types import Clip, Patcher, TextNet
from krona_ops.names.spellings import LayerName, projection

from ..backbone.exact_gradients import gradient_ready


class TextEncoder:
    """The host's ``CLIP``: its attention layers, and captions encoded by it with gradients."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip.clone()

    @property
    def patcher(self) -> Patcher:
        """The host's ``ModelPatcher``, which must be loaded inside `ready`."""
        return self._clip.patcher

    @property
    def net(self) -> TextNet:
        """The host's network, with all encoders in it."""
        return self._clip.cond_stage_model

    def weights(self) -> Mapping[LayerName, tuple[int, ...]]:
        """Shapes of the attention layers by their names in the host's state dict
        (``clip_l.transformer.text_model…``)."""
        attending = ((name, module) for name, module in self.net.named_modules() if projection(name) is not None)
        shapes = ((name, layer_shape(module)) for name, module in attending)
        return {LayerName(name): shape for name, shape in shapes if shape is not None}

    def blocks(self) -> tuple[nn.Module, ...]:
        """The layers of all encoders."""
        return blocks_of(self.net)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, gradients pass through the encoders; they are loaded by whoever loads the diffusion model."""
        with gradient_ready(self.net):
            yield

    def encode(self, caption: str) -> tuple[Tensor, dict[str, object]]:
        """What the host's CLIP Text Encode gives, with gradients: ``(embedding (1, tokens, width), extras)``.

        The host's own function asks for its models to be loaded each time, which may unload the one in training.
        """
        net = self.net
        net.reset_clip_options()
        if self._clip.layer_idx is not None:
            net.set_clip_options({"layer": self._clip.layer_idx})
        net.set_clip_options({"execution_device": self.patcher.load_device})
        try:
            embedding, pooled, *more = net.encode_token_weights(self._clip.tokenize(caption))
        finally:
            net.reset_clip_options()
        return embedding, {"pooled_output": pooled, **(more[0] if more else {})}
