"""Reading and resolving 1, 10 and 100 adapters of SDXL's size, looking at their headers,
and what the pack adds to ComfyUI's start.

    python3 tools/host.py run benchmarks/load.py [--rounds 5] [--threads 2] [--starts 7] [--files 100]

- **read and resolve**: the file becomes an `Adapter`, and each of its 560 layers is given the weight it belongs to, on
  SDXL's UNet as ComfyUI builds it (without memory for its weights). ComfyUI's own is ``load_torch_file``,
  ``model_lora_keys_unet`` and ``load_lora`` with the same files. Both do it file by file, as a row of loader nodes
  does. The files are in the system's cache.
- **headers**: ``krona_ops.formats.inspection.inspect_header``, which is what lists of files are made from;
  no tensor is read.
- **start**: processes of their own that have ComfyUI's modules imported and then take the pack as its server does:
  ``__init__.py``, ``comfy_entrypoint``, and the list of nodes; an empty pack in turns with it. What costs most of it is
  told from one more process under ``-X importtime``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.adapters import sdxl_adapter  # noqa: E402
from benchmarks.contest import Times, arguments, finish, table, take_turns  # noqa: E402
from krona_ops import Adapter, load, save  # noqa: E402
from krona_ops.formats.inspection import inspect_header  # noqa: E402

COUNTS = (1, 10, 100)
DIFFERENT = 10
"""Files with contents of their own; the others are further names of the same bytes, which saves a gigabyte of disk."""
EMPTY_PACK = """
async def comfy_entrypoint():
    from comfy_api.latest import ComfyExtension

    class Empty(ComfyExtension):
        async def get_node_list(self):
            return []

    return Empty()
"""
START = """
import asyncio, importlib.util, os, sys, time
sys.path.insert(0, os.environ["COMFYUI_PATH"])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import nodes, server, execution, folder_paths, comfy.sd, comfy.samplers, comfy_api.latest  # what main.py has before custom nodes
async def take():
    return await (await module.comfy_entrypoint()).get_node_list()
for folder in sys.argv[1:]:
    before = set(sys.modules)
    print("the pack begins", file=sys.stderr, flush=True)
    began = time.perf_counter()
    spec = importlib.util.spec_from_file_location("pack", folder + "/__init__.py", submodule_search_locations=[folder])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    nodes_of_it = asyncio.run(take())
    print(1e3 * (time.perf_counter() - began), len(nodes_of_it), len(set(sys.modules) - before))
"""


def files(folder: Path, count: int) -> list[Path]:
    """Adapter files."""
    paths = []
    for n in range(count):
        path = folder / f"adapter-{n:03}.safetensors"
        if n < DIFFERENT:
            save(sdxl_adapter(n), path)
        else:
            first = folder / f"adapter-{n % DIFFERENT:03}.safetensors"
            try:
                os.link(first, path)
            except OSError:  # a file system without links
                shutil.copyfile(first, path)
        paths.append(path)
    return paths


def sdxl() -> Any:
    """A ``MODEL`` of SDXL's class whose weights have shapes and no memory."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SDXL(
        {
            **comfy.supported_models.SDXL.unet_config,
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "num_classes": "sequential",
            "num_head_channels": 64,
            "use_spatial_transformer": True,
            "legacy": False,
            "dtype": torch.float32,
        }
    )
    net = config.get_model({}, device=torch.device("meta"))
    return comfy.model_patcher.ModelPatcher(net, torch.device("cpu"), torch.device("cpu"))


def ours(paths: list[Path], model: Any) -> Adapter:
    """Read and resolve; the last adapter."""
    from krona_host.names.resolution import resolve

    for path in paths:
        read = load(path)
        count = len(resolve(read, model).model)
        if count != len(read):
            raise SystemExit(f"{count} of {len(read)} layers were resolved.")
    return read


def core(paths: list[Path], model: Any) -> None:
    """The same by ComfyUI's own functions."""
    import comfy.lora
    import comfy.utils

    for path in paths:
        read = comfy.utils.load_torch_file(str(path), safe_load=True)
        names = comfy.lora.model_lora_keys_unet(model.model, {})
        count = len(comfy.lora.load_lora(read, names))
        if 2 * count != len(read):
            raise SystemExit(f"{count} layers of {len(read)} tensors were resolved by ComfyUI.")


def headers(paths: list[Path]) -> None:
    """Look at the headers alone."""
    for path in paths:
        if len(inspect_header(path).layers) != 560:
            raise SystemExit(f"{path.name}: layers are missing.")


def reading(chosen_files: int, rounds: int) -> dict[str, Times]:
    """Everything about files, in turns."""
    host.start()
    model = sdxl()
    contestants: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = files(Path(folder), min(chosen_files, max(COUNTS)))
        if ours(paths[-1:], model).layers != sdxl_adapter((len(paths) - 1) % DIFFERENT).layers:
            raise SystemExit("What was read is not what was saved.")
        for count in (n for n in COUNTS if n <= len(paths)):
            contestants[f"KronA, {count}"] = partial(ours, paths[:count], model)
            contestants[f"ComfyUI, {count}"] = partial(core, paths[:count], model)
            contestants[f"headers, {count}"] = partial(headers, paths[:count])
        return take_turns(contestants, rounds)


def one_start(*packs: Path, options: Sequence[str] = ()) -> tuple[list[float], str]:
    """Milliseconds that each pack adds to a start, and what Python says on the way of the last one."""
    command = [sys.executable, *options, "-c", START, *map(str, packs)]
    # Compiled modules are kept, as a user's Python keeps them: the second start is the one that counts.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT.parent, env=environment)
    if done.returncode:
        raise SystemExit(f"The host did not start:\n{done.stderr[-2000:]}")
    lines = [line.split() for line in done.stdout.splitlines()[-len(packs) :]]
    _, nodes, modules = lines[-1]
    return [float(milliseconds) for milliseconds, *_ in lines], f"{nodes} nodes, {modules} modules\n{done.stderr}"


def starts(times: int) -> dict[str, Any]:
    """The pack and an empty one in turns, each in processes of its own; milliseconds.

    Args:
        times: Of each; with 0 the start that is looked at takes both packs, and there is no other.
    """
    seconds: dict[str, list[float]] = {"KronA": [], "an empty pack": []}
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder)
        (empty / "__init__.py").write_text(EMPTY_PACK, encoding="utf-8")
        if times:
            one_start(ROOT)  # Python keeps what it has compiled; a first start after an update takes longer
        for _ in range(times):
            for name, pack in (("KronA", ROOT), ("an empty pack", empty)):
                seconds[name] += one_start(pack)[0]
        looked_at, output = one_start(*([ROOT] if times else [empty, ROOT]), options=("-X", "importtime"))
        if not times:
            seconds = {"KronA": looked_at[1:], "an empty pack": looked_at[:1]}
    return {**seconds, "most of it": heaviest(output), "holds": output.splitlines()[0]}


def heaviest(output: str, lines: int = 12) -> list[tuple[str, float]]:
    """The modules that took longest by themselves since the pack began, in milliseconds under ``-X importtime``."""
    rows = [
        line.split("|")
        for line in output.rpartition("the pack begins")[2].splitlines()
        if line.startswith("import time:")
    ]
    own = [(name.strip(), int(own.removeprefix("import time:")) / 1e3) for own, _, name in rows]
    return sorted(own, key=lambda row: -row[1])[:lines]


def main() -> None:
    """Measure, print, write."""
    chosen = arguments(
        "Reading and resolving adapters, and the pack's part in ComfyUI's start.", rounds=5, starts=7, files=100
    )
    if chosen.rehearse:
        chosen.starts, chosen.files = 0, 1
    begun = starts(chosen.starts)
    print(table(("start", "ms", "lowest", "highest"), (
        (name, *(f"{ms:.1f}" for ms in (median(begun[name]), min(begun[name]), max(begun[name]))))
        for name in ("KronA", "an empty pack")
    )))  # fmt: skip
    print(f"\n{begun['holds']}; the heaviest by themselves:")
    print(table(("module", "ms"), ((name, f"{ms:.1f}") for name, ms in begun["most of it"])) + "\n")
    times = reading(chosen.files, chosen.rounds)
    rows = ((name, *(f"{1e3 * s:.1f}" for s in (t.median, t.low, t.high))) for name, t in times.items())
    print(table(("files", "ms", "lowest", "highest"), rows))
    finish(
        "load",
        {"start, ms": begun, "reading, s": {name: t.as_row() for name, t in times.items()}},
        chosen,
        threads=chosen.threads,
        rounds=chosen.rounds,
        bytes_of_a_file=4 * sdxl_adapter(0).parameters,
    )


if __name__ == "__main__":
    main()
