"""What the pack registers with the host."""

from __future__ import annotations

import threading

from comfy_api.latest import ComfyExtension, io

from krona_train.run.litter import sweep_below

from .apply import KronaApply, KronaLoadApply
from .blend import KronaBlend
from .branch import KronaBranchApply
from .branch_settings import KronaBranchSettings
from .cameras import KronaCameras
from .compress import KronaCompress, KronaConvert, KronaExtract
from .dataset import KronaDataset
from .distill import KronaDistill
from .evaluate import KronaEvaluate
from .first_frame import KronaFirstFrame
from .guidance import KronaGuidance
from .inspect import KronaInspect
from .load import KronaLoad
from .one_step import KronaOneStep
from .prompts import KronaPrompts
from .save import KronaSave
from .scale import KronaScale, KronaWeights
from .schedule import KronaSchedule
from .server import paths, routes, web
from .settings import KronaTrainSettings
from .stack import KronaStack
from .targets import KronaTargets
from .train import KronaTrain
from .view_condition import KronaViewCondition
from .world import KronaWorldLoader

NODES = (
    KronaLoadApply,
    KronaLoad,
    KronaApply,
    KronaWeights,
    KronaSchedule,
    KronaScale,
    KronaBlend,
    KronaCompress,
    KronaExtract,
    KronaConvert,
    KronaSave,
    KronaInspect,
    KronaStack,
    KronaTargets,
    KronaDataset,
    KronaTrainSettings,
    KronaBranchSettings,
    KronaTrain,
    KronaEvaluate,
    KronaFirstFrame,
    KronaCameras,
    KronaViewCondition,
    KronaWorldLoader,
    KronaBranchApply,
    KronaPrompts,
    KronaDistill,
    KronaGuidance,
    KronaOneStep,
)


class KronaExtension(ComfyExtension):
    """The pack, as the host sees it."""

    async def on_load(self) -> None:
        """Tell the host where adapters and web files are, and what the pages ask for."""
        paths.register()
        routes.register()
        web.serve_web_folder()
        # Beside the start: ten thousand runs take a second, and nobody waits for it.
        threading.Thread(target=sweep_below, args=(paths.own_folders(),), name="krona-sweep", daemon=True).start()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node, in the order of the menu."""
        return list(NODES)
