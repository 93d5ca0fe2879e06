"""A training with all that is added, as a process that can be killed: ``train.py FOLDER [STEP after which it
dies]``."""

import os
import signal
import sys
from pathlib import Path

import torch

from extension.critic import Critic, CriticConfig
from extension.outer import OuterLayer
from krona_ops import TargetRule
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters import layers
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.config import EmaConfig, MemoryConfig
from krona_train.objectives import kinds
from krona_train.run.events import Saved, to_all
from krona_train.run.folder import Run
from krona_train.run.state import newest_whole

STEPS = 9


def add():
    """One line for each: what a developer would write into the tuples."""
    layers.LAYERS = (*layers.LAYERS, OuterLayer)
    kinds.OBJECTIVES = (*kinds.OBJECTIVES, Critic)


def config():
    rules = (
        TargetRule((2, 3), ("q",), "attn1", kind="outer"),
        TargetRule((8, 4), ("q", "k", "v")),
        TargetRule((2, 3), ("out",), "attn1", kind="sum", terms=((3, 2),)),
        TargetRule(projections=(), pattern=r"mlp\.0\.bias|proj_out", kind="difference"),
        TargetRule(projections=(), pattern=r"mlp\.2", kind="full"),
    )
    return TrainConfig(
        steps=STEPS,
        batch_size=2,
        save_every=2,
        adapter=AdapterConfig(targets=rules),
        optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0),
        objective=CriticConfig(pull=0.25),
        ema=EmaConfig(0.9),
        memory=MemoryConfig(checkpointing="blocks"),
    )


def examples():
    rng = torch.Generator().manual_seed(1)
    return [
        Example(torch.randn(4, 6, 5, generator=rng), torch.randn(7, 24, generator=rng), f"caption {n}")
        for n in range(4)
    ]


def train(folder, dies_after=None):
    def watch(event):
        if isinstance(event, Saved) and event.state.step == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    run = Run(folder, config(), {})
    resume = newest_whole(folder) if folder.exists() else None
    return fit(ToyBackbone(), examples(), config(), to_all(run, watch), resume)


if __name__ == "__main__":
    add()
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
