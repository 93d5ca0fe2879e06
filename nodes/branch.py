"""Parallel branches: a second attention beside each self-attention of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from comfy_api.latest import io

from krona_host.branches.apply import Use, apply_branches
from krona_host.branches.shared import load_shared
from krona_ops import Adapter
from krona_ops.names.branches import AMONG_VIEWS, AmongViews

from .inputs import NONE, FileOrWire, adapter_of, number_input, optional_combo, optional_file_input, optional_number
from .server.text import tell
from .sockets import CATEGORY, Krona

if TYPE_CHECKING:
    from torch import Tensor

    from krona_host.branches.sampling import Rows
    from krona_host.types import Model

LATENT = dict[str, "Tensor"]
"""The host's: ``samples``, and what other nodes put beside them."""
AS_MADE: Literal["auto"] = "auto"


class KronaBranchApply(FileOrWire):
    """Puts a parallel branch beside a model's self-attentions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaBranchApply",
            display_name="Apply KronA Branch",
            category=CATEGORY,
            description="Lets a model look at something besides its prompt while it draws: at reference pictures, at the first frame, or at the "
            "other pictures of the batch, as the file was trained for. Nothing is trained on your picture.",
            search_aliases=["reference", "ip-adapter", "mv-adapter", "i2v-adapter", "multi-view", "consistent character", "parallel branch"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the branch was trained for, with a UNet. Adapters on it count."),
                optional_file_input("The file of a branch. It is not used where 'krona' is connected."),
                number_input(
                    "strength",
                    default=1.0,
                    low=-10.0,
                    high=10.0,
                    decimals=4,
                    arrows=0.01,
                    tooltip="How much of what the branch sees comes into the picture: 0 is the model without it, 1 is as trained.",
                ),
                Krona.Input(
                    "krona",
                    optional=True,
                    tooltip="A branch that was just trained, scaled or blended; it takes the place of 'file'.",
                ),
                io.Latent.Input(
                    "reference",
                    optional=True,
                    tooltip="What a branch of the mode 'reference' looks at: pictures from VAE Encode, several are looked at together. "
                    "For 'first' it is the first frame. Other modes do not use it.",
                ),
                io.Int.Input(
                    "views",
                    default=0,
                    min=0,
                    max=1024,
                    optional=True,
                    tooltip="How many pictures of the batch belong together, for branches that look at frames or views: they follow one another. "
                    "0 is the whole batch.",
                ),
                optional_combo(
                    "rows",
                    (AS_MADE, "positive", "both"),
                    AS_MADE,
                    "Which prompts the branch counts for. positive: the wanted ones, which keeps guidance strong. both: the negative ones too. "
                    "auto: both for files of MV-Adapter and I2V-Adapter, positive for all others.",
                ),
                optional_number("start", 0.0, "When the branch begins to count: 0 is pure noise."),
                optional_number("end", 1.0, "When it stops: 1 is the finished picture. Below 1 the last details are the model's own."),
                optional_combo(
                    "mode",
                    (AS_MADE, *AMONG_VIEWS),
                    AS_MADE,
                    "How pictures that are drawn together look at one another. auto: as the file says. MV-Adapter's files for textures "
                    "(tg2mv, ig2mv) do not say it; they want row+col, and six views.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.String.Output(
                    display_name="report", tooltip="Beside how many self-attentions the branch stands, and what was left out."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        strength: float,
        file: str = NONE,
        krona: Adapter | None = None,
        reference: LATENT | None = None,
        views: int = 0,
        rows: Rows | Literal["auto"] = AS_MADE,
        start: float = 0.0,
        end: float = 1.0,
        mode: AmongViews | Literal["auto"] = AS_MADE,
    ) -> io.NodeOutput:
        adapter = adapter_of(krona, file, "Apply KronA Branch", "branch", load_shared)
        samples = None if reference is None else reference["samples"]
        use = Use(
            strength,
            samples,
            views,
            None if rows == AS_MADE else rows,
            start,
            end,
            None if mode == AS_MADE else mode,
        )
        model, report = apply_branches(adapter, model, use)
        if reference is not None and reference.get("noise_mask") is not None:
            report += " The reference's mask is not used: the branch looks at all of the picture."
        tell("\n".join((report, *adapter.notes)), cls.hidden.unique_id)
        return io.NodeOutput(model, report)
