"""What a frozen model must offer to be trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, device, nn

from krona_ops.names import LayerName

from ..batches.transfer import send


@dataclass(frozen=True)
class Example:
    """One picture with its caption, encoded."""

    latent: Tensor
    """``(C, *space)`` as the autoencoder gives it; may be mapped from a file."""
    condition: Any
    """The encoded caption and what else the model is told about this picture; only the backbone looks inside."""
    caption: str = ""
    mask: Tensor | None = None
    """``(*space)``, how much each place counts, from 0 to 1; ``None`` counts all alike."""
    class_condition: Any = None
    """As ``condition``, for the caption that names only the subject's class; for prior preservation without pictures."""


@dataclass(frozen=True)
class Item:
    """One picture of the data set, in all the forms in which it may be trained on."""

    forms: tuple[Example, ...]
    """Cuts, mirror images and orders of the caption, all of one size; each time one is drawn, all equally likely."""
    uncaptioned: tuple[Example, ...] = ()
    """The same with an empty caption, drawn instead as often as captions are dropped."""
    repeats: int = 1
    """How often per epoch."""


@dataclass(frozen=True)
class Batch:
    """Some examples on the model's device, in the model's own latent scale."""

    x0: Tensor
    """``(B, C, *space)``, clean."""
    conditions: tuple[Any, ...]
    """One for each of the ``B`` samples."""
    mask: Tensor | None = None
    """``(B, 1, *space)``, how much each place counts; ``None`` where no sample has a mask."""
    class_conditions: tuple[Any, ...] = ()
    """One for each of the ``B`` samples, or none."""


def stack_masks(examples: Sequence[Example], device: device) -> Tensor | None:
    """The masks of a batch as ``(B, 1, *space)``, ones where a sample has none; ``None`` where none has."""
    if all(example.mask is None for example in examples):
        return None
    space = examples[0].latent.shape[1:]
    masks = [torch.ones(space) if e.mask is None else e.mask.float() for e in examples]
    return send(torch.stack(masks).unsqueeze(1), device)


def sampled_fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes and up to 64 evenly spread numbers of each weight: quick, and different for other weights."""
    digest = hashlib.sha256()
    for name, weight in weights:
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} ".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


class Backbone(Protocol):
    """A frozen denoiser. ``ready`` must be entered around everything but ``weights``."""

    family: str
    """The kind of model, in the words that ``ss_base_model_version`` uses where there is one."""

    def weights(self) -> Mapping[LayerName, tuple[int, ...]]:
        """Shapes ``(out, in, *kernel)`` of the layers that can be adapted, in a fixed order."""

    def fingerprint(self) -> str:
        """Differs for models with other weights; called inside `ready`."""

    def ready(self) -> AbstractContextManager[None]:
        """Put the model on its device, able to pass gradients; on leaving, everything is as it was."""

    def paused(self) -> AbstractContextManager[None]:
        """Inside `ready`: for as long as somebody else draws with the model, it is as others expect it; then ready again.

        What is attached to its layers stays attached.
        """

    def on_load(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        """Inside, ``again`` is called whenever the model has been loaded, which may take functions off its layers' weights."""

    def module(self, name: LayerName) -> nn.Module:
        """The layer of that name; the whole model for an empty one."""

    def is_plain(self, module: nn.Module) -> bool:
        """Whether a linear layer is nothing but ``W x + bias`` where its weights have the dtype and the device of ``x``."""

    def is_text(self, name: LayerName) -> bool:
        """Whether the layer belongs to a text encoder."""

    def blocks(self) -> Sequence[nn.Module]:
        """The parts that follow one another, for gradient checkpointing: each is called as a module, inputs to outputs."""

    def release_memory(self) -> None:
        """Give back what a step that failed has left behind."""

    @property
    def device(self) -> device:
        """Where the model computes."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Stack examples of equal size and scale their latents as the model expects."""

    def noise_levels(self, u: Tensor) -> Tensor:
        """``σ (B,)`` on the model's device for uniform draws ``u (B,)`` in [0, 1): uniform in the model's own time."""

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """``x_t`` from clean latents, noise of unit variance, and ``σ (B,)``."""

    def predict(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[Any]) -> Tensor:
        """The denoised ``x0`` that the model sees in ``x_t``, each sample under its own condition."""

    def snr(self, sigma: Tensor) -> Tensor:
        """``(B,)``, the signal's power over the noise's in ``x_t``, for data and noise of unit variance."""

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """``w(σ) (B,)`` such that ``w·‖x0_pred − x0‖²`` is the squared error of what the model itself predicts (ε, v or flow)."""
