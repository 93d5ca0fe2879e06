"""What the command line does: a training from its file, to its end or until it is stopped. Imported when ComfyUI can
be."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path

from krona_host.names.canonical import canonical
from krona_host.types import Clip, Model
from krona_ops import Adapter, load
from krona_ops.errors import ConfigError, DataError, KronaError

from ..comfyui.load import load_clip, load_model, load_vae
from ..comfyui.start import user_folder
from ..data.source import read_pictures
from ..objectives.kinds import objective_of
from ..processes.console import ProgressBar, Requests, as_lines
from ..processes.together import Runtime
from ..run import layout
from ..run.claim import Claim, claim, claim_new, join
from ..run.job import Job, to_text
from ..run.litter import sweep_below
from ..run.requests import forget
from ..run.state import TrainState, newest_whole
from ..settings.typed_in import safe_name
from .material import Material, Places, prepare, with_prompts
from .training import HostTraining

log = logging.getLogger("krona_train")


def train(job: Job, options: argparse.Namespace, runtime: Runtime, host: Path) -> None:
    """Train as the job says.

    Args:
        options: Of the command line.
        runtime: This process among those that train together.
        host: ComfyUI's folder.

    Raises:
        KronaError: Anything that keeps it from training, in words.
        KeyboardInterrupt: It was asked to stop; what it has done is kept.
    """
    with _claimed(job, options) if runtime.number == 0 else nullcontext() as held:
        _train_in(Path(runtime.from_first(str(held.folder) if held is not None else "")), job, options, runtime, host)


def _train_in(folder: Path, job: Job, options: argparse.Namespace, runtime: Runtime, host: Path) -> None:
    leads = runtime.number == 0
    resume = _state(folder) if options.resume else None
    if resume is not None:
        job = dataclasses.replace(job, training=resume.adopted(job.training))
    config = job.training
    if leads and not options.events:  # else who watches has done it, and may have asked for something meanwhile
        forget(folder)
    model = load_model(job.model)
    encoded = options.encoded or folder / layout.ENCODED
    if leads and options.encoded is None and (resume is None or not _is_whole(encoded)):
        places = Places(user_folder(host) / "krona" / "cache", folder.parent / "class pictures")
        sweep_below([places.cache, places.class_pictures])
        clip, vae = load_clip(job.model), load_vae(job.model)
        begun = start_of(job, model, clip)
        prepared = prepare(
            model,
            clip,
            vae,
            read_pictures(job.pictures, job.training.data),
            config,
            places,
            _tell_preparation(options.events),
        )
        # Tried together before anything is written.
        HostTraining(model, clip, vae, prepared, config, "", begun).fingerprints()
        prepared.save(encoded)
        del clip, vae, prepared, begun
    material = Material.load(runtime.from_first(str(encoded)))
    if leads and resume is not None and options.encoded is None:
        _require_same_captions(job, material.captions)
        objective = objective_of(config.objective, config.prior)
        material = with_prompts(material, lambda: load_clip(job.model), objective.previews(config.preview).trained)
    clip = load_clip(job.model) if config.adapter.text_encoder else None
    decodes = "decoder" in objective_of(config.objective, config.prior).needs
    vae = load_vae(job.model) if decodes or (leads and config.preview.every) else None
    written = dataclasses.replace(job, name=folder.name, start=layout.START if job.start else "")
    training = HostTraining(model, clip, vae, material, config, to_text(written), start_of(job, model, clip))
    requests = Requests(folder if leads else None)
    show = as_lines(requests) if options.events else ProgressBar(config.steps, is_hidden=not leads)
    try:
        training.run(folder, [show], resume, runtime, requests, held=True)
    except KeyboardInterrupt:
        # All of them were asked; whoever ends first would have the launcher end the one that is still writing.
        runtime.largest(0)
        raise
    finally:
        if leads:
            forget(folder)  # obeyed


def _is_whole(encoded: Path) -> bool:
    """Whether the pictures that were encoded when the run began can be read; if not, they are encoded again."""
    try:
        Material.load(encoded)
    except KronaError as error:
        log.info("The pictures are encoded again: %s", error)
        return False
    return True


def start_of(job: Job, model: Model, clip: Clip | None) -> Adapter | None:
    """The adapter that the training begins at, by the model's own names."""
    if not job.start:
        return None
    return canonical(load(job.start), model, clip if job.training.adapter.text_encoder else None)


def _require_same_captions(job: Job, captions: Sequence[str]) -> None:
    """A run goes on with the pictures that were encoded when it began; say so where the file names others by now.

    Raises:
        ConfigError: Their number or captions are others.
    """
    try:
        now = read_pictures(job.pictures, job.training.data).captions
    except DataError as error:
        log.info("The pictures are not there any more, the encoded ones are: %s", error)
        return
    if now != tuple(captions):
        was, is_now = next(((a, b) for a, b in zip_longest(captions, now, fillvalue="no picture") if a != b))
        raise ConfigError(
            "The saved training had other pictures or captions.",
            where="pictures",
            found=is_now,
            expected=was,
            remedy=f'It had "{was}" where there is "{is_now}" now: set it back to go on, or start a new run.',
        )


def _claimed(job: Job, options: argparse.Namespace) -> Claim:
    """The run's folder, held from here on.

    Raises:
        ConfigError: Another training holds it.
        AdapterFileError: It cannot be written.
    """
    if options.folder is not None or options.resume:
        folder = (options.folder or options.file.parent).resolve()
        return join(folder, options.claimed) if options.claimed else claim(folder)
    name = safe_name(job.name)
    wanted = Path(job.output) / name
    # The file of a finished run starts the next one beside it, not inside it.
    return claim_new(
        options.file.resolve().parent.with_name(name) if (wanted.parent / layout.METRICS).exists() else wanted
    )


def _state(folder: Path) -> TrainState:
    state = newest_whole(folder)
    if state is None:
        raise ConfigError(
            "There is no saved state to go on from.",
            where=str(folder),
            found="no state-….safetensors",
            expected="the folder of a run",
            remedy="Leave --resume out to start a new run; with --folder it begins in this one.",
        )
    return state


def _tell_preparation(is_quiet: bool) -> Callable[[int, int, str], None]:
    def tell(done: int, total: int, what: str) -> None:
        if not is_quiet and what:
            log.info("%d of %d: %s", done + 1, total, what)

    return tell
