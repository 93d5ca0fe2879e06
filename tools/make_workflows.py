"""Write ``example_workflows/``: what a user finds in ComfyUI's template browser, and what the demo runs.

    python tools/host.py run tools/make_workflows.py

The graphs are written down here once; the server says how the editor stores them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

PACK = Path(__file__).absolute().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of tools/, whose server.py would hide ComfyUI's

from tools.server import Server  # noqa: E402
from tools.workflow import Graph, to_workflow  # noqa: E402

FOLDER = PACK / "example_workflows"
TRAIN, APPLY = "KronA 1 - train on a folder.json", "KronA 2 - load and apply.json"
DREAMBOOTH = "KronA 3 - DreamBooth with previews.json"


def node(kind: str, **inputs: object) -> dict:
    """One node of a graph."""
    return {"class_type": kind, "inputs": inputs}


def train() -> tuple[Graph, dict, dict]:
    """Checkpoint and folder to adapter."""
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors"),
        "2": node(
            "KronaDataset", prompt="a photo of sks robot", folder="krobot", captions="from .txt files, else the prompt", resolution=0
        ),
        "3": node(
            "KronaTrain", model=["1", 0], clip=["1", 1], vae=["1", 2], dataset=["2", 0], name="my robot",
            steps=500, learning_rate=5e-4, batch_size=1, seed=0, factor_out=64, factor_in=4,
        ),
        "4": node("KronaSave", krona=["3", 0], filename_prefix="krona/robot"),
        "5": node("PreviewImage", images=["2", 1]),
    }  # fmt: skip
    layout = {"1": (40, 60), "2": (40, 240), "3": (440, 60), "4": (840, 60), "5": (840, 240)}
    text = (
        "**Train a Kronecker adapter on a few pictures**\n\n1. Choose a checkpoint.\n2. Put 3 to 5 pictures of your subject into "
        "`input/my-folder` and write that name into *folder* (or a full path).\n3. Write what they show: a rare word (`sks`) and the kind "
        "of thing (`robot`).\n4. Queue. The adapter is in `output/krona`, also if you cancel."
    )
    return graph, layout, {"How to use": (text, (440, 640), (360, 260))}


def apply() -> tuple[Graph, dict, dict]:
    """The same picture without and with an adapter."""
    sample = {"seed": 7, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors"),
        "2": node(
            "KronaLoadApply",
            model=["1", 0],
            clip=["1", 1],
            file="robot_00001_.safetensors",
            strength_model=1.0,
            strength_clip=1.0,
        ),
        "3": node("CLIPTextEncode", clip=["2", 1], text="a photo of sks robot"),
        "4": node("CLIPTextEncode", clip=["2", 1], text=""),
        "5": node("EmptyLatentImage", width=1024, height=1024, batch_size=1),
        "6": node("KSampler", model=["1", 0], positive=["3", 0], negative=["4", 0], latent_image=["5", 0], **sample),
        "7": node("KSampler", model=["2", 0], positive=["3", 0], negative=["4", 0], latent_image=["5", 0], **sample),
        "8": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "9": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "10": node("SaveImage", images=["8", 0], filename_prefix="krona/before"),
        "11": node("SaveImage", images=["9", 0], filename_prefix="krona/after"),
    }
    layout = {
        "1": (40, 60), "2": (40, 240), "3": (440, 60), "4": (440, 220), "5": (440, 380), "6": (840, 60), "7": (840, 420),
        "8": (1200, 60), "9": (1200, 420), "10": (1460, 60), "11": (1460, 420),
    }  # fmt: skip
    text = (
        "**Load an adapter and compare**\n\nThe upper branch is the base model, the lower one has the adapter. Same seed, same prompt: "
        "what differs is what was learnt. Use the words that you trained with."
    )
    return graph, layout, {"How to use": (text, (40, 460), (360, 180))}


def dreambooth() -> tuple[Graph, dict, dict]:
    """A subject with its class kept, watched while it is learnt."""
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors"),
        "2": node(
            "KronaDataset", prompt="a photo of sks robot", folder="krobot", captions="from .txt files, else the prompt", resolution=0,
            trigger="sks", class_prompt="a photo of a robot",
        ),
        "3": node("KronaTargets", preset="attention (the paper's)", factor_out=64, factor_in=4),
        "4": node(
            "KronaTrainSettings", preview_every=100, preview_prompts="a photo of sks robot\na photo of sks robot on the moon\na photo of a robot",
            prior="model", prior_weight=1.0,
        ),
        "5": node(
            "KronaTrain", model=["1", 0], clip=["1", 1], vae=["1", 2], dataset=["2", 0], name="my robot, DreamBooth",
            steps=800, learning_rate=5e-4, batch_size=1, seed=0, factor_out=64, factor_in=4, targets=["3", 0], settings=["4", 0],
        ),
        "6": node("KronaSave", krona=["5", 0], filename_prefix="krona/robot-dreambooth"),
        "7": node("SaveImage", images=["5", 2], filename_prefix="krona/loss"),
        "8": node("SaveImage", images=["5", 6], filename_prefix="krona/previews"),
        "9": node("PreviewImage", images=["2", 1]),
    }  # fmt: skip
    layout = {
        "1": (40, 60), "2": (40, 240), "3": (440, 60), "4": (440, 560), "5": (840, 60), "6": (1240, 60), "7": (1240, 360),
        "8": (1240, 760), "9": (40, 820),
    }  # fmt: skip
    text = (
        "**A subject, its class kept, watched while it is learnt**\n\n1. Choose a checkpoint; name your folder in *folder*.\n2. *prompt*: a rare word "
        "(`sks`) and the kind of thing. *trigger* is the rare word, *class_prompt* the kind alone.\n3. *preview_prompts*: one picture per "
        "line, every 100 steps. The second line shows whether the prompt is still followed, the third whether other robots stay as they are.\n"
        "4. Queue. Stop when the subject is there and the prompt is still followed; queue again to go on.\n\n*prior* `model` asks the untrained "
        "model what the class looks like: no class pictures, steps take about twice as long. `off` is the paper's released recipe."
    )
    return graph, layout, {"How to use": (text, (840, 1100), (360, 380))}  # below the previews on the training node


MADE = {TRAIN: train, APPLY: apply, DREAMBOOTH: dreambooth}


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, Server(base, packs={"krona": PACK}, cpu=True) as server:
        object_info = server.client.object_info()
    for name, made in MADE.items():
        graph, layout, notes = made()
        workflow = to_workflow(graph, object_info, layout, notes)
        (FOLDER / name).write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {FOLDER.name}/{name}")


if __name__ == "__main__":
    main()
