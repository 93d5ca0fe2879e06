"""Blend several adapters into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from comfy_api.latest import io

from krona_host.names.canonical import canonical
from krona_ops import Adapter
from krona_ops.errors import ConfigError
from krona_ops.operations.methods import METHODS, Method

from .inputs import AS_THEY_ARE, form_inputs, form_of, number_input
from .node import Node
from .sockets import CATEGORY, Krona

if TYPE_CHECKING:
    from krona_host.types import Model


class KronaBlend(Node):
    """Adds adapters up, each with its strength, or blends them by another method."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaBlend",
            display_name="Blend KronA",
            category=CATEGORY,
            description="Adds any number of adapters of any formats into one, exactly unless you choose another method or form.",
            search_aliases=["merge lora", "combine", "ties", "dare", "sum"],
            inputs=[
                io.Autogrow.Input(
                    "adapters",
                    template=io.Autogrow.TemplatePrefix(
                        Krona.Input("krona", tooltip="An adapter; a new socket appears when you connect one."),
                        prefix="krona",
                        min=1,
                        max=64,
                    ),
                ),
                io.String.Input(
                    "strengths",
                    default="",
                    tooltip="One number for each adapter in order, separated by commas: 1, 0.5, -0.2. Missing ones are 1.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="sum",
                    tooltip="sum: exact. ties: keeps the largest changes and settles opposite ones by majority, which helps when adapters "
                    "fight. dare: drops changes at random and strengthens the rest.",
                ),
                io.Boolean.Input(
                    "normalise",
                    default=False,
                    tooltip="Divide by the sum of the strengths, so that blending does not make it stronger.",
                ),
                number_input(
                    "density",
                    default=0.5,
                    low=0.01,
                    high=1.0,
                    decimals=4,
                    arrows=0.01,
                    tooltip="ties and dare: the part of each adapter's changes that is kept.",
                    advanced=True,
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="dare: which changes are dropped.",
                    advanced=True,
                ),
                *form_inputs(AS_THEY_ARE),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Connect it when the adapters name their layers in different ways; it tells which are the same.",
                ),
            ],
            outputs=[Krona.Output(display_name="krona")],
        )

    @classmethod
    def execute(
        cls,
        adapters: Mapping[str, Adapter],
        strengths: str,
        method: Method,
        normalise: bool,
        density: float,
        seed: int,
        form: str,
        factor_out: int,
        factor_in: int,
        terms: int,
        rank: int,
        model: Model | None = None,
    ) -> io.NodeOutput:
        from krona_ops.operations.blend import blend  # here and in other nodes: no start of ComfyUI should wait for it
        from krona_ops.operations.respell import unified

        connected = [adapter for adapter in adapters.values() if adapter is not None]
        alike = unified(connected) if model is None else [canonical(adapter, model) for adapter in connected]
        pairs = list(zip(alike, numbers(strengths, len(alike)), strict=True))
        wanted = form_of(form, factor_out, factor_in, terms, rank)
        return io.NodeOutput(blend(pairs, normalise=normalise, method=method, density=density, seed=seed, form=wanted))


def numbers(text: str, count: int) -> list[float]:
    """Strengths from a text with commas, as many as there are adapters: 1 where the text has none.

    Raises:
        ConfigError: A part is no number, or there are more numbers than adapters.
    """
    try:
        values = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(
            f'The strengths "{text}" are no list of numbers.',
            found=text,
            expected="numbers separated by commas",
            remedy="Write for example 1, 0.5 there.",
        ) from error
    if len(values) > count:
        raise ConfigError(
            f"There are {len(values)} strengths for {count} adapters.",
            found=len(values),
            expected=f"at most {count}",
            remedy="Remove the extra numbers, or connect the missing adapters.",
        )
    return values + [1.0] * (count - len(values))
