"""Groups of settings with their defaults, of one part of a training each; `krona_train.config` puts them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from krona_ops.bounds import ABOVE_0, Within, require_fields
from krona_ops.errors import ConfigError
from krona_ops.targets.rules import TargetRule
from krona_ops.updates.kron import Layout

WIDTH = 1280
"""Inputs of most of SDXL's attention layers, with which the paper's learning rates were found."""
COUNT = Within(0, 1_000_000)
"""Bounds of a number of steps or pictures; 0 is none."""
SEED = Within(0, 2**53 - 1)
"""Bounds of a seed, up to the largest whole number that a browser holds exactly."""
MOST_PARTS = 256
"""Into which a factor can be split: their numbers fit in a byte."""
_FASTER = Within(0, 1000)
"""Bounds of what a learning rate is multiplied by."""
_Decay = Annotated[float, Within(0, 1, open_high=True)]

MAIN = "adapter"
"""The adapter that a training is about; those that an objective needs besides have names of their own."""

Optimizer = Literal["adamw", "adamw8bit", "prodigy", "schedulefree"]
Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]
Checkpointing = Literal["none", "blocks", "offloaded"]
Compute = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class SparseConfig:
    """Train one factor of each update in parts, one of them at random in each step (MoSA: Zhang et al. 2023)."""

    parts: Annotated[int, Within(1, MOST_PARTS)] = 1
    """``B``'s entries are split into so many parts, at random; each step computes every layer with one of them, that
    many times as large. 1 is the whole of ``B``. The adapter is ``B`` itself, of the same size. For kinds with two
    factors: kronecker, lora (``up``) and sum."""
    consistency: Annotated[float, Within(0, 100)] = 0.0
    """Weight of the squared difference between the predictions of two draws of parts. Above 0 each step computes two
    passes instead of one, and keeps both for the gradient: twice the time, and twice the memory of activations."""

    def __post_init__(self) -> None:
        require_fields(self)
        if self.consistency and self.parts == 1:
            raise ConfigError(
                "The consistency of draws compares two draws of parts, and with one part there is nothing to draw.",
                where="adapter.sparse",
                found=f"consistency {self.consistency:g} with 1 part",
                expected="2 parts or more, or a consistency of 0",
                remedy="Set parts to 4, or consistency to 0.",
            )


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained."""

    kind: str = "kronecker"
    """Of the target rules that name none. ``kronecker`` is ΔW = A ⊗ B. ``lora`` is the low-rank baseline, with
    diffusers' start, to compare with. ``sum`` adds several Kronecker products, ``difference`` is a whole ΔW,
    ``full`` moves the weight itself."""
    targets: tuple[TargetRule, ...] = (TargetRule(),)
    """Which layers, with which factors; the first rule that matches a layer counts. Default: every attention's q, k, v
    and out at 64 × 4, the paper's best (DiffuseKronA, Table 2)."""
    layout: Layout = "kron"
    """``kron`` is the Kronecker product of the paper, which every LoKr loader reads. ``shuffled`` is what the released
    DiffuseKronA code computes."""
    init_std: Annotated[float, Within(0, 1)] = 1 / 64
    """``A`` starts normal with this standard deviation, ``B`` at zero. The default is the released code's for 64 × 4. 0
    is its 1 / out_a for all factors, 1/2 for 2 × 2: so large a start stays a random direction for most of the training
    (docs/LOG.md)."""
    rank: Annotated[int, Within(1, 1024)] = 4
    """Of a LoRA; 4 is the paper's baseline. A Kronecker adapter has factors instead."""
    alpha: Annotated[float, Within(0.001, 1024)] = 4.0
    """Of a LoRA, whose update is multiplied by alpha / rank. diffusers sets both alike."""
    text_encoder: bool = False
    """Adapt the text encoder's attention too. The paper's SD 1.4 numbers do (0.52 M parameters),
    its SDXL numbers do not."""
    sparse: SparseConfig = SparseConfig()

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError(
                "There is no target rule.",
                found=0,
                expected="at least one",
                remedy="Leave the targets at their default.",
            )
        require_fields(self)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of layer that the target rules ask for."""
        return frozenset(rule.trained or self.kind for rule in self.targets)


@dataclass(frozen=True)
class OptimizerConfig:
    """How the factors move: AdamW, as in the released DiffuseKronA recipe."""

    name: Optimizer = "adamw"
    """``adamw8bit`` needs the package bitsandbytes, ``prodigy`` prodigyopt, ``schedulefree`` schedulefree."""
    learning_rate: Annotated[
        float, Within(0, 1, open_low=True, remedy="5e-4 is the paper's best; at 0 nothing is trained.")
    ] = 5e-4
    """Paper: 5e-4; favourable from 1e-4 to 1e-3 (DiffuseKronA, Fig. 16). Prodigy finds its own: give it 1."""
    rate_a: Annotated[float, _FASTER] = 1.0
    """The learning rate of the factors that start random (``A``; a LoRA's down) is multiplied by this."""
    rate_b: Annotated[float, _FASTER] = 1.0
    """The same for those that start at zero (``B``; a LoRA's up). 16 is LoRA+ (Hayou et al. 2024)."""
    rate_text: Annotated[float, _FASTER] = 1.0
    """The same for the text encoder's factors, on top of the other two."""
    rate_by_width: Annotated[float, Within(0, 2)] = 0.8
    """A layer that reads n numbers learns (1280 / n) to this power times as fast; 0 is off. AdamW moves all weights
    alike, though wide layers add up more of them: between 0.5, the same share of weights that are 1/√n large, and 1
    (Yang et al. 2022, Table 3). 0.8 joins the paper's best rate with the best of layers 128 wide (docs/LOG.md).
    Not with Prodigy."""
    weight_decay: Annotated[float, Within(0, 10)] = 1e-2
    """Decoupled weight decay."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: Annotated[float, ABOVE_0] = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: Annotated[float, Within(0, 1000)] = 1.0
    """The gradient of all factors together is scaled down to this norm; 0 leaves it as it is."""
    schedule: Schedule = "constant"
    """How the learning rate goes on after the warmup, over all steps of the run;
    diffusers' schedules of these names."""
    warmup: Annotated[int, COUNT] = 0
    """Steps in which the learning rate rises from 0."""
    cycles: Annotated[int, Within(1, 1000)] = 1
    """Restarts of ``cosine_with_restarts``."""
    power: Annotated[float, Within(0.01, 100)] = 1.0
    """Of ``polynomial``."""

    def __post_init__(self) -> None:
        require_fields(self)


@dataclass(frozen=True)
class PriorConfig:
    """Keep what the model knows about the subject's class (Ruiz et al. 2022: prior preservation)."""

    weight: Annotated[float, Within(0, 100)] = 0.0
    """Of the prior loss against the subject's. 0 is off, as in the released DiffuseKronA recipe; 1 is DreamBooth's."""
    source: Literal["model", "pictures"] = "model"
    """``model``: the frozen model's own prediction on the class prompt is the target, no pictures needed. ``pictures``:
    class pictures, from a folder or made by the model before the training."""

    def __post_init__(self) -> None:
        require_fields(self)


def wanted_prior(has_class: bool, weight: float = 1.0) -> PriorConfig:
    """The prior where the settings leave it open: of pictures where class pictures are named or wanted, else off."""
    return PriorConfig(weight, "pictures") if has_class else PriorConfig()


@dataclass(frozen=True)
class EmaConfig:
    """An exponential moving average of the factors, as diffusers' ``EMAModel`` computes it;
    where it is on, it is the result."""

    decay: Annotated[float, Within(0, 0.999999, remedy="0.99 for 1000 steps, 0 for none.")] = 0.99
    """Per step, close to 1; 0 is off. 0.99 averages over about a hundred steps, 0.999 over a thousand; both start lower
    by themselves. Not with schedulefree, which averages in its own way."""

    def __post_init__(self) -> None:
        require_fields(self)


@dataclass(frozen=True)
class MemoryConfig:
    """What the training costs in memory; the adapter is the same up to rounding."""

    checkpointing: Checkpointing = "none"
    """``blocks`` keeps only each block's input and computes it again for the gradient: much less memory, a third
    slower. ``offloaded`` keeps even those in the computer's memory."""
    compute: Compute = "auto"
    """The model's arithmetic; factors are always float32.
    ``auto`` is the model's own, with bf16 or fp32 instead of fp16."""
    offload: bool = False
    """Leave the model's weights in the computer's memory and bring each layer over when it computes: for a model that
    does not fit the GPU. Together with checkpointing, or the gradient holds them all the same."""
    compile: bool = False
    """``torch.compile`` the model's blocks: slow to start, faster afterwards where a compiler is installed."""


@dataclass(frozen=True)
class PreviewConfig:
    """Pictures drawn with the adapter as it stands, to watch; they never change the training."""

    every: Annotated[int, COUNT] = 0
    """Steps between previews; 0 draws none. One more set is drawn at the end."""
    prompts: tuple[str, ...] = ()
    """One picture each; none takes the first caption of the pictures that are trained on."""
    negative: str = ""
    """What the pictures shall not show."""
    width: Annotated[int, Within(0, 8192)] = 0
    """In pixels; 0 takes the size of training."""
    height: Annotated[int, Within(0, 8192)] = 0
    """In pixels; 0 takes the size of training."""
    steps: Annotated[int, Within(1, 1000)] = 20
    """Of the sampler."""
    guidance: Annotated[float, Within(0.1, 100)] = 7.0
    """Classifier-free guidance; the paper draws with 7. Distilled models want 1."""
    sampler: str = "euler"
    """The host's name of the sampler."""
    scheduler: str = "normal"
    """The host's name of the noise schedule."""
    embedded_guidance: Annotated[float, Within(0, 100)] = 0.0
    """What a model that was distilled with guidance is told while it draws; 0 leaves it to ComfyUI, 3.5 for Flux and 6
    for HunyuanVideo. It is another one than the training's, and ``guidance`` stays at 1 for these models."""
    seed: Annotated[int, SEED] = 0
    """Of the noise that previews start from, the same for every preview so that they can be compared."""

    def __post_init__(self) -> None:
        require_fields(self)


@dataclass(frozen=True)
class ValidationConfig:
    """The loss on pictures that are kept out of the training, always at the same noise."""

    every: Annotated[int, COUNT] = 0
    """Steps between validations; 0 makes none, and all pictures are trained on."""
    pictures: Annotated[int, Within(1, 1_000_000)] = 1
    """How many pictures are kept out, drawn by the run's seed; so many groups where pictures are in groups."""
    levels: Annotated[int, Within(1, 1000)] = 8
    """Fixed noise levels per picture, evenly spread."""
    patience: Annotated[int, COUNT] = 0
    """Stop after this many validations without a new best; 0 never does."""

    def __post_init__(self) -> None:
        require_fields(self)


@dataclass(frozen=True)
class DataConfig:
    """How pictures and captions become what is trained on."""

    resolution: Annotated[int, Within(0, 4096)] = 0
    """Side in pixels of a square of the same area; 0 takes the size that the model was trained at."""
    resolutions: tuple[Annotated[int, Within(8, 4096)], ...] = ()
    """Several sizes instead of one: each picture is trained at every one of them, x, in shares of (x − s)² for the size
    s that ``resolution`` says. In multiples of 8 pixels; empty trains at ``resolution``."""
    buckets: bool = True
    """Keep each picture's shape: it is cut as little as possible, to one of a set of sizes of about the same area.
    Off cuts squares."""
    bucket_step: Annotated[int, Within(1, 4096)] = 64
    """Sides of the buckets are multiples of this many pixels."""
    crops: Annotated[int, Within(1, 64)] = 1
    """Different cuts of each picture; 1 takes the middle, more spread over what does not fit."""
    flip: bool = False
    """Train on mirrored pictures too. Not for faces, text, or anything with a left and a right."""
    masks: bool = False
    """Only where a mask is white is learnt: a picture's own transparency, or ``dog-mask.png`` next to ``dog.png``."""
    caption_dropout: Annotated[float, Within(0, 1, remedy="0.1 is usual, 0 is off.")] = 0.0
    """Share of samples whose caption is left empty; keeps guidance without a prompt working."""
    shuffles: Annotated[int, Within(0, 64)] = 0
    """Orders of each caption's comma-separated parts to train with; 0 leaves captions as they are."""
    keep_tags: Annotated[int, Within(0, 64)] = 1
    """Parts at a caption's start that stay in place when the others are shuffled."""
    cache: bool = True
    """Keep encoded pictures and captions on disk, for the next run."""

    def __post_init__(self) -> None:
        require_fields(self)
        twice = next((size for n, size in enumerate(self.resolutions) if size in self.resolutions[:n]), None)
        if twice is not None:
            raise ConfigError(
                f"The size {twice} is named twice; how often each comes is decided by its distance from the model's own.",
                where="resolutions",
                found=twice,
                expected="different sizes",
                remedy="Name it once.",
            )
        odd = next((size for size in self.resolutions if size % 8), None)
        if odd is not None:
            raise ConfigError(
                f"{odd} is no multiple of 8, as every size in pixels is.",
                where="resolutions",
                found=odd,
                expected="multiples of 8",
                remedy=f"Take {odd // 8 * 8} or {odd // 8 * 8 + 8}.",
            )
