"""Peak memory of a training, ours and ComfyUI's own, above what the loaded model takes.

    python3 tools/host.py run benchmarks/memory.py [--steps 3] [--size 32] [--threads 2]

SD1.5's class with few layers (44 M parameters, float32 on a CPU), pictures of 8 × ``--size`` pixels, batches of one.
Every row is a process of its own: it loads the model, reads every page of it, and then trains while a thread watches
the resident memory. ``tensors`` is the same training once more under PyTorch's profiler: the largest sum of what its
allocator has handed out, which is what counts on a GPU; the resident memory also holds libraries, oneDNN's packed
weights and what the allocator keeps. ``base`` is the model's size. ``activations`` is what autograd keeps at most of
one step, measured by counting different memory; ``optimizer`` is gradients and moments of the factors. Writes
``benchmarks/results/memory-<machine>.json``. In a rehearsal one process does all of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host
from benchmarks.command import parsed, parser_of
from benchmarks.contest import finish
from krona_ops import LayerName, select
from krona_train import TrainConfig, fit
from krona_train.adapters.attach import attached
from krona_train.adapters.trainee import build_layers
from krona_train.backbone.protocol import Backbone
from krona_train.batches.examples import Example
from krona_train.config import Checkpointing, MemoryConfig
from krona_train.step.checkpointing import checkpointed

if TYPE_CHECKING:
    from krona_host.types import Model

OURS: dict[str, Checkpointing] = {"ours": "none", "ours, blocks": "blocks", "ours, offloaded": "offloaded"}
COMFYUI = {  # algorithm, gradient_checkpointing
    "ComfyUI LoKr": ("LoKr", False),
    "ComfyUI LoKr, checkpointing": ("LoKr", True),
    "ComfyUI LoRA 8": ("LoRA", False),
}
ROWS = (*OURS, *COMFYUI)
Kind = Literal["resident", "tensors"]
"""Which memory is watched."""
KINDS: tuple[Kind, ...] = get_args(Kind)


class Watch:
    """The largest resident memory of this process while it is entered."""

    def __enter__(self) -> Watch:
        import psutil

        self._rss = lambda: psutil.Process().memory_info().rss
        self.before = self.peak = self._rss()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, self._rss())

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def tensor_peak(train: Callable[[], object]) -> float:
    """The most bytes of tensors that a training holds at once, beyond those that were there before."""
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        train()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def run_one(row: str, kind: Kind, given: argparse.Namespace) -> dict[str, float]:
    """Train in this process; megabytes."""
    comfy = host.start()
    steps, size, model = given.steps, given.size, host.small_sd15(tiny=given.tiny)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        for parameter in model.model.parameters():
            parameter.sum().item()  # every page of a mapped file is in memory
        rng = torch.Generator().manual_seed(0)
        latent, text = torch.randn(1, 4, size, size, generator=rng), torch.randn(1, 77, 768, generator=rng)
    base = sum(p.numel() * p.element_size() for p in model.model.parameters())
    train: Callable[[], object]
    explain: Callable[[], dict[str, float]]
    if row in COMFYUI:
        train, explain = _comfyui(row, model, latent, text, steps), dict
    else:
        train, explain = _ours(row, model, latent, text, steps)
    if kind == "tensors":
        return {"tensors": tensor_peak(train) / 1e6}
    began = time.monotonic()
    with torch.inference_mode(), Watch() as watch:  # as nodes run
        train()
    seconds = time.monotonic() - began
    # Afterwards: what an earlier pass leaves with the allocator would count as there before the training.
    measured = {"base": base, "grew": watch.peak - watch.before, **explain()}
    return {**{name: value / 1e6 for name, value in measured.items()}, "seconds": seconds}


def _ours(
    row: str, model: Model, latent: torch.Tensor, text: torch.Tensor, steps: int
) -> tuple[Callable[[], object], Callable[[], dict[str, float]]]:
    """The training, and what its memory should consist of."""
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.model import ComfyBackbone

    side = 8 * latent.shape[-1]
    size = PictureSize(side, side, 0, 0, side, side)
    memory = MemoryConfig(checkpointing=OURS[row])
    config = TrainConfig(steps=steps, save_every=0, memory=memory)
    backbone = ComfyBackbone(model, memory)
    data = [Example(latent[0], TextCondition(text, {}, size))]
    return (
        lambda: fit(backbone, data, config),
        lambda: {"activations": _kept(backbone, data, config), "optimizer": _optimizer(backbone)},
    )


def _kept(backbone: Backbone, data: list[Example], config: TrainConfig) -> float:
    """Bytes of different memory that one step keeps for its backward pass, the model's weights left out."""
    layers = build_layers(select(backbone.weights()), config.adapter, 0, backbone.device)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with backbone.ready():
        own = {p.untyped_storage().data_ptr() for p in backbone.module(LayerName("diffusion_model")).parameters()}
        with attached(backbone, layers), checkpointed(backbone.blocks(), config.memory.checkpointing):
            batch = backbone.collate(data)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                backbone.predict(batch.x0, torch.tensor([1.0]), batch.conditions).square().mean()
    return sum(size for place, size in kept.items() if place not in own)


def _optimizer(backbone: Backbone) -> float:
    """Bytes of the factors, their gradients and AdamW's two moments."""
    sizes = [t.sizes for t in select(backbone.weights())]
    return 4 * 4 * sum(s.out_a * s.in_a + s.out_b * s.in_b for s in sizes)


def _comfyui(row: str, model: Model, latent: torch.Tensor, text: torch.Tensor, steps: int) -> Callable[[], object]:
    from comfy_extras.nodes_train import TrainLoraNode

    algorithm, checkpointing = COMFYUI[row]
    inputs = {
        "model": model, "batch_size": 1, "steps": steps, "grad_accumulation_steps": 1, "learning_rate": 5e-4, "rank": 8,
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32",
        "quantized_backward": False, "algorithm": algorithm, "gradient_checkpointing": checkpointing,
        "checkpoint_depth": 2, "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": True,
    }  # fmt: skip
    lists = {"latents": [{"samples": latent}], "positive": [[[text, {}]]]}
    return partial(TrainLoraNode.execute, **{name: [value] for name, value in inputs.items()}, **lists)


def trained(row: str, given: argparse.Namespace) -> dict[str, float]:
    """A row, of which each kind of memory is a training of its own."""
    return {name: value for kind in given.kind for name, value in run_one(row, kind, given).items()}


def _run(rows: Sequence[str], kinds: Sequence[Kind], given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Some rows in a process of their own.

    Raises:
        RuntimeError: It has failed; with its last line, or what ended it.
    """
    options = [f"--{name}={getattr(given, name)}" for name in ("steps", "size", "threads")]
    options += [*(f"--row={row}" for row in rows), *(f"--kind={kind}" for kind in kinds)]
    options += ["--tiny"] if given.rehearse else []
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode} and said nothing"]
        raise RuntimeError(words[-1][:300])
    return json.loads(done.stdout.splitlines()[-1])


def all_rows(given: argparse.Namespace) -> dict[str, dict[str, float] | str]:
    """All rows, each in processes of its own; of one that fails its error."""
    results: dict[str, dict[str, float] | str] = {}
    for row in ROWS:
        try:
            [numbers, tensors] = (_run([row], [kind], given)[row] for kind in KINDS)
        except RuntimeError as error:
            results[row] = str(error)
            print(f"{row:30}{error}")
            continue
        results[row] = {**numbers, **tensors}
        print(f"{row:30}" + "   ".join(f"{name} {value:8.1f}" for name, value in (numbers | tensors).items()))
    return results


def main() -> None:
    """Measure, print, write."""
    parser = parser_of("Peak memory of a training.")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--row", action="append", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--kind", action="append", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    given = parsed(parser)
    torch.set_num_threads(given.threads)
    if given.row:
        print(json.dumps({row: trained(row, given) for row in given.row}))
        return
    if given.rehearse:
        given.steps, given.size, given.threads = 1, 8, 1
    results = _run(ROWS, KINDS, given) if given.rehearse else all_rows(given)
    context = {"steps": given.steps, "size": given.size, "threads": given.threads}
    finish("memory", results, given, **context, unit="MB, and seconds of the whole training")


if __name__ == "__main__":
    main()
