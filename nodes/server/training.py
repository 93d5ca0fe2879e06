"""From the host's models and a data set to a trained adapter, in the server or in a process of its own."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy
import comfy.model_management
import comfy.utils
import folder_paths
import torch

from krona_host.names.canonical import canonical
from krona_ops import Adapter, load
from krona_ops.errors import ConfigError, TrainingError
from krona_ops.files import write_atomically
from krona_train import TrainConfig
from krona_train.comfyui.load import files_of
from krona_train.comfyui.parts import require_parts
from krona_train.data.choices import PictureFiles
from krona_train.data.pictures import Dataset
from krona_train.packages import load as load_package
from krona_train.processes.launch import command, follow
from krona_train.processes.together import ALONE, SEVERAL
from krona_train.run import layout
from krona_train.run.claim import claim, claim_new
from krona_train.run.events import Sink, to_all
from krona_train.run.folder import Run, save_start
from krona_train.run.job import Job, ModelFiles, to_text
from krona_train.run.requests import Ask, asked
from krona_train.run.state import TrainState, newest_whole, same_run
from krona_train.session.material import Places, Progress, prepare
from krona_train.session.training import HostTraining

from . import live, paths
from .choices import ALL_GPUS, HERE, NEW, SAME

if TYPE_CHECKING:
    from krona_host.types import Clip, Model, Vae

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a training leaves."""

    adapter: Adapter
    run: Run
    config: TrainConfig
    prompts: tuple[str, ...]
    """Of the previews."""


def train(
    model: Model,
    clip: Clip,
    vae: Vae,
    dataset: Dataset,
    config: TrainConfig,
    *,
    name: str,
    resume: str,
    where: str,
    progress: Sink,
    node: str | None = None,
    start: Adapter | None = None,
) -> Result:
    """Train; the result is on disk before this returns, also when it raises in the middle.

    Args:
        name: Of the run's folder.
        resume: The name of a run to go on with, `NEW`, or `SAME`: the run of this name that is the same training, if
            there is one; a finished one is not trained again.
        where: `HERE`, `PROCESS` or `ALL_GPUS`.
        progress: Gets every event after the run's folder has.
        node: The id of the node that trains.
        start: The adapter that the training begins at, of any form and dialect.

    Raises:
        ConfigError: A part is missing or another family's, or the run to go on with belongs to something else, or is
            trained by another server or process now; a package is missing.
        InterruptProcessingException: The user cancelled; what was trained so far is in the folder.
    """
    processes = max(1, torch.cuda.device_count()) if where == ALL_GPUS else 1
    if processes > 1:
        load_package("accelerate", SEVERAL, ALONE)  # before pictures are encoded
    require_parts(model, clip, vae)
    begun = None if start is None else canonical(start, model, clip if config.adapter.text_encoder else None)
    job = _job(
        model, clip, vae, dataset, config, name, "" if begun is None else layout.START, needs_files=where != HERE
    )
    material = prepare(model, clip, vae, dataset, config, places(), tell_preparation())
    training = HostTraining(model, clip, vae, material, config, to_text(job), begun)
    earlier = _earlier(training, name, resume, config, processes)
    if earlier is not None and (older := earlier[1].adopted(config)) != config:
        config, job = older, dataclasses.replace(job, training=older)
        training = HostTraining(model, clip, vae, material, config, to_text(job), begun)
    prompts = tuple(prompt.text for prompt in material.prompts)
    if earlier is not None and resume == SAME and (done := _finished(*earlier, config)):
        log.info("KronA: this training is done already, in %s; nothing has changed.", earlier[0])
        return Result(*done, config, prompts)
    with claim(earlier[0]) if earlier is not None else claim_new(paths.wanted_folder(name)) as held:
        folder = held.folder
        # Read once the folder is held: another training may have gone on with it until then.
        state = None if earlier is None else newest_whole(folder)
        if where == HERE:
            with live.watched(folder, node) as show:
                trained = training.run(folder, [show, progress], state, asked=_asked(folder), held=True)
                return Result(*trained, config, prompts)
        encoded = material.save(folder / layout.ENCODED)
        run_yaml = folder / layout.SETTINGS
        text = to_text(dataclasses.replace(job, name=folder.name))
        write_atomically(run_yaml, lambda file: file.write(text.encode()))
        if training.start is not None:
            save_start(training.start.adapter, folder / layout.START, config.adapter)
        del training, material  # the process loads its own
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        arguments = command(
            run_yaml,
            folder,
            processes=processes,
            resume=state is not None,
            encoded=encoded,
            comfyui=_comfyui(),
            claimed=held.token,
            host_arguments=sys.argv[1:],
        )
        with live.watched(folder, node) as show:
            follow(
                arguments,
                folder,
                to_all(show, progress),
                comfy.model_management.throw_exception_if_processing_interrupted,
            )
    run = Run.recall(folder, config)
    if run.adapter_file is None:
        raise TrainingError(
            "The training's process left no adapter.",
            where=str(folder),
            found="nothing",
            expected=layout.RESULT,
            remedy=f"What it said is in {folder / 'log.txt'}.",
        )
    return Result(load(run.adapter_file), run, config, prompts)


def _asked(folder: Path) -> Callable[[], Ask]:
    """What a training in this process is asked; to be stopped is an interrupt, which the host knows what to do with."""

    def look() -> Ask:
        what = asked(folder)
        if what is Ask.STOP:
            raise comfy.model_management.InterruptProcessingException
        return what

    return look


def places() -> Places:
    """Folders that all runs share: encodings in the user's folder, because every safetensors file below output is
    listed."""
    return Places(Path(folder_paths.get_user_directory()) / "krona" / "cache", paths.runs_folder() / "class pictures")


def tell_preparation() -> Progress:
    """Show on the node how far the preparation is, and stop it when the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int, what: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)
        log.debug("KronA: %s (%d of %d)", what, done, total)

    return tell


def _earlier(
    training: HostTraining, name: str, resume: str, config: TrainConfig, processes: int
) -> tuple[Path, TrainState] | None:
    """The run to go on with, and its newest whole state without tensors; ``None`` for a new one.

    Raises:
        AdapterFileError: There is no run of this name to go on with, or none of its states is whole.
    """
    prints = training.fingerprints()  # always: this is also where the parts are tried together
    if resume == SAME:
        return same_run(paths.runs_named(name), config, *prints, processes, training.begun)
    if resume == NEW:
        return None
    folder = paths.run_folder(resume)
    state = newest_whole(folder, peek=True)
    return None if state is None else (folder, state)


def _comfyui() -> Path:
    """The host's folder."""
    return Path(next(iter(comfy.__path__))).resolve().parent


def _finished(folder: Path, state: TrainState, config: TrainConfig) -> tuple[Adapter, Run] | None:
    run = Run.recall(folder, config)
    is_done = state.step == config.steps and (folder / layout.RESULT).is_file()
    return (load(folder / layout.RESULT), run) if is_done else None


def _job(
    model: Model,
    clip: Clip,
    vae: Vae,
    dataset: Dataset,
    config: TrainConfig,
    name: str,
    start: str,
    *,
    needs_files: bool,
) -> Job:
    """The training as a file; without the model's files where they are not known and not needed."""
    try:
        files = files_of(model, clip, vae)
    except ConfigError as error:
        if needs_files:
            raise
        log.debug("KronA: run.yaml cannot name the model: %s", error)
        files = ModelFiles()
    return Job(
        name=name if paths.safe_name(name) else Job.name,
        output=str(paths.runs_folder()),
        comfyui=str(_comfyui()),
        model=files,
        pictures=dataset.source or PictureFiles(),
        start=start,
        training=config,
    )
