"""MV-Adapter's condition encoder, read from its files: a T2I-Adapter of six channels, as diffusers lays it out.

The files are `mvadapter_{t2mv,i2mv,tg2mv,ig2mv}_{sd21,sdxl}.safetensors`; the encoder is what begins with ``adapter.``,
beside the projections of the attention. The host's own reader takes SDXL's for another one: it tells SDXL by 256 or 768
numbers per place, and six channels in patches of 16 are 1536.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.t2i_adapter.adapter
import torch
from torch import nn

from krona_ops.errors import FormatError
from krona_ops.files import load_tensors, read_header
from krona_ops.formats.header import Header

PREFIX = "adapter."
CHANNELS = 6
"""Of a condition: a ray, or a position and a normal."""
LEVELS, BLOCKS = 4, 2
"""Of the network, and residual blocks in each."""
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Layout:
    """What an encoder is built like, as its tensors say."""

    patch: int
    """Pixels along a side that become one place: 8, or 16 for SDXL."""
    channels: tuple[int, ...]
    """Of the features of each level."""
    kernel: int
    """Of the second convolution in each residual block."""

    @property
    def is_xl(self) -> bool:
        """Whether its features are for SDXL's blocks."""
        return self.patch == PATCHES["SDXL"]

    @property
    def family(self) -> str:
        """Whose UNets it is for, in words."""
        return next(name for name, patch in PATCHES.items() if patch == self.patch)

    @property
    def places(self) -> Mapping[tuple[str, int], tuple[int, int]]:
        """``(part, block)`` of the UNet to ``(channels, how much smaller than the latent)`` of what is added there."""
        c = self.channels
        if self.is_xl:
            return {("input", 3): (c[0], 2), ("input", 5): (c[1], 2), ("input", 8): (c[2], 4), ("middle", 0): (c[3], 4)}
        return {("input", 3 * level + 2): (c[level], 2**level) for level in range(LEVELS)}

    def build(self) -> nn.Module:
        """The host's network of this layout, without values (on the meta device).

        Halving is what diffusers does where a side is odd: the mean of what is there. The host's own pads with zeros on
        both sides, which moves all features by half a place.
        """
        with torch.device("meta"):
            network = comfy.t2i_adapter.adapter.Adapter(
                channels=list(self.channels), nums_rb=BLOCKS, cin=CHANNELS * self.patch**2, ksize=self.kernel,
                sk=True, use_conv=False, xl=self.is_xl,
            )  # fmt: skip
        for block in network.body:
            if block.down:
                block.down_opt = nn.AvgPool2d(2, 2, ceil_mode=True)
        return network

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a file with this encoder, by their names there."""
        return {_in_files(name): tuple(tensor.shape) for name, tensor in self.build().state_dict().items()}


PATCHES = {"SD2.1": 8, "SDXL": 16}


@dataclass(frozen=True, eq=False)
class Encoder:
    """A condition encoder with its weights."""

    layout: Layout
    network: nn.Module

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(weight.numel() for weight in self.network.parameters())


def load_encoder(path: Path) -> Encoder:
    """The encoder of a file of MV-Adapter; of everything else in it, nothing is read.

    Raises:
        AdapterFileError: The file cannot be read.
        FormatError: It holds no such encoder, or a damaged one (see `layout_of`).
    """
    layout = layout_of(path)
    network = layout.build()
    names = {name: _in_files(name) for name in network.state_dict()}
    tensors = load_tensors(path, names.values())
    network.load_state_dict({name: tensors[there] for name, there in names.items()}, assign=True)
    return Encoder(layout, network.requires_grad_(False).eval())


def layout_of(path: Path) -> Layout:
    """How the encoder in a file is built, from the file's header alone.

    Raises:
        AdapterFileError: The file cannot be read, or is a pickle.
        FormatError: It has no encoder, one of other pictures, or one with tensors too few, too many or of
            another shape or type.
    """
    header = read_header(path)
    shapes = {name: shape for name, shape in header.shapes.items() if name.startswith(PREFIX)}
    if not shapes:
        raise FormatError(
            "This file has no condition encoder.",
            where=str(path),
            found=f"{len(header.shapes):,} tensors, none of which begins with {PREFIX}",
            expected=f"{PREFIX}conv_in.weight and what belongs to it",
            remedy="Choose a file of MV-Adapter, such as mvadapter_t2mv_sdxl.safetensors.",
        )
    layout = _layout(shapes, path)
    _require(layout.shapes(), shapes, header, path)
    return layout


def _layout(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Layout:
    """The layout that the tensors of an encoder hint at, whatever else is wrong with them."""
    entry = _shape(shapes, f"{PREFIX}conv_in.weight", path)
    patch = next((patch for patch in PATCHES.values() if CHANNELS * patch**2 == entry[1]), None)
    if patch is None:
        name = f"{PREFIX}conv_in.weight"
        raise FormatError(
            f"It takes {entry[1]:,} numbers per place, not 384 (SD2.1) or 1,536 (SDXL): six channels in patches of 8 or 16.",
            layer=name,
            where=str(path),
            found=entry[1],
            expected="384 or 1536",
            remedy="A T2I-Adapter for pictures of three channels belongs into ComfyUI's Load ControlNet Model.",
        )
    channels = tuple(_shape(shapes, f"{_level(level)}.block1.weight", path)[0] for level in range(LEVELS))
    kernel = _shape(shapes, f"{_level(0)}.block2.weight", path)[2]
    # What follows is built of these sizes, so all that it has is in the file before it is: a few small tensors may
    # otherwise speak of more numbers than PyTorch can count.
    for level, wide in enumerate(channels):
        for part, side in (("block1", 3), ("block2", kernel)):
            name, wanted = f"{_level(level)}.{part}.weight", (wide, wide, side, side)
            if _shape(shapes, name, path) != wanted:
                raise _of_another_shape(name, shapes[name], wanted, path)
    layout = Layout(patch, channels, kernel)
    if kernel % 2 == 0:
        name = f"{_level(0)}.block2.weight"
        raise _of_another_shape(name, shapes[name], (*channels[:1] * 2, 1, 1), path)
    if layout.is_xl and channels[3] != channels[2]:  # of SDXL's the last level takes what the one before it gives
        name = f"{_level(3)}.block1.weight"
        raise _of_another_shape(name, shapes[name], (*channels[2:3] * 2, 3, 3), path)
    return layout


def _level(level: int) -> str:
    """What the names of a level's first residual block begin with."""
    return f"{PREFIX}body.{level}.resnets.0"


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, path: Path) -> tuple[int, ...]:
    """The shape of a convolution's weight ``(out, in, height, width)``, which must be there."""
    shape = shapes.get(name)
    if shape is None:
        raise _missing([name], path)
    if len(shape) != 4 or 0 in shape:
        raise FormatError(
            f"It has the shape {shape}, which no convolution has.",
            layer=name,
            where=str(path),
            found=shape,
            expected="(out, in, height, width)",
            remedy="The file is damaged or of another program: get it again.",
        )
    return shape


def _missing(names: list[str], path: Path) -> FormatError:
    name, more = names[0], f" and {len(names) - 1} more" if len(names) > 1 else ""
    return FormatError(
        f"The condition encoder lacks this tensor{more}.",
        layer=name,
        where=str(path),
        found="nothing",
        expected=f"{name}{more}",
        remedy="The file is cut short or of another program: get it again.",
    )


def _of_another_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], path: Path) -> FormatError:
    return FormatError(
        f"It has the shape {shape}, and {wanted} fits the others.",
        layer=name,
        where=str(path),
        found=shape,
        expected=wanted,
        remedy="The file is damaged or of another program: get it again.",
    )


def _require(
    wanted: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]], header: Header, path: Path
) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise _missing(missing, path)
    for name, shape in there.items():
        if name not in wanted:
            raise FormatError(
                "The condition encoder has a tensor that MV-Adapter's has not.",
                layer=name,
                where=str(path),
                found=name,
                expected=f"{len(wanted)} tensors, and not this one",
                remedy="The file is of another program, and what its encoder computes is not known: get MV-Adapter's own.",
            )
        if shape != wanted[name]:
            raise _of_another_shape(name, shape, wanted[name], path)
        if header.dtypes[name] not in _FLOATS:
            raise FormatError(
                f"It has the type {header.dtypes[name]}, and weights of an encoder are F32, F16 or BF16.",
                layer=name,
                where=str(path),
                found=header.dtypes[name],
                expected="F32, F16 or BF16",
                remedy="The file was changed by another program: get MV-Adapter's own.",
            )


def _in_files(name: str) -> str:
    """What a tensor of the host's network is called in files: diffusers counts residual blocks within a level.

    >>> _in_files("body.5.block1.weight"), _in_files("body.4.in_conv.bias"), _in_files("conv_in.bias")
    ('adapter.body.2.resnets.1.block1.weight', 'adapter.body.2.in_conv.bias', 'adapter.conv_in.bias')
    """
    block = re.fullmatch(r"body\.(\d+)\.(.+)", name)
    if block is None:
        return f"{PREFIX}{name}"
    level, number = divmod(int(block[1]), BLOCKS)
    within = block[2] if block[2].startswith("in_conv.") else f"resnets.{number}.{block[2]}"
    return f"{PREFIX}body.{level}.{within}"
