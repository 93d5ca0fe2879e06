"""From the host's models and a data set to a trained adapter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from krona_ops import Adapter
from krona_ops.errors import ConfigError, DataError, KronaError
from krona_train import TrainConfig, fit
from krona_train.backbone.comfyui import (
    ComfyBackbone,
    PictureSize,
    TextCondition,
    encode_captions,
    encode_picture,
    family_of,
    native_resolution,
)
from krona_train.backbone.protocol import Example
from krona_train.data.pictures import Dataset, crop
from krona_train.events import Sink, to_all
from krona_train.metadata import describe
from krona_train.run import Run
from krona_train.state import TrainState

log = logging.getLogger(__name__)


def train_adapter(
    model: Any,
    clip: Any,
    vae: Any,
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    progress: Sink,
    resume: TrainState | None = None,
) -> tuple[Adapter, Run]:
    """Train on the host's models; the result is on disk before this returns, also when it raises in the middle.

    Args:
        folder: The run's folder; new, or that of the run that goes on.
        progress: Gets every event after the run's folder has.

    Raises:
        ConfigError: The checkpoint has no text encoder or no VAE, or the run to go on with belongs to something else.
        InterruptProcessingException: The user cancelled; what was trained so far is in the folder.
    """
    for part, what in ((clip, "text encoder (CLIP)"), (vae, "VAE")):
        if part is None:
            raise ConfigError(
                f"The checkpoint brings no {what}.",
                found="nothing",
                expected=f"a {what}",
                remedy="Load one with its own loader node and connect it.",
            )
    resolution = dataset.resolution or native_resolution(model)
    examples = encode(dataset, resolution, clip, vae)
    metadata = describe(config, name=folder.name, family=family_of(model), captions=dataset.captions, resolution=resolution)
    run = Run(folder, config, metadata)
    try:
        adapter = fit(ComfyBackbone(model), examples, config, to_all(run, progress), resume)
    except BaseException as error:
        if run.adapter_file is not None:
            log.warning("KronA: training stopped early (%s); what was trained is in %s", type(error).__name__, run.adapter_file)
            if isinstance(error, KronaError):
                error.args = (f"{error} What was trained is in {run.folder}; choose it in 'resume' to go on.",)
        raise
    return adapter.with_metadata(**metadata, ss_steps=str(config.steps)), run


def encode(dataset: Dataset, resolution: int, clip: Any, vae: Any) -> Sequence[Example]:
    """Cut every picture to a square and encode it and its caption; each different caption is encoded once."""
    texts = encode_captions(clip, dataset.captions)
    examples = []
    for picture in dataset.pictures:
        cut = crop(picture, resolution)
        size = PictureSize(cut.width, cut.height, cut.left, cut.top, resolution, resolution)
        try:
            latent = encode_picture(vae, cut.pixels)
        except DataError as error:
            raise DataError(str(error), layer=picture.name) from error
        examples.append(Example(latent, TextCondition(*texts[picture.caption], size), picture.caption))
    return examples
