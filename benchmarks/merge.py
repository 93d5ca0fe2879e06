"""ΔW into all attention weights of SDXL and of Flux: the pack, ComfyUI's own LoKr, lycoris-lora, and the limit.

    python3 tools/host.py run benchmarks/merge.py [--rounds 5] [--threads 2] [--flux-layers 2] [--every 1]

Layers are shapes: random weights, random factors, 64 × 4. All contestants add the same ``ΔW`` into the same memory in
turns, with the sign changing from turn to turn, so that the weights stay what they are; at the end they are compared
with the sum of what was left in them, and before with ``numpy.kron`` in float64.

*in place* is ``comfy.lora.calculate_weight`` on a weight of that precision, as ComfyUI calls it for a patch; ``bare``
is `krona_ops` without the host, ``lycoris-lora`` is its ``merge_to``, and the limit reads and writes the weight once
(``w.add_(0)``, which does not end early and keeps the weights). *whole path* is
``ModelPatcher.patch_weight_to_device``: it casts the weight to float32 before and rounds it to its own precision
afterwards, whoever does the adding; ``frame`` is a patch that does nothing. There is no adding in place for fp8. The
last part repeats *in place* with other factors, on some layers of 1280 × 1280.

Flux has 5.7 billion attention weights; ``--flux-layers`` of each shape are measured, and their shares of the whole are
equal (38 layers of each shape), so ratios are those of the whole model. In float32 all 560 layers of SDXL are measured,
in the others each 9th or 45th; ``--every`` measures still fewer, for a quick look.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.contest import Times, arguments, finish, require_close, table, take_turns  # noqa: E402
from benchmarks.shapes import Shape, flux_attention, sdxl_attention  # noqa: E402
from krona_ops import Full, Kron  # noqa: E402
from krona_ops.updates import kron  # noqa: E402
from krona_ops.updates.shapes import split  # noqa: E402

FACTORS = (64, 4)
OTHERS = ((64, 4), (4, 64), (64, 8), (8, 64), (8, 8), (16, 16))
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float8_e4m3fn: "fp8"}
# Half a step of each precision, which is what one rounding costs, and some; fp8 is rounded at random, by up to a step.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float8_e4m3fn: 8e-2}
LIMIT, BARE, OURS, CORE, LYCORIS = "limit", "bare", "KronA", "ComfyUI LoKr", "lycoris-lora"
FRAME = "frame"


@dataclass(frozen=True)
class Layer:
    """One linear layer and the factors of its update."""

    key: str
    module: torch.nn.Linear
    a: Tensor
    b: Tensor

    @property
    def weight(self) -> Tensor:
        """``(out, in)``."""
        return self.module.weight.data

    @property
    def watched(self) -> Tensor:
        """What is compared: the rows that the first and the last row of ``A`` make, ``(2, out_b, in)``, a view."""
        return self.ends(self.weight)

    def ends(self, weight: Tensor) -> Tensor:
        """The same rows of another weight of this shape."""
        return weight.view(self.a.shape[0], self.b.shape[0], -1)[:: self.a.shape[0] - 1]

    def oracle(self) -> Tensor:
        """``ΔW`` there, in float64, by another library."""
        ends = self.a[:: self.a.shape[0] - 1].double().numpy()
        return torch.from_numpy(numpy.kron(ends, self.b.double().numpy())).view(self.watched.shape)


class Model(torch.nn.Module):
    """Linear layers under one roof, as the host wants a model."""

    def __init__(self, shapes: Mapping[str, Shape], dtype: torch.dtype, factors: tuple[int, int]) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        pool = torch.randn(max(out * inner for out, inner in shapes.values()), generator=rng).mul_(0.02).to(dtype)
        self.layers: list[Layer] = []
        for name, shape in shapes.items():
            flat = name.replace(".", "_")
            module = torch.nn.Linear(shape[1], shape[0], bias=False, device="meta")
            weight = pool[: shape[0] * shape[1]].view(shape).clone()
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
            self.add_module(flat, module)
            s = split(shape, factors)
            # ΔW is as large as W: an update that is missing could not hide behind the rounding of fp8.
            a = torch.randn(s.out_a, s.in_a, generator=rng) * 0.14
            b = torch.randn(s.out_b, s.in_b, generator=rng) * 0.14
            self.layers.append(Layer(f"{flat}.weight", module, a, b))

    def of_each_shape(self) -> list[Layer]:
        """One layer of each shape, for comparisons."""
        return list({tuple(layer.weight.shape): layer for layer in self.layers}.values())


class Contestant:
    """Somebody who adds ``±ΔW`` to all layers, the sign changing from run to run."""

    def __init__(self, add: Callable[[int, float], object], layers: int) -> None:
        self.add, self.layers, self.sign = add, layers, 1.0

    def __call__(self) -> None:
        for n in range(self.layers):
            self.add(n, self.sign)
        self.sign = -self.sign


def adders(model: Model, *, with_lycoris: bool = True) -> dict[str, Callable[[int, float], object]]:
    """Who takes part *in place*: name to ``add(number of the layer, sign)``."""
    import comfy.lora

    layers = model.layers
    half = layers[0].weight.dtype if layers[0].weight.dtype.itemsize == 2 else torch.float32

    def in_host_(make: Callable[[Layer], Any]) -> Callable[[int, float], object]:
        made = [make(layer) for layer in layers]
        return lambda n, sign: comfy.lora.calculate_weight(
            [(sign, made[n], 1.0, None, None)], layers[n].weight, layers[n].key, intermediate_dtype=half
        )

    field: dict[str, Callable[[int, float], object]] = {
        LIMIT: lambda n, sign: layers[n].weight.add_(0),
        BARE: lambda n, sign: kron.add_(layers[n].weight, layers[n].a, layers[n].b, sign),
        OURS: in_host_(our_patch),
        CORE: in_host_(core_patch),
    }
    if with_lycoris:
        merged = [lycoris_module(layer) for layer in layers]
        field[LYCORIS] = lambda n, sign: merged[n].merge_to(sign)
    return field


def our_patch(layer: Layer) -> Any:
    """What the pack hands to the host."""
    from krona_host.patching.weight_adapter import KronaWeightAdapter

    return KronaWeightAdapter.of(Kron(Full(layer.a), Full(layer.b)))


def core_patch(layer: Layer) -> Any:
    """What the host's own loader makes of the same file."""
    from comfy.weight_adapter.lokr import LoKrAdapter

    return LoKrAdapter(set(), (layer.a, layer.b, None, None, None, None, None, None, None))


def lycoris_module(layer: Layer) -> Any:
    """The module of lycoris-lora, with the same factors in it."""
    from lycoris.modules.lokr import LokrModule

    module = LokrModule(layer.key.removesuffix(".weight"), layer.module, lora_dim=8, full_matrix=True, factor=8)
    module.lokr_w1, module.lokr_w2 = (torch.nn.Parameter(t.clone(), requires_grad=False) for t in (layer.a, layer.b))
    return module


def in_place(model: Model, rounds: int) -> dict[str, Times]:
    """Everybody adds into the same memory, in turns."""
    dtype = model.layers[0].weight.dtype
    field = adders(model)
    samples = model.of_each_shape()
    numbers = [model.layers.index(layer) for layer in samples]
    before = [layer.watched.clone() for layer in samples]
    deltas = [layer.oracle() for layer in samples]
    for name, add in field.items():
        for layer, n, weight, delta in zip(samples, numbers, before, deltas, strict=True):
            add(n, 1.0)
            wanted = weight.double() + (delta if name != LIMIT else 0)
            label = f"{name}, {NAMES[dtype]}, {tuple(layer.weight.shape)}"
            require_close(label, layer.watched, wanted, TOLERANCE[dtype])
            add(n, -1.0)
    contestants = {name: Contestant(add, len(model.layers)) for name, add in field.items()}
    times = take_turns(contestants, rounds)
    left = sum(c.sign < 0 for name, c in contestants.items() if name != LIMIT)  # updates that were not taken back
    for layer, weight, delta in zip(samples, before, deltas, strict=True):
        wanted = weight.double() + left * delta
        # Each turn rounds anew, and lycoris-lora has brought its own factors to the weight's precision.
        require_close(f"after all turns, {NAMES[dtype]}", layer.watched, wanted, 4 * TOLERANCE[dtype])
    return times


def whole_path(model: Model, rounds: int) -> dict[str, Times]:
    """As a model is loaded with one adapter: cast, add, round. The results are dropped, the weights stay."""
    import comfy.model_patcher
    from comfy.weight_adapter import WeightAdapterBase

    class Nothing(WeightAdapterBase):
        name = "nothing"

        def __init__(self) -> None:
            self.loaded_keys: set[str] = set()
            self.weights = ()

        def calculate_weight(self, weight: Tensor, *others: object, **more: object) -> Tensor:
            return weight

    dtype = model.layers[0].weight.dtype
    cpu = torch.device("cpu")
    patchers = {}
    for name, make in ((FRAME, lambda layer: Nothing()), (OURS, our_patch), (CORE, core_patch)):
        patchers[name] = comfy.model_patcher.ModelPatcher(model, cpu, cpu)
        patchers[name].add_patches({layer.key: make(layer) for layer in model.layers}, 1.0)
    for name, patcher in patchers.items():
        for layer in model.of_each_shape():
            wanted = layer.watched.double() + (layer.oracle() if name != FRAME else 0)
            merged = patcher.patch_weight_to_device(layer.key, cpu, return_weight=True)
            label = f"{name}, whole path, {NAMES[dtype]}, {tuple(layer.weight.shape)}"
            if merged.dtype != dtype:
                raise SystemExit(f"{label}: the result is {merged.dtype}.")
            require_close(label, layer.ends(merged), wanted, TOLERANCE[dtype])

    def load(patcher: Any) -> Callable[[], None]:
        def run() -> None:
            for layer in model.layers:
                patcher.patch_weight_to_device(layer.key, cpu, return_weight=True)

        return run

    return take_turns({name: load(patcher) for name, patcher in patchers.items()}, rounds)


def other_factors(rounds: int, shapes: Mapping[str, Shape]) -> dict[str, dict[str, Times]]:
    """*In place*, float32, for other choices of factors."""
    times = {}
    for factors in OTHERS:
        times[f"{factors[0]} × {factors[1]}"] = in_place(Model(shapes, torch.float32, factors), rounds)
        gc.collect()
    return times


def rows(model: str, path: str, precision: str, times: Mapping[str, Times]) -> list[tuple[str, ...]]:
    """Lines of the table: milliseconds, and how many times the limit or the frame."""
    base = next(iter(times.values())).median
    return [
        (
            f"{model}, {path}, {precision}: {name}",
            *(f"{1e3 * seconds:.1f}" for seconds in (t.median, t.low, t.high)),
            f"{t.median / base:.2f}",
            f"{t.median / times[OURS].median:.2f}",
        )
        for name, t in times.items()
    ]


def sample(shapes: Mapping[str, Shape], of_each: int) -> dict[str, Shape]:
    """The first layers of each shape."""
    taken: dict[Shape, int] = {}
    layers = {}
    for name, shape in shapes.items():
        taken[shape] = taken.get(shape, 0) + 1
        if taken[shape] <= of_each:
            layers[name] = shape
    return layers


def shapes_for(dtype: torch.dtype, every: int, flux_layers: int) -> dict[str, dict[str, Shape]]:
    """The layers that are measured in a precision: all of SDXL's in float32, fewer of the others,
    which only fill the table.

    The steps have no common divisor with the 8 layers of a transformer block, so every kind of layer is among them.
    Rounding to fp8 takes the host about a hundred times as long as the adding, so there are fewest of those.
    """
    step = {4: 1, 2: 9, 1: 45}[dtype.itemsize] * every
    flux = sample(flux_attention(), flux_layers if dtype.itemsize == 4 else 1)
    if dtype.itemsize == 1:
        flux = {name: shape for name, shape in flux.items() if shape[0] * shape[1] < 3e7}
    return {"SDXL": dict(list(sdxl_attention().items())[::step]), "Flux": flux}


def narrow(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The same layers with a sixteenth of their width, for a rehearsal."""
    return {name: (out // 16, width // 16) for name, (out, width) in shapes.items()}


def main() -> None:
    """Measure, print, write."""
    chosen = arguments(
        "ΔW into all attention weights, against ComfyUI's LoKr, lycoris-lora and the limit.",
        rounds=5,
        flux_layers=2,
        every=1,
        more_layers=56,
    )
    if chosen.rehearse:
        chosen.flux_layers, chosen.every, chosen.more_layers = 1, 280, 1
    host.start()
    results: dict[str, Any] = {}
    printed: list[tuple[str, ...]] = []
    measured: dict[tuple[str, str, str], dict[str, Times]] = {}
    layers: dict[str, int] = {}
    with torch.inference_mode():  # as the host loads models
        for dtype, precision in NAMES.items():
            for name, shapes in shapes_for(dtype, chosen.every, chosen.flux_layers).items():
                model = Model(narrow(shapes) if chosen.rehearse else shapes, dtype, FACTORS)
                layers[f"{name}, {precision}"] = len(model.layers)
                if dtype.itemsize > 1:
                    measured[name, "in place", precision] = in_place(model, chosen.rounds)
                measured[name, "whole path", precision] = whole_path(model, chosen.rounds)
                del model
                gc.collect()
        more = {f"layer_{n}": (1280, 1280) for n in range(chosen.more_layers)}
        for factors, times in other_factors(chosen.rounds, narrow(more) if chosen.rehearse else more).items():
            measured[f"1280 × 1280 by {factors}", "in place", "fp32"] = times
    for (name, path, precision), times in measured.items():
        printed += rows(name, path, precision, times)
        results[f"{name}, {path}, {precision}"] = {who: t.as_row() for who, t in times.items()}
    print(table(("", "ms", "lowest", "highest", "/ limit or frame", "/ KronA"), printed))
    finish(
        "merge",
        results,
        chosen,
        threads=chosen.threads,
        rounds=chosen.rounds,
        layers=layers,
        factors=FACTORS,
        unit="seconds of one pass over all layers that were measured",
    )


if __name__ == "__main__":
    main()
