"""A training as a file: ``run.yaml``, which every run writes and ``python -m krona_train run.yaml`` runs."""

from __future__ import annotations

import codecs
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from krona_ops.errors import ConfigError, KronaError

from ..config import TrainConfig, from_dict, to_yaml, wanted_prior
from ..data.choices import PictureFiles
from ..settings import plain_yaml
from ..settings.typed_in import safe_name, typed_path


@dataclass(frozen=True)
class ModelFiles:
    """Where the model is. Either one checkpoint, or its parts."""

    checkpoint: str = ""
    """A file with the diffusion model, and with the text encoder and VAE that are not named below."""
    diffusion_model: str = ""
    """A file with the diffusion model alone."""
    weight_dtype: str = "default"
    """Of the diffusion model alone: ``default``, ``fp8_e4m3fn``, ``fp8_e4m3fn_fast`` or ``fp8_e5m2``."""
    text_encoders: tuple[str, ...] = ()
    """Files of the text encoders."""
    clip_type: str = "STABLE_DIFFUSION"
    """What the text encoders are for: the host's name, as in its loader nodes."""
    vae: str = ""
    """A file with the VAE."""

    def __post_init__(self) -> None:
        if self.checkpoint and self.diffusion_model:
            raise ConfigError(
                "Both a checkpoint and a diffusion model are named.",
                found=(self.checkpoint, self.diffusion_model),
                expected="one of them",
                remedy="Leave one line out.",
            )


@dataclass(frozen=True)
class Job:
    """Everything that a training is made of."""

    name: str = "my subject"
    """Of the run's folder."""
    output: str = ""
    """The folder in which the run gets its own; empty takes the one with this file."""
    comfyui: str = ""
    """The ComfyUI whose code loads the model; empty takes the one that this pack is installed in. Another one must be
    named at the prompt (``--comfyui``) or by ``COMFYUI_PATH`` too: a file may be a stranger's, and must not say whose
    code is run."""
    model: ModelFiles = field(default_factory=ModelFiles)
    pictures: PictureFiles = field(default_factory=PictureFiles)
    start: str = ""
    """A file with an adapter of any form: the training begins at it instead of at nothing. A run keeps a copy of its
    own."""
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not safe_name(self.name):
            raise ConfigError(
                f"name is {self.name!r}; it must be a text that a folder can be called.",
                found=self.name,
                expected="a text with a letter or a number in it",
                remedy="Write what the run shall be called, or leave the line out.",
            )


def load_job(path: Path) -> Job:
    """A job from its file; relative paths in it start at the file's folder.

    Raises:
        ConfigError: The file is missing or no YAML, or holds a setting that is unknown or wrong.
    """
    job = _parsed(_text(path), path)
    base = path.resolve().parent

    def absolute(name: str) -> str:
        name = typed_path(name)
        return str(base / os.path.expanduser(name)) if name else ""

    model = dataclasses.replace(
        job.model,
        checkpoint=absolute(job.model.checkpoint),
        diffusion_model=absolute(job.model.diffusion_model),
        text_encoders=tuple(map(absolute, job.model.text_encoders)),
        vae=absolute(job.model.vae),
    )
    pictures = dataclasses.replace(
        job.pictures,
        folder=absolute(job.pictures.folder),
        class_folder=absolute(job.pictures.class_folder),
        prompts_file=absolute(job.pictures.prompts_file),
    )
    return dataclasses.replace(
        job,
        comfyui=absolute(job.comfyui),
        output=absolute(job.output) or str(base),
        start=absolute(job.start),
        model=model,
        pictures=pictures,
    )


def _text(path: Path) -> str:
    """The file as text; a mark of UTF-8 at its start, which Windows' Notepad writes, is no part of it.

    Raises:
        ConfigError: The file is missing, or in another encoding.
    """
    try:
        with path.open("rb") as file:
            # One more than can be right, whatever stands behind it.
            content = file.read(plain_yaml.MOST_CHARACTERS * 4 + 1)
    except OSError as error:
        raise ConfigError(
            f"The file cannot be read: {error.strerror or error}.",
            where=str(path),
            found="no file",
            expected="a YAML file such as the run.yaml of a run",
            remedy="Check its name.",
        ) from error
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:2]
    try:
        if not is_wide:
            return content.decode("utf-8-sig")
        encoding = "UTF-16 (what Windows calls Unicode)"
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = f"another encoding: byte {error.start + 1}, in line {line}, is no UTF-8"
    raise ConfigError(
        f"The file cannot be read: it is text in {encoding}.",
        where=str(path),
        found=encoding,
        expected="text in UTF-8",
        remedy="Save it as UTF-8 in your editor.",
    )


def _parsed(text: str, path: Path) -> Job:
    try:
        values = plain_yaml.read(text)
        return _with_prior(from_dict(Job, values), values)
    except KronaError as error:
        raise ConfigError(str(error), where=str(path), found=error.found, expected=error.expected) from error


def _with_prior(job: Job, values: Mapping[str, object]) -> Job:
    """The job with the prior that it means: a file that names class pictures, and says nothing of the prior or nothing
    of its source, is for training with them, as in the node. Files that a run has written always say all of it."""
    training = values.get("training")
    given = training.get("prior") if isinstance(training, Mapping) else None
    prior = job.training.prior
    has_class = bool(job.pictures.class_folder or job.pictures.class_count)
    if given is None:
        prior = wanted_prior(has_class)
    elif has_class and isinstance(given, Mapping) and "source" not in given and prior.weight > 0:
        prior = wanted_prior(has_class, prior.weight)
    return dataclasses.replace(job, training=dataclasses.replace(job.training, prior=prior))


def to_text(job: Job) -> str:
    """The job as YAML."""
    return to_yaml(job)
