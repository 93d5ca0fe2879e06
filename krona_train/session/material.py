"""Everything that a training needs beside the model, encoded: pictures, captions, class pictures, preview prompts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import lcm, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory

from krona_host.model.families import native_resolution
from krona_host.types import Clip, Model, Vae
from krona_ops.errors import DataError

from ..batches.camera import Camera
from ..batches.examples import Example, Group, Item, Seen
from ..comfyui.encode import ComfyEncoder, TextCondition
from ..comfyui.identity import is_told_by_its_weights
from ..comfyui.model import ComfyBackbone
from ..comfyui.parts import rehearse, require_parts, require_text_encoder, usable_text
from ..comfyui.rollouts import roll_out
from ..comfyui.sampling import Prompt, check_sampler, class_painter, encode_prompts, latent_shape
from ..config import PreviewConfig, TrainConfig
from ..data import encoding
from ..data.buckets import STEP, PictureSize
from ..data.cache import Cache
from ..data.class_pictures import class_folder, make_class_pictures
from ..data.packed import pack, unpack
from ..data.pictures import Dataset, Picture
from ..data.prompt_items import items_of_prompts, size_drawn
from ..data.resolutions import describe_sizes, require_multiples, size_weights
from ..data.source import unused_class_pictures
from ..data.store import EncodedText
from ..monitor.preview import preview_prompts
from ..objectives.kinds import objective_of
from ..objectives.needs import require_pictures
from ..objectives.rollouts import Rollouts

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Material:
    """What is trained on, ready for the loop."""

    items: tuple[Item | Group, ...]
    class_items: tuple[Item, ...]
    """Empty without a prior of pictures."""
    prompts: tuple[Prompt, ...]
    """What previews show; empty without previews."""
    negative: Prompt | None
    captions: tuple[str, ...]
    """One per picture, for the adapter's metadata."""
    resolution: int
    """Side in pixels of a square of the trained pictures' area, or of what is drawn from prompts."""
    notes: tuple[str, ...] = ()
    """What the run's log shall say of the pictures: files that are not used, and why."""
    empty_prompt: EncodedText | None = None
    """No prompt, encoded, for objectives that need what the model makes of it."""

    _CLASSES = (Item, Group, Example, Seen, Camera, TextCondition, PictureSize, Prompt)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it, for another process.

        Raises:
            DataError: The text encoder gives something that no file can hold.
            AdapterFileError: The folder cannot be written, or the disk is full.
        """
        return pack(self, path, (Material, *self._CLASSES))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Material:
        """What `save` wrote, its tensors mapped from the file.

        Raises:
            AdapterFileError: The file is missing, damaged, or of another kind.
        """
        return unpack(path, Material, (Material, *cls._CLASSES))


@dataclass(frozen=True)
class Places:
    """Folders that all runs share."""

    cache: Path
    """Encoded pictures and captions."""
    class_pictures: Path
    """Class pictures that were made, a folder for each prompt and model."""


Progress = Callable[[int, int, str], None]
"""Gets how much is done, how much there is, and what comes next. It may raise, to cancel."""


def prepare(
    model: Model,
    clip: Clip | None,
    vae: Vae | None,
    dataset: Dataset,
    config: TrainConfig,
    places: Places,
    progress: Progress,
) -> Material:
    """Encode everything, from the cache where an earlier run has done so; draw the class pictures that are missing.

    Args:
        model: The host's ``ModelPatcher``.
        clip, vae: ``None`` where a checkpoint brings none, which is refused.

    Raises:
        ConfigError: A part is missing or another family's, or the host lacks the sampler of the previews or drawings.
        DataError: A picture, mask or caption cannot be used; or there are prompts where the objective needs pictures.
    """
    require_parts(model, clip, vae)
    assert clip is not None
    assert vae is not None
    check_sampler(config.preview)
    objective = objective_of(config.objective, config.prior)
    require_pictures(objective, dataset.prompts[0] if dataset.prompts else None)
    resolution = dataset.resolution or native_resolution(model)
    encoder, cache = ComfyEncoder(clip, vae), Cache(places.cache) if dataset.settings.cache else None
    with_class = config.prior.weight > 0 and config.prior.source == "model"
    if objective.rollouts is not None:
        check_sampler(objective.rollouts, "objective")
        _require_prompts(dataset)
    items: tuple[Item | Group, ...]
    about_sizes: tuple[str, ...] = ()
    if dataset.prompts:
        size = size_drawn(dataset, resolution)
        shape = latent_shape(model, *size)[1:]
        prompts = items_of_prompts(dataset, size, shape, encoder, cache, progress, seed=config.seed)
        how, resolution = objective.rollouts, round(sqrt(size[0] * size[1]))
        items = prompts if how is None else drawn(model, prompts, how, encoder, cache, config, progress)
    else:
        about_sizes, sizes = trained_sizes(model, dataset, resolution)
        items = encoding.encode(
            dataset, resolution, encoder, cache, progress, seed=config.seed, with_class=with_class, sizes=sizes
        )
    class_items: tuple[Item, ...] = ()
    if config.prior.weight > 0 and config.prior.source == "pictures":
        with with_drawn_class_pictures(model, clip, vae, dataset, resolution, config, places, progress) as whole:
            log.info(
                "KronA: prior preservation with %d class pictures, weight %g.",
                len(whole.class_pictures),
                config.prior.weight,
            )
            class_items = encoding.encode_class_pictures(whole, resolution, encoder, cache, progress)
    notes = tuple(notice.text() for notice in (*dataset.notices, *unused_class_pictures(dataset, config.prior)))
    notes = (*about_sizes, *notes)
    empty = encoder.encode_captions([""])[""] if "unconditional" in objective.needs else None
    material = Material(items, class_items, (), None, dataset.captions, resolution, notes, empty)
    return with_prompts(material, lambda: clip, objective.previews(config.preview).trained)


def trained_sizes(model: Model, dataset: Dataset, resolution: int) -> tuple[tuple[str, ...], dict[int, int]]:
    """What is said of the sizes that are trained, and each with its weight; nothing where there is but one.

    Raises:
        DataError: The model cannot draw one of them, or there is none but its own.
    """
    wanted = dataset.settings.resolutions
    if not wanted:
        return (), {}
    require_multiples(wanted, lcm(STEP, model.get_model_object("latent_format").spacial_downscale_ratio))
    weights = size_weights(wanted, resolution)
    about = describe_sizes(dataset, resolution, weights)
    for line in about:
        log.info("KronA: %s", line)
    return about, weights


def _require_prompts(dataset: Dataset) -> None:
    """
    Raises:
        DataError: There are pictures instead of prompts.
    """
    if not dataset.prompts:
        raise DataError(
            "This training learns from what the model draws itself, and not from pictures.",
            found=f"{len(dataset.pictures)} pictures",
            expected="prompts, from KronA Prompts",
            remedy="Connect KronA Prompts; it takes the captions of a data set too.",
        )


def drawn(
    model: Model,
    prompts: Sequence[Item],
    how: Rollouts,
    encoder: ComfyEncoder,
    cache: Cache | None,
    config: TrainConfig,
    progress: Progress,
) -> tuple[Item, ...]:
    """What the model sees when it draws the prompts, from the cache where an earlier run has drawn them.

    Raises:
        ConfigError: The model has its guidance built in, or cannot take what the text encoder gives.
        OutOfMemoryError: Not even one drawing fits.
    """
    backbone = ComfyBackbone(model)
    with backbone.ready():
        rehearse(backbone, prompts)
        base = backbone.fingerprint()
    texts = {encoder.text_identity(caption) for caption in (how.negative, *(item.forms[0].caption for item in prompts))}
    identity = None if None in texts else f"{base} {texts}"
    [(embedding, extras)] = encoder.encode_captions([how.negative]).values()
    negative = Prompt(how.negative, embedding, extras)
    run = {"seed": config.seed, "at_once": config.batch_size}
    return roll_out(model, prompts, negative, how, **run, identity=identity, cache=cache, told=progress)


def with_prompts(material: Material, load_clip: Callable[[], Clip | None], config: PreviewConfig) -> Material:
    """The material with the prompts that these settings draw, which may change while all else stays.

    Args:
        load_clip: Gives the host's CLIP; called only where a prompt is not encoded yet.

    Raises:
        ConfigError: There is none.
    """
    wanted = (*preview_prompts(config, material.captions), config.negative) if config.every else ()
    encoded = (*material.prompts, material.negative) if material.negative is not None else ()
    if wanted and wanted != tuple(prompt.text for prompt in encoded):
        *prompts, negative = encode_prompts(require_text_encoder(load_clip()), wanted)
        return replace(material, prompts=tuple(prompts), negative=negative)
    return material if wanted else replace(material, prompts=(), negative=None)


@contextmanager
def with_drawn_class_pictures(
    model: Model,
    clip: Clip,
    vae: Vae,
    dataset: Dataset,
    resolution: int,
    config: TrainConfig,
    places: Places,
    progress: Progress,
) -> Iterator[Dataset]:
    """The data set with as many class pictures as it wants: the model draws what is missing, and keeps it for next time.

    Nothing is kept of a model that draws otherwise than its weights tell, as with `roll_out`: its pictures are there until
    the end of the ``with``.
    """
    missing, caption = dataset.missing_class_pictures, dataset.class_caption if dataset.missing_class_pictures else ""
    if not missing:
        yield dataset
        return
    prompt, negative = encode_prompts(clip, (caption, config.preview.negative))
    draw = class_painter(model, vae, prompt, negative, config.preview, (resolution, resolution))
    drawing = config.preview
    how: tuple[object, ...] = (
        resolution,
        drawing.width,
        drawing.height,
        drawing.steps,
        drawing.guidance,
        drawing.sampler,
        drawing.scheduler,
    )
    how += (
        (drawing.embedded_guidance,) if drawing.embedded_guidance else ()
    )  # folders from before it existed keep their names
    backbone = ComfyBackbone(model)
    with backbone.ready():
        identity = backbone.fingerprint()
    with ExitStack() as until_read:
        if is_told_by_its_weights(model):
            folder = class_folder(places.class_pictures, caption, identity, repr((*how, drawing.negative)))
            log.info("KronA: class pictures are in %s.", folder)
        else:
            folder = Path(until_read.enter_context(TemporaryDirectory(prefix="krona-class-")))
            log.info("KronA: class pictures are not kept: more than the model's weights decides how they look.")
        with usable_text(backbone.family, prompt):
            files = make_class_pictures(
                folder, missing, draw, lambda done, total: progress(done, total, f'class picture of "{caption}"'), caption
            )
        yield dataset.with_class_pictures([Picture(file, caption, file.name) for file in files])
