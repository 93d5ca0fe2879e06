"""Any diffusion model that ComfyUI has loaded, as a backbone."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.conds
import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn

from krona_ops.names import LayerName

from ..exact_gradients import OutOfPlaceAdd, gradient_ready
from ..protocol import Batch, Example, sampled_fingerprint, stack_masks
from .encode import TextCondition
from .families import family_of

log = logging.getLogger(__name__)


class ComfyBackbone:
    """The host's ``MODEL``. Its weights are not copied: inside `ready` they are seen through aliases that pass gradients.

    Args:
        model: The host's ``ModelPatcher``; patches that are on it (another adapter, say) are trained on top of.
    """

    def __init__(self, model: Any) -> None:
        self._patcher = _trainable_clone(model)
        self._conditions: dict[int, dict[str, Any]] = {}
        self.family = family_of(model)

    @property
    def _net(self) -> Any:
        return self._patcher.model

    @property
    def device(self) -> torch.device:
        return self._patcher.load_device

    def weights(self) -> Mapping[LayerName, tuple[int, ...]]:
        modules = self._net.diffusion_model.named_modules(prefix="diffusion_model")
        return {LayerName(name): shape for name, module in modules if (shape := layer_shape(module)) is not None}

    def module(self, name: LayerName) -> nn.Module:
        return self._net.get_submodule(name)

    def is_text(self, name: LayerName) -> bool:
        return not name.startswith("diffusion_model.")

    def blocks(self) -> Sequence[nn.Module]:
        return ()

    def release_memory(self) -> None:
        gc.collect()
        comfy.model_management.soft_empty_cache()

    def fingerprint(self) -> str:
        named = ((name, self.module(name).weight) for name in self.weights())
        return sampled_fingerprint(
            (name, w.dequantize() if hasattr(w, "dequantize") and type(w.data) is not Tensor else w) for name, w in named
        )

    @contextmanager
    def ready(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            # As the host's own trainer asks: room for activations first, and every weight of this model on the device.
            comfy.model_management.load_models_gpu([self._patcher], memory_required=1e20, force_full_load=True)
            self._patcher.pre_run()
            stack.callback(self._patcher.cleanup)
            stack.callback(self._conditions.clear)
            stack.enter_context(gradient_ready(self._net))
            stack.enter_context(_in_training())
            if not isinstance(self._net.diffusion_model, comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel):
                stack.enter_context(OutOfPlaceAdd())  # UNets have no such additions and are spared the mode's cost
            yield

    def collate(self, examples: Sequence[Example]) -> Batch:
        latents = torch.stack([e.latent.clone() for e in examples]).to(self.device, torch.float32)
        x0 = self._net.process_latent_in(latents)
        pairs = list(zip(examples, x0, strict=True))
        conditions = tuple(self._condition(e.condition, latent[None]) for e, latent in pairs)
        classes = tuple(self._condition(e.class_condition, x[None]) for e, x in pairs if e.class_condition is not None)
        return Batch(x0, conditions, stack_masks(examples, self.device), classes)

    def _condition(self, text: TextCondition, latent: Tensor) -> dict[str, Any]:
        """What the model is told about one sample, as the host's condition objects; made once per picture."""
        if id(text) not in self._conditions:
            extras = {key: _usable(value) for key, value in text.extras.items()}
            [entry] = comfy.sampler_helpers.convert_cond([[_usable(text.embedding), extras]])
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
            self._conditions[id(text)] = {
                key: value.process_cond(batch_size=1, area=None) for key, value in entry["model_conds"].items()
            }
        return self._conditions[id(text)]

    def noise_levels(self, u: Tensor) -> Tensor:
        sampling = self._net.model_sampling
        if isinstance(sampling, comfy.samplers.comfy.model_sampling.ModelSamplingDiscrete):
            return sampling.sigmas.to(u)[(u * len(sampling.sigmas)).long()]  # one of the T timesteps it was trained at
        # The very ends are where x0 is known (weight infinite) or nothing is.
        levels = [float(sampling.percent_to_sigma(1 - min(max(v, 1e-3), 1 - 1e-3))) for v in u.tolist()]
        return torch.tensor(levels, dtype=u.dtype, device=u.device)

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return self._net.model_sampling.noise_scaling(sigma, noise, x0, False)

    def predict(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[dict[str, Any]]) -> Tensor:
        groups = _compatible(conditions)
        if len(groups) == 1:
            return self._predict_group(x_t, sigma, conditions)
        predictions: list[Tensor] = [x_t] * len(conditions)
        for group in groups:
            for index, x0 in zip(
                group, self._predict_group(x_t[group], sigma[group], [conditions[i] for i in group]), strict=True
            ):
                predictions[index] = x0
        return torch.stack(predictions)

    def _predict_group(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[dict[str, Any]]) -> Tensor:
        first, *rest = conditions
        told = {key: value.concat([other[key] for other in rest]) if rest else value.cond for key, value in first.items()}
        options = {
            **self._patcher.model_options.get("transformer_options", {}),
            "cond_or_uncond": [0] * len(conditions),
            "sigmas": sigma,
            "optimized_attention_override": _differentiable_attention,
        }
        return self._net.apply_model(x_t, sigma, transformer_options=options, **told)

    def snr(self, sigma: Tensor) -> Tensor:
        # x_t of clean ones alone and of noise alone are the amplitudes of the two in x_t.
        one = torch.ones(len(sigma), 1, 1, 1, dtype=torch.float64, device=sigma.device)
        signal = self._net.model_sampling.noise_scaling(sigma.double(), 0 * one, one, False)
        noise = self._net.model_sampling.noise_scaling(sigma.double(), one, 0 * one, False)
        return (signal / noise).square().flatten().to(sigma.dtype)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        # The host's x0 is affine in what the model predicts; its slope c(σ) turns x0 errors back into prediction errors.
        one = torch.ones(len(sigma), 1, 1, 1, dtype=torch.float64, device=sigma.device)
        denoised: Callable[..., Tensor] = self._net.model_sampling.calculate_denoised
        slope = denoised(sigma.double(), one, 0 * one) - denoised(sigma.double(), 0 * one, 0 * one)
        return (slope.flatten() ** -2).to(sigma.dtype)


def layer_shape(module: nn.Module) -> tuple[int, ...] | None:
    """``(out, in, *kernel)`` of a linear layer or convolution of the host, quantised or not; ``None`` for anything else."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return (module.out_features, module.in_features)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return tuple(module.weight.shape)
    return None


def _trainable_clone(model: Any) -> Any:
    patcher = model
    if model.is_dynamic():
        log.info(
            "KronA: training on a second copy of the model, because dynamic VRAM may move weights during the backward pass."
        )
        with torch.inference_mode(False):
            patcher = model.clone(disable_dynamic=True)
    else:
        patcher = model.clone()
    if patcher.model.get_dtype_inference() == torch.float16:
        # fp16 gradients vanish without loss scaling; bf16 has the range of fp32 at the same size.
        wide = torch.bfloat16 if comfy.model_management.should_use_bf16(patcher.load_device) else torch.float32
        patcher.set_model_compute_dtype(wide)
    return patcher


@contextmanager
def _in_training() -> Iterator[None]:
    """The host leaves out operations without a gradient while its flag is set; it is one flag for the whole process."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def _differentiable_attention(chosen: Callable, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention whatever the host has chosen: some have no backward, and one cuts its work by free memory."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _usable(value: Any) -> Any:
    """A tensor made under inference mode, copied so that autograd may save it."""
    return value.clone() if isinstance(value, Tensor) else value


def _compatible(conditions: Sequence[dict[str, Any]]) -> list[list[int]]:
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
