"""What a parallel branch learns from groups of pictures."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from comfy_api.latest import io

from krona_ops.names.branches import MODES, READINGS
from krona_train.objectives.branch_config import BranchConfig
from krona_train.session.choices import Settings

from .inputs import number_input, optional_combo, optional_count, optional_number
from .node import Node
from .sockets import CATEGORY, KronaSettingsSocket

DEFAULTS = BranchConfig()
SHIFT = "level_shift"


class KronaBranchSettings(Node):
    """Turns settings of a training into those of a parallel branch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KronaBranchSettings",
            display_name="KronA Branch Settings",
            category=CATEGORY,
            description="Train KronA learns a parallel branch with these settings: a second attention beside each self-attention, "
            "which looks at reference pictures, at the first frame, or at the other views. The data set must be in groups.",
            search_aliases=["reference", "mv-adapter", "i2v-adapter", "multi-view", "first frame"],
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=DEFAULTS.mode,
                    tooltip="What the branch looks at. reference: clean pictures of the same subject. first: the first frame, which stays "
                    "as it is. views: all pictures of the group, drawn together. row and row+col: the same row (or column) of them.",
                ),
                io.Int.Input(
                    "targets",
                    default=DEFAULTS.targets,
                    min=1,
                    max=64,
                    tooltip="Of reference: so many pictures of each group are learnt to be drawn at a time. The other modes learn the whole group.",
                ),
                KronaSettingsSocket.Input(
                    "settings",
                    optional=True,
                    tooltip="Everything else about the training, from KronA Train Settings. Its noise levels do not count: a branch has "
                    "its own below.",
                ),
                optional_count(
                    "references",
                    DEFAULTS.references,
                    "Of reference: so many pictures of each group are looked at.",
                    low=1,
                    high=16,
                ),
                optional_number(
                    "drop_text",
                    DEFAULTS.drop_text,
                    "Share of groups that are learnt without their captions. 0.1 if the branch shall count for the negative prompt too (rows: both), else 0.",
                ),
                optional_number(
                    "drop_source",
                    DEFAULTS.drop_source,
                    "Share of groups that are learnt without what the branch looks at. They teach it nothing.",
                ),
                optional_number(
                    "drop_both",
                    DEFAULTS.drop_both,
                    "Share of groups that are learnt without either. They teach the branch nothing.",
                ),
                number_input(
                    SHIFT,
                    default=DEFAULTS.level_shift,
                    low=0.01,
                    high=100.0,
                    decimals=4,
                    arrows=0.1,
                    tooltip="Noise levels are shifted to noise by this: what a branch can tell is decided early. 1 draws them evenly.",
                    optional=True,
                    advanced=True,
                ),
                optional_combo(
                    "reading",
                    READINGS,
                    DEFAULTS.reading,
                    "Of first: how the first frame is looked at. alone: without noise, as reference looks at its pictures, which draws its "
                    "subject more alike. with the others: at their noise level, as in I2V-Adapter. The file keeps it.",
                ),
            ],
            outputs=[KronaSettingsSocket.Output(display_name="settings")],
        )

    @classmethod
    def execute(cls, settings: Settings | None = None, **chosen: Any) -> io.NodeOutput:
        given = settings or Settings()
        # A branch is shown other noise levels than an adapter; all else about the error stays as it was chosen.
        kept = {field.name: getattr(given.objective, field.name) for field in fields(given.objective)}
        own = {**kept, "levels": DEFAULTS.levels, SHIFT: DEFAULTS.level_shift, **chosen}
        return io.NodeOutput(replace(given, objective=BranchConfig(**own)))
