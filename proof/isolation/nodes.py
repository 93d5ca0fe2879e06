"""A graph for each node of the pack, and for the host's sampler with what they leave on a model."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from krona_ops import Adapter, Full, Kron, LayerName, TargetRule, save, select
from krona_ops.files import save_tensors
from krona_ops.formats.guidance import Guided
from krona_ops.formats.one_step import OneStep
from tools.comfyui.server import PACK

from ..inside import MODELS, Graph, Models

sys.path.append(str(PACK / "tests" / "support"))
from branch_cases import branch
from graphs import node, render

TARGET = "t"
ADAPTER, OTHER, DAMAGED = "fits.safetensors", "of another model.safetensors", "damaged.safetensors"
VIEWS = "views.safetensors"
BRANCH = "branch.safetensors"
GUIDED, ONE_STEP = "guided.safetensors", "one step.safetensors"
MODEL, CLIP, VAE = ["m", 0], ["m", 1], ["m", 2]
DATASET = {"prompt": "a photo of sks robot", "folder": "krobot", "resolution": 64}
TRAIN = {
    "model": MODEL,
    "clip": CLIP,
    "vae": VAE,
    "dataset": ["d", 0],
    "name": "robot",
    "steps": 3,
    "batch_size": 2,
    "resume": "(new run)",
}
DISTILL = {
    **TRAIN,
    "name": "distilled",
    "dataset": ["p", 0],
    "steps": 2,
    "learning_rate": 0.0,
    "drawings": 2,
    "drawing_steps": 2,
    "preview_every": 1,
}
STEPS = {
    "preview_every": 2,
    "preview_steps": 1,
    "preview_prompts": "a robot",
    "prior": "auto",
    "validate_every": 2,
    "ema": 0.9,
}


def lay_out(folder: Path, models: Models) -> None:
    """The files that the graphs name, in the folders that `inside.places` makes."""
    from krona_host.views.encoder import Layout

    adapters = folder / "models" / "krona"
    save(adapter_for(models), adapters / ADAPTER)
    save(adapter_for(models).with_metadata(**Guided(1.0, 6.0, 4.0).metadata()), adapters / GUIDED)
    save(adapter_for(models).with_metadata(**OneStep(2.5).metadata()), adapters / ONE_STEP)
    save(branch(models.model), adapters / BRANCH)
    rng = torch.Generator().manual_seed(1)
    update = Kron(Full(torch.randn(3, 3, generator=rng)), Full(torch.randn(5, 7, generator=rng)))
    save(Adapter({LayerName("nobody.knows.this"): update}), adapters / OTHER)
    views = Layout(8, (8, 16, 32, 32), 1).shapes()
    save_tensors({name: torch.zeros(shape) for name, shape in views.items()}, adapters / VIEWS, {})
    (adapters / DAMAGED).write_bytes((adapters / ADAPTER).read_bytes()[:-100])
    shutil.copytree(PACK / "samples" / "krobot", folder / "input" / "krobot")


def adapter_for(models: Models) -> Adapter:
    """Random factors for the model's attention."""
    from krona_train.comfyui.model import ComfyBackbone

    rng = torch.Generator().manual_seed(0)
    layers = {}
    for target in select(ComfyBackbone(models.model).weights(), (TargetRule(factors=(8, 4)),)):
        s = target.sizes
        a, b = torch.randn(s.out_a, s.in_a, generator=rng), torch.randn(s.out_b, s.in_b, *s.kernel, generator=rng)
        layers[target.name] = Kron(Full(a), Full(b * 0.1 / (s.in_a * s.in_b) ** 0.5))
    return Adapter(layers)


def graph(target: dict, **beside: dict) -> Graph:
    """The models, an adapter from its file, and what a row adds."""
    return {"m": node(MODELS), "k": node("KronaLoad", file=ADAPTER), **beside, TARGET: target}


def sampled(applied: dict, **beside: dict) -> Graph:
    """The host's sampler as the target, on what an applying node gives."""
    nodes = render(["a", 0], CLIP, VAE, start=20)
    picture = {"class_type": "KSampler", "inputs": {**nodes["22"]["inputs"]}}
    return graph(picture, a=applied, **{"20": nodes["20"], "21": nodes["21"]}, **beside)


def applied(mode: str) -> dict:
    """An adapter on the model in one of the two ways."""
    return node("KronaApply", model=MODEL, krona=["k", 0], clip=CLIP, mode=mode)


def distilled(what: str) -> Graph:
    """What the model draws itself, learnt from two prompts."""
    settings = node("KronaTrainSettings", preview_steps=1, preview_width=64, preview_height=64)
    prompts = node("KronaPrompts", prompts="a robot\na dog", width=64, height=64)
    return graph(node("KronaDistill", **DISTILL, what=what, settings=["s", 0]), p=prompts, s=settings)


LATENT = node("EmptyLatentImage", width=64, height=64, batch_size=1)
CAMERAS = {"where": "an orbit", "views": 2, "width": 64, "height": 64}
def branched() -> dict:
    """A parallel branch on the model."""
    return node("KronaBranchApply", model=MODEL, file=BRANCH, reference=["v", 0])


IMAGES = node("EmptyImage", width=64, height=64, batch_size=2, color=0x336699)
REFERENCE = node("VAEEncode", pixels=["i", 0], vae=VAE)
GRAPHS: dict[str, Callable[[], Graph]] = {
    "KronaLoadApply": lambda: graph(node("KronaLoadApply", model=MODEL, clip=CLIP, file=ADAPTER)),
    "KronaLoad": lambda: graph(node("KronaLoad", file=ADAPTER)),
    "KronaApply": lambda: graph(applied("merge")),
    "KronaApply, bypass": lambda: graph(applied("bypass")),
    "KronaWeights": lambda: graph(node("KronaWeights", rules="q=0.5")),
    "KronaSchedule": lambda: graph(node("KronaSchedule", krona=["k", 0], model=MODEL, clip=CLIP)),
    "KronaScale": lambda: graph(node("KronaScale", krona=["k", 0], weights=["w", 0]), w=node("KronaWeights", rules="q=0.5")),
    "KronaBlend": lambda: graph(node("KronaBlend", **{"adapters.krona0": ["k", 0], "adapters.krona1": ["k", 0]}, method="ties", model=MODEL)),
    "KronaCompress": lambda: graph(node("KronaCompress", krona=["k", 0], factor_out=32, factor_in=8)),
    "KronaExtract": lambda: graph(node("KronaExtract", tuned=["a", 0], base=MODEL), a=applied("merge")),
    "KronaConvert": lambda: graph(node("KronaConvert", krona=["k", 0], model=MODEL)),
    "KronaSave": lambda: graph(node("KronaSave", krona=["k", 0], filename_prefix="krona/x", model=MODEL, thumbnail=["i", 0]), i=IMAGES),
    "KronaInspect": lambda: graph(node("KronaInspect", krona=["k", 0])),
    "KronaStack": lambda: graph(node("KronaStack", file=ADAPTER, krona=["k", 0])),
    "KronaTargets": lambda: graph(node("KronaTargets", rules="attn1; q; 16x16; 0.5")),
    "KronaDataset": lambda: graph(node("KronaDataset", **DATASET)),
    "KronaTrainSettings": lambda: graph(node("KronaTrainSettings", **STEPS)),
    "KronaTrain": lambda: graph(node("KronaTrain", **TRAIN), d=node("KronaDataset", **DATASET)),
    "KronaTrain, everything": lambda: graph(
        node("KronaTrain", **{**TRAIN, "steps": 2}, settings=["s", 0], targets=["g", 0]),
        d=node("KronaDataset", **DATASET, class_prompt="a photo of a robot", class_pictures=1),
        s=node("KronaTrainSettings", **STEPS, checkpointing="blocks"),
        g=node("KronaTargets", text_encoder=True),
    ),
    "KronaEvaluate": lambda: graph(
        node("KronaEvaluate", images=["i", 0], references=["i", 0], prompts="a robot", judges="small world"), i=IMAGES
    ),
    "KronaFirstFrame": lambda: graph(node("KronaFirstFrame", image=["l", 0], frames=3), l=LATENT),
    "KronaCameras": lambda: graph(node("KronaCameras", **CAMERAS)),
    "KronaViewCondition": lambda: graph(
        node("KronaViewCondition", positive=["c", 0], negative=["c", 0], file=VIEWS, cameras=["o", 0]),
        c=node("CLIPTextEncode", clip=CLIP, text="a robot"),
        o=node("KronaCameras", **CAMERAS),
    ),
    "KronaPrompts": lambda: graph(node("KronaPrompts", prompts="a robot\na dog", count=1, seed=3)),
    "KronaDistill": lambda: distilled("guidance"),
    "KronaDistill, score matching": lambda: distilled("one step by score matching"),
    "KronaDistill, pairs": lambda: distilled("one step by pairs"),
    "KronaGuidance": lambda: graph(node("KronaGuidance", model=MODEL, guidance=3.0, file=GUIDED)),
    "KronaOneStep": lambda: graph(node("KronaOneStep", model=MODEL, sigma=0.0, file=ONE_STEP)),
    "KronaWorldLoader": lambda: graph(node("KronaWorldLoader")),
    "KronaBranchApply": lambda: graph(branched(), v=REFERENCE, i=IMAGES),
    "sampling on a model with a branch": lambda: sampled(branched(), v=REFERENCE, i=IMAGES),
    "sampling on a merged model": lambda: sampled(applied("merge")),
    "sampling on a bypassed model": lambda: sampled(applied("bypass")),
}  # fmt: skip
"""Every node of the pack that is executed, as the target."""

BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "KronaLoadApply": ("a damaged file", {"file": DAMAGED}),
    "KronaLoad": ("a damaged file", {"file": DAMAGED}),
    "KronaStack": ("a damaged file", {"file": DAMAGED}),
    "KronaWeights": ("a rule that is none", {"rules": "q=much"}),
    "KronaTargets": ("a rule that is none", {"rules": "q; k; v; w; x"}),
    "KronaDataset": ("a folder that is not there", {"folder": "nowhere"}),
    "KronaPrompts": ("a file that is not there", {"file": "nowhere.txt"}),
    "KronaTrain": ("a rate of zero", {"learning_rate": 0.0}),
    "KronaDistill": ("a range that is empty", {"lowest": 3.0, "highest": 3.0}),
    "KronaGuidance": ("an adapter without guidance", {"file": ADAPTER}),
    "KronaOneStep": ("a level that the model does not know", {"sigma": 5000.0}),
    "KronaCompress": ("a size that is too small", {"how": "to a number of parameters", "parameters": 1}),
    "KronaBlend": ("strengths that are none", {"strengths": "one, two"}),
    "KronaFirstFrame": ("a share above 1", {"p": 1.5}),
    "KronaCameras": ("an elevation that is none", {"elevations": "high"}),
    "KronaViewCondition": ("a file without an encoder", {"file": ADAPTER}),
    "KronaBranchApply": ("a start behind the end", {"start": 0.8, "end": 0.2}),
}
"""Inputs that a node refuses, beside the failures from outside."""
