"""A training as a file: ``run.yaml``, which every run writes and ``python -m krona_train run.yaml`` runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from krona_ops.errors import ConfigError

from .config import TrainConfig, from_yaml, to_yaml
from .data.folder import Captions, from_folder
from .data.pictures import Dataset


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
class PictureFiles:
    """Where the pictures are, and what they show: the choices of the node KronA Dataset."""

    folder: str = ""
    """With the pictures."""
    prompt: str = ""
    """What they show, where no text file says so."""
    captions: Captions = "files"
    """``files``: a picture's ``.txt`` file, else the prompt. ``prompt``: the prompt for all. ``folders``: the ``.txt`` file,
    else the name of a numbered subfolder."""
    trigger: str = ""
    """The rare word for the subject; what is left of a caption without it names the class."""
    class_prompt: str = ""
    """What the subject is a kind of."""
    class_folder: str = ""
    """Pictures of others of its kind."""
    class_count: int = 0
    """How many class pictures there shall be; the missing ones are drawn by the model."""
    repeats: int = 1
    """How often each picture comes per epoch."""


@dataclass(frozen=True)
class Job:
    """Everything that a training is made of."""

    name: str = "my subject"
    """Of the run's folder."""
    output: str = ""
    """The folder in which the run gets its own; empty takes the one with this file."""
    comfyui: str = ""
    """The ComfyUI whose code loads the model; empty takes the one that this pack is installed in."""
    model: ModelFiles = field(default_factory=ModelFiles)
    pictures: PictureFiles = field(default_factory=PictureFiles)
    training: TrainConfig = field(default_factory=TrainConfig)


def load_job(path: Path) -> Job:
    """A job from its file; relative paths in it start at the file's folder.

    Raises:
        ConfigError: The file is missing or no YAML, or holds a setting that is unknown or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The file cannot be read: {error}.",
            layer=str(path),
            found="no text",
            expected="a YAML file such as the run.yaml of a run",
            remedy="Check its name.",
        ) from error
    job: Job = from_yaml(text, Job)
    base = path.resolve().parent

    def absolute(name: str) -> str:
        return str(base / Path(name).expanduser()) if name else ""

    model = dataclasses.replace(
        job.model,
        checkpoint=absolute(job.model.checkpoint),
        diffusion_model=absolute(job.model.diffusion_model),
        text_encoders=tuple(map(absolute, job.model.text_encoders)),
        vae=absolute(job.model.vae),
    )
    pictures = dataclasses.replace(
        job.pictures, folder=absolute(job.pictures.folder), class_folder=absolute(job.pictures.class_folder)
    )
    places = {"comfyui": absolute(job.comfyui), "output": absolute(job.output) or str(base)}
    return dataclasses.replace(job, model=model, pictures=pictures, **places)


def to_text(job: Job) -> str:
    """The job as YAML."""
    return to_yaml(job)


def dataset_of(job: Job) -> Dataset:
    """The job's pictures, found and read.

    Raises:
        DataError: The folder does not exist, has no readable pictures, or a caption or mask cannot be used.
    """
    pictures, settings = job.pictures, job.training.data
    found = from_folder(
        pictures.folder, pictures.prompt, captions=pictures.captions, masks=settings.masks, repeats=pictures.repeats
    )
    dataset = Dataset(found, settings.resolution, pictures.trigger, pictures.class_prompt, (), pictures.class_count, settings)
    if pictures.class_folder:
        dataset = dataset.with_class_pictures(from_folder(pictures.class_folder, dataset.class_caption))
    return dataset
