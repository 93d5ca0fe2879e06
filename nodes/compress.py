"""Adapters in another form: smaller, or one that another program reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.model.weights_of import WeightsOf
from krona_host.names.canonical import canonical
from krona_ops import Adapter
from krona_ops.nearest.forms import KronForm

from .inputs import KRONECKER, LORA, factor_inputs, form_inputs, form_of, number_input, report_output
from .node import Node
from .sockets import CATEGORY, Krona

if TYPE_CHECKING:
    from krona_host.types import Model
    from krona_ops.operations.compress import Forms

BY_FACTORS, BY_SIZE, BY_ERROR = "to these factors", "to a number of parameters", "to an error"


class KronaCompress(Node):
    """Makes an adapter smaller: given factors, or those that lose least for a size or an error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaCompress",
            display_name="Compress KronA",
            category=CATEGORY,
            description="Replaces every layer by the nearest Kronecker product of given factors, or chooses factors for a size or an error.",
            search_aliases=["resize lora", "shrink", "nearest kronecker product"],
            inputs=[
                Krona.Input("krona", tooltip="The adapter; LoRA and blends of any kind too."),
                io.Combo.Input(
                    "how",
                    options=[BY_FACTORS, BY_SIZE, BY_ERROR],
                    default=BY_FACTORS,
                    tooltip="These factors for every layer; or for each layer the factors that lose least for a size or an error.",
                ),
                *factor_inputs(
                    "Rows of the small factor A. Where it does not divide a layer's width, the nearest divisor is taken.",
                    "Columns of the small factor A.",
                ),
                io.Int.Input(
                    "terms",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Products per layer at most. One fits into a LoKr file; more are closer to the original.",
                ),
                io.Int.Input(
                    "parameters", default=4_000_000, min=1, max=2**40, tooltip="For 'to a number of parameters': all layers together.",
                ),
                number_input(
                    "error",
                    default=0.1,
                    low=0.0,
                    high=1.0,
                    decimals=6,
                    arrows=0.01,
                    tooltip="For 'to an error': the part of the adapter's change that may be lost.",
                ),
            ],
            outputs=[Krona.Output(display_name="krona"), report_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, krona: Adapter, how: str, factor_out: int, factor_in: int, terms: int, parameters: int, error: float
    ) -> io.NodeOutput:
        from krona_ops.operations.compress import compress, forms_within

        forms: Forms
        if how == BY_FACTORS:
            forms = KronForm((factor_out, factor_in), terms)
        elif how == BY_SIZE:
            forms = forms_within(krona, parameters=parameters, max_terms=terms)
        else:
            forms = forms_within(krona, error=error, max_terms=terms)
        result, report = compress(krona, forms)
        return io.NodeOutput(result, str(report))


class KronaConvert(Node):
    """Brings an adapter into another form: LoRA, Kronecker product, dense."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaConvert",
            display_name="Convert KronA",
            category=CATEGORY,
            description="Brings every layer into another form: LoRA by singular values, Kronecker product, or dense; the report tells what it lost. "
            "Save KronA writes the result.",
            search_aliases=["lora to lokr", "lokr to lora", "svd"],
            inputs=[
                Krona.Input("krona", tooltip="The adapter, of any kind."),
                *form_inputs(LORA, exact=False),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Connect it to get ComfyUI's own layer names, which every loader of ComfyUI knows.",
                ),
            ],
            outputs=[Krona.Output(display_name="krona"), report_output()],
        )

    @classmethod
    def execute(
        cls,
        krona: Adapter,
        form: str,
        factor_out: int,
        factor_in: int,
        terms: int,
        rank: int,
        model: Model | None = None,
    ) -> io.NodeOutput:
        from krona_ops.operations.compress import compress

        adapter = krona if model is None else canonical(krona, model)
        result, report = compress(adapter, form_of(form, factor_out, factor_in, terms, rank))
        return io.NodeOutput(result, str(report))


class KronaExtract(Node):
    """Makes an adapter of what one model has more than another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaExtract",
            display_name="Extract KronA",
            category=CATEGORY,
            description="What a tuned model has more than its base, as an adapter, one layer at a time. Adapters that are applied to the "
            "tuned model are part of it.",
            search_aliases=["lora extract", "difference", "subtract"],
            inputs=[
                io.Model.Input("tuned", tooltip="The model that learnt something."),
                io.Model.Input("base", tooltip="The model that it was trained from."),
                *form_inputs(KRONECKER, exact=False),
            ],
            outputs=[Krona.Output(display_name="krona"), report_output()],
        )

    @classmethod
    def execute(
        cls, tuned: Model, base: Model, form: str, factor_out: int, factor_in: int, terms: int, rank: int
    ) -> io.NodeOutput:
        from krona_ops.operations.extract import extract

        new, old = WeightsOf(tuned), WeightsOf(base)
        names = [name for name in new.names if name in set(old.names)]
        wanted = form_of(form, factor_out, factor_in, terms, rank)
        adapter, report = extract(new, old, wanted, names=names, metadata={"ss_base_model_version": old.family})
        return io.NodeOutput(adapter, str(report))
