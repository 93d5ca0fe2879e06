"""What is trained."""

from __future__ import annotations

from comfy_api.latest import io

from krona_ops.errors import ConfigError
from krona_ops.names.spellings import Projection
from krona_ops.targets.parts import NORMS, SAMPLERS
from krona_ops.targets.rules import FEED_FORWARD_LAYERS, TargetRule
from krona_ops.targets.text import parse_factors, parse_rules
from krona_ops.updates.kron import Layout
from krona_train import AdapterConfig
from krona_train.settings.groups import MOST_PARTS, SparseConfig

from .inputs import (
    factor_inputs,
    optional_combo,
    optional_count,
    optional_number,
    optional_switch,
    optional_text,
)
from .node import Node
from .sockets import CATEGORY, KronaTargetsSocket

DEFAULTS = AdapterConfig()
FACTORS = DEFAULTS.targets[0].factors
ATTENTION, SELF, CROSS, FEED_FORWARD, EVERYTHING, RULES, RESOLUTION = (
    "attention (the paper's)",
    "self-attention only",
    "cross-attention only",
    "attention and feed-forward",
    "every layer",
    "the rules below alone",
    "resolution (ResAdapter)",
)
_SELF = r"attn1\b|self_attn"
_CROSS = r"attn2\b|cross_attn"
KINDS = ("kronecker", "lora", "sum", "difference", "full")
"""Those of `krona_train.adapters.layers.LAYERS`, which no start of ComfyUI should wait for."""
PARTS: tuple[Projection, ...] = ("q", "k", "v", "out")
OFF = "off"


class KronaTargets(Node):
    """Choices to target rules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaTargets",
            display_name="KronA Targets",
            category=CATEGORY,
            description="Which layers are trained and with which factors, for Train KronA. Without this node: all attention, 64 × 4.",
            search_aliases=["layers", "blocks", "rank", "lora"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[ATTENTION, SELF, CROSS, FEED_FORWARD, EVERYTHING, RULES, RESOLUTION],
                    default=ATTENTION,
                    tooltip="Attention decides what is drawn where and is enough for a subject. Cross-attention alone changes how words "
                    "are read, with the smallest files. Feed-forward layers add style and texture, twice the size, and a prompt that is "
                    "followed less (DiffuseKronA, appendix D.1). Resolution is for sizes that a UNet was never trained at: the layers "
                    "that halve and double the picture, and the norms in between, with 'resolutions' in KronA Dataset.",
                ),
                *factor_inputs(
                    "Rows of the small factor A. 64 is the paper's best; small ones (8 and less) make large files that ignore the prompt.",
                    "Columns of the small factor A. 4 copies a subject best, 8 and 16 halve the file and follow the prompt better.",
                    FACTORS,
                ),
                *_projection_inputs(),
                optional_text(
                    "only",
                    "Train only layers whose name has this in it (a regular expression), such as 'middle_block|output_blocks'. "
                    "Names are those of KronA Inspect.",
                ),
                optional_text(
                    "rules",
                    "Rules that come before the preset, one per line: pattern; projections; factors; rate; kind. "
                    "For example 'attn2; k,v; 64x8; 2.0', or 'norm; *; ; ; difference' for norms, which have no factors. "
                    "Instead of a pattern a name takes a part of the model: 'norms of the residual blocks', 'biases of attention', "
                    "'down- and upsamplers'. "
                    "The first rule that matches a layer counts.",
                    multiline=True,
                ),
                optional_switch(
                    "text_encoder",
                    DEFAULTS.text_encoder,
                    "Train the text encoder's attention too: learns new words better, and forgets others more easily. "
                    "Slower, because captions are encoded in every step. Give it a lower rate (rate_text in the settings).",
                ),
                optional_combo(
                    "layout",
                    ("kron", "shuffled"),
                    DEFAULTS.layout,
                    "'kron' is the paper's product, which every LoKr loader reads. 'shuffled' is what its released code computes; "
                    "only this pack reads it.",
                ),
                *_lora_inputs(),
                optional_number(
                    "init_std",
                    DEFAULTS.init_std,
                    "Standard deviation that A starts with; B starts at zero. 1/64 is the released code's for 64 × 4. 0 takes its "
                    "1 / factor_out for all factors, which holds small ones back.",
                    decimals=9,
                    arrows=0.001,
                ),
                *_sparse_inputs(),
            ],
            outputs=[KronaTargetsSocket.Output(display_name="targets")],
        )

    @classmethod
    def validate_inputs(cls, rules: str | None = None) -> bool | str:
        try:
            parse_rules(rules or "", FACTORS, KINDS)
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        preset: str,
        factor_out: int,
        factor_in: int,
        q: str = "",
        k: str = "",
        v: str = "",
        out: str = "",
        only: str = "",
        rules: str = "",
        text_encoder: bool = DEFAULTS.text_encoder,
        layout: Layout = DEFAULTS.layout,
        adapter: str = DEFAULTS.kind,
        lora_rank: int = DEFAULTS.rank,
        lora_alpha: float = DEFAULTS.alpha,
        init_std: float = DEFAULTS.init_std,
        sparse_parts: int = DEFAULTS.sparse.parts,
        sparse_consistency: float = DEFAULTS.sparse.consistency,
    ) -> io.NodeOutput:
        factors = (factor_out, factor_in)
        own = parse_rules(rules, factors, KINDS)
        chosen = (
            ()
            if preset == RULES
            else preset_rules(preset, factors, dict(zip(PARTS, (q, k, v, out), strict=True)), only)
        )
        return io.NodeOutput(
            AdapterConfig(
                kind=adapter,
                targets=(*own, *chosen),
                layout=layout,
                init_std=init_std,
                rank=lora_rank,
                alpha=lora_alpha,
                text_encoder=text_encoder,
                sparse=SparseConfig(sparse_parts, sparse_consistency),
            )
        )


def preset_rules(
    preset: str, factors: tuple[int, int], parts: dict[Projection, str], only: str = ""
) -> tuple[TargetRule, ...]:
    """The rules of a preset.

    Args:
        parts: For each projection its own factors, "off", or nothing for ``factors``.
        only: What must be found in a layer's name besides.

    Raises:
        ConfigError: Factors cannot be read, there is no such preset, or it has no layers of a projection with factors of
            its own.
    """
    if preset == RESOLUTION:
        return _resolution_rules(factors, parts, only)
    patterns = {ATTENTION: "", SELF: _SELF, CROSS: _CROSS, FEED_FORWARD: "", EVERYTHING: ""}
    if preset not in patterns:
        raise ConfigError(
            f"There is no preset '{preset}'.",
            found=preset,
            expected=", ".join([*patterns, RESOLUTION]),
            remedy="Choose another.",
        )
    pattern = _both(patterns[preset], only)
    rules = [
        TargetRule(parse_factors(text, name), (name,), pattern)
        for name, text in parts.items()
        if text.strip() not in ("", OFF)
    ]
    off: set[str] = {name for name, text in parts.items() if text.strip() == OFF}
    rest = tuple(
        p for p in TargetRule().projections if p not in off and not (off and p in ("qkv", "kv") and _has_off(p, off))
    )
    if preset == EVERYTHING and not off:
        return (*rules, TargetRule(factors, (), pattern))
    rules += [TargetRule(factors, rest, pattern)] if rest else []
    if preset == EVERYTHING:
        rules.append(TargetRule(factors, (), _both(r"^(?!.*\b(to_q|to_k|to_v|to_out)\b)", pattern)))
    if preset == FEED_FORWARD:
        rules.append(TargetRule(factors, (), _both(FEED_FORWARD_LAYERS, only)))
    return tuple(rules)


def _resolution_rules(
    factors: tuple[int, int], parts: dict[Projection, str], only: str
) -> tuple[TargetRule, TargetRule]:
    """What ResAdapter trains (Cheng et al. 2024, arXiv 2403.02084): an update of the convolutions of down- and
    upsamplers, and the norms of the residual blocks themselves. What carries a style stays as it is.

    Raises:
        ConfigError: A projection of attention has factors of its own.
    """
    own = next((name for name, text in parts.items() if text.strip() not in ("", OFF)), None)
    if own is not None:
        raise ConfigError(
            f"The preset '{RESOLUTION}' trains no attention, and {own} has factors of its own.",
            where=own,
            found=parts[own],
            expected="nothing",
            remedy="Leave q, k, v and out empty, or write a rule for what shall be trained besides.",
        )
    return TargetRule(factors, (), only, part=SAMPLERS), TargetRule(factors, (), only, part=NORMS)


def _has_off(fused: str, off: set[str]) -> bool:
    """A fused projection is trained as a whole or not at all."""
    return any(part in off for part in ("q", "k", "v") if part in fused)


def _both(first: str, second: str) -> str:
    """A pattern that is found where both are."""
    return f"^(?=.*(?:{first}))(?=.*(?:{second}))" if first and second else first or second


def _projection_inputs() -> list[io.Input]:
    words = {"q": "queries", "k": "keys", "v": "values", "out": "outputs"}
    return [
        optional_text(
            part,
            f"Factors of the {words[part]} alone, such as 64x8, or 'off' to leave them as they are. Empty takes the factors above.",
        )
        for part in PARTS
    ]


def _lora_inputs() -> list[io.Input]:
    return [
        optional_combo(
            "adapter",
            KINDS,
            DEFAULTS.kind,
            "What is trained for each layer. 'lora' is an ordinary LoRA on the same layers, to compare with: give it a lower "
            "learning rate (1e-4). 'sum' adds two Kronecker products, in a file that only this pack reads. 'difference' and "
            "'full' move whole weights, norms and biases too, in large files.",
        ),
        optional_count(
            "lora_rank",
            DEFAULTS.rank,
            "Size of a LoRA; 4 is the paper's baseline. A Kronecker adapter does not have it.",
            low=1,
            high=1024,
        ),
        optional_number(
            "lora_alpha",
            DEFAULTS.alpha,
            "A LoRA's update is multiplied by alpha / rank. Equal to the rank is plain; lower learns more slowly.",
            low=0.001,
            high=1024.0,
            arrows=0.5,
        ),
    ]


def _sparse_inputs() -> list[io.Input]:
    return [
        optional_count(
            "sparse_parts",
            DEFAULTS.sparse.parts,
            "Split B at random into so many parts and train one of them in each step (MoSA; its authors take 4), to learn less by heart. "
            "The file is of the same size. It costs likeness: in the pack's small world 0.43 instead of 0.62 with 4 parts after as many steps, "
            "while the loss on other pictures was lower and more prompts were kept (99.0 % instead of 97.6). 1 trains all of B. For "
            "kronecker, lora and sum.",
            low=1,
            high=MOST_PARTS,
        ),
        optional_number(
            "sparse_consistency",
            DEFAULTS.sparse.consistency,
            "Pulls the predictions of two draws of parts together; needs sparse_parts above 1. It costs a second pass: steps take up to "
            "twice as long, with twice the memory for activations. 0 is off.",
            high=100.0,
            arrows=0.1,
        ),
    ]
