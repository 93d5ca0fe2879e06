"""A training on the host's models: the same for a node and for a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from krona_host.branches.apply import Use, apply_branches
from krona_host.model.families import family_of
from krona_host.types import Clip, Model, Vae
from krona_ops import Adapter
from krona_ops.errors import AdapterFileError, ConfigError, KronaError

from ..adapters.start import Start, begin_at
from ..adapters.targets import targets_of
from ..batches.fingerprint import fingerprint
from ..batches.samples import as_items
from ..comfyui.model import ComfyBackbone
from ..comfyui.parts import notes_on, rehearse, require_text_encoder
from ..comfyui.sampling import ComfyPreviewer, Prompt, encode_prompts
from ..config import TrainConfig
from ..loop import choose_all, fit
from ..monitor.preview import Previewer, preview_size
from ..objectives.kinds import objective_of
from ..objectives.needs import members_of
from ..objectives.preservation import prior_items
from ..processes.together import OneProcess, Runtime
from ..run.events import Ended, Event, Sink, Started, to_all
from ..run.folder import Run, require_a_format
from ..run.metadata import describe
from ..run.requests import Ask
from ..run.state import TrainState, newest
from ..run.tensorboard import TensorBoardLog
from .material import Material

log = logging.getLogger(__name__)


class HostTraining:
    """What is fixed before the first step.

    Args:
        model: The host's ``ModelPatcher``.
        clip: The host's ``CLIP``; only used where the text encoder is trained.
        vae: The host's ``VAE``; only used for previews, and by objectives that look at pixels.
        settings: The text of the run's ``run.yaml``.
        start: The adapter to begin at, by the model's own names; of any form.

    Raises:
        ConfigError, CoverageError, NonFiniteError: It cannot be begun at, see `krona_train.adapters.start.begin_at`; or
            every rate is zero.
    """

    def __init__(
        self,
        model: Model,
        clip: Clip | None,
        vae: Vae | None,
        material: Material,
        config: TrainConfig,
        settings: str,
        start: Adapter | None = None,
    ) -> None:
        self.material, self.config = material, config
        self._settings, self._clip, self._vae = settings, clip, vae
        self._family = family_of(model)
        objective = objective_of(config.objective, config.prior)
        self.backbone = ComfyBackbone(
            model,
            config.memory,
            clip if config.adapter.text_encoder else None,
            getattr(config.objective, "embedded_guidance", 0.0),
            material.empty_prompt,
            vae if "decoder" in objective.needs else None,
        )
        self._objective, self._beside = objective, objective.beside
        targets = targets_of(self.backbone, config.adapter, objective.beside)
        self.start: Start | None = None if start is None else begin_at(start, targets, config.adapter)
        require_a_format(targets, config.adapter)
        choose_all(self.backbone, objective, config, self.start)

    @property
    def begun(self) -> str:
        """The fingerprint of what it begins at; empty where that is nothing."""
        return "" if self.start is None else self.start.fingerprint

    def fingerprints(self) -> tuple[str, str]:
        """Of the base model and of the data, as a saved state has them; the two have been tried together then.

        Raises:
            ConfigError: The model cannot take what the text encoder gives.
        """
        items = as_items(self.material.items)
        classes = prior_items(self.config.prior, items, self.material.class_items)
        with self.backbone.ready():
            rehearse(self.backbone, [member for item in items for member in members_of(item)])
            return self.backbone.fingerprint(), fingerprint((*items, *classes))

    def metadata(self, name: str) -> dict[str, str]:
        """What the adapter's file says about itself."""
        material = self.material
        # A prompt that was learnt from is no word that calls anything up.
        first = members_of(material.items[0])[0].forms[0]
        captions = () if first.latent is None else material.captions
        metadata = describe(
            self.config, name=name, family=self._family, captions=captions, resolution=material.resolution
        )
        return metadata if self.start is None else {**metadata, **self.start.metadata()}

    def run(
        self,
        folder: Path,
        sinks: Iterable[Sink] = (),
        resume: TrainState | None = None,
        runtime: Runtime | None = None,
        asked: Callable[[], Ask] = lambda: Ask.NOTHING,
        *,
        held: bool = False,
    ) -> tuple[Adapter, Run]:
        """Train; the result is on disk before this returns, also when it raises in the middle.

        Args:
            folder: The run's folder; new, or that of the run that goes on.
            sinks: Get every event after the run's folder has.
            asked: What the training is asked, see `krona_train.loop.fit`; the run's folder forgets the files that
                asked.
            held: The folder is held by whoever calls (`krona_train.run.claim`); otherwise it is from the first event to
                the last.

        Raises:
            KronaError: See `krona_train.loop.fit`; its text says where what was trained is.
        """
        runtime = runtime or OneProcess()
        metadata = self.metadata(folder.name)
        begun = None if self.start is None else self.start.adapter
        run = Run(folder, self.config, metadata, self._settings, begun, held=held)
        leads = runtime.number == 0
        board = TensorBoardLog(folder, self.config)
        try:
            adapter = fit(
                self.backbone,
                self.material.items,
                self.config,
                _with_notes(self.material.notes, to_all(_into(folder, run, board), *sinks)) if leads else _nobody,
                resume,
                class_data=self.material.class_items,
                preview=self._previewer() if leads else None,
                runtime=runtime,
                asked=asked,
                start=self.start,
                notes=notes_on(self.backbone.patcher.model),
            )
        except BaseException as error:
            kept = run.adapter_file or (newest(folder) if run.steps else None)
            if kept is not None:
                log.warning("KronA: training stopped early (%s); what was trained is in %s", type(error).__name__, kept)
                if isinstance(error, KronaError):
                    error.args = (f"{error} What was trained is in {run.folder}; choose it in 'resume' to go on.",)
            raise
        return adapter.with_metadata(**metadata, ss_steps=str(run.steps[-1] if run.steps else self.config.steps)), run

    def _previewer(self) -> Previewer | None:
        if not self.material.prompts:
            return None
        if self._vae is None:
            raise ConfigError(
                "Previews need a VAE.",
                found="none",
                expected="a VAE",
                remedy="Connect one, or turn previews off (preview.every 0).",
            )
        size = preview_size(self.config.preview, (self.material.resolution, self.material.resolution))
        backbone = self.backbone
        negative = self.material.negative or self.material.prompts[0]

        def encode() -> tuple[tuple[Prompt, ...], Prompt]:
            clip = require_text_encoder(self._clip)
            *shown, unwanted = encode_prompts(clip, [prompt.text for prompt in (*self.material.prompts, negative)])
            return tuple(shown), unwanted

        how = self._objective.previews(self.config.preview)
        by_teacher: tuple[Image, ...] = ()
        if how.teacher is not None:
            teacher = ComfyPreviewer(backbone.patcher, self._vae, self.material.prompts, negative, how.teacher, size)
            by_teacher = teacher()
        return ComfyPreviewer(
            backbone.patcher,
            self._vae,
            self.material.prompts,
            negative,
            how.trained,
            size,
            backbone.paused,
            encode if self.config.adapter.text_encoder else None,
            self._with_branch if self._beside is not None else None,
            self._drawn_together(),
            by_teacher,
            how.one_step_from,
        )

    def _with_branch(self, adapter: Adapter) -> Model:
        """The model with a parallel branch as it stands; it looks at the first picture of the first group."""
        member = members_of(self.material.items[0])[0]
        reference = member.forms[0].latent_or_zeros()[None]
        looks = self._beside in ("reference", "first")
        return apply_branches(adapter, self.backbone.patcher, Use(reference=reference if looks else None))[0]

    def _drawn_together(self) -> int:
        """Pictures of one preview: those of a group that is drawn at once, the first frame and the next one, or one."""
        if self._beside in (None, "reference"):
            return 1
        return 2 if self._beside == "first" else len(members_of(self.material.items[0]))


def _into(folder: Path, *sinks: Sink) -> Sink:
    """What is written into the run's folder, with a clear error where the disk is full.

    The last event reaches each sink also when another fails, so that what it has open is closed.
    """

    def write(event: Event) -> None:
        errors: list[Exception] = []
        for sink in sinks:
            try:
                sink(event)
            except (OSError, KronaError) as error:
                errors.append(error)
                if not isinstance(event, Ended):
                    break
        if not errors:
            return
        if isinstance(errors[0], KronaError):
            raise errors[0]
        raise AdapterFileError(
            f"The run's folder cannot be written: {getattr(errors[0], 'strerror', None) or errors[0]}.",
            where=str(folder),
            found=str(errors[0]),
            expected="a folder with room that may be written",
            remedy="Free some space.",
        ) from errors[0]

    return write


def _with_notes(notes: tuple[str, ...], sink: Sink) -> Sink:
    """A sink that hears of the pictures when the training begins, before what the layers have to say."""

    def with_notes(event: Event) -> None:
        sink(replace(event, notes=(*notes, *event.notes)) if isinstance(event, Started) else event)

    return with_notes


def _nobody(event: object) -> None:
    """The first process alone writes and tells."""
