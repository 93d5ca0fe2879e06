"""Any diffusion model that ComfyUI has loaded, as a backbone."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import comfy.cli_args
import comfy.conds
import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn

from krona_host.model.attention import attention_sites
from krona_host.model.blocks import blocks_of
from krona_host.model.families import embeds_guidance, family_of
from krona_host.model.layer_shape import is_plain, layer_shape, vectors_of
from krona_host.types import Clip, Condition, DiffusionNet, Model, Patcher, Vae
from krona_ops.errors import ConfigError
from krona_ops.names.spellings import LayerName

from ..backbone.exact_gradients import exact_in_place, gradient_ready
from ..backbone.protocol import AttentionSite
from ..batches.examples import Batch, Example, stack_masks, stack_seen
from ..batches.fingerprint import sampled_fingerprint
from ..batches.transfer import send
from ..data.buckets import PictureSize
from ..data.store import EncodedText
from ..objectives.denoising_config import DenoisingConfig
from ..settings.groups import MemoryConfig
from .encode import TextCondition
from .identity import dequantised
from .kernels import formulas
from .text import TextEncoder

log = logging.getLogger(__name__)
Conditions = dict[str, Condition]
"""What the model is told about one sample, as the host has it: by the names of ``apply_model``."""

CONDITIONS_BYTES = 256_000_000
"""Encoded captions are kept on the device up to this size, some thirty of T5's or four hundred of SDXL's."""
LOADED = "krona loaded"
"""Of our own among the injections of the patcher that is trained on."""
_COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class ComfyBackbone:
    """The host's ``MODEL``. Its weights are not copied: inside `ready` they are seen through aliases that pass
    gradients.

    Args:
        model: The host's ``ModelPatcher``; patches that are on it (another adapter, say) are trained on top of.
        memory: What the training may cost, and what the model computes in.
        clip: The host's ``CLIP``, if its attention layers are trained too. Captions are then encoded in each step.
        guidance: What a model that was distilled with guidance is told; 0 leaves it to the host.
        without: The encoded empty prompt, for objectives that need it.
        vae: The host's ``VAE``, for objectives that look at pixels.

    Raises:
        ConfigError: Offloading would overwrite weights before their gradients are computed.
    """

    def __init__(
        self,
        model: Model,
        memory: MemoryConfig = MemoryConfig(),  # noqa: B008 (frozen)
        clip: Clip | None = None,
        guidance: float = DenoisingConfig.embedded_guidance,
        without: EncodedText | None = None,
        vae: Vae | None = None,
    ) -> None:
        self._patcher = _trainable_clone(model, memory)
        self._memory = memory
        self._text = None if clip is None else TextEncoder(clip)
        self._conditions: dict[int, tuple[TextCondition, Conditions | _Later]] = {}
        self._kept_bytes = 0
        self._without, self._vae = without, vae
        self._without_of: dict[PictureSize, TextCondition] = {}
        self._rows: Tensor | None = None
        self._held = ExitStack()
        self.family = family_of(model)
        self._guidance = {"guidance": guidance} if guidance and embeds_guidance(model.model) else {}

    @property
    def patcher(self) -> Model:
        """The host's ``ModelPatcher`` that is trained on: another one than the graph's under dynamic VRAM."""
        return self._patcher

    @property
    def _net(self) -> DiffusionNet:
        return self._patcher.model

    @property
    def device(self) -> torch.device:
        return self._patcher.load_device

    def weights(self, *, vectors: bool = False) -> Mapping[LayerName, tuple[int, ...]]:
        modules = self._net.diffusion_model.named_modules(prefix="diffusion_model")
        shapes: dict[LayerName, tuple[int, ...]] = {}
        for name, module in modules:
            shape = layer_shape(module)
            if shape is not None:
                shapes[LayerName(name)] = shape
            if vectors:
                vectors_here = vectors_of(name, module, shape is not None)
                shapes |= {LayerName(each): (length,) for each, length in vectors_here}
        return shapes if self._text is None else {**shapes, **self._text.weights()}

    @contextmanager
    def on_load(self, again: Callable[[], None]) -> Iterator[None]:
        patchers = self._patchers
        injection = comfy.patcher_extension.PatcherInjection(lambda patcher: again(), lambda patcher: None)
        for patcher in patchers:
            patcher.set_injections(LOADED, [injection])
        try:
            yield
        finally:
            for patcher in patchers:
                patcher.remove_injections(LOADED)

    @property
    def _patchers(self) -> list[Patcher]:
        """Of the networks that are trained on."""
        return [self._patcher] if self._text is None else [self._patcher, self._text.patcher]

    def module(self, name: LayerName) -> nn.Module:
        net = self._text.net if self._text is not None and self.is_text(name) else self._net
        return net.get_submodule(name)

    def is_plain(self, module: nn.Module) -> bool:
        return is_plain(module)

    def is_text(self, name: LayerName) -> bool:
        return not (name == "diffusion_model" or name.startswith("diffusion_model."))

    def blocks(self) -> Sequence[nn.Module]:
        blocks = blocks_of(self._net.diffusion_model)
        return blocks if self._text is None else (*blocks, *self._text.blocks())

    def sites(self) -> Sequence[AttentionSite]:
        return tuple(
            AttentionSite(name, norm, q, k, v, out, heads)
            for *names, heads in attention_sites(self._net.diffusion_model)
            for name, norm, q, k, v, out in [map(LayerName, names)]
        )

    def release_memory(self) -> None:
        gc.collect()
        comfy.model_management.soft_empty_cache()

    def fingerprint(self) -> str:
        return sampled_fingerprint((name, dequantised(_weight_of(self.module(name)))) for name in self.weights())

    @contextmanager
    def ready(self) -> Iterator[None]:
        with torch.inference_mode(False), torch.enable_grad():
            self._hold()
            try:
                yield
            finally:
                self._conditions.clear()
                self._kept_bytes = 0
                self._held.close()
                _leave_as_others_expect(self._patcher)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._held.close()
        try:
            yield
        finally:
            self._hold()  # loads again whatever the host has unloaded meanwhile

    def _hold(self) -> None:
        """Load the model and make it fit for training, until `_held` is closed."""
        patchers = self._patchers if self._vae is None else [*self._patchers, self._vae.patcher]
        with ExitStack() as stack:
            # As the host's own trainer asks: room for activations first, and every weight of this model on the device.
            whole = not self._memory.offload
            comfy.model_management.load_models_gpu(patchers, memory_required=1e20, force_full_load=whole)
            for patcher in patchers:
                patcher.pre_run()
                stack.callback(patcher.cleanup)
            stack.enter_context(gradient_ready(self._net))
            if self._text is not None:
                stack.enter_context(self._text.ready())
            if self._vae is not None:
                stack.enter_context(gradient_ready(self._vae.first_stage_model))
            stack.enter_context(_in_training())
            is_unet = isinstance(self._net.diffusion_model, comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel)
            if not is_unet or self._text is not None:
                stack.enter_context(exact_in_place(formulas()))  # UNets write nothing in place and are spared the cost
            self._held = stack.pop_all()

    def collate(self, examples: Sequence[Example]) -> Batch:
        latents = send(torch.stack([e.latent_or_zeros() for e in examples]).float(), self.device)
        x0 = self._net.process_latent_in(latents)
        pairs = list(zip(examples, x0, strict=True))
        conditions = tuple(self._condition(_text_of(e.condition), x[None], e.caption) for e, x in pairs)
        with_class = [(e.class_condition, x) for e, x in pairs if e.class_condition is not None]
        classes = tuple(self._condition(_text_of(condition), x[None]) for condition, x in with_class)
        without = () if self._without is None else tuple(self._condition(self._same_size(e), x[None]) for e, x in pairs)
        has_pictures = all(e.latent is not None for e in examples)
        seen = stack_seen(examples, self.device)
        return Batch(x0, conditions, stack_masks(examples, self.device), classes, without, has_pictures, seen)

    def _same_size(self, example: Example) -> TextCondition:
        """No prompt, for a picture of the example's size."""
        size = _text_of(example.condition).size
        if size not in self._without_of:
            assert self._without is not None  # there would be no sample without a prompt
            embedding, extras = self._without
            self._without_of[size] = TextCondition(embedding, extras, size, "")
        return self._without_of[size]

    def _condition(self, text: TextCondition, latent: Tensor, caption: str | None = None) -> Conditions | _Later:
        """What the model is told about one sample; made once per picture, or in each step where the text encoder
        learns."""
        if self._text is not None:
            caption = caption if text.caption is None else text.caption
            if caption is not None:
                return _Later(text, latent, caption)
        if id(text) not in self._conditions:
            made = self._made(text.embedding, text.extras, text, latent)
            is_moving = any(isinstance(each.cond, Tensor) and each.cond.requires_grad for each in made.values())
            # Some models prepare captions with layers that are trained.
            condition = _Later(text, latent) if is_moving else made
            self._keep(text, condition)
            return condition
        return self._conditions[id(text)][1]

    def _keep(self, text: TextCondition, condition: Conditions | _Later) -> None:
        """For the next time that the picture comes, unless there are so many that they would fill the device."""
        if not isinstance(condition, _Later):
            self._kept_bytes += sum(_bytes(each.cond) for each in condition.values())
        if self._kept_bytes > CONDITIONS_BYTES:
            self._conditions.clear()
            self._kept_bytes = 0
            return
        self._conditions[id(text)] = text, condition  # kept together: the id would be another's once the text is gone

    def _made(self, embedding: Tensor, extras: Mapping[str, object], text: TextCondition, latent: Tensor) -> Conditions:
        """An encoded caption as the host's condition objects."""
        usable = {**{key: _usable(value) for key, value in extras.items()}, **self._guidance}
        [entry] = comfy.sampler_helpers.convert_cond([[_usable(embedding), usable]])
        entry.update(text.size.entries())
        [entry] = comfy.samplers.encode_model_conds(
            self._net.extra_conds,
            [entry],
            latent,
            self.device,
            "positive",
            latent_image=latent,
            denoise_mask=None,
            seed=None,
        )
        return {key: value.process_cond(batch_size=1, area=None) for key, value in entry["model_conds"].items()}

    def _now(self, conditions: Sequence[object]) -> list[Conditions]:
        """Conditions with those made that had to wait for the layers as they stand; each caption is encoded once."""
        texts: dict[str, tuple[Tensor, Mapping[str, object]]] = {}
        ready: list[Conditions] = []
        for condition in conditions:
            if not isinstance(condition, _Later):
                assert isinstance(condition, dict)  # `collate` makes no others
                ready.append(condition)
                continue
            text, caption = condition.text, condition.caption
            if caption is None or self._text is None:
                embedding, extras = text.embedding, text.extras
            else:
                texts[caption] = texts.get(caption) or self._text.encode(caption)
                embedding, extras = texts[caption]
            ready.append(self._made(embedding, extras, text, condition.latent))
        return ready

    def noise_levels(self, u: Tensor) -> Tensor:
        sampling = self._net.model_sampling
        if isinstance(sampling, comfy.samplers.comfy.model_sampling.ModelSamplingDiscrete):
            timestep = send((u * len(sampling.sigmas)).long(), self.device)
            return sampling.sigmas.to(self.device, u.dtype)[timestep]  # one of the T timesteps it was trained at
        # The very ends are where x0 is known (weight infinite) or nothing is.
        levels = [float(sampling.percent_to_sigma(1 - min(max(v, 1e-3), 1 - 1e-3))) for v in u.tolist()]
        return send(torch.tensor(levels, dtype=u.dtype), self.device)

    def levels(self, steps: int) -> Tensor:
        sigmas: Tensor = comfy.samplers.calculate_sigmas(self._net.model_sampling, "normal", steps)
        return send(sigmas.float(), self.device)

    @property
    def has_unconditional(self) -> bool:
        return self._without is not None

    @property
    def has_decoder(self) -> bool:
        return self._vae is not None

    def decode(self, x0: Tensor) -> Tensor:
        vae = self._vae
        if vae is None:
            raise ConfigError(
                "There is no VAE to see the pictures with.", found="none", expected="a VAE", remedy="Connect one."
            )
        latents = self._net.process_latent_out(x0).to(vae.vae_dtype)
        return vae.process_output(vae.first_stage_model.decode(latents).float())

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return self._net.model_sampling.noise_scaling(sigma, noise, x0, False)

    def as_input(self, x0: Tensor, sigma: Tensor) -> Tensor:
        # What the host makes of ``x_t`` for the network is a multiple of it.
        return x0 / self._net.model_sampling.calculate_input(sigma, torch.ones_like(sigma)).reshape(
            -1, *[1] * (x0.ndim - 1)
        )

    def predict(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[object]) -> Tensor:
        ready = self._now(conditions)
        groups = _compatible(ready)
        if len(groups) == 1:
            return self._predict_group(x_t, sigma, ready)
        predictions: list[Tensor] = [x_t] * len(ready)
        try:
            for group in groups:
                self._rows = torch.tensor(group, device=self.device)
                of_group = self._predict_group(x_t[group], sigma[group], [ready[i] for i in group])
                for index, x0 in zip(group, of_group, strict=True):
                    predictions[index] = x0
        finally:
            self._rows = None
        return torch.stack(predictions)

    def rows(self) -> Tensor | None:
        return self._rows

    def _predict_group(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[Conditions]) -> Tensor:
        """`predict` for samples that can share one forward pass."""
        first, *rest = conditions
        joined = {key: each.concat([o[key] for o in rest]) if rest else each.cond for key, each in first.items()}
        options = {
            **self._patcher.model_options.get("transformer_options", {}),
            "cond_or_uncond": [0] * len(conditions),
            "sigmas": sigma,
            "optimized_attention_override": _differentiable_attention,
        }
        return self._net.apply_model(x_t, sigma, transformer_options=options, **joined)

    def snr(self, sigma: Tensor) -> Tensor:
        # x_t of clean ones alone and of noise alone are the amplitudes of the two in x_t.
        one = self._ones(sigma)
        signal = self._net.model_sampling.noise_scaling(sigma.double(), 0 * one, one, False)
        noise = self._net.model_sampling.noise_scaling(sigma.double(), one, 0 * one, False)
        return (signal / noise).square().flatten().to(sigma.dtype)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        # The host's x0 is affine in what the model predicts; its slope c(σ) turns x0 errors back into prediction
        # errors.
        one = self._ones(sigma)
        denoised: Callable[..., Tensor] = self._net.model_sampling.calculate_denoised
        slope = denoised(sigma.double(), one, 0 * one) - denoised(sigma.double(), 0 * one, 0 * one)
        return (slope.flatten() ** -2).to(sigma.dtype)

    def _ones(self, sigma: Tensor) -> Tensor:
        """``(B, 1, *ones)`` of as many dimensions as the model's latents have: the host's formulas want that for
        video."""
        dimensions = getattr(self._net.latent_format, "latent_dimensions", 2)
        return torch.ones(len(sigma), 1, *[1] * dimensions, dtype=torch.float64, device=sigma.device)


@dataclass(frozen=True, eq=False)
class _Later:
    """A condition that is made when the model is asked, because layers that are trained make it."""

    text: TextCondition
    latent: Tensor
    caption: str | None = None
    """To be encoded; ``None`` where the text encoder is not trained."""


def _trainable_clone(model: Model, memory: MemoryConfig) -> Model:
    """A patcher of its own for the training: of a copy under dynamic VRAM, else of the same network."""
    patcher = model
    if model.is_dynamic():
        log.info(
            "KronA: training on a second copy of the model, because dynamic VRAM may move weights during the backward "
            "pass."
        )
        with torch.inference_mode(False):
            patcher = model.clone(disable_dynamic=True)
    else:
        patcher = model.clone()
    if memory.offload:
        _require_safe_offloading(patcher.load_device)
    compute = _COMPUTE.get(memory.compute)
    if compute is None and patcher.model.get_dtype_inference() == torch.float16:
        # fp16 gradients vanish without loss scaling; bf16 has the range of fp32 at the same size.
        compute = torch.bfloat16 if comfy.model_management.should_use_bf16(patcher.load_device) else torch.float32
    if compute is not None and compute != patcher.model.get_dtype_inference():
        patcher.set_model_compute_dtype(compute)
    return patcher


def _require_safe_offloading(device: torch.device) -> None:
    """The host's asynchronous offloading reuses one buffer for many layers (comfy/ops.py, `get_cast_buffer`).

    Raises:
        ConfigError: That would overwrite weights that the backward pass still needs.
    """
    if device.type != "cpu" and comfy.model_management.NUM_STREAMS > 0 and not comfy.cli_args.args.cuda_malloc:
        raise ConfigError(
            "With asynchronous offloading, weights are overwritten before their gradients are computed.",
            found="asynchronous offloading without --cuda-malloc",
            expected="either one of them changed",
            remedy="Start ComfyUI with --disable-async-offload, or train without offloading.",
        )


def _leave_as_others_expect(patcher: Model) -> None:
    """Take the training's own arithmetic off the shared model; weights that need not move stay where they are."""
    is_ours = patcher.model.current_weight_patches_uuid == patcher.patches_uuid
    if "manual_cast_dtype" in patcher.object_patches and is_ours:
        with torch.inference_mode():
            comfy.model_management.unload_model_and_clones(patcher)
            for module in patcher.model.modules():
                comfy.model_patcher.wipe_lowvram_weight(module)  # the host does it when it loads the model again


@contextmanager
def _in_training() -> Iterator[None]:
    """The host leaves out operations without a gradient while its flag is set; it is one flag for the whole process."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def _differentiable_attention(chosen: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
    """PyTorch's attention whatever the host has chosen: some have no backward, and one cuts its work by free memory."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _text_of(condition: object) -> TextCondition:
    assert isinstance(condition, TextCondition)  # what `ComfyEncoder` makes of a caption
    return condition


def _weight_of(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)  # each layer that `ComfyBackbone.weights` names has one
    return module.weight


def _bytes(value: object) -> int:
    return value.nbytes if isinstance(value, Tensor) else 0


def _usable(value: object) -> object:
    """A tensor made under inference mode, copied so that autograd may save it."""
    return value.clone() if isinstance(value, Tensor) else value


def _compatible(conditions: Sequence[Conditions]) -> list[list[int]]:
    """Samples that can share one forward pass: same kinds of conditions, of sizes that the host can join."""
    groups: list[list[int]] = []
    for index, condition in enumerate(conditions):
        for group in groups:
            other = conditions[group[0]]
            if condition.keys() == other.keys() and all(other[key].can_concat(condition[key]) for key in condition):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups
