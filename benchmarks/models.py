"""Large models on paper: their layers as shapes, and what an adapter of them costs by formula.
Nothing is measured here.

Shapes are those of the published models, as the host's classes build them (tests/tools/test_scaling.py compares).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from krona_ops.updates.shapes import KronShape, split

from .shapes import FLUX_DOUBLE, FLUX_MLP, FLUX_SINGLE, FLUX_WIDTH, Shape

Tokens = Literal["image", "text", "both", "once"]
"""Which tokens go through a layer; "once" is one vector per sample: modulations."""

WAN_WIDTH, WAN_MLP, WAN_DEPTH = 5120, 13824, 40
QWEN_WIDTH, QWEN_MLP, QWEN_DEPTH = 3072, 12288, 60
STREAMS: tuple[tuple[str, Tokens], ...] = (("img", "image"), ("txt", "text"))
"""Of blocks that compute picture and text side by side, with the tokens of each."""


@dataclass(frozen=True)
class Layer:
    """One linear layer of a block."""

    name: str
    shape: Shape
    tokens: Tokens
    reads: str = ""
    """Adapted layers with the same word here share their input; without one, the layer is not adapted."""


@dataclass(frozen=True)
class Model:
    """Blocks that repeat: ``(name, how often, layers)``."""

    name: str
    blocks: tuple[tuple[str, int, tuple[Layer, ...]], ...]
    attention: tuple[tuple[int, Tokens, Tokens, int], ...]
    """Attentions: how many, which tokens ask, which are asked, width."""
    image: int
    """Tokens of the picture or the clip of `sample`."""
    text: int
    sample: str
    """What one sample is in these calculations."""

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """All layers by full name."""
        for block, count, layers in self.blocks:
            for n in range(count):
                for layer in layers:
                    yield f"diffusion_model.{block}.{n}.{layer.name}", layer

    def adapted(self) -> dict[str, Shape]:
        """The attention layers, which is what is trained unless told otherwise."""
        return {name: layer.shape for name, layer in self.layers() if layer.reads}

    @property
    def parameters(self) -> int:
        """Numbers in the matrices of all blocks: all of the model but embeddings, norms and biases (below 2 %)."""
        return sum(out * in_ for _, layer in self.layers() for out, in_ in (layer.shape,))

    def count(self, tokens: Tokens) -> int:
        """How many of a kind one sample has."""
        return {"image": self.image, "text": self.text, "both": self.image + self.text, "once": 1}[tokens]

    def matrices(self) -> int:
        """Multiply-adds of all matrices in one forward pass of one sample."""
        return sum(self.count(layer.tokens) * layer.shape[0] * layer.shape[1] for _, layer in self.layers())

    def products(self) -> int:
        """Multiply-adds of ``QKᵀ`` and of the weighted sum of ``V`` in one forward pass of one sample."""
        return sum(2 * count * self.count(q) * self.count(kv) * width for count, q, kv, width in self.attention)

    def step(self) -> int:
        """Multiply-adds of one sample's forward pass and gradient to the input, the weights frozen.

        The backward pass costs a matrix as much again (its own gradient is not wanted),
        and a product of attention twice.
        """
        return 2 * self.matrices() + 3 * self.products()

    def adapter_step(self, factors: tuple[int, int]) -> int:
        """Multiply-adds that a Kronecker adapter adds to `step`."""
        return sum(
            self.count(layer.tokens) * training_cost(split(layer.shape, factors))
            for _, layer in self.layers()
            if layer.reads
        )

    def inputs_kept(self, width: int = 2) -> int:
        """Bytes of the inputs of adapted layers, each counted once: what their factors' gradients need.

        Args:
            width: Bytes of a number; 2 for bfloat16.
        """
        total = 0
        for _, count, layers in self.blocks:
            shared = {layer.reads: layer for layer in layers if layer.reads}
            total += count * sum(self.count(layer.tokens) * layer.shape[1] for layer in shared.values())
        return total * width


def _flux() -> Model:
    d, mlp = FLUX_WIDTH, FLUX_MLP
    parts: tuple[tuple[str, Shape, Tokens | None, str], ...] = (
        ("attn.qkv", (3 * d, d), None, "norm"),
        ("attn.proj", (d, d), None, "heads"),
        ("mlp.0", (mlp, d), None, ""),
        ("mlp.2", (d, mlp), None, ""),
        ("mod.lin", (6 * d, d), "once", ""),
    )
    double = [
        Layer(f"{stream}_{name}", shape, tokens or kind, reads and f"{stream} {reads}")
        for stream, kind in STREAMS
        for name, shape, tokens, reads in parts
    ]
    single = (
        Layer("linear1", (3 * d + mlp, d), "both", "norm"),
        Layer("linear2", (d, d + mlp), "both", "heads"),
        Layer("modulation.lin", (3 * d, d), "once"),
    )
    return Model(
        "Flux.1 (12B)",
        (("double_blocks", FLUX_DOUBLE, tuple(double)), ("single_blocks", FLUX_SINGLE, single)),
        ((FLUX_DOUBLE + FLUX_SINGLE, "both", "both", d),),
        *(4096, 512, "one picture of 1024 × 1024"),
    )


def _wan() -> Model:
    d, mlp = WAN_WIDTH, WAN_MLP
    layers = (
        *(Layer(f"self_attn.{leaf}", (d, d), "image", "norm") for leaf in "qkv"),
        Layer("self_attn.o", (d, d), "image", "heads"),
        Layer("cross_attn.q", (d, d), "image", "norm3"),
        *(Layer(f"cross_attn.{leaf}", (d, d), "text", "text") for leaf in "kv"),
        Layer("cross_attn.o", (d, d), "image", "cross heads"),
        Layer("ffn.0", (mlp, d), "image"),
        Layer("ffn.2", (d, mlp), "image"),
    )
    attention: tuple[tuple[int, Tokens, Tokens, int], ...] = (
        (WAN_DEPTH, "image", "image", d),
        (WAN_DEPTH, "image", "text", d),
    )
    clip = 21 * (480 // 16) * (832 // 16)  # the VAE's 8 × 8 × 4 and patches of 2 × 2: 1 + 80 / 4 frames
    return Model(
        "Wan 2.x (14B)",
        (("blocks", WAN_DEPTH, layers),),
        attention,
        *(clip, 512, "one clip of 832 × 480, 81 frames"),
    )


def _qwen() -> Model:
    d, mlp = QWEN_WIDTH, QWEN_MLP
    image = (*(f"to_{leaf}" for leaf in "qkv"),)
    text = (*(f"add_{leaf}_proj" for leaf in "qkv"),)
    parts: tuple[tuple[str, Shape, Tokens | None], ...] = (
        ("mlp.net.0.proj", (mlp, d), None),
        ("mlp.net.2", (d, mlp), None),
        ("mod.1", (6 * d, d), "once"),
    )
    layers = (
        *(Layer(f"attn.{leaf}", (d, d), "image", "img norm") for leaf in image),
        *(Layer(f"attn.{leaf}", (d, d), "text", "txt norm") for leaf in text),
        Layer("attn.to_out.0", (d, d), "image", "img heads"),
        Layer("attn.to_add_out", (d, d), "text", "txt heads"),
        *(
            Layer(f"{stream}_{name}", shape, tokens or kind)
            for stream, kind in STREAMS
            for name, shape, tokens in parts
        ),
    )
    return Model(
        "Qwen-Image (20B)",
        (("transformer_blocks", QWEN_DEPTH, layers),),
        ((QWEN_DEPTH, "both", "both", d),),
        *(4096, 512, "one picture of 1024 × 1024"),
    )


FLUX, WAN, QWEN_IMAGE = _flux(), _wan(), _qwen()
MODELS = (FLUX, WAN, QWEN_IMAGE)


# -------------------------------------------------------------------------------------------------------------- adapters by formula


def kron_sizes(shapes: Mapping[str, Shape], factors: tuple[int, int]) -> dict[str, KronShape]:
    """The factors' sizes of each layer."""
    return {name: split(shape, factors) for name, shape in shapes.items()}


def lora_parameters(shapes: Mapping[str, Shape], rank: int) -> int:
    """Numbers of a LoRA: ``rank·(out + in)`` of each layer."""
    return sum(rank * (out + in_) for out, in_ in shapes.values())


def training_cost(sizes: KronShape) -> int:
    """Multiply-adds per token of ``y = ΔW x``, of ``dx``, ``dA`` and ``dB``, when only ``x`` and the factors are kept.

    With B first ``U = x Bᵀ`` costs ``p = in·out_b`` and ``A U`` costs ``q = out_a·in_a·out_b``. Forward ``p + q``;
    ``AᵀG`` and its product with ``B`` give ``dx``: ``q + p``; ``U`` again: ``p``; ``dA = G Uᵀ``: ``q``;
    ``dB = (AᵀG)ᵀ x``: ``p``. With A first the factors change their parts. The cheaper of the two orders counts.
    """
    p, q = sizes.in_a * sizes.in_b * sizes.out_b, sizes.out_a * sizes.in_a * sizes.out_b
    r, s = sizes.out_a * sizes.in_b * sizes.out_b, sizes.out_a * sizes.in_a * sizes.in_b
    return min(4 * p + 3 * q, 4 * s + 3 * r)


def ring_seconds(gradients: int, devices: int, bandwidth: float, latency: float) -> float:
    """Time of one all-reduce around a ring.

    Args:
        gradients: Bytes on each device.
        bandwidth: Bytes per second from one device to the next.
        latency: Seconds of one message.
    """
    return 2 * (devices - 1) * (gradients / devices / bandwidth + latency)
