"""One whole training step on the host's model: KronA, ComfyUI's trainer in both modes, and the frozen base, in turns.

    python3 tools/host.py run benchmarks/step.py [--threads 2] [--rounds 5] [--size 32] [--steps 3]
    python3 tools/host.py run benchmarks/step.py --sdxl --size 128 [--narrow]      on a GPU; --narrow tries it on a CPU,
                                                                                   and so does a rehearsal

The model is of SD1.5's class with few layers (``tools/tiny_models.py``), or SDXL's with random weights; pictures of 8 ×
``--size`` pixels. ComfyUI's trainer runs as its node runs it, LoKr, AdamW, float32; it adapts every weight of the
model, so it is given only the attention layers that KronA adapts ("the same layers") and PyTorch's attention, as KronA
and the frozen base have it, to compare like with like. As it comes ("every layer") it is a row of its own: every layer,
and the attention that the host chooses. A step is what ``--steps`` more of them cost: setting up is left out for
everybody. The frozen base's step is its forward pass and the gradient of its input. Memory is the most that tensors
hold at once beyond the loaded model.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host
from benchmarks.claims import CORE
from benchmarks.contest import Times, arguments, finish, require_close, table
from benchmarks.memory import tensor_peak
from krona_ops import select
from krona_ops.live.attach import Forward, patched
from krona_ops.updates import kron
from krona_train import AdapterConfig, TrainConfig, fit
from krona_train.adapters.attach import attached
from krona_train.adapters.layers import KronLayer
from krona_train.adapters.trainee import build_layers
from krona_train.batches.examples import Example
from krona_train.config import MemoryConfig

BATCHES = (1, 2, 4)
Train = Callable[[int], object]
"""A whole training of so many steps."""


class Contest:
    """A loaded model and everybody who trains on it.

    Args:
        model: The host's ``MODEL``.
        size: Of the latents.
        batch: Pictures per step.
        compile: Whether the trainer has its blocks compiled.
    """

    def __init__(self, model: Any, size: int, batch: int, *, compile: bool = False) -> None:
        import comfy.model_management

        from krona_train.comfyui.model import ComfyBackbone

        self.model = model
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([self.model])
        rng = torch.Generator().manual_seed(0)
        self.latents = torch.randn(batch, 4, size, size, generator=rng)
        context = model.model.model_config.unet_config["context_dim"]
        self.texts = [torch.randn(1, 77, context, generator=rng) for _ in range(batch)]
        pooled = torch.randn(1, 1280, generator=rng)
        self.extras = {"pooled_output": pooled} if model.model.adm_channels else {}
        self.batch = batch
        self.memory = MemoryConfig(compile=compile)
        self.backbone = ComfyBackbone(self.model, self.memory)
        self.base_bytes = sum(p.numel() * p.element_size() for p in self.model.model.parameters())

    def _examples(self) -> list:
        from krona_train.comfyui.encode import PictureSize, TextCondition

        side = 8 * self.latents.shape[-1]
        size = PictureSize(side, side, 0, 0, side, side)
        return [
            Example(x, TextCondition(text, self.extras, size)) for x, text in zip(self.latents, self.texts, strict=True)
        ]

    def ours(self, steps: int) -> object:
        """The trainer with its defaults: attention layers, 64 × 4."""
        config = TrainConfig(steps=steps, save_every=0, batch_size=self.batch, memory=self.memory)
        return fit(self.backbone, self._examples(), config)

    def frozen(self, steps: int) -> object:
        """Forward and the gradient of the input, less than which no training does."""
        examples, gradient = self._examples(), None
        with self.backbone.ready():
            batch = self.backbone.collate(examples)
            sigma = torch.full((self.batch,), 1.0, device=self.backbone.device)
            for _ in range(steps):
                x = batch.x0.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(self.backbone.predict(x, sigma, batch.conditions).square().mean(), x)
        return gradient

    def core(self, steps: int, *, bypass: bool, same_layers: bool = True) -> object:
        """ComfyUI's node."""
        from comfy_extras import nodes_train

        inputs = {
            "model": self.model, "batch_size": self.batch, "steps": steps, "grad_accumulation_steps": 1, "learning_rate": 5e-4, "rank": 8,
            "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "lora_dtype": "fp32",
            "training_dtype": "fp32" if self.backbone.device.type == "cpu" else "bf16",
            "quantized_backward": False, "algorithm": "LoKr", "gradient_checkpointing": False,
            "checkpoint_depth": 1, "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": bypass,
        }  # fmt: skip
        lists = {"latents": [{"samples": self.latents}], "positive": [[[text, self.extras]] for text in self.texts]}
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if same_layers:
                stack.enter_context(_only(self._names()))
                stack.enter_context(_attending(self.model))
            return nodes_train.TrainLoraNode.execute(**{name: [value] for name, value in inputs.items()}, **lists)

    def check(self) -> None:
        """One step's gradients by the trainer's own operation,
        against the same update composed of PyTorch's operations."""
        layers = build_layers(select(self.backbone.weights()), AdapterConfig(), 0, self.backbone.device)
        forwards = {}
        for name, layer in layers.items():
            assert isinstance(layer, KronLayer)  # the default kind
            torch.nn.init.normal_(layer.b, std=0.02, generator=torch.Generator().manual_seed(1))
            forwards[self.backbone.module(name)] = composed(layer)
        factors = [p for layer in layers.values() for p in layer.parameters()]
        with self.backbone.ready(), attached(self.backbone, layers):
            ours = self._gradient(factors)
        with self.backbone.ready(), patched(forwards):
            expected = self._gradient(factors)
        # Half precision rounds what lies between the factors, in each way at other places.
        tolerance = 1e-4 if self.backbone.device.type == "cpu" else 3e-2
        require_close(f"the gradient of a batch of {self.batch}", ours, expected, tolerance)

    def _gradient(self, factors: Sequence[Tensor]) -> Tensor:
        """All factors' gradients of one prediction, one after the other."""
        batch = self.backbone.collate(self._examples())
        sigma = torch.full((self.batch,), 1.0, device=self.backbone.device)
        loss = self.backbone.predict(batch.x0, sigma, batch.conditions).square().mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, factors)])

    def _names(self) -> set[str]:
        return {target.name for target in select(self.backbone.weights())}


def composed(layer: KronLayer) -> Forward:
    """A layer's update beside its module by PyTorch's operations; gradients flow to the layer's own factors."""

    def forward(original: Callable[..., Tensor], x: Tensor, *args: object, **kwargs: object) -> Tensor:
        return original(x, *args, **kwargs) + kron.apply(layer.a.to(x.dtype), layer.b.to(x.dtype), x)

    return forward


@contextmanager
def _attending(model: Any) -> Iterator[None]:
    """Inside, whoever trains on the model does so with PyTorch's attention."""
    from comfy.ldm.modules.attention import attention_pytorch

    options = model.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = lambda chosen, *args, **kwargs: attention_pytorch(*args, **kwargs)
    try:
        yield
    finally:
        del options["optimized_attention_override"]


@contextmanager
def _only(names: set[str]) -> Iterator[None]:
    """The node asks each module for ``weight_function``; inside, only these have adapters made for them."""
    from comfy_extras import nodes_train

    weight = nodes_train._create_weight_adapter
    wrap, add = "add_weight_wrapper", "add_adapter"
    import comfy.model_patcher
    from comfy.weight_adapter.bypass import BypassInjectionManager

    patcher, manager = comfy.model_patcher.ModelPatcher, BypassInjectionManager
    was_wrapped, was_added = getattr(patcher, wrap), getattr(manager, add)

    def is_meant(key: str) -> bool:
        return key.endswith(".weight") and key.removesuffix(".weight") in names

    def made(module: Any, name: str, *rest: Any) -> Any:
        return weight(module, name, *rest) if name in names else (torch.nn.Module(), {})

    with (
        mock.patch.object(nodes_train, "_create_weight_adapter", made),
        mock.patch.object(nodes_train, "_create_bias_adapter", return_value=(torch.nn.Module(), {})),
        mock.patch.object(patcher, wrap, lambda self, key, f: was_wrapped(self, key, f) if is_meant(key) else None),
        mock.patch.object(
            manager, add, lambda self, key, *r, **k: was_added(self, key, *r, **k) if is_meant(key) else None
        ),
    ):
        yield


def measure(field: dict[str, Train], rounds: int, steps: int, warm_up: int) -> dict[str, Times]:
    """Seconds per step: a training of ``1 + steps`` steps less one of a single step, in turns.

    Args:
        warm_up: Rounds that do not count.
    """
    durations: dict[str, list[float]] = {name: [] for name in field}
    for number in range(warm_up + rounds):
        for name, train in field.items():
            seconds = []
            for count in (1, 1 + steps):
                began = time.perf_counter()
                train(count)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
            if number >= warm_up:
                durations[name].append((seconds[1] - seconds[0]) / steps)
    return {name: Times(tuple(values)) for name, values in durations.items()}


def peak(train: Callable[[], object], device: torch.device) -> float:
    """The most bytes of tensors that a training holds at once on its device, beyond those that were there before."""
    if device.type != "cuda":
        return tensor_peak(train)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    """Measure all batches, print, write."""
    options = arguments(__doc__.partition("\n")[0], rounds=5, size=32, steps=3, sdxl=False, narrow=False)
    warm_up = 1
    if options.rehearse:
        options.size, options.steps, options.narrow, warm_up = 8, 1, options.sdxl, 0
    host.start(cpu=not options.sdxl or options.narrow, its_attention=True)
    logging.disable(logging.INFO)
    cells, rows = {}, []
    with torch.inference_mode():  # as a loader node runs
        model = host.sdxl(options.narrow) if options.sdxl else host.small_sd15(tiny=options.rehearse)
    for batch in (1,) if options.sdxl or options.rehearse else BATCHES:
        contest = Contest(model, options.size, batch)
        contest.check()
        field: dict[str, Train] = {
            "frozen": contest.frozen,
            "KronA": contest.ours,
            "core weight": partial(contest.core, bypass=False),
            "core bypass": partial(contest.core, bypass=True),
        }
        if options.sdxl:
            field["KronA, compiled"] = Contest(model, options.size, batch, compile=True).ours
        else:
            for name, mode in zip(CORE, (False, True), strict=True):
                field[f"{name}, every layer"] = partial(contest.core, bypass=mode, same_layers=False)
        # Core's node computes batch² samples in each step: at 4 one of its steps takes as long as five of ours.
        rounds = options.rounds if batch <= 2 else max(1, options.rounds // 2)
        times = measure(field, rounds, options.steps, warm_up)
        peaks = {name: peak(partial(train, 2), contest.backbone.device) for name, train in field.items()}
        frozen = times["frozen"].median
        for name in field:
            t = times[name]
            rows.append(
                (f"batch {batch}: {name}", f"{1e3 * t.median:.0f}", f"{1e3 * t.low:.0f}", f"{1e3 * t.high:.0f}",
                 f"{t.median / frozen:.2f}", f"{peaks[name] / 1e6:.0f}")
            )  # fmt: skip
            print(*rows[-1], sep="  ", flush=True)
        ratios = [a / b for a, b in zip(times["KronA"].seconds, times["frozen"].seconds, strict=True)]
        cells[f"batch {batch}"] = {
            "seconds": {name: t.as_row() for name, t in times.items()}, "peak bytes": peaks, "base bytes": contest.base_bytes,
            "over frozen, median of each turn's ratio": median(ratios),
        }  # fmt: skip
    print("\n" + table(("step", "ms", "least", "most", "× frozen", "MB"), rows))
    name = "step-sdxl-narrow" if options.narrow else "step-sdxl" if options.sdxl else "step"
    sizes = {"size": options.size, "steps": options.steps}
    finish(name, cells, options, threads=options.threads, rounds=options.rounds, **sizes)


if __name__ == "__main__":
    main()
