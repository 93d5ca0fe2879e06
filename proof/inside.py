"""Graphs in this process: the real host with its executor and this pack as a custom node,
so that its models and the process's state can be looked at."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tools import tiny_models
from tools.comfyui.server import PACK

Graph = dict[str, dict]
MODELS = "ProofModels"
"""A node of this process alone: the model, the text encoder and the VAE that are watched."""


@dataclass(frozen=True)
class Models:
    """The tiny checkpoint, loaded as a loader node does it."""

    model: Any
    clip: Any
    vae: Any


@dataclass(frozen=True)
class End:
    """How a graph ended."""

    how: str
    """``success``, ``interrupted`` or ``error``."""
    kind: str = ""
    """The exception's full type."""
    words: str = ""


class Inside:
    """The host in this process; there is one."""

    def __init__(self) -> None:
        import execution
        from server import PromptServer

        nodes = host_nodes()
        self._loop = asyncio.new_event_loop()
        self.server = getattr(PromptServer, "instance", None) or PromptServer(self._loop)
        self._execution, self._nodes = execution, nodes
        if "KronaTrain" not in nodes.NODE_CLASS_MAPPINGS:
            loaded = self._loop.run_until_complete(nodes.load_custom_node(str(PACK)))
            if not loaded:
                raise RuntimeError("the host could not load the pack; its log says why")
        self.models = _models()
        nodes.NODE_CLASS_MAPPINGS[MODELS] = _node(self.models)

    def run(self, graph: Graph, target: str) -> End:
        """Execute a graph up to one node, nothing of it from a cache;
        inputs that it does not name have their defaults."""
        for entry in graph.values():
            entry["inputs"] = {**_defaults(entry["class_type"]), **entry["inputs"]}
        cache = {"lru": 0, "ram": 0, "ram_inactive": 0}
        executor = self._execution.PromptExecutor(self.server, self._execution.CacheType.CLASSIC, cache)
        executor.execute(graph, "proof", {}, [target])
        # An interrupt that came too late for this graph, as the next one would do it
        self._nodes.interrupt_processing(False)
        for event, data in executor.status_messages:
            if event == "execution_interrupted":
                return End("interrupted")
            if event == "execution_error":
                return End("error", data["exception_type"], data["exception_message"])
        return End("success")


def host_nodes() -> Any:
    """The host's module `nodes`, which has its name in common with a package of this pack."""
    return importlib.import_module("nodes")


def _defaults(kind: str) -> dict[str, Any]:
    """What the editor puts into a new node."""
    known = host_nodes().NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
    values = {}
    for name, spec in {**known.get("required", {}), **known.get("optional", {})}.items():
        options = spec[1] if len(spec) > 1 else {}
        if "default" in options:
            values[name] = options["default"]
        elif isinstance(spec[0], list) and spec[0]:
            values[name] = spec[0][0]
        elif spec[0] == "COMBO" and options.get("options"):
            values[name] = options["options"][0]
    return values


@contextmanager
def places(folder: Path) -> Iterator[Path]:
    """The host's output, input, user, temporary and model folders below one, inside the block."""
    import folder_paths

    before = {
        name: getattr(folder_paths, name)
        for name in ("output_directory", "input_directory", "user_directory", "temp_directory")
    }
    known = {kind: (list(paths), suffixes) for kind, (paths, suffixes) in folder_paths.folder_names_and_paths.items()}
    try:
        for name in before:
            own = folder / name.removesuffix("_directory")
            own.mkdir(exist_ok=True)
            setattr(folder_paths, name, str(own))
        adapters = folder / "models" / "krona"
        adapters.mkdir(parents=True, exist_ok=True)
        folder_paths.folder_names_and_paths["krona"] = (
            [str(adapters), str(folder / "output" / "krona")],
            {".safetensors"},
        )
        folder_paths.filename_list_cache.clear()
        yield folder
    finally:
        for name, value in before.items():
            setattr(folder_paths, name, value)
        folder_paths.folder_names_and_paths.update(known)
        folder_paths.filename_list_cache.clear()


def _models() -> Models:
    import comfy.sd

    with torch.inference_mode():
        return Models(*comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15", clip=True, vae=True)))[:3])


def _node(models: Models) -> type:
    class ProofModels:
        """Gives what is watched."""

        RETURN_TYPES = ("MODEL", "CLIP", "VAE")
        FUNCTION = "give"
        CATEGORY = "proof"

        @classmethod
        def INPUT_TYPES(cls) -> dict:  # noqa: N802 (the host's name)
            return {"required": {}}

        def give(self) -> tuple:
            return models.model, models.clip, models.vae

    return ProofModels


_THE_ONE: list[Inside] = []


def inside() -> Inside:
    """The host of this process, loaded when it is first asked for."""
    if not _THE_ONE:
        sys.modules.pop("nodes", None) if _is_ours(sys.modules.get("nodes")) else None
        _THE_ONE.append(Inside())
    return _THE_ONE[0]


def _is_ours(module: Any) -> bool:
    return module is not None and str(PACK) in str(getattr(module, "__file__", ""))
