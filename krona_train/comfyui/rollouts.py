"""Drawings by the host's samplers, with what the model saw on its way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from krona_host.model.families import embeds_guidance
from krona_host.types import Model, ModelOptions
from krona_ops.errors import ConfigError, OutOfMemoryError

from ..batches.examples import Item, Seen
from ..data.cache import Cache, entry_key
from ..objectives.rollouts import Drawing, Rollouts
from ..objectives.samplers import looks_at_the_batch
from ..step.plan import is_out_of_memory
from .encode import TextCondition
from .identity import is_told_by_its_weights
from .sampling import Encoded, randomness_put_back, with_steady_attention

Told = Callable[[int, int, str], None]
"""Gets how many drawings are done, how many there are, and what comes next. It may raise, to cancel."""
STORED = torch.float16
"""What the model saw is kept in; SDXL's states at 1024 × 1024 take 262 kB each with it."""


def roll_out(
    model: Model,
    prompts: Sequence[Item],
    negative: Encoded,
    how: Rollouts,
    *,
    seed: int,
    at_once: int,
    identity: str | None,
    cache: Cache | None,
    told: Told,
) -> tuple[Item, ...]:
    """The drawings that an objective learns from: an item each, whose forms are the moments that are kept.

    What is in the cache is not drawn again, so that a cancelled preparation goes on where it was. Nothing is kept of a
    model that draws otherwise than its weights tell: with guidance of its own way, a shift, an adapter beside it.

    Args:
        model: The host's ``ModelPatcher``.
        prompts: Items without pictures.
        negative: What guidance leads away from.
        at_once: So many are drawn in one batch where the model takes their prompts together.
        identity: A text that differs for models and text encoders that draw differently; ``None`` where nothing can
            be kept.

    Raises:
        ConfigError: The model has its guidance built in.
        OutOfMemoryError: Not even one drawing fits.
        InterruptProcessingException: The user has pressed cancel.
    """
    if embeds_guidance(model.model) and how.highest > 1:
        raise ConfigError(
            "This model has its guidance built in: it was distilled with it, and takes one pass already.",
            found=type(model.model).__name__,
            expected="a model that is drawn with guidance and a negative prompt",
            remedy="Choose a model that was not distilled with guidance.",
        )
    cache = cache if is_told_by_its_weights(model) else None
    drawings = [how.drawing(number, prompts, seed) for number in range(how.count)]
    made: dict[int, tuple[Seen, ...]] = {}
    missing: list[Drawing] = []
    for drawing in drawings:
        kept = None if cache is None or identity is None else cache.get(_key(drawing, how, seed, identity))
        if kept is None:
            missing.append(drawing)
        else:
            made[drawing.number] = _moments(kept[0], drawing.guidance)
    at_once = 1 if _has_own_guidance(model) or looks_at_the_batch(how.sampler) else at_once
    is_drawn = bool(missing)
    while missing:
        batch = _first(missing, at_once)
        told(len(made), how.count, f'drawing of "{batch[0].prompt.caption}"')
        try:
            drawn = _draw(model, batch, negative, how)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            drawn = []
        if not drawn:  # out here the failed drawing's tensors are free
            at_once = _fewer(len(batch))
            comfy.model_management.soft_empty_cache()
            continue
        for drawing, tensors in zip(batch, drawn, strict=True):
            made[drawing.number] = _moments(tensors, drawing.guidance)
            if cache is not None and identity is not None:
                key = _key(drawing, how, seed, identity)
                cache.put(key, tensors)
                kept = cache.get(key)  # mapped, where it could be written
                made[drawing.number] = made[drawing.number] if kept is None else _moments(kept[0], drawing.guidance)
        missing = missing[len(batch) :]
    told(how.count, how.count, "")
    if cache is not None and is_drawn:
        cache.prune()
    return tuple(
        Item(tuple(replace(drawing.prompt, seen=moment) for moment in made[drawing.number])) for drawing in drawings
    )


def _key(drawing: Drawing, how: Rollouts, seed: int, identity: str) -> str:
    """Of all that decides what a drawing is; how many others there are does not."""
    return entry_key(
        "rollout", identity, drawing.prompt.caption, drawing.prompt.latent_shape, replace(how, count=0), seed, drawing.number
    )  # fmt: skip


def _moments(tensors: Mapping[str, Tensor], guidance: float) -> tuple[Seen, ...]:
    x_t, x0, sigmas = tensors["x_t"], tensors["x0"], tensors["sigma"].tolist()
    return tuple(Seen(x_t[n], sigma, guidance, x0[n]) for n, sigma in enumerate(sigmas))


def _first(drawings: Sequence[Drawing], most: int) -> list[Drawing]:
    """The first of some drawings that the model can take together, in their order."""
    return list(takewhile(lambda drawing: _go_together(drawings[0], drawing), drawings[:most]))


def _fewer(count: int) -> int:
    """How many are drawn at once after so many were too many.

    Raises:
        OutOfMemoryError: It was one.
    """
    if count == 1:
        raise OutOfMemoryError(
            "A drawing of one prompt does not fit in memory.",
            found="out of memory",
            expected="room for one picture with guidance",
            remedy="Lower the resolution, take a quantised model (fp8), or close other programs.",
        )
    return count // 2


def _go_together(first: Drawing, other: Drawing) -> bool:
    a, b = _text(first), _text(other)
    if first.noise.shape != other.noise.shape or a.size != b.size or a.embedding.shape != b.embedding.shape:
        return False
    return a.extras.keys() == b.extras.keys() and all(_alike(a.extras[name], b.extras[name]) for name in a.extras)


def _alike(a: object, b: object) -> bool:
    """Whether two of the text encoder's outputs can stand in one batch."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.ndim > 0 and len(a) == 1
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def _text(drawing: Drawing) -> TextCondition:
    condition = drawing.prompt.condition
    assert isinstance(condition, TextCondition)  # the host's encoder makes no others
    return condition


_OWN_WAYS = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)
"""Where a model's options say that its guidance is another than usual."""


def _has_own_guidance(model: Model) -> bool:
    """Whether what guidance makes of two predictions was changed; such changes expect one number for a whole batch."""
    return any(model.model_options.get(way) for way in _OWN_WAYS)


class _Guiding:
    """What the guided prediction is, and what the drawing follows, as the host's options want it.

    Args:
        guidance: ``(B,)``.
        is_guided: Whether the drawing follows it.
    """

    def __init__(self, guidance: Tensor, is_guided: bool) -> None:
        self._guidance, self._is_guided = guidance, is_guided
        self.seen: list[tuple[Tensor, Tensor, float]] = []
        """Each state that the model was asked about, with the guided prediction and the noise level there. What a
        sampler reports is another state in some of them, and a step may ask twice."""

    def put_into(self, options: ModelOptions) -> None:
        """Change a copy of a model's options."""
        if len(self._guidance) > 1:
            options["sampler_cfg_function"] = self._each_its_own
            options["disable_cfg1_optimization"] = True
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", ()), self._note]

    def _each_its_own(self, args: Mapping[str, Tensor]) -> Tensor:
        scale = self._guidance.to(args["cond"]).reshape(-1, *[1] * (args["cond"].ndim - 1))
        return args["uncond"] + (args["cond"] - args["uncond"]) * scale

    def _note(self, args: Mapping[str, Tensor]) -> Tensor:
        x_t, x0 = (args[name].to("cpu", STORED, copy=True) for name in ("input", "denoised"))
        self.seen.append((x_t, x0, float(args["sigma"].flatten()[0])))
        return args["denoised"] if self._is_guided else args["cond_denoised"]


def _draw(model: Model, batch: Sequence[Drawing], negative: Encoded, how: Rollouts) -> list[dict[str, Tensor]]:
    """Each drawing's moments: ``x_t`` and ``x0`` ``(T, C, *space)`` and ``sigma`` ``(T,)``."""
    guiding = _Guiding(torch.tensor([drawing.guidance for drawing in batch]), how.guided)
    guider = comfy.samplers.CFGGuider(model)
    guider.model_options = with_steady_attention(model.model_options)
    guiding.put_into(guider.model_options)
    texts = [_text(drawing) for drawing in batch]
    extras = {name: _together([text.extras[name] for text in texts]) for name in texts[0].extras}
    size = texts[0].size.entries()
    positive = [torch.cat([text.embedding for text in texts]), {**extras, **size}]
    guider.set_conds([positive], [[negative.embedding, {**negative.extras, **size}]])
    guider.set_cfg(batch[0].guidance)
    schedule = comfy.samplers.KSampler(model, how.steps, model.load_device, how.sampler, how.scheduler)
    noise = torch.stack([drawing.noise for drawing in batch])
    method = comfy.samplers.sampler_object(how.sampler)
    with torch.inference_mode(), randomness_put_back(model.load_device):
        torch.manual_seed(batch[0].number)  # a few samplers draw from the process's generator
        zeros = torch.zeros_like(noise)
        seed = batch[0].number if looks_at_the_batch(how.sampler) else 0  # of the noise that it adds on its way
        drawn = guider.sample(noise, zeros, method, schedule.sigmas, disable_pbar=True, seed=seed)
        end = model.model.process_latent_in(drawn.float()).to("cpu", STORED)
    seen = guiding.seen
    if how.keep == "ends":
        seen = [(seen[0][0], end, seen[0][2])]
    with torch.inference_mode(False):
        x_t = torch.stack([each[0].clone() for each in seen], 1)
        x0 = torch.stack([each[1].clone() for each in seen], 1)
        sigma = torch.tensor([each[2] for each in seen])
        return [{"x_t": x_t[n].clone(), "x0": x0[n].clone(), "sigma": sigma} for n in range(len(batch))]


def _together(values: Sequence[object]) -> object:
    """One of the text encoder's outputs for a whole batch; `_go_together` has compared them."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    return torch.cat(tensors) if tensors else values[0]
