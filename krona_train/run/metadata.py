"""What a trained adapter says about itself in its file, in words that other programs read too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from krona_ops.formats.metadata import modelspec

from ..config import TrainConfig, to_dict

SCHEMA = "1"


@runtime_checkable
class Described(Protocol):
    """Settings of an objective whose result other parts must know something about."""

    def metadata(self) -> dict[str, str]:
        """What its file says."""


def describe(
    config: TrainConfig, *, name: str, family: str, captions: Sequence[str], resolution: int
) -> dict[str, str]:
    """Metadata of a training: ``krona.*`` is complete, ``ss_*`` and ``modelspec.*`` are what managers and loaders
    show."""
    return {
        "krona.schema": SCHEMA,
        "krona.config": json.dumps(to_dict(config)),
        "krona.layout": config.adapter.layout,
        **said_of(config.objective),
        **_network(config),
        "ss_base_model_version": family,
        "ss_output_name": name,
        "ss_learning_rate": str(config.optimizer.learning_rate),
        "ss_optimizer": config.optimizer.name,
        "ss_lr_scheduler": config.optimizer.schedule,
        "ss_prior_loss_weight": str(config.prior.weight),
        "ss_max_train_steps": str(config.steps),
        "ss_seed": str(config.seed),
        "ss_num_train_images": str(len(captions)),
        "ss_batch_size_per_device": str(config.batch_size),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_tag_frequency": json.dumps({name: dict(Counter(captions).most_common(64))}),
        **modelspec(title=name, trigger=Counter(captions).most_common(1)[0][0] if captions else ""),
    }


def said_of(objective: object) -> dict[str, str]:
    """What an objective's settings have to say of the file."""
    return objective.metadata() if isinstance(objective, Described) else {}


def _network(config: TrainConfig) -> dict[str, str]:
    adapter = config.adapter
    is_sparse = adapter.sparse.parts > 1
    sparse = {"sparse_parts": adapter.sparse.parts, "sparse_consistency": adapter.sparse.consistency} if is_sparse else {}
    if adapter.kinds == {"lora"}:
        return {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(adapter.rank),
            "ss_network_alpha": str(adapter.alpha),
            **({"ss_network_args": json.dumps(sparse)} if sparse else {}),
        }
    out, in_ = adapter.targets[0].factors
    arguments = {"algo": "lokr", "factor_out": out, "factor_in": in_, "layout": adapter.layout, **sparse}
    return {"ss_network_module": "krona", "ss_network_args": json.dumps(arguments)}
