"""How strong an update is: every trainer has its own rule, and few files say which.
Decided once, here, with the reason.

Checked against the trainers' own code, in the versions named.

===============================================================  ===========================================  =======================
written by                                                       both factors of a Kronecker product whole    a factor stored decomposed
===============================================================  ===========================================  =======================
LyCORIS (1.9 to 4.1.3), kohya, ComfyUI (0.30)                    1; ``alpha`` is ignored                      ``alpha / rank``
LyCORIS with rs_lora, by ``lycoris.kohya`` (3.1 to 4.1.3)        ``√dim``; saved ``alpha`` is ``dim·√dim``    ``alpha / rank``
LyCORIS with rs_lora, by its wrapper (3.1 to 4.1.3)              1; the option is left out, ``alpha = dim``   ``alpha / rank``
PEFT from 0.14 on (to 0.21.2)                                    ``alpha / r``                                ``alpha / r``
PEFT LoKr before 0.14 (no ``rank_dropout_scale``)                1                                            1
sd-scripts KronA, CDKA (PR 2370)                                 1; the scale is in ``lokr_w1``               never
the same, first build (0c641ec)                                  ``alpha / √in_a``                            never
CDKA of several terms in one product (``r`` > 1)                 ``alpha / dim``                              never
CDKA with tensors of its own                                     ``alpha / √(r·in)``                          never
ai-toolkit                                                       1; ``alpha`` is a placeholder, 9999999999    ``alpha / rank``
===============================================================  ===========================================  =======================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import FormatError
from .peft_config import PeftConfig
from .scale_rules import ScaleRule
from .trainer import Trainer, positive

PLACEHOLDER = 1e9
"""From here on alpha means "the rank": ai-toolkit writes 9999999999, which float16 turns into infinity."""
ROUNDING = 2.0**-4
"""How far an alpha may be rounded: bfloat16 makes 9984 of 10000, float8 has three bits."""


@dataclass(frozen=True)
class Resolved:
    """A scale and why it is that."""

    scale: float
    reason: str


@dataclass(frozen=True)
class Sizes:
    """What of one layer the rules look at."""

    name: str
    method: Literal["lokr", "loha", "lora", "cdka"]
    alpha: float | None
    """``None`` where the file has none."""
    rank: int | None
    """``None`` where both factors are whole."""
    in_a: int | None = None
    """Input width of the first factor of a Kronecker product."""
    block: int = 0
    """The larger side of the second factor: LyCORIS keeps both factors whole only from half of it on, or when told."""
    is_convolution: bool = False
    """With a kernel of more than one point; LyCORIS may give those another dimension."""


def resolve(rule: ScaleRule, sizes: Sizes, trainer: Trainer) -> Resolved:
    """The scale of one layer under a rule, and the reason for it.

    Raises:
        FormatError: ``rule`` needs a number that the file does not have, or ``alpha`` is none.
    """
    if sizes.alpha is not None and math.isnan(sizes.alpha):
        raise FormatError(
            "Its alpha is no number.",
            layer=sizes.name,
            found=sizes.alpha,
            expected="a number",
            remedy='The file is damaged; with the scale rule "1" it may still be of use.',
        )
    if rule == "auto":
        return _automatic(sizes, trainer)
    if rule == "1":
        return Resolved(1.0, "scale 1, as chosen")
    if rule == "lycoris":
        return _lycoris(sizes, Trainer())
    return _chosen(rule, sizes, trainer)


def _automatic(sizes: Sizes, trainer: Trainer) -> Resolved:
    config = trainer.settings(sizes.name)
    if config is not None and config.kind.lower() == sizes.method:
        return _by_peft(sizes, config, trainer.path(sizes.name))
    if sizes.method == "cdka":
        return _by_root(sizes, "CDKA: alpha / √(r·in)")
    if sizes.method == "lokr" and sizes.rank is None and trainer.sdscripts:
        return _by_sdscripts(sizes, trainer)
    return _lycoris(sizes, trainer)


def _by_peft(sizes: Sizes, config: PeftConfig, path: str) -> Resolved:
    r = config.rank_of(path) if sizes.rank is None else _rank_of(config, path, sizes.rank)
    alpha = config.alpha_of(path)
    if not 0 < r < math.inf or not math.isfinite(alpha) or (sizes.rank is not None and sizes.rank != r):
        raise FormatError(
            f"PEFT's settings in the file say rank {r:g} and alpha {alpha:g}, the file has rank {sizes.rank}.",
            layer=sizes.name,
            found=r,
            expected=sizes.rank,
            remedy="The two do not belong together: take the settings away, or choose the scale rule yourself.",
        )
    if not config.has_scale:
        return Resolved(1.0, f"PEFT before 0.14, which never applied alpha {alpha:g} / r {r:g} to LoKr: scale 1")
    root = config.use_rslora and sizes.method == "lora"
    return Resolved(alpha / (math.sqrt(r) if root else r), f"PEFT: alpha {alpha:g} / {'√' if root else ''}r {r:g}")


def _rank_of(config: PeftConfig, path: str, stored: int) -> float:
    """The rank that PEFT's settings give a layer; the stored one where that depends on a key that is not evaluated."""
    try:
        return config.rank_of(path)
    except FormatError:
        return stored


def _by_sdscripts(sizes: Sizes, trainer: Trainer) -> Resolved:
    """KronA and CDKA of pull request 2370, and of its author's fork:
    ``0c641ec`` is the first build, ``cd29e41`` a later one."""
    alpha = "no alpha" if sizes.alpha is None else f"alpha {sizes.alpha:g} is ignored"
    if trainer.divides_by_root:
        return _by_root(sizes, "sd-scripts KronA/CDKA, first build: alpha / √in_a, which it leaves out of the factors")
    if trainer.is_reduced and trainer.dim and sizes.alpha is not None and math.isfinite(sizes.alpha):
        return Resolved(
            sizes.alpha / trainer.dim,
            f"sd-scripts CDKA of several terms, saved as one: alpha {sizes.alpha:g} / dim {trainer.dim:g}",
        )
    reason = f"sd-scripts KronA/CDKA: the scale is in lokr_w1 already, scale 1, {alpha}"
    if trainer.may_divide_by_root and sizes.alpha is not None and sizes.in_a:
        reason += (
            ". Only the first build (June 2026) left it out: if the effect is far too weak, choose the scale rule "
            f'"alpha/sqrt(in)" ({sizes.alpha / math.sqrt(sizes.in_a):g})'
        )
    return Resolved(1.0, reason)


def _lycoris(sizes: Sizes, trainer: Trainer) -> Resolved:
    if sizes.rank is None:
        return _whole(sizes, trainer)
    if sizes.alpha is None:
        return Resolved(1.0, "no alpha in the file: scale 1")
    if math.isinf(sizes.alpha) and trainer.rs_lora == "kohya" and trainer.alpha and trainer.alpha < PLACEHOLDER:
        return Resolved(
            trainer.alpha / math.sqrt(sizes.rank),
            f"rs_lora: alpha {trainer.alpha:g} / √rank {sizes.rank}, from the metadata; half precision made the saved alpha infinite",
        )
    if abs(sizes.alpha) >= PLACEHOLDER:
        return Resolved(1.0, "alpha is a placeholder: scale 1")
    if sizes.alpha == 0:
        return Resolved(1.0, "alpha 0 means alpha = rank: scale 1 (LyCORIS rule)")
    reason = f"alpha {sizes.alpha:g} / rank {sizes.rank}"
    if trainer.bypass and sizes.method == "lokr" and sizes.alpha != sizes.rank:
        effect = "weak" if sizes.alpha < sizes.rank else "strong"
        reason += (
            ". It was trained in bypass mode, where LyCORIS before version 4 used scale 1: if the effect is too "
            f'{effect}, choose the scale rule "1"'
        )
    return Resolved(sizes.alpha / sizes.rank, reason)


def _whole(sizes: Sizes, trainer: Trainer) -> Resolved:
    """The scale where both factors are whole: LyCORIS and ComfyUI take 1, whatever alpha says."""
    alpha = sizes.alpha
    if alpha is None:
        return Resolved(1.0, "both factors whole: scale 1 (LyCORIS rule)")
    if trainer.rs_lora and (resolved := _whole_rs_lora(alpha, sizes, trainer)):
        return resolved
    if abs(alpha) >= PLACEHOLDER:
        return Resolved(1.0, "both factors whole, alpha is a placeholder: scale 1")
    if _is_unusual(alpha, sizes, trainer):
        offers = [f'"alpha/rank" ({alpha / trainer.dim:g})'] if trainer.dim else []
        if sizes.in_a:
            offers.append(f'"alpha/sqrt(in)" ({alpha / math.sqrt(sizes.in_a):g})')
        return Resolved(
            1.0,
            f"both factors whole: scale 1 (LyCORIS rule), alpha {alpha:g} is ignored. No known trainer of that rule saves this "
            f"alpha; if the effect is far too strong or too weak, choose the scale rule {' or '.join(offers) or '1'}",
        )
    return Resolved(1.0, f"both factors whole: scale 1 (LyCORIS rule), alpha {alpha:g} is ignored")


def _whole_rs_lora(alpha: float, sizes: Sizes, trainer: Trainer) -> Resolved | None:
    """LyCORIS computes with ``√dim`` and saves ``dim·√dim``, but for its wrapper,
    which leaves the option out and saves ``dim``.

    Which of the two was done is told by the saved alpha, not by who was asked. ``None``: it is a plain placeholder.
    """
    if math.isinf(alpha):
        if trainer.rs_lora == "wrapper":  # the dimension itself, which was more than half precision holds
            return Resolved(
                1.0, "both factors whole: scale 1 (LyCORIS's wrapper leaves rs_lora out), alpha is infinite"
            )
        dims = trainer.dims(sizes.is_convolution)
        reason = "both factors whole, rs_lora: scale √{:g}, the dimension from the metadata; half precision made alpha infinite"
        return Resolved(math.sqrt(dims[0]), reason.format(dims[0])) if dims else None
    if abs(alpha) >= PLACEHOLDER:
        return None
    for dim in trainer.dims(sizes.is_convolution):
        if math.isclose(alpha, dim**1.5, rel_tol=ROUNDING):
            return Resolved(math.sqrt(dim), f"both factors whole, rs_lora: scale √{dim:.4g}")
        if math.isclose(alpha, dim, rel_tol=ROUNDING):
            break
    else:
        if trainer.rs_lora == "kohya":  # a dimension of its own
            dim = max(alpha, 0.0) ** (2 / 3)
            return Resolved(math.sqrt(dim), f"both factors whole, rs_lora: scale √{dim:.4g}")
    return Resolved(
        1.0,
        f"both factors whole: scale 1, for alpha {alpha:g} is the dimension: rs_lora was left out, as LyCORIS's wrapper does",
    )


def _is_unusual(alpha: float, sizes: Sizes, trainer: Trainer) -> bool:
    """Whether a trainer with LyCORIS's rule would not have saved this alpha: it saves the dimension (ComfyUI #15114).

    ComfyUI's own trainer saves 1. Without a dimension in the metadata,
    one that LyCORIS would have decomposed is unusual.
    """
    if dims := trainer.dims(sizes.is_convolution):
        return not any(math.isclose(alpha, dim, rel_tol=ROUNDING) for dim in dims)
    whole_from = 0 if trainer.full_matrix else sizes.block / 2
    return alpha != 1 and not (alpha > 0 and alpha == int(alpha) and alpha >= whole_from)


def _by_root(sizes: Sizes, reason: str) -> Resolved:
    if sizes.alpha is None or abs(sizes.alpha) >= PLACEHOLDER:
        return Resolved(1.0, "no alpha in the file: scale 1")
    width = (sizes.in_a or 1) * (sizes.rank if sizes.method == "cdka" and sizes.rank else 1)
    return Resolved(sizes.alpha / math.sqrt(width), reason)


def _chosen(rule: ScaleRule, sizes: Sizes, trainer: Trainer) -> Resolved:
    if rule == "alpha/sqrt(in)" and sizes.in_a is None:
        return _lycoris(sizes, Trainer())  # no Kronecker product: the rule says nothing about it
    number = sizes.in_a if rule == "alpha/sqrt(in)" else sizes.rank or trainer.dim or _config_rank(sizes, trainer)
    alpha = sizes.alpha if sizes.alpha is not None else _config_alpha(sizes, trainer)
    if number is None or alpha is None:
        what = "alpha" if alpha is None else "rank"
        raise FormatError(
            f'The scale rule "{rule}" needs {what}, and the file does not say it.',
            layer=sizes.name,
            found=f"no {what}",
            expected=rule,
            remedy='Choose "auto" or "1" and set the strength by hand.',
        )
    if abs(alpha) >= PLACEHOLDER:
        return Resolved(1.0, "alpha is a placeholder: scale 1")
    return Resolved(alpha / (number if rule == "alpha/rank" else math.sqrt(number)), f"{rule}, as chosen")


def _config_rank(sizes: Sizes, trainer: Trainer) -> float | None:
    config = trainer.settings(sizes.name)
    return positive(config.rank_of(trainer.path(sizes.name))) if config else None


def _config_alpha(sizes: Sizes, trainer: Trainer) -> float | None:
    config = trainer.settings(sizes.name)
    return config.alpha_of(trainer.path(sizes.name)) if config else None
