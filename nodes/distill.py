"""Distill what a model can do at a cost into an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy.samplers import KSampler
from comfy_api.latest import io

from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.score_matching_config import ScoreMatchingConfig

from .inputs import number_input, optional_combo, optional_count, optional_number, optional_text
from .server import paths
from .server.choices import ALL_GPUS, HERE, NEW, PROCESS, SAME
from .server.progress import Progress
from .sockets import CATEGORY, KronaSettingsSocket, KronaTargetsSocket
from .sockets import KronaDataset as DatasetSocket
from .trained import TrainingNode, output_of, trained_outputs

if TYPE_CHECKING:
    from krona_host.types import Clip, Model, Vae
    from krona_train import AdapterConfig
    from krona_train.data.pictures import Dataset
    from krona_train.session.choices import Settings
    from krona_train.settings.codec import OfKind

GUIDANCE, SCORES, PAIRS = "guidance", "one step by score matching", "one step by pairs"
KINDS: dict[str, type[GuidanceConfig | ScoreMatchingConfig | PairsConfig]] = {GUIDANCE: GuidanceConfig, SCORES: ScoreMatchingConfig, PAIRS: PairsConfig}
OF_GUIDANCE, OF_SCORES, OF_PAIRS = GuidanceConfig(), ScoreMatchingConfig(), PairsConfig()
THE_KINDS_OWN = 0
"""A number of drawings or steps that is left to what is learnt."""


class KronaDistill(TrainingNode):
    """Trains an adapter on what the model draws itself, from prompts alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaDistill",
            display_name="Distill KronA",
            category=CATEGORY,
            description="Trains an adapter that makes the model quicker: it learns from what the model draws itself, and needs prompts "
            "instead of pictures. guidance: one pass instead of two, and the adapter's strength is the guidance. one step: a picture in one "
            "step instead of many.",
            search_aliases=["distillation", "agd", "sim", "hipa", "cfg", "turbo", "lightning", "faster", "train lora"],
            inputs=[
                io.Model.Input("model", tooltip="The model to learn from and for. It is not changed and not copied."),
                io.Clip.Input("clip", tooltip="Encodes the prompts, once."),
                io.Vae.Input("vae", tooltip="Decodes previews, and pictures that are compared in pixels."),
                DatasetSocket.Input("dataset", tooltip="From KronA Prompts."),
                io.Combo.Input(
                    "what",
                    options=list(KINDS),
                    default=GUIDANCE,
                    tooltip="guidance (AGD): what cfg does, in one pass; any LoRA loader's strength is the guidance then. one step by score "
                    "matching (SIM): one step that looks like many, sharp and varied; the slowest to train. one step by pairs (HiPA): from "
                    "noises and the pictures drawn from them.",
                ),
                io.String.Input(
                    "name", default="my guidance", tooltip="The run's folder below output/krona; a name in use gets a number."
                ),
                io.Int.Input(
                    "steps", default=1000, min=1, max=1_000_000, tooltip="Of the training. More is closer to what it shall come to."
                ),
                number_input(
                    "learning_rate",
                    default=0.0,
                    low=0.0,
                    high=1.0,
                    decimals=9,
                    arrows=1e-5,
                    tooltip="0 takes the pack's own: 8e-4 for guidance and pairs, 5e-4 for score matching.",
                ),
                io.Int.Input(
                    "batch_size", default=8, min=1, max=1024, tooltip="Samples per step; drawings are made so many at once."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,  # the editor's new seed after each run would train again each time
                    tooltip="The same seed and settings give the same drawings and the same adapter.",
                ),
                KronaTargetsSocket.Input(
                    "targets", optional=True, tooltip="Which layers are trained. Without it attention and feed-forward, 8 × 8."
                ),
                KronaSettingsSocket.Input(
                    "settings",
                    optional=True,
                    tooltip="From KronA Train Settings: previews, memory, optimizer. Noise levels and errors do not count here, and a "
                    "prior is refused. Without it a rate that falls, and an eighth of the drawings to judge by.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=0,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    tooltip="Draw a picture after every so many steps: the adapter's on the left, what it shall come to on the right.",
                ),
                optional_combo(
                    "resume",
                    (SAME, NEW, *paths.runs()),
                    SAME,
                    "Go on with a run that was cancelled, as if it had never stopped; see Train KronA.",
                ),
                optional_combo(
                    "where",
                    (HERE, PROCESS, ALL_GPUS),
                    HERE,
                    "A separate process keeps ComfyUI alive if the training runs out of memory; see Train KronA.",
                ),
                optional_text(
                    "negative",
                    "What guidance leads away from, of guidance and pairs. It is learnt with the rest and cannot be changed afterwards.",
                ),
                optional_count(
                    "drawings",
                    THE_KINDS_OWN,
                    f"So many drawings are made before the training, and kept for the next one. 0 takes {OF_GUIDANCE.drawings} for guidance and "
                    f"{OF_PAIRS.drawings} for pairs; score matching draws as it goes.",
                ),
                optional_count(
                    "drawing_steps",
                    THE_KINDS_OWN,
                    f"Steps of each drawing. 0 takes {OF_GUIDANCE.drawing_steps} for guidance and {OF_PAIRS.drawing_steps} for pairs.",
                    high=1000,
                ),
                optional_number(
                    "lowest", OF_GUIDANCE.lowest, "guidance: the smallest that is learnt; 1 is none.", low=1.0, high=100.0, arrows=0.5
                ),
                optional_number("highest", OF_GUIDANCE.highest, "guidance: the largest that is learnt.", low=1.0, high=100.0, arrows=0.5),
                optional_number(
                    "at_strength_1",
                    OF_GUIDANCE.at_strength_1,
                    "guidance: which one strength 1 of the file is. Strength 0 is none, strength 2 is as far again.",
                    low=1.01,
                    high=100.0,
                    arrows=0.5,
                ),
                optional_number(
                    "guidance",
                    OF_PAIRS.guidance,
                    "one step: the cfg of the pictures that it shall come to; the one step itself is drawn at cfg 1.",
                    low=1.0,
                    high=100.0,
                    arrows=0.5,
                ),
                optional_combo(
                    "gradient",
                    ("full", "stopped"),
                    OF_SCORES.gradient,
                    "score matching: full as the theorem wants it; stopped needs a quarter of the activations.",
                ),
                optional_combo(
                    "compare_in",
                    ("latents", "pixels"),
                    OF_PAIRS.where,
                    "pairs: where edges and high frequencies are compared. Pixels are closer to what is seen and need much more memory.",
                ),
                optional_combo(
                    "sampler",
                    KSampler.SAMPLERS,
                    OF_GUIDANCE.sampler,
                    "Makes the drawings of guidance and pairs. Of guidance take the one that you will draw with; of pairs one without chance (not "
                    "ancestral or sde).",
                ),
                optional_combo(
                    "scheduler",
                    KSampler.SCHEDULERS,
                    OF_GUIDANCE.scheduler,
                    "Noise schedule of these drawings. Of guidance take the one that you will draw with.",
                ),
            ],
            outputs=trained_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Clip,
        vae: Vae,
        dataset: Dataset,
        what: str,
        name: str,
        steps: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
        targets: AdapterConfig | None = None,
        settings: Settings | None = None,
        preview_every: int = 0,
        resume: str = SAME,
        where: str = HERE,
        **chosen: Any,
    ) -> io.NodeOutput:
        from krona_train.session.distilling import distilling

        from .server.training import train  # the trainer: no start of ComfyUI should wait for it

        config = distilling(
            objective(what, chosen),
            dataset,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            targets=targets,
            settings=settings,
            preview_every=preview_every,
        )
        result = train(
            model,
            clip,
            vae,
            dataset,
            config,
            name=name,
            resume=resume,
            where=where,
            progress=Progress(steps, cls.hidden.unique_id),
            node=cls.hidden.unique_id,
        )
        return output_of(cls, result, model, clip)


def objective(what: str, chosen: dict[str, Any]) -> OfKind:
    """The settings of what is learnt, from the inputs that its kind has."""
    kind = KINDS[what]
    own = {"where" if name == "compare_in" else name: value for name, value in chosen.items()}
    left = [name for name in ("drawings", "drawing_steps") if own.get(name) == THE_KINDS_OWN]
    return kind(**{name: own[name] for name in own if name in kind.__dataclass_fields__ and name not in left})
