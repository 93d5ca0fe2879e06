"""Who takes part, by name. Names stand in results' files: what one means never changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from krona_ops.targets.rules import PAPER_FACTORS, TargetRule
from krona_ops.updates.kron import Layout
from krona_train.config import AdapterConfig, OptimizerConfig
from krona_train.settings.groups import SparseConfig

from . import ideas, training
from .training import Train


@dataclass(frozen=True)
class Contender:
    """A way to personalise."""

    adapter: AdapterConfig
    train: Train = training.by_the_pack
    optimizer: tuple[tuple[str, Any], ...] = ()
    """Settings of the optimizer besides the learning rate."""
    tells_losses: bool = False
    """Whether its rows have the loss on the pictures that it was trained on, and on others of the subject."""


RECIPE = 0.0
"""``init_std`` of everybody but the pack's default settings: the released code's start."""


def krona(out: int, into: int, layout: Layout = "kron") -> Contender:
    """Kronecker adapter of these factors, started as in the released code, by the pack's trainer."""
    return Contender(AdapterConfig(targets=(TargetRule((out, into)),), layout=layout, init_std=RECIPE))


def of_projections(**factors: tuple[int, int]) -> AdapterConfig:
    """Factors of their own for some projections (``q``, ``k``, ``v``, ``out``); the others are left alone."""
    rules = tuple(TargetRule(pair, projections=(name,)) for name, pair in factors.items())  # type: ignore[arg-type]  # keywords
    return AdapterConfig(targets=rules, init_std=RECIPE)


def started(adapter: AdapterConfig, init_std: float) -> AdapterConfig:
    """The same with a start of this standard deviation for every shape."""
    return replace(adapter, init_std=init_std)


def lora(rank: int) -> Contender:
    """diffusers' LoRA on the same layers, the pack's trainer."""
    return Contender(AdapterConfig(kind="lora", rank=rank, alpha=rank, init_std=RECIPE))


def in_parts(parts: int, consistency: float = 0.0) -> Contender:
    """The paper's adapter, trained in so many parts (MoSA), with its losses; 1 is the training that is compared with."""
    adapter = replace(krona(*PAPER_FACTORS).adapter, sparse=SparseConfig(parts, consistency))
    return Contender(adapter, tells_losses=True)


SIZES = ((64, 4), (4, 4), (2, 2))
"""Of the Kronecker adapters whose learning rates are all tried: on layers of 128 × 128 they have about as many
parameters as LoRA of rank 1, 4 and 16."""
SIDES = (2, 4, 8, 16, 32, 64)
"""Of the grid of factors."""
SETTINGS = "default settings"
"""All of the pack's, as they come."""
PAPER = "krona {}x{}".format(*PAPER_FACTORS)
"""The paper's best factors, with whom the others are compared."""
CONTENDERS: dict[str, Contender] = {
    SETTINGS: Contender(AdapterConfig(), optimizer=(("rate_by_width", OptimizerConfig().rate_by_width),)),
    **{f"krona {a}x{b}": krona(a, b) for a in SIDES for b in SIDES},
    **{f"krona {a}x{b} shuffled": krona(a, b, "shuffled") for a in SIDES for b in SIDES},
    **{f"lora {rank}": lora(rank) for rank in (1, 2, 4, 8, 16)},
    "lokr core": Contender(krona(8, 8).adapter, training.with_start(training.as_core_starts)),
    "lokr lycoris": Contender(krona(8, 8).adapter, training.with_start(training.as_lycoris_starts)),
    "full": Contender(AdapterConfig(init_std=RECIPE), training.full_fine_tuning),
    "idea: q k 64x4, v out 4x4": Contender(of_projections(q=(64, 4), k=(64, 4), v=(4, 4), out=(4, 4))),
    "idea: q k 4x4, v out 64x4": Contender(of_projections(q=(4, 4), k=(4, 4), v=(64, 4), out=(64, 4))),
    "idea: q k v 4x64, out 64x4": Contender(of_projections(q=(4, 64), k=(4, 64), v=(4, 64), out=(64, 4))),
    "idea: v 4x64, out 64x4 alone": Contender(of_projections(v=(4, 64), out=(64, 4))),
    "idea: 4x64": Contender(krona(4, 64).adapter),
    "idea: v and out alone": Contender(of_projections(v=(64, 4), out=(64, 4))),
    "idea: B four times as fast": Contender(krona(64, 4).adapter, optimizer=(("rate_b", 4.0),)),
    "idea: A four times as fast": Contender(krona(64, 4).adapter, optimizer=(("rate_a", 4.0),)),
    "idea: A orthogonal": Contender(krona(64, 4).adapter, training.with_start(ideas.orthogonal)),
    "idea: A wide": Contender(krona(64, 4).adapter, training.with_start(ideas.wide)),
    "idea: A small": Contender(krona(64, 4).adapter, training.with_start(ideas.small)),
    "idea: 4x4, A small": Contender(krona(4, 4).adapter, training.with_start(ideas.small)),
    "idea: 2x2, A small": Contender(krona(2, 2).adapter, training.with_start(ideas.small)),
    "idea: q k v 4x64, out 64x4, A small": Contender(
        started(of_projections(q=(4, 64), k=(4, 64), v=(4, 64), out=(64, 4)), ideas.SMALL)
    ),
    "idea: factors by budget, A small": Contender(started(krona(64, 4).adapter, ideas.SMALL), ideas.by_budget),
    "idea: 4x4, A as 64x4 starts": Contender(started(krona(4, 4).adapter, 1 / 64)),
    "idea: 2x2, A as 64x4 starts": Contender(started(krona(2, 2).adapter, 1 / 64)),
    "idea: A by the gradient": Contender(krona(64, 4).adapter, training.with_start(ideas.by_gradient)),
    "idea: sum of 16x4 and 4x16": Contender(krona(64, 4).adapter, ideas.sum_of((16, 4), (4, 16))),
    "idea: sum of 64x4 and 4x64": Contender(krona(64, 4).adapter, ideas.sum_of((64, 4), (4, 64))),
    "idea: sum of two 64x4": Contender(krona(64, 4).adapter, ideas.sum_of((64, 4), (64, 4))),
    "idea: factors by budget": Contender(krona(64, 4).adapter, ideas.by_budget),
    "idea: half of the layers": Contender(krona(64, 4).adapter, ideas.half_of_the_layers),
    "whole, beside MoSA": in_parts(1),
    "MoSA 4": in_parts(4),
    "MoSA 4, consistency 1": in_parts(4, 1.0),
}
WHOLE, MOSA, CONSISTENT = "whole, beside MoSA", "MoSA 4", "MoSA 4, consistency 1"
"""Those whose losses are compared: the same training with ``B`` whole, and in parts."""
IDEAS = tuple(name for name in CONTENDERS if name.startswith("idea"))
