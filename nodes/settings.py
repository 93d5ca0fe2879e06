"""The expert's settings of a training."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, get_args

from comfy.samplers import KSampler
from comfy_api.latest import io

from krona_ops.errors import ConfigError
from krona_train.config import (
    Checkpointing,
    Compute,
    DenoisingConfig,
    Distance,
    EmaConfig,
    Levels,
    MemoryConfig,
    Optimizer,
    OptimizerConfig,
    PreviewConfig,
    Schedule,
    ValidationConfig,
    Weighting,
)
from krona_train.session.choices import PriorChoice, Settings

from .inputs import optional_combo, optional_count, optional_number, optional_switch, optional_text
from .node import Node
from .sockets import CATEGORY, KronaSettingsSocket

T = TypeVar("T")
DEFAULTS = Settings()


class KronaTrainSettings(Node):
    """Collects the settings of a training that rarely need changing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaTrainSettings",
            display_name="KronA Train Settings",
            category=CATEGORY,
            description="Everything about a training that rarely needs touching, for Train KronA. The defaults are the paper's recipe, and what our own measurements added.",
            search_aliases=["optimizer", "prior preservation", "ema", "gradient checkpointing", "preview"],
            inputs=[
                *_preview_inputs(),
                *_prior_inputs(),
                *_memory_inputs(),
                *_optimizer_inputs(),
                *_objective_inputs(),
                *_validation_inputs(),
                *_later_inputs(),
            ],
            outputs=[KronaSettingsSocket.Output(display_name="settings")],
        )

    @classmethod
    def execute(cls, **chosen: Any) -> io.NodeOutput:
        return io.NodeOutput(settings_of(chosen))


def settings_of(chosen: dict[str, Any]) -> Settings:
    """The settings of the node's inputs; those that an old graph does not have keep their defaults.

    Raises:
        ConfigError: Some of them make no sense, alone or together.
    """

    def part(kind: type[T], prefix: str = "", **named: str) -> T:
        """A group of settings; a field's input is called as ``named`` says, else by the prefix and the field's name."""
        values = {}
        for field in inspect.signature(kind).parameters:
            name = named.get(field, f"{prefix}{field}")
            if name in chosen:
                values[field] = chosen[name]
        return kind(**values)

    lines = (line.strip() for line in chosen.get("preview_prompts", "").splitlines())
    chosen = {**chosen, "preview_prompts": tuple(filter(None, lines))}
    settings = Settings(
        optimizer=part(OptimizerConfig, name="optimizer"),
        objective=part(DenoisingConfig),
        prior=chosen.get("prior", DEFAULTS.prior),
        prior_weight=chosen.get("prior_weight", DEFAULTS.prior_weight),
        ema=part(EmaConfig, decay="ema"),
        memory=part(MemoryConfig),
        preview=part(PreviewConfig, "preview_"),
        validation=part(ValidationConfig, "validation_", every="validate_every", patience="patience"),
        keep_states=chosen.get("keep_states", DEFAULTS.keep_states),
    )
    if settings.prior not in get_args(PriorChoice):
        raise ConfigError(
            f"There is no prior '{settings.prior}'.",
            found=settings.prior,
            expected=", ".join(get_args(PriorChoice)),
            remedy="Choose another.",
        )
    # What draws previews: no start of ComfyUI should wait for it.
    from krona_train.comfyui.sampling import check_sampler

    check_sampler(settings.preview)
    return settings


def _preview_inputs() -> list[io.Input]:
    d = DEFAULTS.preview
    return [
        optional_count(
            "preview_every",
            d.every,
            "Draw pictures after every so many steps, to see when to stop: when the subject is there and the prompt is still followed. "
            "0 draws none. Drawing never changes what is trained.",
            advanced=False,
        ),
        optional_text(
            "preview_prompts",
            "One picture per line. Put the subject where it never was ('a photo of sks dog on the moon'): that shows overfitting first. "
            "Empty draws the first caption.",
            multiline=True,
            advanced=False,
        ),
        optional_text("preview_negative", "What previews and class pictures shall not show."),
        optional_count("preview_width", d.width, "In pixels; 0 is the size of training. Smaller is faster.", high=8192),
        optional_count("preview_height", d.height, "In pixels; 0 is the size of training.", high=8192),
        optional_count(
            "preview_steps",
            d.steps,
            "Of the sampler; also for class pictures. 20 shows enough, 50 is the paper's.",
            low=1,
            high=1000,
        ),
        optional_number(
            "preview_guidance",
            d.guidance,
            "Guidance of previews and class pictures. 7 for SD and SDXL (7 to 10 are fine, 15 is too vivid), 1 for Flux and other "
            "distilled models, which are told theirs by preview_embedded_guidance.",
            low=0.1,
            high=100.0,
            arrows=0.5,
        ),
        optional_combo(
            "preview_sampler",
            KSampler.SAMPLERS,
            d.sampler,
            "Sampler of previews and class pictures; euler works for every model.",
        ),
        optional_combo(
            "preview_scheduler",
            KSampler.SCHEDULERS,
            d.scheduler,
            "Noise schedule of previews and class pictures; normal works for every model.",
        ),
        optional_count(
            "preview_seed",
            d.seed,
            "Noise that previews start from, the same each time so that they can be compared.",
            high=2**53 - 1,
        ),
    ]


def _prior_inputs() -> list[io.Input]:
    return [
        optional_combo(
            "prior",
            get_args(PriorChoice),
            DEFAULTS.prior,
            "Keeps other members of the subject's class from looking like your subject. 'pictures' trains on class pictures too "
            "(DreamBooth), 'model' asks the untrained model instead and needs none; both take about twice as long. 'auto' takes class "
            "pictures if the data set has any.",
        ),
        optional_number(
            "prior_weight",
            DEFAULTS.prior_weight,
            "How much the class counts against the subject. 1 is DreamBooth's; lower if the subject comes through too weakly.",
            high=100.0,
            arrows=0.1,
        ),
    ]


def _memory_inputs() -> list[io.Input]:
    d = DEFAULTS.memory
    return [
        optional_combo(
            "checkpointing",
            get_args(Checkpointing),
            d.checkpointing,
            "Much less memory for a third more time; the adapter is the same. 'offloaded' keeps what is left in the computer's memory. "
            "Switched on by itself when a step does not fit.",
        ),
        optional_combo(
            "compute",
            get_args(Compute),
            d.compute,
            "The model's arithmetic; what is trained is always in full precision. 'auto' fits nearly always; fp32 if the loss becomes NaN.",
        ),
        optional_switch(
            "offload",
            d.offload,
            "Leave the model in the computer's memory and bring each layer over when it computes: for models larger than the GPU. "
            "Slow; a quantised (fp8) model is often the better way.",
        ),
        optional_switch(
            "compile",
            d.compile,
            "Compile the model's blocks: a minute or more at the start, faster steps afterwards. Needs a compiler; not together "
            "with checkpointing.",
        ),
        optional_count(
            "keep_states",
            DEFAULTS.keep_states,
            "How many saved states a run's folder holds; each can be gone on from.",
            low=1,
            high=1000,
        ),
    ]


def _optimizer_inputs() -> list[io.Input]:
    d = DEFAULTS.optimizer
    return [
        optional_combo(
            "optimizer",
            get_args(Optimizer),
            d.name,
            "adamw is the paper's. adamw8bit saves a little memory, prodigy finds the learning rate itself (set it to 1), schedulefree "
            "averages instead of a schedule. The last three need their packages installed.",
        ),
        optional_combo(
            "schedule",
            get_args(Schedule),
            d.schedule,
            "How the learning rate goes on: constant is the paper's; cosine settles finer details in the last third.",
        ),
        optional_count(
            "warmup",
            d.warmup,
            "Steps in which the learning rate rises from 0; 5 % of the steps calm a training that starts wildly.",
        ),
        optional_count("cycles", d.cycles, "Restarts of cosine_with_restarts.", low=1, high=1000),
        optional_number("power", d.power, "Of polynomial; 1 is a straight line.", low=0.01, high=100.0),
        optional_number(
            "rate_a",
            d.rate_a,
            "The small factor A learns this much faster than the learning rate says.",
            high=1000.0,
            arrows=0.5,
            decimals=6,
        ),
        optional_number(
            "rate_b",
            d.rate_b,
            "The large factor B, which starts at zero, learns this much faster: 2 to 16 (LoRA+) reaches the subject in fewer steps, "
            "and overfits sooner.",
            high=1000.0,
            arrows=0.5,
            decimals=6,
        ),
        optional_number(
            "rate_text",
            d.rate_text,
            "The text encoder learns this much faster; 0.1 to 0.5 keeps it from forgetting words.",
            high=1000.0,
            arrows=0.05,
            decimals=6,
        ),
        optional_number(
            "weight_decay",
            d.weight_decay,
            "Pulls the update towards nothing; more keeps closer to the base model.",
            high=10.0,
            arrows=0.001,
            decimals=8,
        ),
        optional_number(
            "max_grad_norm",
            d.max_grad_norm,
            "Cuts off sudden large steps; 0 is off. Lower it if the loss jumps.",
            high=1000.0,
            arrows=0.1,
        ),
        optional_number(
            "ema",
            DEFAULTS.ema.decay,
            "Average over the last steps instead of the last one: smoother, less dependent on when you stop. 0.99 for 1000 steps, 0.999 "
            "for 5000, 0 is off.",
            high=0.999999,
            arrows=0.001,
            decimals=7,
        ),
    ]


def _later_inputs() -> list[io.Input]:
    """What came after saved graphs had the others: graphs keep their values by place, so these stay last."""
    return [
        optional_number(
            "rate_by_width",
            DEFAULTS.optimizer.rate_by_width,
            "Narrow layers learn faster: (1280 / width) to this power times, so that the paper's learning rates, found on SDXL, suit narrower "
            "and wider models too. 0 treats all alike.",
            high=2.0,
            arrows=0.05,
        ),
        optional_number(
            "embedded_guidance",
            DEFAULTS.objective.embedded_guidance,
            "For models that were distilled with guidance (Flux dev, Flux 2 dev, HunyuanVideo): the strength that they are told while they are "
            "trained. 1 is every trainer's. 0 leaves it to ComfyUI (3.5, or 6), as this pack did before.",
            high=100.0,
            arrows=0.5,
        ),
        optional_number(
            "preview_embedded_guidance",
            DEFAULTS.preview.embedded_guidance,
            "The same while previews and class pictures are drawn, where it makes pictures crisper. 0 leaves it to ComfyUI: 3.5 for Flux, "
            "6 for HunyuanVideo. Keep preview_guidance at 1 for these models.",
            high=100.0,
            arrows=0.5,
        ),
    ]


def _objective_inputs() -> list[io.Input]:
    d = DEFAULTS.objective
    return [
        optional_combo(
            "weighting",
            get_args(Weighting),
            d.weighting,
            "Which noise levels count more. 'none' is the paper's. min_snr learns shapes and details at a more even pace; debiased "
            "stresses overall shape and colour; p2 leaves out fine texture.",
        ),
        optional_number(
            "snr_gamma",
            d.snr_gamma,
            "Of min_snr: 5 is usual, lower moves further from fine detail.",
            low=0.01,
            high=100.0,
            arrows=0.5,
        ),
        optional_number("p2_gamma", d.p2_gamma, "Of p2: 0 is none, 1 is usual.", high=10.0, arrows=0.1),
        optional_combo(
            "levels",
            get_args(Levels),
            d.levels,
            "Which noise levels are drawn more often. uniform is right for SD and SDXL; logit_normal (middle ones) for Flux, SD3 and "
            "other flow models; shifted (noisier ones, composition) for large pictures of them.",
        ),
        optional_number(
            "level_mean",
            d.level_mean,
            "Of logit_normal: above 0 stresses composition, below 0 detail.",
            low=-10.0,
            high=10.0,
            arrows=0.1,
        ),
        optional_number(
            "level_std",
            d.level_std,
            "Of logit_normal: larger spreads over more levels.",
            low=0.01,
            high=10.0,
            arrows=0.1,
        ),
        optional_number("level_scale", d.level_scale, "Of mode: 1.29 is SD3's; 0 is uniform.", high=1.75),
        optional_number(
            "level_shift",
            d.level_shift,
            "Of shifted, on top of the model's own shift: above 1 stresses composition, below 1 detail.",
            low=0.01,
            high=100.0,
            arrows=0.1,
        ),
        optional_combo(
            "distance",
            get_args(Distance),
            d.distance,
            "huber cares less about single places that do not fit, such as watermarks; l2 is the paper's.",
        ),
        optional_number("huber_c", d.huber_c, "Of huber: smaller forgives more.", low=0.0001, high=100.0, decimals=6),
        optional_number(
            "noise_offset",
            d.noise_offset,
            "Lets SD1.5 and SDXL learn very dark and very bright pictures: 0.05 to 0.1. Not for flow models.",
            decimals=6,
        ),
    ]


def _validation_inputs() -> list[io.Input]:
    d = DEFAULTS.validation
    return [
        optional_count(
            "validate_every",
            d.every,
            "Measure the loss on pictures that are kept out, after every so many steps: the best adapter so far is kept beside the last. "
            "0 trains on all pictures. Only with ten pictures and more.",
        ),
        optional_count("validation_pictures", d.pictures, "How many pictures are kept out.", low=1),
        optional_count(
            "patience", d.patience, "Stop after this many validations without a new best; 0 never stops early."
        ),
    ]
