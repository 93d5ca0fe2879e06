"""How strongly which parts of an adapter act."""

from __future__ import annotations

from comfy_api.latest import io

from krona_ops import Adapter
from krona_ops.errors import KronaError
from krona_ops.operations.strengths import PRESETS, Weights, parse_weights

from .inputs import krona_input, number_input, weighted, weights_input
from .node import Node
from .sockets import CATEGORY, Krona, KronaWeightsSocket


class KronaWeights(Node):
    """Reads strengths by block, projection or pattern from a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaWeights",
            display_name="KronA Weights",
            category=CATEGORY,
            description="Strengths for parts of an adapter by name: blocks, projections, patterns. Connect it to Apply KronA or Scale KronA.",
            search_aliases=["block weight", "lbw", "lora block weight", "layers"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="all",
                    tooltip="Where to start from: which parts of the adapter act at all. Cross attention follows the prompt, "
                    "self attention the shapes.",
                ),
                io.String.Input(
                    "rules",
                    default="",
                    multiline=True,
                    tooltip="selector=strength, separated by commas or lines; the last one that matches a layer counts. Selectors: default, "
                    "q, k, v, out, self, cross, text_encoder, a block such as input_blocks.4 or double_blocks.0-7, a pattern such as *.attn2.*, "
                    "or /regular expression/. Example: input_blocks.4=0.5, *.attn2.*=0, q=0.3",
                ),
                KronaWeightsSocket.Input(
                    "weights", optional=True, tooltip="Other weights; the rules of this node count after theirs."
                ),
            ],
            outputs=[KronaWeightsSocket.Output(display_name="weights")],
        )

    @classmethod
    def validate_inputs(cls, rules: str = "") -> bool | str:
        try:
            parse_weights(rules)
        except KronaError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, preset: str, rules: str, weights: Weights | None = None) -> io.NodeOutput:
        own = parse_weights(PRESETS[preset]) + parse_weights(rules)
        return io.NodeOutput(own if weights is None else weights + own)


class KronaScale(Node):
    """Multiplies an adapter by a number, or its parts by numbers of their own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaScale",
            display_name="Scale KronA",
            category=CATEGORY,
            description="Multiplies an adapter by a number, exactly; with weights connected, each part by its own. Negative numbers turn it around.",
            search_aliases=["strength", "multiply", "negate"],
            inputs=[
                krona_input(),
                number_input(
                    "strength",
                    default=1.0,
                    low=-1000.0,
                    high=1000.0,
                    decimals=6,
                    arrows=0.01,
                    tooltip="1 changes nothing, 0.5 halves what the adapter does, −1 makes it undo itself.",
                ),
                weights_input(),
            ],
            outputs=[
                Krona.Output(display_name="krona"),
                io.String.Output(display_name="report", tooltip="How many layers act, and which rules matched none."),
            ],
        )

    @classmethod
    def execute(cls, krona: Adapter, strength: float, weights: Weights | None = None) -> io.NodeOutput:
        return io.NodeOutput(*weighted(krona.scaled(strength), weights))
