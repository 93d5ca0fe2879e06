"""What an encoder makes of views, added to the blocks of a UNet while it samples: one view for each row of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import comfy.controlnet
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.utils
import torch
from torch import Tensor

from krona_ops.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ..types import Conditioning, DiffusionNet
    from .encoder import Encoder

NODE = "KronA View Condition"
PIXELS = 8
"""Along a side, to one place of a latent, in the models that these encoders are for."""
Features = Mapping[str, Sequence[Tensor | None]]
"""``input`` and ``middle`` to what is added to their blocks, the last block first, as the host takes it."""


def maps_of(position: Tensor, normal: Tensor) -> Tensor:
    """Position and normal maps as conditions.

    Args:
        position: ``(V, H, W, 3)``, from 0 to 1 where the thing is between −½ and ½.
        normal: ``(V, H, W, 3)``, from 0 to 1, half being none.

    Returns:
        ``(V, 6, H, W)``.

    Raises:
        DataError: They are not as many, not of one size, or not in colour.
    """
    for name, maps in (("position", position), ("normal", normal)):
        if maps.ndim != 4 or maps.shape[-1] < 3 or 0 in maps.shape:
            raise DataError(
                f"The pictures have the shape {tuple(maps.shape)}.",
                where=name,
                found=tuple(maps.shape),
                expected="(views, height, width, 3)",
                remedy="Connect pictures in colour, one for each view.",
            )
    if position.shape[:3] != normal.shape[:3]:
        (views, height, width), other = position.shape[:3], normal.shape
        raise DataError(
            f"There are {views} position maps of {width} × {height} pixels and {other[0]} normal maps of {other[2]} × {other[1]}.",
            where="normal",
            found=tuple(other),
            expected=tuple(position.shape),
            remedy="Give both maps of every view, in one order and of one size.",
        )
    return torch.cat((position[..., :3], normal[..., :3]), -1).permute(0, 3, 1, 2).float().clamp(0, 1)


class ViewControl(comfy.controlnet.ControlBase):
    """An encoder with its maps, as the host's control: what it adds to a batch of rows, whatever their order.

    The host's own T2IAdapter computes the maps for each row, and once for whichever number of rows comes first; with
    areas, hooks or little memory others come later. Here the features are those of the views, and each call takes from
    them what its rows need.

    Args:
        encoder: Its weights stay where they are, copies are used.
        maps: ``(V, 6, H, W)``, from 0 to 1.
    """

    def __init__(self, encoder: Encoder, maps: Tensor) -> None:
        super().__init__()
        self.encoder, self.cond_hint_original = encoder, maps
        self._features: dict[tuple[torch.Size, torch.dtype, torch.device], Features] = {}

    def pre_run(self, model: DiffusionNet, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin a sampling.

        Raises:
            ConfigError: The model has not the blocks that the encoder is for (see `require_blocks`).
        """
        require_blocks(self.encoder, model)
        self._features = {}
        super().pre_run(model, percent_to_timestep_function)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, object], batched_number: int, transformer_options: dict
    ) -> dict[str, list[Tensor | None]] | None:
        """What is added to the blocks for these rows: ``batched_number`` conditions of one and the same batch each."""
        before = self.previous_controlnet
        previous = None if before is None else before.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.timestep_range is not None and not self.timestep_range[1] <= t[0] <= self.timestep_range[0]:
            return previous
        views = views_of_rows(x_noisy.shape[0], batched_number, len(self.cond_hint_original), transformer_options)
        features = self._of(x_noisy.shape[2:], x_noisy.dtype, x_noisy.device)
        rows = torch.tensor(views, device=x_noisy.device)
        own = {part: [None if each is None else each[rows] for each in blocks] for part, blocks in features.items()}
        return self.control_merge(own, previous, x_noisy.dtype)

    def _of(self, size: torch.Size, dtype: torch.dtype, device: torch.device) -> Features:
        """The features of all views for a latent of this size, computed once in a sampling."""
        kept = self._features.get((size, dtype, device))
        if kept is None:
            patch = self.encoder.layout.patch
            height, width = (-(-side * PIXELS // patch) * patch for side in size)
            scaled = comfy.utils.common_upscale(self.cond_hint_original, width, height, "nearest-exact", "center")
            weights = {name: weight.to(device, dtype) for name, weight in self.encoder.network.state_dict().items()}
            with torch.no_grad():
                kept = torch.func.functional_call(self.encoder.network, weights, (scaled.to(device, dtype),))
            self._features[size, dtype, device] = kept
        return kept

    def cleanup(self) -> None:
        """End a sampling: features go."""
        super().cleanup()
        self._features = {}

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes on the device beside the model: a copy of the weights."""
        return super().inference_memory_requirements(dtype) + 4 * self.encoder.parameters

    def copy(self) -> ViewControl:
        """The same with an end of its own."""
        made = type(self)(self.encoder, self.cond_hint_original)
        self.copy_to(made)
        return made

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> ViewControl:
        """One for another device: it takes its weights to wherever the rows are."""
        made = self.copy()
        if autoregister:
            self.multigpu_clones[load_device] = made
        return made


def views_of_rows(rows: int, chunks: int, views: int, transformer_options: Mapping[str, Any]) -> list[int]:
    """Which view each row of a batch shows: the views in turn, in every group, in every condition.

    Args:
        rows: Of the whole batch.
        chunks: Conditions in it, one after the other.
        views: How many there are; of one, every row shows it.
        transformer_options: With the host's ``context_window``, the rows are those that it names.

    Raises:
        ConfigError: The rows are no whole groups of views.
    """
    per_chunk, window = rows // chunks, transformer_options.get("context_window")
    total = per_chunk
    numbers: Sequence[int] = range(per_chunk)
    if window is not None and window.dim == 0:
        anchor = getattr(window, "causal_anchor_index", None)
        numbers = [*([anchor] if anchor is not None and anchor >= 0 else []), *window.index_list]
        total = window.total_frames
    if total % views or len(numbers) != per_chunk:
        raise ConfigError(
            f"The batch has {total} pictures, and the condition {views} views.",
            where=NODE,
            found=total,
            expected=f"a multiple of {views}",
            remedy=f"Make batch_size {views} of the empty latent, or a multiple: one group of {views} after the other.",
        )
    return [number % views for number in numbers] * chunks


def require_blocks(encoder: Encoder, model: DiffusionNet) -> None:
    """Refuse a model whose blocks are others than the encoder's: the host would leave such features out, with a line
    in its log.

    Raises:
        ConfigError: It is no UNet, or one with other blocks.
    """
    there = blocks_of(model)
    if any(there.get(place) != block for place, block in encoder.layout.places.items()):
        family, other = encoder.layout.family, type(model.model_config).__name__
        raise ConfigError(
            f"The condition encoder is for {family}, and the model is another one ({other}).",
            where=NODE,
            found=other,
            expected=f"a UNet with {family}'s blocks of {', '.join(str(c) for c in encoder.layout.channels)} channels",
            remedy=f"Take a checkpoint of {family}, or the file of MV-Adapter that was made for this model.",
        )


def blocks_of(model: DiffusionNet) -> dict[tuple[str, int], tuple[int, int]]:
    """``(part, block)`` of a UNet to ``(channels, how much smaller than the latent)`` of what it gives; empty where the
    model is no UNet of Stable Diffusion's kind."""
    net = model.diffusion_model
    if not isinstance(net, openaimodel.UNetModel):
        return {}
    width = net.model_channels
    found, smaller, channels = {("input", 0): (width, 1)}, 1, width
    for level, (multiple, count) in enumerate(zip(net.channel_mult, net.num_res_blocks, strict=True)):
        channels = width * multiple
        for _ in range(count):
            found["input", len(found)] = (channels, smaller)
        if level < len(net.channel_mult) - 1:
            smaller *= 2
            found["input", len(found)] = (channels, smaller)
    return {**found, ("middle", 0): (channels, smaller)}


def with_views(
    conditionings: Sequence[Conditioning], control: ViewControl, strength: float, start: float, end: float
) -> list[Conditioning]:
    """The conditionings with a control beside those that they have; as they were where it is never in effect.

    Raises:
        ConfigError: It would end before it begins.
    """
    if start > end:
        raise ConfigError(
            f"It would begin at {start:g} of the way and end before that, at {end:g}.",
            where=NODE,
            found=f"start_percent {start:g}, end_percent {end:g}",
            expected="a start that is not after the end",
            remedy="Set start_percent below end_percent: 0 is pure noise, 1 the finished picture.",
        )
    if strength == 0:
        return list(conditionings)
    # One for all that had the same before: the host puts only rows of one control into one batch.
    made: dict[object, ViewControl] = {}

    def beside(previous: object) -> ViewControl:
        if previous not in made:
            own = control.copy().set_cond_hint(control.cond_hint_original, strength, (start, end))
            made[previous] = own.set_previous_controlnet(previous)
        return made[previous]

    return [
        [
            (text, {**said, "control": beside(said.get("control")), "control_apply_to_uncond": False})
            for text, said in conditioning
        ]
        for conditioning in conditionings
    ]
