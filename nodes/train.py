"""Train an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_ops import Adapter, TargetRule
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import PreviewConfig
from krona_train.session.choices import Settings

from .inputs import factor_inputs, number_input, optional_combo, optional_count
from .server import paths
from .server.choices import ALL_GPUS, HERE, NEW, PROCESS, SAME
from .server.progress import Progress
from .sockets import CATEGORY, Krona, KronaSettingsSocket, KronaTargetsSocket
from .sockets import KronaDataset as DatasetSocket
from .trained import TrainingNode, output_of, trained_outputs

if TYPE_CHECKING:
    from krona_host.types import Clip, Model, Vae
    from krona_train.data.pictures import Dataset

DEFAULTS = TrainConfig()
FACTORS = DEFAULTS.adapter.targets[0].factors


class KronaTrain(TrainingNode):
    """Trains an adapter on pictures with captions, here or in a process of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaTrain",
            display_name="Train KronA",
            category=CATEGORY,
            description="Trains a Kronecker adapter (DiffuseKronA) on a few pictures. The defaults are the paper's best, and what our own measurements added. "
            "The result is also saved under output/krona, even when you cancel.",
            search_aliases=["dreambooth", "lokr", "kronecker", "train lora", "finetune"],
            inputs=[
                io.Model.Input("model", tooltip="The model to adapt. It is not changed and not copied."),
                io.Clip.Input("clip", tooltip="Encodes the captions, once."),
                io.Vae.Input("vae", tooltip="Encodes the pictures, once."),
                DatasetSocket.Input("dataset", tooltip="From KronA Dataset."),
                io.String.Input(
                    "name", default="my subject", tooltip="The run's folder below output/krona; a name in use gets a number."
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS.steps,
                    min=1,
                    max=1_000_000,
                    tooltip="500 is enough for a simple subject, 1000 and more for a complex one. Too many copy the training pictures.",
                ),
                number_input(
                    "learning_rate",
                    default=DEFAULTS.optimizer.learning_rate,
                    low=0.0,
                    high=1.0,
                    decimals=9,
                    arrows=1e-5,
                    tooltip="5e-4 is the paper's best; 1e-4 to 1e-3 work. Higher copies the pictures and ignores the prompt, lower misses the subject.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=DEFAULTS.batch_size,
                    min=1,
                    max=1024,
                    tooltip="Pictures per step. More is smoother and needs more memory.",
                ),
                io.Int.Input(
                    "seed",
                    default=DEFAULTS.seed,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,  # the editor's new seed after each run would train again each time
                    tooltip="The same seed and settings give the same adapter.",
                ),
                *factor_inputs(
                    "Rows of the small factor A (out). With factor_in it sets the size of the file: 64 × 4 is the paper's best, "
                    "64 × 8 half its size, both small means a large file.",
                    "Columns of the small factor A (in); 2, 4 or 8 in the paper's best variants.",
                    FACTORS,
                    advanced=True,
                ),
                optional_combo(
                    "resume",
                    (SAME, NEW, *paths.runs()),
                    SAME,
                    "Go on with a run that was cancelled, or with a finished one for more steps: exactly as if it had never stopped. "
                    "Everything but 'steps' must be as it was. By itself it goes on with a run of this name and these settings, and does "
                    "not train a finished one again; '(new run)' always starts from the beginning.",
                ),
                optional_count(
                    "accumulate",
                    DEFAULTS.accumulate,
                    "Batches per step: smoother, like a larger batch, without its memory; each step takes as many times longer.",
                    low=1,
                    high=1024,
                ),
                optional_count(
                    "save_every",
                    DEFAULTS.save_every,
                    "Steps between saved states, from which the run can go on after a crash. 0 saves at the end and on cancel only.",
                ),
                KronaTargetsSocket.Input(
                    "targets",
                    optional=True,
                    tooltip="Which layers are trained, from KronA Targets; it replaces factor_out and factor_in. All attention without it.",
                ),
                KronaSettingsSocket.Input(
                    "settings",
                    optional=True,
                    tooltip="From KronA Train Settings: previews, prior preservation, memory, optimizer, noise levels. The defaults of that node without it.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=0,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    tooltip="Draw a picture of the prompt after every so many steps, to see when to stop. 0 leaves it to the settings. "
                    "Drawing never changes what is trained.",
                ),
                optional_combo(
                    "where",
                    (HERE, PROCESS, ALL_GPUS),
                    HERE,
                    "A separate process keeps ComfyUI alive if the training runs out of memory; all GPUs train on larger batches "
                    "(batch_size for each). Both need a model straight from its loader. Cancel works in all of them.",
                ),
                Krona.Input(
                    "start",
                    optional=True,
                    tooltip="Begin at this adapter instead of at nothing, with a fresh optimizer: to train it further with other rates or other "
                    "pictures. The result is the adapter and what was learnt. One of another form (a LoRA, other factors) is brought into the form "
                    "that is trained, and the console says what that loses.",
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
        name: str,
        steps: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
        factor_out: int,
        factor_in: int,
        resume: str = SAME,
        accumulate: int = DEFAULTS.accumulate,
        save_every: int = DEFAULTS.save_every,
        targets: AdapterConfig | None = None,
        settings: Settings | None = None,
        preview_every: int = 0,
        where: str = HERE,
        start: Adapter | None = None,
    ) -> io.NodeOutput:
        from .server.training import train  # the trainer: no start of ComfyUI should wait for it

        config = TrainConfig(
            steps=steps,
            batch_size=batch_size,
            accumulate=accumulate,
            seed=seed,
            save_every=save_every,
            adapter=targets or AdapterConfig(targets=(TargetRule(factors=(factor_out, factor_in)),)),
            optimizer=OptimizerConfig(learning_rate=learning_rate),
            preview=PreviewConfig(every=preview_every),
        )
        config = (settings or Settings()).applied_to(config, dataset)
        progress = Progress(steps, cls.hidden.unique_id)
        result = train(
            model,
            clip,
            vae,
            dataset,
            config,
            name=name,
            resume=resume,
            where=where,
            progress=progress,
            node=cls.hidden.unique_id,
            start=start,
        )
        return output_of(cls, result, model, clip)
