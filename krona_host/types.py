"""What is used of the host's objects, written down: the host itself has no types.

These are descriptions alone; nothing is made from them. Networks are torch's modules, which no protocol can be, so they
are described as classes under ``nn.Module``. tests/host/test_types.py holds every name here against the real host.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypedDict, TypeVar, overload

import torch
from torch import Tensor, nn

P = TypeVar("P", bound="Patcher")
C = TypeVar("C", bound="Clip")

Offset = tuple[int, int, int]
"""``(dimension, start, length)``: the part of a fused weight that is meant."""
PatchKey = str | tuple[str, Offset] | tuple[str, Offset | None, Callable[[Tensor], Tensor]]
"""Where a patch goes: a weight, a part of it, or what a function makes of the update first."""
Patch = tuple[float, object, float, Offset | None, Callable[[Tensor], Tensor] | None]
"""``(strength of the patch, the patch, strength of what was there, part, function)``."""
Conditioning = Sequence[tuple[Tensor, dict[str, object]]]
"""``CONDITIONING``: encoded texts ``(1, tokens, width)``, each with what comes beside it, such as ``pooled_output``."""
LoraModel = Mapping[str, Tensor]
"""``LORA_MODEL``: the tensors of an adapter's file by their keys."""
Origin = tuple[Callable[..., object], tuple] | tuple[Callable[..., object], tuple, int]
"""The host's function that has loaded something, what that was called with, and which of its results it is."""
Tokens = Mapping[str, object]
"""A text as the numbers and weights of its words, by text encoder."""
Encoding = tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, dict[str, object]]
"""An encoded text: ``(embedding (1, tokens, width), pooled (1, width) or None)``; some encoders add a dict of more."""


class ModelOptions(TypedDict, total=False):
    """``model_options``: how a model is asked while sampling; what is set here, of much more."""

    transformer_options: dict[str, object]
    sampler_cfg_function: Callable[[Mapping[str, Tensor]], Tensor]
    """What guidance makes of two predictions, as differences to the sample."""
    sampler_pre_cfg_function: list[Callable[..., object]]
    sampler_post_cfg_function: list[Callable[[Mapping[str, Tensor]], Tensor]]
    sampler_calc_cond_batch_function: Callable[..., object]
    disable_cfg1_optimization: bool
    """Predict without the prompt even where guidance is 1."""


class Condition(Protocol):
    """One of the things that a diffusion model is told beside the noisy latent."""

    cond: object
    """A tensor ``(B, …)``, mostly."""

    def process_cond(self, batch_size: int, area: None) -> Condition:
        """The same for so many samples, ready for `concat`."""

    def can_concat(self, other: Condition, /) -> bool:
        """Whether another sample's has a size with which it can stand in one batch."""

    def concat(self, others: Sequence[object], /) -> object:
        """What ``apply_model`` gets for this and the other samples: their ``cond`` one after the other."""


class Sampling(Protocol):
    """``model_sampling``: what noise means to a diffusion model."""

    sigma_max: Tensor | float
    """The largest noise level."""
    sigmas: Tensor
    """Noise levels ``(T,)``, rising: of discrete models, of each timestep that they were trained at."""

    def calculate_input(self, sigma: Tensor, noise: Tensor, /) -> Tensor:
        """What the network is given for a noisy latent ``(B, C, *space)`` at noise levels ``sigma (B,)``."""

    def percent_to_sigma(self, percent: float, /) -> float | Tensor:
        """The noise level at a part of the way from pure noise (0) to the finished picture (1)."""

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False, /) -> Tensor:
        """The noisy latent ``(B, C, *space)`` at noise levels ``sigma (B,)``; ``latent_image`` is the clean one."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor, /) -> Tensor:
        """The clean latent ``(B, C, *space)`` from what the network gives."""


class LatentFormat(Protocol):
    """``latent_format``: the latents that a diffusion model draws."""

    latent_channels: int
    latent_dimensions: int
    """2 of pictures, 3 of videos, 1 of sound."""
    spacial_downscale_ratio: int
    """Pixels that one place of a latent stands for, along a side; spelled as the host does."""


class DiffusionNet(nn.Module):
    """``BaseModel``: a diffusion model's network, and what the host knows of it."""

    diffusion_model: nn.Module
    model_config: object
    """Its class tells the family."""
    model_sampling: Sampling
    latent_format: LatentFormat
    current_patcher: Patcher | None
    """That with which something is sampled; ``None`` while nothing is."""
    current_weight_patches_uuid: object
    """Of the patches that are merged into the weights at the moment; ``None`` for none."""

    @abstractmethod
    def get_dtype_inference(self) -> torch.dtype:
        """The precision that the network computes in."""

    @abstractmethod
    def process_latent_in(self, latent: Tensor, /) -> Tensor:
        """A latent ``(B, C, *space)`` from the VAE's scale to the model's."""

    @abstractmethod
    def process_latent_out(self, latent: Tensor, /) -> Tensor:
        """A latent ``(B, C, *space)`` from the model's scale to the VAE's."""

    @abstractmethod
    def extra_conds(self, **given: object) -> dict[str, Condition]:
        """What the model is told beside the noisy latent, by the names of ``apply_model``."""

    @abstractmethod
    def apply_model(self, x: Tensor, t: Tensor, /, **conditions: object) -> Tensor:
        """The clean latent ``(B, C, *space)`` that the model sees in ``x`` at noise levels ``t (B,)``."""


class TextNet(nn.Module):
    """``cond_stage_model``: all text encoders of a ``CLIP``."""

    @abstractmethod
    def reset_clip_options(self) -> None:
        """Set all options back to what they were when it was loaded."""

    @abstractmethod
    def set_clip_options(self, options: Mapping[str, object], /) -> None:
        """Change ``layer`` (clip skip), ``execution_device`` and such."""

    @abstractmethod
    def encode_token_weights(self, token_weight_pairs: Tokens, /) -> Encoding:
        """An encoded text."""


class Backup(Protocol):
    """A weight as it was before it was patched."""

    weight: Tensor


class Patcher(Protocol):
    """``ModelPatcher``: a network with what is patched on it. Clones share the network."""

    @property
    def model(self) -> nn.Module:
        """The network: a `DiffusionNet`, a `TextNet` or an `Autoencoder`."""

    load_device: torch.device
    offload_device: torch.device
    is_clip: bool
    """Whether it is a text encoder's."""
    model_options: ModelOptions
    patches: Mapping[str, Sequence[Patch]]
    """By the key of the weight, in the order in which they came."""
    patches_uuid: object
    """Another one whenever patches are added."""
    object_patches: Mapping[str, object]
    """Attributes of the network that are replaced while it is loaded, by their paths."""
    injections: Mapping[str, Sequence[object]]
    """What is hooked into the network while it is in use."""
    backup: Mapping[str, Backup]
    hook_backup: Mapping[str, tuple[Tensor, torch.device]]
    cached_patcher_init: Origin | None
    """Where it was loaded from."""

    def clone(self: P, disable_dynamic: bool = False) -> P:
        """Another patcher of the same network; of its own copy of it where dynamic VRAM is taken off."""

    def is_dynamic(self) -> bool:
        """Whether weights may move at any time (dynamic VRAM)."""

    @overload
    def get_model_object(self, name: Literal["latent_format"], /) -> LatentFormat: ...
    @overload
    def get_model_object(self, name: Literal["model_sampling"], /) -> Sampling: ...
    def get_model_object(self, name: str, /) -> object:
        """An attribute of the network by its path; what stands in its place, where it is replaced."""

    def set_model_compute_dtype(self, dtype: torch.dtype, /) -> None:
        """Compute in another precision than the weights are in, from the next load on."""

    def add_patches(self, patches: Mapping[PatchKey, object], strength_patch: float = 1.0, /) -> list[PatchKey]:
        """Patches to merge into weights when they are loaded; gives the keys that were taken."""

    def get_key_patches(self) -> Mapping[str, Sequence[Sequence[object]]]:
        """Of each weight, first ``(the weight as it was, a function)``, then its patches."""

    def set_injections(self, key: str, injections: Sequence[object], /) -> None:
        """Replace the injections under a key."""

    def remove_injections(self, key: str, /) -> None:
        """Forget the injections under a key."""

    def add_callback_with_key(self, call_type: str, key: str, callback: Callable[..., None], /) -> None:
        """Call a function at some point of the patcher's life."""

    def remove_callbacks_with_key(self, call_type: str, key: str, /) -> None:
        """Forget the functions under a key."""

    def set_model_attn1_patch(self, patch: Callable[..., object], /) -> None:
        """Call ``patch(n, context, value, options)`` before each self-attention of a UNet; it gives all three."""

    def set_model_attn1_output_patch(self, patch: Callable[..., object], /) -> None:
        """Call ``patch(out, options)`` after each self-attention of a UNet."""

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Callable[..., object], /) -> None:
        """Put a function around a step of sampling; it gets an executor that goes on, and the step's arguments."""

    def set_additional_models(self, key: str, models: list[Patcher], /) -> None:
        """Have other models loaded whenever this one is."""

    def get_additional_models_with_key(self, key: str, /) -> Sequence[Patcher]:
        """What is loaded with it under a key."""

    def pre_run(self) -> None:
        """Call before sampling: runs the callbacks for its beginning."""

    def cleanup(self) -> None:
        """Call after sampling: runs the callbacks for its end."""


class Model(Patcher, Protocol):
    """``MODEL``: the patcher of a diffusion model."""

    @property
    def model(self) -> DiffusionNet:
        """The network."""


class Clip(Protocol):
    """``CLIP``: text encoders with their tokenizers."""

    patcher: Patcher
    cond_stage_model: TextNet
    tokenizer: object
    layer_idx: int | None
    """Clip skip; ``None`` for as the model wants it."""
    use_clip_schedule: bool
    tokenizer_options: dict[str, object]
    apply_hooks_to_conds: object | None

    def clone(self: C) -> C:
        """Another one with a patcher of its own; the networks are shared."""

    def tokenize(self, text: str, /) -> Tokens:
        """A prompt as tokens; weights in brackets, such as ``(red:1.2)``, are read."""

    def encode_from_tokens_scheduled(self, tokens: Tokens, /) -> Conditioning:
        """The conditioning that the node CLIP Text Encode gives."""


class Autoencoder(nn.Module):
    """``first_stage_model``: the network of a VAE."""

    @abstractmethod
    def decode(self, z: Tensor, /) -> Tensor:
        """``(B, C, *space)`` to pictures ``(B, 3, …)`` in the network's own range."""


class Vae(Protocol):
    """``VAE``. Of a checkpoint without one, ``first_stage_model`` is ``None``."""

    first_stage_model: Autoencoder
    patcher: Patcher
    device: torch.device
    vae_dtype: torch.dtype
    latent_channels: int
    latent_dim: int
    """Dimensions of a latent's space: 2 of pictures, 3 of videos."""
    crop_input: bool
    not_video: bool
    process_output: Callable[[Tensor], Tensor]
    """From the network's own range to [0, 1]."""

    def encode(self, pixel_samples: Tensor, /) -> Tensor:
        """``(B, height, width, 3)`` in [0, 1] to latents ``(B, C, *space)``, in the VAE's scale."""

    def decode(self, samples_in: Tensor, /) -> Tensor:
        """Latents to ``(B, [frames,] height, width, 3)`` in [0, 1]."""

    def spacial_compression_encode(self) -> int | None:
        """Pixels that one place of a latent stands for, along a side."""

    def vae_output_dtype(self) -> torch.dtype:
        """The type of the numbers of decoded pictures."""


class Hooks(Protocol):
    """``HOOKS``: patches whose strength changes while a picture is sampled."""

    def add(self, hook: object, /) -> None:
        """Add one hook."""

    def set_keyframes_on_hooks(self, hook_kf: object, /) -> None:
        """Give all hooks the same strengths over time."""

    def clone_and_combine(self, other: object, /) -> Hooks:
        """A copy with the hooks of another group added."""
