"""What a frozen model must offer to be trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, device, nn

from krona_ops.names.spellings import LayerName

from ..batches.examples import Batch, Example


@dataclass(frozen=True)
class AttentionSite:
    """A self-attention: where it is, and the layers of its projections."""

    name: LayerName
    """The module that attends."""
    norm: LayerName
    """The module whose output it reads."""
    q: LayerName
    k: LayerName
    v: LayerName
    out: LayerName
    heads: int


class Backbone(Protocol):
    """A frozen denoiser. ``ready`` must be entered around everything but ``weights``."""

    family: str
    """The kind of model, in the words that ``ss_base_model_version`` uses where there is one."""

    def weights(self, *, vectors: bool = False) -> Mapping[LayerName, tuple[int, ...]]:
        """Shapes ``(out, in, *kernel)`` of the layers that can be adapted, in a fixed order.

        Args:
            vectors: ``(out,)`` of norms and biases too, in the model's own order; a bias has its layer's name with
                ``.bias`` behind it.
        """

    def fingerprint(self) -> str:
        """Differs for models with other weights; called inside `ready`."""

    def ready(self) -> AbstractContextManager[None]:
        """Put the model on its device, able to pass gradients; on leaving, everything is as it was."""

    def paused(self) -> AbstractContextManager[None]:
        """Inside `ready`: the model is as others expect it, for as long as somebody draws with it; then ready again.

        What is attached to its layers stays attached.
        """

    def on_load(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        """Inside, ``again`` is called whenever the model has been loaded.

        Loading may take functions off its layers' weights, which ``again`` puts back.
        """

    def module(self, name: LayerName) -> nn.Module:
        """The layer of that name; the whole model for an empty one."""

    def is_plain(self, module: nn.Module) -> bool:
        """Whether a linear layer computes ``W x + bias`` and no more where ``W`` has the dtype and device of ``x``."""

    def is_text(self, name: LayerName) -> bool:
        """Whether the layer belongs to a text encoder."""

    def blocks(self) -> Sequence[nn.Module]:
        """The parts that compute one after the other, each called as a module; gradient checkpointing repeats them."""

    def sites(self) -> Sequence[AttentionSite]:
        """The self-attentions beside which another attention can stand, in the order in which they compute.

        Empty where the model has no such place.
        """

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

    def as_input(self, x0: Tensor, sigma: Tensor) -> Tensor:
        """The ``x_t`` that the network itself sees as the clean latents at ``σ (B,)``.

        The network is told the noise level, and shown none.
        """

    def levels(self, steps: int) -> Tensor:
        """``σ (steps + 1,)`` of a sampler of so many steps, falling to 0 at the end."""

    def predict(self, x_t: Tensor, sigma: Tensor, conditions: Sequence[object]) -> Tensor:
        """The denoised ``x0`` that the model sees in ``x_t``, each sample under its own condition.

        Args:
            x_t: ``(B, C, *space)``.
            sigma: ``(B,)``.
            conditions: ``B``, as `collate` made them.
        """

    def rows(self) -> Tensor | None:
        """Inside `predict`: the indices of the samples that are being computed; ``None`` for all of them in order."""

    @property
    def has_unconditional(self) -> bool:
        """Whether batches have conditions without a prompt."""

    @property
    def has_decoder(self) -> bool:
        """Whether it can `decode`."""

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels ``(B, 3, H, W)`` in [0, 1] of latents in the model's own scale, with gradients.

        Raises:
            ConfigError: There is no decoder.
        """

    def snr(self, sigma: Tensor) -> Tensor:
        """``(B,)``, the signal's power over the noise's in ``x_t``, for data and noise of unit variance."""

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """``w(σ) (B,)``: ``w·‖x0_pred − x0‖²`` is the squared error of what the model predicts itself (ε, v, flow)."""
