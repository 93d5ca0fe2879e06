"""From "strength changed" to the next sampling step: stacks of 1, 3 and 10 adapters, ours and ComfyUI's own LoKr.

    python3 tools/host.py run benchmarks/apply.py [--threads 2] [--rounds 5] [--size 32]

SD1.5's class with few layers, float32, a batch of two (with and without prompt) of ``--size`` × ``--size`` latents. A
graph has N loaders in a row; the strength of the first changes, so that all N run again: each clones the model and adds
its updates, then the host loads the result (it puts the old weights back and patches anew) and the network runs once.
``patching`` is that without the network, ``step`` with it. Files are read before, as ComfyUI's loader keeps its file
between runs; ``read again`` is our *Load and Apply KronA*, which reads it every time.

- **merge**: updates are added to the weights. The limit is the host's own work for it:
  the same number of patches that do nothing.
- **bypass**: updates run beside the layers. The limit is the step of the model without adapters.

ComfyUI's own bypass holds one adapter per model: each loader in a row replaces the one before. It is shown for stacks,
but only a single one is the same work as ours, so only that one is compared.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.contest import Times, arguments, finish, require_close, table, take_turns  # noqa: E402
from krona_ops import Adapter, Full, Kron, LayerName, load, save  # noqa: E402
from krona_ops.updates.shapes import split  # noqa: E402

STACKS = (1, 3, 10)
REHEARSED = (1, 2)
Mode = Literal["merge", "bypass"]
MODES: tuple[Mode, ...] = get_args(Mode)
BEFORE, AFTER = 1.0, 0.7
"""The first adapter's strength, before and after the change."""
OTHERS = 0.3
"""The strength of all others: they must not drown the first one in the comparison of results."""
FACTORS = (64, 4)
SAME = 1e-4
"""Relative difference of two predictions that only rounding sets apart."""

Build = Callable[[float], Any]
"""The first adapter's strength to a patched ``MODEL``."""


class Stage:
    """One model, its input, and what is on it at the moment; everybody works on the same weights."""

    def __init__(self, comfy: Any, size: int, *, tiny: bool = False) -> None:
        self._load = comfy.model_management.load_models_gpu
        self.base = host.small_sd15(tiny=tiny)
        rng = torch.Generator().manual_seed(0)
        self._latent, self._text = torch.randn(2, 4, size, size, generator=rng), torch.randn(2, 77, 768, generator=rng)
        self._sigma = torch.full((2,), 1.5)
        self._current: Any = None

    def put(self, model: Any) -> None:
        """Load a patched model, as the host does before sampling; the graph holds it from now on."""
        self._load([model])
        self._current = model

    def step(self) -> Tensor:
        """The network once: ``(2, 4, size, size)``."""
        return self.base.model.apply_model(self._latent, self._sigma, c_crossattn=self._text)


def adapters(layers: dict[str, tuple[int, int]], count: int) -> list[Adapter]:
    """Random factors, each update about a tenth of the size of a weight's."""
    made = []
    for seed in range(count):
        rng = torch.Generator().manual_seed(seed)
        updates = {}
        for name, shape in layers.items():
            s = split(shape, FACTORS)
            a = torch.randn(s.out_a, s.in_a, generator=rng)
            b = torch.randn(s.out_b, s.in_b, generator=rng) * 0.1 / shape[1] ** 0.5
            updates[LayerName(name)] = Kron(Full(a), Full(b))
        made.append(Adapter(updates))
    return made


def strengths(first: float, count: int, others: float = OTHERS) -> list[float]:
    """One for each of the stack."""
    return [first, *[others] * (count - 1)]


def ours(stage: Stage, stack: Sequence[Adapter], mode: Mode, first: float, others: float = OTHERS) -> Any:
    """Our nodes in a row."""
    from krona_host.patching.apply import apply_adapter

    model = stage.base
    for adapter, strength in zip(stack, strengths(first, len(stack), others), strict=True):
        model = apply_adapter(adapter, model, strength_model=strength, mode=mode).model
    return model


def ours_reading(stage: Stage, files: Sequence[Path], mode: Mode, first: float) -> Any:
    """The same, each with its file."""
    return ours(stage, [load(file) for file in files], mode, first)


def core(stage: Stage, files: Sequence[dict[str, Tensor]], loader: Callable[..., tuple[Any, Any]], first: float) -> Any:
    """The host's nodes in a row."""
    model = stage.base
    for file, strength in zip(files, strengths(first, len(files)), strict=True):
        model = loader(model, None, file, strength, 0.0)[0]
    return model


def idle(stage: Stage, keys: Sequence[str], count: int, first: float) -> Any:
    """As many patches that do nothing: what the host does for any of them."""
    from comfy.weight_adapter import WeightAdapterBase

    class Nothing(WeightAdapterBase):
        name = "nothing"

        def __init__(self) -> None:
            self.loaded_keys: set[str] = set()
            self.weights = ()

        def calculate_weight(self, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return weight

    model = stage.base
    for strength in strengths(first, count):
        model = model.clone()
        model.add_patches({key: Nothing() for key in keys}, strength)
    return model


def measure(stage: Stage, builds: dict[str, Build], rounds: int) -> dict[str, dict[str, Times]]:
    """Seconds of each from the changed strength on: ``patching`` until the model is loaded,
    ``step`` until the network has run."""
    patching: dict[str, list[float]] = {name: [] for name in builds}

    def prepare(name: str) -> None:
        stage.put(builds[name](BEFORE))  # everybody takes off their own, not what the one before them left

    def run(name: str, build: Build) -> None:
        began = time.perf_counter()
        stage.put(build(AFTER))
        patching[name].append(time.perf_counter() - began)
        stage.step()

    step = take_turns({name: partial(run, name, build) for name, build in builds.items()}, rounds, prepare=prepare)
    return {"patching": {name: Times(tuple(seconds[-rounds:])) for name, seconds in patching.items()}, "step": step}


def check(stage: Stage, builds: dict[str, Build], merged: Build, at_zero: Any, base: Tensor, what: str) -> None:
    """Those that do the same work agree; strength 0, and taking all of it off, leaves the base, bit for bit.

    Args:
        builds: Those that must give what ``merged`` gives.
        at_zero: A ``MODEL`` with all strengths 0.
        base: The prediction without adapters.

    Raises:
        SystemExit: Somebody is wrong.
    """
    stage.put(merged(AFTER))
    expected = stage.step()
    if (expected - base).norm() < 100 * SAME * base.norm():
        raise SystemExit(f"{what}: the adapters hardly change the prediction, so agreement would say nothing.")
    for name, build in builds.items():
        stage.put(build(AFTER))
        require_close(f"{what}, {name}", stage.step(), expected, SAME)
    stage.put(stage.base)
    if not torch.equal(stage.step(), base):
        raise SystemExit(f"{what}: the base model is not what it was.")
    stage.put(at_zero)
    if not torch.equal(stage.step(), base):
        raise SystemExit(f"{what}: strength 0 is not the base model.")


def contestants(
    stage: Stage, comfy: Any, stack: Sequence[Adapter], files: Sequence[Path], mode: Mode, keys: Sequence[str]
) -> dict[str, Build]:
    """Name to what makes the patched model."""
    loader = "load_lora_for_models" if mode == "merge" else "load_bypass_lora_for_models"
    builds: dict[str, Build] = {
        "ours": partial(ours, stage, stack, mode),
        "ours, read again": partial(ours_reading, stage, files, mode),
    }
    if hasattr(comfy.sd, loader):
        read = [comfy.utils.load_torch_file(str(file), safe_load=True) for file in files]
        builds["core"] = partial(core, stage, read, getattr(comfy.sd, loader))
    if mode == "merge":
        builds["limit"] = partial(idle, stage, keys, len(stack))
    else:
        builds["limit"] = lambda _strength: stage.base.clone()
    return builds


def main() -> None:
    """Measure, check, print, write."""
    given = arguments("Time from a changed strength to the next sampling step.", rounds=5, size=32)
    stacks: tuple[int, ...] = STACKS
    if given.rehearse:
        given.size, stacks = 8, REHEARSED
    comfy = host.start()
    stage = Stage(comfy, given.size, tiny=given.rehearse)
    layers = host.attention_layers(stage.base)
    keys = [f"{name}.weight" for name in layers]
    results: dict[str, Any] = {}
    rows = []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:  # as nodes run
        stage.put(stage.base)
        base = stage.step()
        made = adapters(layers, max(stacks))
        written = [save(adapter, Path(folder) / f"{n}.safetensors") for n, adapter in enumerate(made)]
        for mode in MODES:
            for count in stacks:
                what = f"{mode}, {count} adapter{'s' * (count > 1)}"
                builds = contestants(stage, comfy, made[:count], written[:count], mode, keys)
                same = [
                    name for name in builds if name != "limit" and (name != "core" or mode == "merge" or count == 1)
                ]
                merged, at_zero = partial(ours, stage, made[:count], "merge"), ours(stage, made[:count], mode, 0.0, 0.0)
                check(stage, {name: builds[name] for name in same}, merged, at_zero, base, what)
                times = measure(stage, builds, given.rounds)
                results[what] = {
                    kind: {name: one.as_row() for name, one in all_.items()} for kind, all_ in times.items()
                }
                for name in builds:
                    mark = "" if name in same or name == "limit" else " (only the last of them)"
                    rows.append(
                        (what, name + mark, *(f"{1e3 * times[kind][name].median:.1f}" for kind in ("patching", "step")))
                    )
    print(table(("", "", "patching, ms", "with one step, ms"), rows))
    context = {"threads": given.threads, "latent": given.size, "layers": len(layers), "factors": FACTORS}
    finish("apply", results, given, unit="seconds", **context)


if __name__ == "__main__":
    main()
