"""Pictures from the host's own sampler, drawn without a trace on anything random."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import comfy.ldm.modules.attention
import comfy.model_patcher
import comfy.samplers
import torch
from PIL import Image
from torch import Tensor

from krona_host.types import Clip, Model, ModelOptions, Vae
from krona_ops import Adapter
from krona_ops.errors import ConfigError, NonFiniteError

from ..settings.groups import PreviewConfig
from .encode import encode_captions

log = logging.getLogger(__name__)


class Encoded(Protocol):
    """An encoded text; `Prompt` is one, and so is `TextCondition`."""

    @property
    def embedding(self) -> Tensor:
        """``(1, tokens, width)``."""

    @property
    def extras(self) -> Mapping[str, object]:
        """What else the text encoder gave, as in the host's ``CONDITIONING``."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A text to draw, encoded."""

    text: str
    embedding: Tensor
    """``(1, tokens, width)``."""
    extras: Mapping[str, object]


def encode_prompts(clip: Clip, texts: Sequence[str]) -> tuple[Prompt, ...]:
    """One `Prompt` per text; each different text is encoded once.

    Args:
        clip: The host's CLIP.
    """
    encoded = encode_captions(clip, texts)
    return tuple(Prompt(text, *encoded[text]) for text in texts)


class Sampled(Protocol):
    """Settings of a drawing."""

    @property
    def sampler(self) -> str:
        """The host's name of the sampler."""

    @property
    def scheduler(self) -> str:
        """The host's name of the noise schedule."""


def check_sampler(how: Sampled, where: str = "preview") -> None:
    """Whether the host has the sampler and the scheduler, which it would otherwise exchange for others without a word.

    Args:
        where: The group of settings, for the error.

    Raises:
        ConfigError: It lacks one of them; the message lists those that it has.
    """
    for what, name, names in (
        ("sampler", how.sampler, comfy.samplers.KSampler.SAMPLERS),
        ("scheduler", how.scheduler, comfy.samplers.KSampler.SCHEDULERS),
    ):
        if name not in names:
            raise ConfigError(
                f"ComfyUI has no {what} {name!r}.",
                where=f"{where}.{what}",
                found=name,
                expected=", ".join(names),
                remedy=f"Choose one of these; {getattr(PreviewConfig(), what)} works for every model.",
            )


@dataclass(frozen=True)
class Drawing:
    """How a picture is drawn, apart from what is on it."""

    width: int
    """In pixels; cut down to what the model's latents can hold."""
    height: int
    steps: int
    guidance: float
    sampler: str
    scheduler: str
    embedded_guidance: float = 0.0
    """What a model that was distilled with guidance is told; 0 leaves it to the host."""
    one_step_from: float = 0.0
    """In one step from this noise level; 0 is as the steps and the scheduler say."""

    @classmethod
    def of(cls, config: PreviewConfig, size: tuple[int, int]) -> Drawing:
        """As the settings say.

        Args:
            size: Width and height in pixels, where the settings leave them open.

        Raises:
            ConfigError: The host lacks the sampler or the scheduler.
        """
        check_sampler(config)
        width, height = config.width or size[0], config.height or size[1]
        how = config.steps, config.guidance, config.sampler, config.scheduler, config.embedded_guidance
        return cls(width, height, *how)


def sample(
    model: Model,
    positive: Encoded,
    negative: Encoded,
    *,
    width: int,
    height: int,
    steps: int,
    guidance: float,
    sampler: str,
    scheduler: str,
    seed: int,
    vae: Vae,
) -> Image.Image:
    """Draw one picture: what the host's KSampler and VAE Decode nodes give for the same seed.

    Args:
        model: The host's ``ModelPatcher``; a video model draws one frame.
        vae: The host's VAE.

    Returns:
        An RGB picture of about ``width × height`` pixels.

    Raises:
        ConfigError: The model draws no pictures.
        NonFiniteError: The picture is NaN.
        InterruptProcessingException: The user has pressed cancel.
    """
    drawing = Drawing(width, height, steps, guidance, sampler, scheduler)
    return decode_picture(vae, sample_latent(model, positive, negative, drawing, seed))


def sample_latent(
    model: Model, positive: Encoded, negative: Encoded, drawing: Drawing, seed: int, count: int = 1
) -> Tensor:
    """Sampled latents, in the VAE's scale: ``(count, C, height, width)``, or ``(count, C, 1, height, width)`` of a
    video model.

    Every random number comes from the seed; the process's own generators are as before afterwards.

    Raises:
        ConfigError: The model draws no pictures.
        InterruptProcessingException: The user has pressed cancel.
    """
    shape = (count, *latent_shape(model, drawing.width, drawing.height)[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    guider = comfy.samplers.CFGGuider(model)
    guider.model_options = with_steady_attention(model.model_options)
    guidance = {"guidance": drawing.embedded_guidance} if drawing.embedded_guidance else {}
    guider.set_conds(*([[text.embedding, {**text.extras, **guidance}]] for text in (positive, negative)))
    guider.set_cfg(drawing.guidance)
    schedule = comfy.samplers.KSampler(model, drawing.steps, model.load_device, drawing.sampler, drawing.scheduler)
    sigmas = torch.tensor([drawing.one_step_from, 0.0]) if drawing.one_step_from else schedule.sigmas
    method = comfy.samplers.sampler_object(drawing.sampler)
    # As the host's nodes run; what is made here is thrown away, so nothing of it can reach a backward pass.
    with torch.inference_mode(), randomness_put_back(model.load_device):
        torch.manual_seed(seed)  # a few samplers draw from the process's generator
        return guider.sample(noise, torch.zeros(shape), method, sigmas, disable_pbar=True, seed=seed).cpu()


def decode_picture(vae: Vae, latent: Tensor) -> Image.Image:
    """The first frame of a latent ``(1, C, *space)`` as an RGB picture.

    Raises:
        NonFiniteError: The picture is NaN.
    """
    with torch.inference_mode(), randomness_put_back(vae.device):
        pixels = vae.decode(latent).float().cpu()  # (1, [frames,] height, width, 3)
    frame = pixels.reshape(-1, *pixels.shape[-3:])[0, ..., :3]
    if not torch.isfinite(frame).all():
        sampled = bool(torch.isfinite(latent).all())
        raise NonFiniteError(
            "The VAE turns a sampled picture into NaN." if sampled else "The model draws NaN.",
            found="NaN",
            expected="a picture",
            remedy="Start ComfyUI with --fp32-vae, or load a VAE that works in half precision."
            if sampled
            else "Lower the learning rate or the guidance.",
        )
    return Image.fromarray((frame.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def latent_shape(model: Model, width: int, height: int) -> tuple[int, ...]:
    """Shape of the latent of one picture, by the model's own latent format.

    Raises:
        ConfigError: The model makes something else than pictures, such as sound.
    """
    kind = model.get_model_object("latent_format")
    if kind.latent_dimensions not in (2, 3):
        raise ConfigError(
            "The model draws no pictures.",
            found=type(kind).__name__,
            expected="a latent of two or three dimensions",
            remedy="Turn previews and class pictures off for this model.",
        )
    space = [max(1, side // kind.spacial_downscale_ratio) for side in (height, width)]
    return (1, kind.latent_channels, *([1] * (kind.latent_dimensions - 2)), *space)


@dataclass(frozen=True, eq=False)
class ComfyPreviewer:
    """Draws every prompt with the model as it stands; the same noise each time.

    A `krona_train.monitor.preview.Previewer`.
    """

    model: Model
    """The one that is trained on: the backbone's, which is another than the graph's under dynamic VRAM."""
    vae: Vae
    conditions: Sequence[Encoded]
    """One picture each."""
    negative: Encoded
    config: PreviewConfig
    size: tuple[int, int]
    """Width and height in pixels, where the settings leave them open."""
    paused: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered around the drawing: makes the model fit for sampling while it is being trained."""
    encode: Callable[[], tuple[Sequence[Encoded], Encoded]] | None = None
    """Where the text encoder learns too: gives conditions and negative as it encodes them now, in place of those
    above."""
    with_adapter: Callable[[Adapter], Model] | None = None
    """Gives the model with an adapter that is not attached to its layers, such as a parallel branch."""
    together: int = 1
    """So many pictures are drawn in one batch under each prompt, and shown side by side."""
    teacher: Sequence[Image.Image] = ()
    """Pictures that stand on the right of those that are drawn, one for each prompt; or none."""
    one_step_from: float = 0.0
    """See `Drawing`."""

    def __post_init__(self) -> None:
        Drawing.of(self.config, self.size)
        latent_shape(self.model, *self.size)

    def __call__(self, adapter: Callable[[], Adapter] | None = None) -> tuple[Image.Image, ...]:
        """One picture per prompt; prompt ``n`` starts from the noise of seed ``config.seed + n``.

        Args:
            adapter: See `krona_train.monitor.preview.Previewer`; needed where there is `with_adapter`.

        Raises:
            InterruptProcessingException: The user has pressed cancel.
        """
        drawing = replace(Drawing.of(self.config, self.size), one_step_from=self.one_step_from)
        with self.paused():
            with torch.inference_mode():
                conditions, negative = (self.conditions, self.negative) if self.encode is None else self.encode()
            # All latents first: on a small GPU the VAE takes the model's place, once instead of once per picture.
            model = self.model
            if self.with_adapter is not None and adapter is not None:
                with torch.inference_mode():
                    model = self.with_adapter(adapter())
            latents = [
                sample_latent(model, text, negative, drawing, self.config.seed + number, self.together)
                for number, text in enumerate(conditions)
            ]
            return tuple(
                _side_by_side(
                    [*(_decode_or_black(self.vae, each, drawing) for each in group.split(1)), *self.teacher[n : n + 1]]
                )
                for n, group in enumerate(latents)
            )


def class_painter(
    model: Model, vae: Vae, prompt: Encoded, negative: Encoded, config: PreviewConfig, size: tuple[int, int]
) -> Callable[[int], Image.Image]:
    """From a number to a picture of the prompt, for `krona_train.data.class_pictures`: number ``n`` is seed ``n``.

    Args:
        config: How to draw; its prompts and its seed do not count.
        size: Width and height in pixels, where the settings leave them open.

    Raises:
        ConfigError: The host lacks the sampler or the scheduler, or the model draws no pictures.
    """
    drawing = Drawing.of(config, size)
    latent_shape(model, *size)

    def draw(number: int) -> Image.Image:
        return decode_picture(vae, sample_latent(model, prompt, negative, drawing, number))

    return draw


def _decode_or_black(vae: Vae, latent: Tensor, drawing: Drawing) -> Image.Image:
    """A preview that fails must not end a training that goes well."""
    try:
        return decode_picture(vae, latent)
    except NonFiniteError as error:
        log.warning("KronA: a preview is black, because it is no picture: %s", error)
        return Image.new("RGB", (drawing.width, drawing.height))


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size as one."""
    if len(pictures) == 1:
        return pictures[0]
    width, height = pictures[0].size
    row = Image.new("RGB", (width * len(pictures), height))
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * width, 0))
    return row


@contextmanager
def randomness_put_back(device: torch.device) -> Iterator[None]:
    """Afterwards the process's random generators are bitwise as they were; some samplers seed them all."""
    if device.type in ("cuda", "xpu", "mps"):
        kind, devices = device.type, range(getattr(torch, device.type).device_count())
    else:
        kind, devices = "cuda", range(0)
    with torch.random.fork_rng(devices, device_type=kind):
        yield


def with_steady_attention(options: ModelOptions) -> ModelOptions:
    """The model's options; with PyTorch's attention where the host's own cuts its work by the memory that happens to be
    free.

    Two pictures of the same weights would differ otherwise. What the user has set, and every fast kernel, stays.
    """
    attention = comfy.ldm.modules.attention
    options = comfy.model_patcher.create_model_options_clone(options)
    if attention.optimized_attention in (attention.attention_split, attention.attention_sub_quad):
        options.setdefault("transformer_options", {}).setdefault("optimized_attention_override", _pytorch_attention)
    return options


def _pytorch_attention(chosen: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)
