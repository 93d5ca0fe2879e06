"""Peak memory of a training, ours and ComfyUI's own, above what the loaded model takes.

    python3 tools/host.py run benchmarks/memory.py [--steps 3] [--size 32] [--threads 2]

SD1.5's class with few layers (44 M parameters, float32 on a CPU), pictures of 8 × ``--size`` pixels, batches of one.
Every row is a process of its own: it loads the model, reads every page of it, and then trains while a thread watches
the resident memory. ``tensors`` is the same training once more under PyTorch's profiler: the largest sum of what its
allocator has handed out, which is what counts on a GPU; the resident memory also holds libraries, oneDNN's packed
weights and what the allocator keeps. ``base`` is the model's size. ``activations`` is what autograd keeps at most of
one step, measured by counting different memory; ``optimizer`` is gradients and moments of the factors. Writes
``benchmarks/results/memory-<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.contest import commit, machine  # noqa: E402

ROWS = ("ours", "ours, blocks", "ours, offloaded", "ComfyUI LoKr", "ComfyUI LoKr, checkpointing", "ComfyUI LoRA 8")
COMFYUI = {  # algorithm, gradient_checkpointing
    "ComfyUI LoKr": ("LoKr", False),
    "ComfyUI LoKr, checkpointing": ("LoKr", True),
    "ComfyUI LoRA 8": ("LoRA", False),
}


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
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def run_one(row: str, steps: int, size: int, *, tensors: bool) -> dict[str, float]:
    """Train in this process; megabytes."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.use_pytorch_cross_attention = True  # what ours trains with; the host's choice for CPUs varies
    import comfy.model_management
    import comfy.sd

    from tools import tiny_models

    file = str(tiny_models.cached("sd15", layout="shaped", clip=False, vae=False))
    with torch.inference_mode():
        model = comfy.sd.load_checkpoint_guess_config(file, output_vae=False, output_clip=False)[0]
        comfy.model_management.load_models_gpu([model])
        for parameter in model.model.parameters():
            parameter.sum().item()  # every page of a mapped file is in memory
        rng = torch.Generator().manual_seed(0)
        latent, text = torch.randn(1, 4, size, size, generator=rng), torch.randn(1, 77, 768, generator=rng)
    base = sum(p.numel() * p.element_size() for p in model.model.parameters())
    if row in COMFYUI:
        train, explain = _comfyui(row, model, latent, text, steps), dict
    else:
        train, explain = _ours(row, model, latent, text, steps)
    if tensors:
        return {"tensors": tensor_peak(train) / 1e6}
    began = time.monotonic()
    with torch.inference_mode(), Watch() as watch:  # as nodes run
        train()
    seconds = time.monotonic() - began
    # Afterwards: what an earlier pass leaves with the allocator would count as there before the training.
    measured = {"base": base, "grew": watch.peak - watch.before, **explain()}
    return {**{name: value / 1e6 for name, value in measured.items()}, "seconds": seconds}


def _ours(
    row: str, model: object, latent: torch.Tensor, text: torch.Tensor, steps: int
) -> tuple[Callable[[], object], Callable[[], dict[str, float]]]:
    """The training, and what its memory should consist of."""
    from krona_train import TrainConfig, fit
    from krona_train.batches.examples import Example
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.config import MemoryConfig

    side = 8 * latent.shape[-1]
    size = PictureSize(side, side, 0, 0, side, side)
    mode = row.partition(", ")[2] or "none"
    memory = MemoryConfig(checkpointing=mode)  # type: ignore[arg-type]
    config = TrainConfig(steps=steps, save_every=0, memory=memory)
    backbone = ComfyBackbone(model, memory)
    data = [Example(latent[0], TextCondition(text, {}, size))]
    return (
        lambda: fit(backbone, data, config),
        lambda: {"activations": _kept(backbone, data, config), "optimizer": _optimizer(backbone)},
    )


def _kept(backbone: object, data: list, config: object) -> float:
    """Bytes of different memory that one step keeps for its backward pass, the model's weights left out."""
    from krona_ops import select
    from krona_train.adapters.attach import attached
    from krona_train.adapters.trainee import build_layers
    from krona_train.step.checkpointing import checkpointed

    layers = build_layers(select(backbone.weights()), config.adapter, 0, backbone.device)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with backbone.ready():
        own = {p.untyped_storage().data_ptr() for p in backbone.module("diffusion_model").parameters()}
        with attached(backbone, layers), checkpointed(backbone.blocks(), config.memory.checkpointing):
            batch = backbone.collate(data)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                backbone.predict(batch.x0, torch.tensor([1.0]), batch.conditions).square().mean()
    return sum(size for place, size in kept.items() if place not in own)


def _optimizer(backbone: object) -> float:
    """Bytes of the factors, their gradients and AdamW's two moments."""
    from krona_ops import select

    sizes = [t.sizes for t in select(backbone.weights())]
    return 4 * 4 * sum(s.out_a * s.in_a + s.out_b * s.in_b for s in sizes)


def _comfyui(row: str, model: object, latent: torch.Tensor, text: torch.Tensor, steps: int) -> Callable[[], object]:
    from comfy_extras.nodes_train import TrainLoraNode

    algorithm, checkpointing = COMFYUI[row]
    names = {"LoKr": "LoKr", "LoRA": "LoRA"}
    inputs = {
        "model": model, "batch_size": 1, "steps": steps, "grad_accumulation_steps": 1, "learning_rate": 5e-4, "rank": 8,
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32",
        "quantized_backward": False, "algorithm": names[algorithm], "gradient_checkpointing": checkpointing,
        "checkpoint_depth": 2, "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": True,
    }  # fmt: skip
    lists = {"latents": [{"samples": latent}], "positive": [[[text, {}]]]}
    return lambda: TrainLoraNode.execute(**{name: [value] for name, value in inputs.items()}, **lists)


def _run(options: list[str]) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1][:300])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure each row in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description="Peak memory of a training.")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--tensors", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.row:
        print(json.dumps(run_one(given.row, given.steps, given.size, tensors=given.tensors)))
        return
    results: dict[str, dict[str, float] | str] = {}
    for row in ROWS:
        options = [
            "--steps",
            str(given.steps),
            "--size",
            str(given.size),
            "--threads",
            str(given.threads),
            "--row",
            row,
        ]
        try:
            numbers = results[row] = {**_run(options), **_run([*options, "--tensors"])}
        except RuntimeError as error:
            results[row] = str(error)
            print(f"{row:30}{error}")
            continue
        print(f"{row:30}" + "   ".join(f"{name} {value:8.1f}" for name, value in numbers.items()))
    context = {
        "command": f"python3 tools/host.py run benchmarks/memory.py --steps {given.steps} --size {given.size} --threads {given.threads}",
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "unit": "MB, and seconds of the whole training",
    }
    path = ROOT / "benchmarks" / "results" / f"memory-{machine()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**context, "results": results}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
