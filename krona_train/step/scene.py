"""What is fixed in a training once its first step begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..adapters.bank import Bank
from ..backbone.protocol import Backbone
from ..batches.samples import Samples
from ..config import TrainConfig
from ..objectives.protocol import Objective, Source
from ..processes.together import Runtime
from ..run.events import Sink


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that takes part in a training's steps, as one value that its parts are handed."""

    backbone: Backbone
    bank: Bank
    objective: Objective
    samples: Mapping[Source, Samples]
    """Where each step takes its samples from."""
    config: TrainConfig
    runtime: Runtime
    sink: Sink
