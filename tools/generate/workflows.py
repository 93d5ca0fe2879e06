"""Write ``example_workflows/``: what a user finds in ComfyUI's template browser, and what the demo runs.

    python tools/host.py run tools/generate/workflows.py

The graphs are written down here once; the server says how the editor stores them. ``pictures.py`` makes the thumbnails.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools.comfyui.server import Server  # noqa: E402
from tools.comfyui.workflow import Graph, to_workflow  # noqa: E402

FOLDER = PACK / "example_workflows"
TRAIN, APPLY = "KronA 1 - train on a folder.json", "KronA 2 - load and apply.json"
DREAMBOOTH = "KronA 3 - DreamBooth with previews.json"
PICTURES, RESUME = "KronA 4 - train on pictures in the graph.json", "KronA 5 - stop and go on.json"
BLEND, COMPARE = "KronA 6 - blend of three.json", "KronA 7 - compare LoRA with KronA.json"
SCHEDULE, WEIGHTS = "KronA 8 - strength schedule.json", "KronA 9 - per-block weights.json"
WORLD_TRAIN, WORLD_BLEND = (
    "KronA 10 - small world, train two subjects.json",
    "KronA 11 - small world, apply and blend.json",
)
WORLD_REFERENCE, WORLD_VIEWS = (
    "KronA 12 - small world, one picture in.json",
    "KronA 13 - small world, four views.json",
)
WORLD_GUIDANCE, WORLD_SCORES, WORLD_PAIRS = (
    "KronA 14 - small world, guidance in one pass.json",
    "KronA 15 - small world, one step by score matching.json",
    "KronA 16 - small world, one step by pairs.json",
)
WORLD_SIZES = "KronA 17 - small world, train for other sizes.json"

Layout = dict[str, tuple[int, ...]]
Example = tuple[Graph, Layout, dict]
"""A graph, where its nodes are, and the notes beside them."""

CHECKPOINT, SUBJECT = "sd_xl_base_1.0.safetensors", "a photo of sks robot"
ADAPTER = "robot_00001_.safetensors"
"""What example 1 saves."""
STYLE, LIGHT = "style_00001_.safetensors", "light_00001_.safetensors"
WORLD = {"robot": "sks", "bird": "zwx"}
"""The small world's sample subjects and their words; ``samples/world`` has a folder for each."""
NOTE = "How to use"
GAP = 60
SIZES = {
    "CheckpointLoaderSimple": (315, 126, 126), "CLIPTextEncode": (315, 140, 140), "EmptyLatentImage": (315, 106, 130),
    "KSampler": (315, 262, 290), "VAEDecode": (220, 46, 60), "SaveImage": (400, 480, 500), "PreviewImage": (400, 380, 460),
    "LoadImage": (315, 360, 400), "BatchImagesNode": (240, 110, 130), "ImageStitch": (315, 150, 180), "PreviewAny": (400, 200, 220),
    "PairConditioningSetProperties": (315, 170, 220),
    "KronaDataset": (360, 300, 560), "KronaTargets": (330, 180, 470), "KronaTrainSettings": (360, 300, 1180),
    "KronaTrain": (400, 560, 1060), "KronaSave": (330, 200, 260), "KronaLoad": (330, 110, 360), "KronaLoadApply": (330, 200, 450),
    "KronaApply": (330, 190, 250), "KronaBlend": (330, 230, 440), "KronaSchedule": (315, 250, 290), "KronaWeights": (360, 200, 240),
    "KronaScale": (315, 100, 130), "KronaInspect": (400, 560, 800), "KronaCompress": (330, 180, 260), "KronaConvert": (330, 200, 280),
    "KronaExtract": (330, 200, 280), "KronaStack": (330, 150, 400), "KronaWorldLoader": (330, 110, 300), "KronaEvaluate": (400, 330, 400),
    "VAEEncode": (220, 46, 60), "KronaFirstFrame": (330, 200, 260), "KronaCameras": (340, 330, 420), "KronaViewCondition": (340, 230, 300),
    "KronaBranchApply": (330, 300, 560), "KronaBranchSettings": (330, 220, 420),
    "KronaPrompts": (360, 300, 420),
    "ImageFromBatch": (270, 110, 130),
    "KronaDistill": (400, 620, 1240), "KronaGuidance": (330, 200, 260), "KronaOneStep": (315, 140, 170),
    "KSamplerSelect": (270, 60, 90), "SamplerCustom": (315, 250, 270),
}  # fmt: skip
"""Width and height of a node; and the height that it may grow to:
advanced inputs, previews and the pack's own widgets."""


def node(kind: str, **inputs: object) -> dict:
    """One node of a graph."""
    return {"class_type": kind, "inputs": inputs}


def arrange(graph: Graph, columns: Iterable[Iterable[str]], text: str, note: tuple[int, int]) -> Example:
    """Nodes in columns from left to right, with room for what they grow to.

    Args:
        columns: The nodes from top to bottom; `NOTE` is where the note is.
        text: Of the note.
        note: Its width and height.
    """
    layout: Layout = {}
    notes: dict = {}
    x = 40
    for column in columns:
        y, right = 60, x
        for key in column:
            width, height, room = (*note, note[1]) if key == NOTE else SIZES[graph[key]["class_type"]]
            if key == NOTE:
                notes[NOTE] = (text, (x, y), note)
            else:
                layout[key] = (x, y, width, height)
            y += room + GAP
            right = max(right, x + width)
        x = right + GAP + 20
    return graph, layout, notes


def checkpoint() -> dict:
    """The base model."""
    return node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)


def dataset(**inputs: object) -> dict:
    """The sample's five pictures, where nothing else is said."""
    return node(
        "KronaDataset", **{"prompt": SUBJECT, "folder": "krobot", "captions": "from .txt files, else the prompt", "resolution": 0} | inputs
    )  # fmt: skip


def training(**inputs: object) -> dict:
    """A training whose checkpoint is node 1 and whose data set is node 2."""
    usual = {
        "model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "dataset": ["2", 0], "name": "my robot", "steps": 1000,
        "learning_rate": 5e-4, "batch_size": 1, "seed": 0, "factor_out": 64, "factor_in": 4,
    }  # fmt: skip
    return node("KronaTrain", **usual | inputs)


def sampler(model: list, positive: list, negative: list, latent: list) -> dict:
    """A KSampler; the same seed and settings everywhere, so that pictures can be compared."""
    return node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        seed=7, steps=20, cfg=7.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip


def latent() -> dict:
    """The empty picture to start from."""
    return node("EmptyLatentImage", width=1024, height=1024, batch_size=1)


def side_by_side(left: list, right: list) -> dict:
    """Two pictures as one."""
    return node("ImageStitch", image1=left, image2=right, direction="right", match_image_size=True, spacing_width=16)


def train() -> Example:
    """Checkpoint and folder to adapter."""
    graph = {
        "1": checkpoint(),
        "2": dataset(),
        "3": training(),
        "4": node("KronaSave", krona=["3", 0], filename_prefix="loras/robot"),
        "5": node("PreviewImage", images=["2", 1]),
    }
    text = (
        "**Train a Kronecker adapter on a few pictures**\n\n1. Choose a checkpoint.\n2. Put 3 to 5 pictures of your subject into "
        "**input/my-folder** and write that name into *folder* (or a full path).\n3. Write what they show: a rare word (**sks**) and the kind "
        "of thing (**robot**).\n4. Queue. The adapter is in **output/loras**; if you cancel, it is in the run's folder below **output/krona**."
    )
    return arrange(graph, (("1", "2"), ("3",), ("4", "5", NOTE)), text, (400, 260))


def apply() -> Example:
    """The same picture without and with an adapter."""
    graph = {
        "1": checkpoint(),
        "2": node("KronaLoadApply", model=["1", 0], clip=["1", 1], file=ADAPTER, strength_model=1.0, strength_clip=1.0),
        "3": node("CLIPTextEncode", clip=["2", 1], text=SUBJECT),
        "4": node("CLIPTextEncode", clip=["2", 1], text=""),
        "5": latent(),
        "6": sampler(["1", 0], ["3", 0], ["4", 0], ["5", 0]),
        "7": sampler(["2", 0], ["3", 0], ["4", 0], ["5", 0]),
        "8": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "9": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "10": node("SaveImage", images=["8", 0], filename_prefix="krona/before"),
        "11": node("SaveImage", images=["9", 0], filename_prefix="krona/after"),
    }
    text = (
        "**Load an adapter and compare**\n\nThe upper branch is the base model, the lower one has the adapter. Same seed, same prompt: "
        "what differs is what was learnt. Use the words that you trained with."
    )
    return arrange(graph, (("1", "2", NOTE), ("3", "4", "5"), ("6", "7"), ("8", "9"), ("10", "11")), text, (330, 240))


def dreambooth() -> Example:
    """A subject with its class kept, watched while it is learnt."""
    graph = {
        "1": checkpoint(),
        "2": dataset(trigger="sks", class_prompt="a photo of a robot"),
        "3": node("KronaTargets", preset="attention (the paper's)", factor_out=64, factor_in=4),
        "4": node(
            "KronaTrainSettings", preview_every=100, preview_prompts=f"{SUBJECT}\n{SUBJECT} on the moon\na photo of a robot",
            prior="model", prior_weight=1.0,
        ),
        "5": training(name="my robot, DreamBooth", steps=800, targets=["3", 0], settings=["4", 0]),
        "6": node("KronaSave", krona=["5", 0], filename_prefix="loras/robot-dreambooth"),
        "7": node("SaveImage", images=["5", 2], filename_prefix="krona/loss"),
        "8": node("SaveImage", images=["5", 6], filename_prefix="krona/previews"),
        "9": node("PreviewImage", images=["2", 1]),
    }  # fmt: skip
    text = (
        "**A subject, its class kept, watched while it is learnt**\n\n1. Choose a checkpoint; name your folder in *folder*.\n2. *prompt*: a rare word "
        "(**sks**) and the kind of thing. *trigger* is the rare word, *class_prompt* the kind alone.\n3. *preview_prompts*: one picture per "
        "line, every 100 steps. The second line shows whether the prompt is still followed, the third whether other robots stay as they are.\n"
        "4. Queue. Stop when the subject is there and the prompt is still followed; queue again to go on.\n\n*prior* **model** asks the untrained "
        "model what the class looks like: no class pictures, steps take about twice as long. **off** is the paper's released recipe."
    )
    return arrange(graph, (("1", "2", "9"), ("3", "4"), ("5", NOTE), ("6", "7", "8")), text, (400, 440))


def pictures() -> Example:
    """Pictures that the graph has, not a folder."""
    graph = {
        "1": checkpoint(),
        "2": dataset(folder="", images=["9", 0]),
        "3": training(name="my robot, from the graph"),
        "4": node("KronaSave", krona=["3", 0], filename_prefix="loras/robot-from-the-graph"),
        "5": node("PreviewImage", images=["2", 1]),
        "6": node("LoadImage", image="example.png"),
        "7": node("LoadImage", image="example.png"),
        "8": node("LoadImage", image="example.png"),
        "9": node(
            "BatchImagesNode", **{"images.image0": ["6", 0], "images.image1": ["7", 0], "images.image2": ["8", 0]}
        ),
    }
    text = (
        "**Train on pictures that are in the graph**\n\n1. Choose your pictures in the three *Load Image* nodes (or drop them onto the nodes); "
        "with more of them, *Batch Images* grows another socket. Whatever makes pictures can be connected instead: cropped, drawn, "
        "frames of a video.\n2. *Batch Images* brings all to the size of the first one. Use a folder where shapes differ much.\n3. *prompt* is the caption of all of "
        "them. *folder* is empty here; name one to train on both.\n4. Queue."
    )
    return arrange(graph, (("6", "7", "8"), ("1", "9", "2"), ("3",), ("4", "5", NOTE)), text, (400, 360))


def resume() -> Example:
    """A training that is stopped, gone on with and made longer."""
    graph = {
        "1": checkpoint(),
        "2": dataset(),
        "3": training(
            name="my long training", steps=1000, resume="(go on if it is the same)", save_every=100, settings=["4", 0]
        ),
        "4": node("KronaTrainSettings", preview_every=100, preview_prompts=f"{SUBJECT} on the moon"),
        "5": node("KronaSave", krona=["3", 0], filename_prefix="loras/robot-long"),
        "6": node("PreviewImage", images=["3", 6]),
    }
    text = (
        "**Stop a training, go on, make it longer**\n\n1. Queue, and press *Cancel* whenever you like, or let the power fail. *save_every*: how many "
        "steps a crash may cost; Cancel costs none.\n2. Queue again: it goes on where it was, exactly as if it had never stopped. That needs the "
        "same *name* and the same settings; anything else that you change starts a new run.\n3. Not enough? Raise *steps* and queue again: only the "
        "steps that are missing are trained.\n\n*resume*: **(new run)** starts from the beginning; the name of a run goes on with that one and says what "
        "differs if it cannot. Press R to refresh the list."
    )
    return arrange(graph, (("1", "2", "4"), ("3",), ("5", "6", NOTE)), text, (400, 400))


def blend() -> Example:
    """Three adapters as one."""
    graph = {
        "1": checkpoint(),
        "2": node("KronaLoad", file=ADAPTER),
        "3": node("KronaLoad", file=STYLE),
        "4": node("KronaLoad", file=LIGHT),
        "5": node(
            "KronaBlend", strengths="1, 0.7, 0.5", method="sum",
            **{"adapters.krona0": ["2", 0], "adapters.krona1": ["3", 0], "adapters.krona2": ["4", 0]},
        ),
        "6": node("KronaApply", model=["1", 0], clip=["1", 1], krona=["5", 0], strength_model=1.0, strength_clip=1.0, mode="auto"),
        "7": node("CLIPTextEncode", clip=["6", 1], text=SUBJECT),
        "8": node("CLIPTextEncode", clip=["6", 1], text=""),
        "9": latent(),
        "10": sampler(["1", 0], ["7", 0], ["8", 0], ["9", 0]),
        "11": sampler(["6", 0], ["7", 0], ["8", 0], ["9", 0]),
        "12": node("VAEDecode", samples=["10", 0], vae=["1", 2]),
        "13": node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "14": side_by_side(["12", 0], ["13", 0]),
        "15": node("SaveImage", images=["14", 0], filename_prefix="krona/blend"),
    }  # fmt: skip
    text = (
        "**Blend three adapters into one**\n\n1. Choose three files: a subject, a style, a light; KronA, LoKr and LoRA may be mixed. Another one: "
        "connect it to the free socket.\n2. *strengths*: one number for each, in order.\n3. Queue. On the left is the base model, on the right the blend.\n\n*sum* is exact: the same as "
        "applying all three. Where they fight, try *ties*. To keep the blend as one small file, choose *form* **Kronecker product** and connect it to *Save KronA*."
    )
    columns = (("2", "3", "4"), ("1", "5", NOTE), ("6", "7", "8", "9"), ("10", "11"), ("12", "13", "14"), ("15",))
    return arrange(graph, columns, text, (330, 400))


def compare() -> Example:
    """The same training twice: a LoRA and a Kronecker adapter."""
    graph = {
        "1": checkpoint(),
        "2": dataset(),
        "3": node("KronaTargets", preset="attention (the paper's)", factor_out=64, factor_in=4, adapter="kronecker"),
        "4": node("KronaTargets", preset="attention (the paper's)", adapter="lora", lora_rank=4, lora_alpha=4.0),
        "5": training(name="robot as KronA", targets=["3", 0]),
        "6": training(name="robot as LoRA", targets=["4", 0], learning_rate=1e-4),
        "7": node("CLIPTextEncode", clip=["1", 1], text=f"{SUBJECT} on the moon"),
        "8": node("CLIPTextEncode", clip=["1", 1], text=""),
        "9": latent(),
        "10": sampler(["5", 1], ["7", 0], ["8", 0], ["9", 0]),
        "11": sampler(["6", 1], ["7", 0], ["8", 0], ["9", 0]),
        "12": node("VAEDecode", samples=["10", 0], vae=["1", 2]),
        "13": node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "14": side_by_side(["12", 0], ["13", 0]),
        "15": node("SaveImage", images=["14", 0], filename_prefix="krona/krona-and-lora"),
        "16": side_by_side(["5", 2], ["6", 2]),
        "17": node("SaveImage", images=["16", 0], filename_prefix="krona/krona-and-lora-loss"),
    }
    text = (
        "**Compare a LoRA with a Kronecker adapter**\n\nThe same pictures, the same steps, the same seed, trained twice: above as KronA, 64 × 4, below as a LoRA "
        "of rank 4 (its learning rate is lower: 1e-4). Pictures and loss curves stand side by side: KronA on the left.\n\n1. Choose a checkpoint; name your folder.\n"
        "2. Write a prompt that puts the subject where it never was: that shows who still listens.\n3. Queue. Both files are in **output/krona**; compare their "
        "sizes too."
    )
    columns = (
        ("1", "2", NOTE),
        ("3", "4", "7", "8", "9"),
        ("5", "6"),
        ("10", "11"),
        ("12", "13", "14", "16"),
        ("15", "17"),
    )
    return arrange(graph, columns, text, (360, 360))


def schedule() -> Example:
    """Strong at first, or strong at the end."""
    graph = {
        "1": checkpoint(),
        "2": node("KronaLoad", file=ADAPTER),
        "3": node(
            "KronaSchedule", krona=["2", 0], model=["1", 0], clip=["1", 1], strength_start=1.0, strength_end=0.0, start=0.2, end=0.6,
            curve="ease", keyframes=8,
        ),
        "4": node(
            "KronaSchedule", krona=["2", 0], model=["1", 0], clip=["1", 1], strength_start=0.0, strength_end=1.0, start=0.2, end=0.6,
            curve="ease", keyframes=8,
        ),
        "5": node("CLIPTextEncode", clip=["1", 1], text=SUBJECT),
        "6": node("CLIPTextEncode", clip=["1", 1], text=""),
        "7": node(
            "PairConditioningSetProperties", positive_NEW=["5", 0], negative_NEW=["6", 0], hooks=["3", 0], strength=1.0, set_cond_area="default",
        ),
        "8": node(
            "PairConditioningSetProperties", positive_NEW=["5", 0], negative_NEW=["6", 0], hooks=["4", 0], strength=1.0, set_cond_area="default",
        ),
        "9": latent(),
        "10": sampler(["1", 0], ["7", 0], ["7", 1], ["9", 0]),
        "11": sampler(["1", 0], ["8", 0], ["8", 1], ["9", 0]),
        "12": node("VAEDecode", samples=["10", 0], vae=["1", 2]),
        "13": node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "14": side_by_side(["12", 0], ["13", 0]),
        "15": node("SaveImage", images=["14", 0], filename_prefix="krona/schedule"),
    }  # fmt: skip
    text = (
        "**Change the strength while the picture is made**\n\nAbove, the adapter is strong at first and fades: it decides where everything is, the details "
        "are the base model's. Below, it is the other way round: the base model's composition with the adapter's details.\n\n1. Choose a checkpoint "
        "and an adapter.\n2. *start* and *end*: when the strength changes; 0 is pure noise, 1 the finished picture.\n3. Queue. Above is on the left.\n\nThe "
        "samplers get the base model: the hooks bring the adapter."
    )
    columns = (("1", "2", NOTE), ("3", "4", "5", "6"), ("7", "8", "9"), ("10", "11"), ("12", "13", "14"), ("15",))
    return arrange(graph, columns, text, (330, 420))


def weights() -> Example:
    """Parts of an adapter, with the picture of what is left."""
    graph = {
        "1": checkpoint(),
        "2": node("KronaLoad", file=ADAPTER),
        "3": node("KronaWeights", preset="all", rules="input_blocks=0.3\nmiddle_block=0.5\nself=0.8"),
        "4": node("KronaScale", krona=["2", 0], strength=1.0, weights=["3", 0]),
        "5": node("KronaInspect", krona=["2", 0], measure="how far weights move", table_by="block"),
        "6": node("KronaInspect", krona=["4", 0], measure="how far weights move", table_by="block"),
        "7": node(
            "KronaApply",
            model=["1", 0],
            clip=["1", 1],
            krona=["2", 0],
            strength_model=1.0,
            strength_clip=1.0,
            mode="auto",
            weights=["3", 0],
        ),
        "8": node("CLIPTextEncode", clip=["7", 1], text=SUBJECT),
        "9": node("CLIPTextEncode", clip=["7", 1], text=""),
        "10": latent(),
        "11": sampler(["7", 0], ["8", 0], ["9", 0], ["10", 0]),
        "12": node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "13": node("SaveImage", images=["12", 0], filename_prefix="krona/weights"),
        "14": node("PreviewAny", source=["7", 2]),
    }
    text = (
        "**Give each part of an adapter its own strength**\n\n1. Choose a checkpoint and an adapter. The left heat map shows which of its layers do how much.\n"
        "2. *rules* in *KronA Weights*: **selector=strength**, one per line; the last one that matches a layer counts. **input_blocks=0.3** turns the "
        "first half of a UNet down, **input_blocks.4=0** one block off; **self**, **cross**, **q**, **k**, **v** are kinds of layers. Names are those of the heat map: models "
        "of the Flux kind have **double_blocks.0-7**.\n3. Queue. The right heat map shows what is left, *report* which rules matched nothing."
    )
    columns = (("1", "2", NOTE), ("3", "4", "7", "14"), ("5",), ("6",), ("8", "9", "10"), ("11", "12"), ("13",))
    return arrange(graph, columns, text, (330, 460))


def world_prompt(kind: str) -> str:
    """A sentence of the small world about one of its sample subjects."""
    return f"a photo of {WORLD[kind]} {kind}"


def world_train() -> Example:
    """Two subjects, without a checkpoint."""
    graph = {"1": node("KronaWorldLoader")}
    for number, kind in enumerate(WORLD):
        data, trainer, file, look = (str(2 + 4 * number + n) for n in range(4))
        graph |= {
            data: dataset(prompt=world_prompt(kind), folder=f"world/{kind}", resolution=64),  # so that the sheet says it
            trainer: training(dataset=[data, 0], name=f"small world {kind}"),
            file: node("KronaSave", krona=[trainer, 0], filename_prefix=f"loras/world-{kind}"),
            look: node("PreviewImage", images=[data, 1]),
        }
    text = (
        "**Train in two minutes, without a checkpoint**\n\n*Load KronA's Small World* is a model of 12 MB that comes with the pack. It draws robots, cats, bears and "
        "birds of 64 × 64 pixels, and it has never seen these two subjects.\n\n1. Queue. Both are trained and saved to **output/loras**.\n2. Open *KronA 11* to see what was "
        "learnt.\n\nEverything that you try here, settings, targets, previews, works the same with a real checkpoint; only the numbers differ."
    )
    return arrange(graph, (("1", NOTE), ("2", "6"), ("3", "7"), ("4", "5", "8", "9")), text, (400, 400))


def world_blend() -> Example:
    """The base model, one adapter, and a blend of two, side by side."""
    first, second = WORLD
    graph = {
        "1": node("KronaWorldLoader"),
        "2": node("KronaLoad", file=f"world-{first}_00001_.safetensors"),
        "3": node("KronaLoad", file=f"world-{second}_00001_.safetensors"),
        "4": node(
            "KronaBlend", strengths="1, 1", method="sum", **{"adapters.krona0": ["2", 0], "adapters.krona1": ["3", 0]}
        ),
        "5": node(
            "KronaApply",
            model=["1", 0],
            clip=["1", 1],
            krona=["2", 0],
            strength_model=1.0,
            strength_clip=1.0,
            mode="auto",
        ),
        "6": node(
            "KronaApply",
            model=["1", 0],
            clip=["1", 1],
            krona=["4", 0],
            strength_model=1.0,
            strength_clip=1.0,
            mode="auto",
        ),
        "7": node("CLIPTextEncode", clip=["1", 1], text=f"{world_prompt(first)} waving with a hat on the beach by day"),
        "8": node(
            "CLIPTextEncode", clip=["1", 1], text=f"{world_prompt(second)} waving with a hat on the beach by day"
        ),
        "9": node("CLIPTextEncode", clip=["1", 1], text=""),
        "10": node("EmptyLatentImage", width=64, height=64, batch_size=4),
    }
    branches = (("1", "7"), ("5", "7"), ("6", "7"), ("6", "8"))
    for number, (model, prompt) in enumerate(branches):
        graph[str(11 + number)] = world_sampler([model, 0], [prompt, 0], ["9", 0], ["10", 0])
        graph[str(15 + number)] = node("VAEDecode", samples=[str(11 + number), 0], vae=["1", 2])
    graph |= {
        "19": side_by_side(["15", 0], ["16", 0]),
        "20": side_by_side(["17", 0], ["18", 0]),
        "21": side_by_side(["19", 0], ["20", 0]),
        "22": node("SaveImage", images=["21", 0], filename_prefix="krona/small-world"),
    }
    for number in (19, 20, 21):
        graph[str(number)]["inputs"]["spacing_width"] = 2
    text = (
        "**What was learnt, and two subjects in one blend**\n\nNeeds the two files of *KronA 10*. From left to right, four pictures below each other: the base model, which has never "
        "met the robot; with the robot's adapter; with the blend of both adapters, asked for the robot; the same blend, asked for the bird.\n\n1. Queue.\n2. Change the prompts: "
        "other poses (**jumping**, **sitting**), things (**with an umbrella**), places (**in the snow**), light (**at night**)."
    )
    columns = (
        ("2", "3", NOTE),
        ("1", "4"),
        ("5", "6", "10"),
        ("7", "8", "9"),
        ("11", "12", "13", "14"),
        ("15", "16", "17", "18"),
        ("19", "20", "21"),
        ("22",),
    )
    return arrange(graph, columns, text, (330, 420))


PLACES = (
    "waving with a hat on the beach by day",
    "sitting with a balloon in the snow by day",
    "jumping in the city at sunset",
    "standing with an umbrella in the forest by day",
)
"""Where the character of one picture is drawn."""


def world_sampler(model: list, positive: list, negative: list, latent: list) -> dict:
    """A KSampler as the small world needs it."""
    made = sampler(model, positive, negative, latent)
    made["inputs"] |= {"cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
    return made


def world_branch(branch: list, **inputs: object) -> dict:
    """A branch of the small world beside its model."""
    return node("KronaBranchApply", model=["1", 0], strength=1.0, krona=branch, **inputs)


def world_reference() -> Example:
    """One picture of a character, and that character in four places; nothing is trained."""
    graph = {
        "1": node("KronaWorldLoader"),
        "2": node("ImageFromBatch", image=["1", 6], batch_index=0, length=1),
        "3": node("PreviewImage", images=["2", 0]),
        "4": node("VAEEncode", pixels=["2", 0], vae=["1", 2]),
        "5": world_branch(["1", 3], reference=["4", 0]),
        "6": node("CLIPTextEncode", clip=["1", 1], text=""),
        "7": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }
    for number, place in enumerate(PLACES):
        prompt, drawn, shown = (str(8 + number + 4 * n) for n in range(3))
        graph |= {
            prompt: node("CLIPTextEncode", clip=["1", 1], text=f"a photo of a robot {place}"),
            drawn: world_sampler(["5", 0], [prompt, 0], ["6", 0], ["7", 0]),
            shown: node("VAEDecode", samples=[drawn, 0], vae=["1", 2]),
        }
    pictures: list = ["2", 0]
    for number in range(len(PLACES)):
        graph[str(20 + number)] = side_by_side(pictures, [str(16 + number), 0])
        graph[str(20 + number)]["inputs"]["spacing_width"] = 2
        pictures = [str(20 + number), 0]
    graph["24"] = node("SaveImage", images=pictures, filename_prefix="krona/one-picture")
    text = (
        "**One picture in, that character in four places out, and nothing is trained**\n\nThe small world's *reference* branch has seen 2,500 characters, but not this one. It looks at the picture "
        "on the left of the result while the model draws the four others.\n\n1. Queue.\n2. Another picture: **batch_index** 0 to 3 are the robot, 4 to 7 a bird: write **bird** into the prompts then. Pictures by "
        "day show most.\n3. **strength** 0 is what the model draws without it.\n\nA branch for your own model is trained on folders of pictures: *KronA Branch Settings*."
    )
    columns = (
        ("1", NOTE), ("2", "3", "4"), ("5", "6", "7"), ("8", "9", "10", "11"), ("12", "13", "14", "15"), ("16", "17", "18", "19"),
        ("20", "21", "22", "23"), ("24",),
    )  # fmt: skip
    return arrange(graph, columns, text, (330, 420))


def world_views() -> Example:
    """Four pictures that know of each other show one character, whom nobody has drawn before."""
    graph = {
        "1": node("KronaWorldLoader"),
        "2": world_branch(["1", 5], views=4),
        "3": node("CLIPTextEncode", clip=["1", 1], text="a photo of a cat waving on the beach by day"),
        "4": node("CLIPTextEncode", clip=["1", 1], text=""),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=4),
    }
    for number, model in enumerate(("1", "2")):
        graph[str(6 + number)] = world_sampler([model, 0], ["3", 0], ["4", 0], ["5", 0])
        graph[str(8 + number)] = node("VAEDecode", samples=[str(6 + number), 0], vae=["1", 2])
    graph |= {
        "10": node("SaveImage", images=["8", 0], filename_prefix="krona/apart"),
        "11": node("SaveImage", images=["9", 0], filename_prefix="krona/together"),
    }
    text = (
        "**Four views of a new character**\n\nThe same prompt, the same noise: without the branch the model draws four cats, with the small world's *views* branch one cat four times, whom it has made up."
        "\n\n1. Queue.\n2. Another **seed** is another cat; other words change pose and place.\n3. **views** is how many pictures of the batch belong together: 8 in the batch and 4 views are two characters."
    )
    columns = (("1", NOTE), ("2", "3", "4", "5"), ("6", "7"), ("8", "9"), ("10", "11"))
    return arrange(graph, columns, text, (330, 360))


def world_prompts(count: int) -> str:
    """Prompts in the small world's words, a line each."""
    paints = ("a red", "a blue", "a green", "an orange", "a purple", "a grey", "a white", "a yellow")
    words = (
        paints, ("robot", "cat", "bear", "bird"), ("sitting", "waving", "jumping", "standing"),
        ("with a hat", "", "with a scarf", "with an umbrella", "with a balloon"),
        ("on the beach", "in the forest", "in the snow", "in the city", "in the desert", "in a room"), ("by day", "at sunset", "at night"),
    )  # fmt: skip
    rng = random.Random(0)
    lines = [" ".join(["a photo of", *filter(None, map(rng.choice, words))]) for _ in range(count)]
    return "\n".join(dict.fromkeys(lines))


WORLD_DRAWN = {"sampler": "dpmpp_2m", "scheduler": "karras"}
"""What `world_sampler` draws with, for drawings that are learnt from."""
DISTILLED: dict[str, tuple[dict, str]] = {
    WORLD_GUIDANCE: (
        {"what": "guidance", "name": "world guidance", "steps": 200, "batch_size": 8, "drawings": 64, **WORLD_DRAWN},
        "**Guidance without its second pass**\n\nThe model draws 64 prompts with guidance, and an adapter learns what guidance did. Then three pictures from the same noise: without guidance, with "
        "guidance (two passes at every step), and with the adapter (**one pass**).\n\n1. Queue; two minutes on two cores.\n2. **guidance** of *KronA Guidance* is the cfg that you would give a sampler, "
        "whose own stays at 1. Any LoRA loader does the same with its strength.\n3. For your own model: a checkpoint loader, *KronA Prompts* with nothing typed in (300 prompts), 1000 steps.",
    ),
    WORLD_SCORES: (
        {"what": "one step by score matching", "name": "world one step", "steps": 60, "batch_size": 8, "guidance": 3.0, "learning_rate": 1e-3},
        "**One step instead of twelve, by score matching (SIM)**\n\nTwo adapters on one model: one draws in a single step, the other learns the score of what is drawn. Then three pictures from the same "
        "noise: the model in one step, the adapter in one step, and the model in twelve with guidance (24 passes).\n\n1. Queue; some minutes on two cores. This is only the beginning of a training: "
        "blur goes first.\n2. More **steps** make it sharper and more varied.\n3. *KronA One Step* gives the levels for *SamplerCustom*; KSampler with 1 step and cfg 1 is the same.",
    ),
    WORLD_PAIRS: (
        {"what": "one step by pairs", "name": "world pairs", "steps": 150, "batch_size": 8, "guidance": 3.0, "drawings": 64, "drawing_steps": 12, **WORLD_DRAWN},
        "**One step instead of twelve, by pairs (HiPA)**\n\nThe model draws 64 pictures in twelve steps with guidance; an adapter learns to go from each noise to its picture in one, and what one step blurs "
        "counts extra. Then three pictures from the same noise: the model in one step, the adapter in one step, and the model in twelve (24 passes).\n\n1. Queue; two minutes on two cores.\n2. More "
        "**drawings** are more pictures to learn from; they are kept for the next training.",
    ),
}  # fmt: skip
"""What each example of distillation trains, and its note."""
SCENE = "a photo of a red robot waving with a hat on the beach by day"


def world_distilled(name: str) -> Example:
    """An adapter that saves passes, trained and drawn with, beside the model without it and what it shall come to."""
    settings, text = DISTILLED[name]
    graph = {
        "1": node("KronaWorldLoader"),
        "2": node("KronaPrompts", prompts=world_prompts(64)),
        "3": node("KronaTargets", preset="attention and feed-forward", factor_out=4, factor_in=4),
        "4": node("KronaDistill", model=["1", 0], clip=["1", 1], vae=["1", 2], dataset=["2", 0], targets=["3", 0], preview_every=50, **settings),
        "5": node("CLIPTextEncode", clip=["1", 1], text=SCENE),
        "6": node("CLIPTextEncode", clip=["1", 1], text=""),
        "7": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }  # fmt: skip
    drawn = {number: world_sampler(["1", 0], ["5", 0], ["6", 0], ["7", 0]) for number in ("8", "9", "10")}
    quick = {"cfg": 1.0} if name == WORLD_GUIDANCE else {"cfg": 1.0, "steps": 1, "sampler_name": "euler", "scheduler": "normal"}
    drawn["8"]["inputs"] |= quick
    if name == WORLD_GUIDANCE:
        graph["11"] = node("KronaGuidance", model=["1", 0], guidance=3.0, krona=["4", 0])
    drawn["9"]["inputs"] |= {**quick, "model": ["11", 0] if name == WORLD_GUIDANCE else ["4", 1]}
    graph |= drawn
    graph |= {str(12 + n): node("VAEDecode", samples=[key, 0], vae=["1", 2]) for n, key in enumerate(drawn)}
    graph |= {"15": side_by_side(["12", 0], ["13", 0]), "16": side_by_side(["15", 0], ["14", 0])}
    for key in ("15", "16"):
        graph[key]["inputs"]["spacing_width"] = 2
    graph["17"] = node("SaveImage", images=["16", 0], filename_prefix="krona/distilled")
    applied = ("11",) if name == WORLD_GUIDANCE else ()
    columns = (("1", NOTE), ("2", "3"), ("4",), ("5", "6", "7", *applied), tuple(drawn), ("12", "13", "14"), ("15", "16"), ("17",))
    return arrange(graph, columns, text, (330, 460))


def world_sizes() -> Example:
    """An adapter for sizes that the model was never trained at, beside the model without it."""
    graph = {
        "1": node("KronaWorldLoader"),
        "2": dataset(prompt=world_prompt("robot"), folder="world/robot", resolutions="48, 96"),
        "3": node("KronaTargets", preset="resolution (ResAdapter)", factor_out=8, factor_in=8),
        "4": training(targets=["3", 0], name="small world, other sizes", steps=400, factor_out=8, factor_in=8),
        "5": node("KronaSave", krona=["4", 0], filename_prefix="loras/world-sizes"),
        "6": node("PreviewImage", images=["2", 1]),
        "7": node("CLIPTextEncode", clip=["1", 1], text=f"{world_prompt('robot')} waving with a hat on the beach by day"),
        "8": node("CLIPTextEncode", clip=["1", 1], text=""),
        "9": node("EmptyLatentImage", width=96, height=96, batch_size=1),
        "10": world_sampler(["1", 0], ["7", 0], ["8", 0], ["9", 0]),
        "11": world_sampler(["4", 1], ["7", 0], ["8", 0], ["9", 0]),
        "12": node("VAEDecode", samples=["10", 0], vae=["1", 2]),
        "13": node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "14": side_by_side(["12", 0], ["13", 0]),
        "15": node("SaveImage", images=["14", 0], filename_prefix="krona/other-sizes"),
    }
    graph["14"]["inputs"]["spacing_width"] = 2
    text = (
        "**Train for sizes that the model was never trained at**\n\nThe preset *resolution (ResAdapter)* trains the layers that halve and double a picture and the norms of the residual blocks, and nothing that "
        "carries a style. **resolutions** brings each picture at every size, those far from the model's own 64 pixels most often.\n\n1. Queue: on the left the model at 96 × 96 as it is, on the right with the "
        "adapter.\n2. The small world's model has one level, so nothing halves or doubles the picture: only its norms are trained, and the run says so.\n\nWith SD1.5 write **128, 256, 384, 768, 1024**, with SDXL **256, 384, "
        "512, 768, 1280, 1408, 1536**, and take hundreds of pictures of all kinds with captions: four of one subject, as here, teach the subject too."
    )
    columns = (("1", NOTE), ("2", "3"), ("4", "5", "6"), ("7", "8", "9"), ("10", "11"), ("12", "13"), ("14", "15"))
    return arrange(graph, columns, text, (330, 560))


MADE: dict[str, Callable[[], Example]] = {
    TRAIN: train, APPLY: apply, DREAMBOOTH: dreambooth, PICTURES: pictures, RESUME: resume, BLEND: blend, COMPARE: compare,
    SCHEDULE: schedule, WEIGHTS: weights, WORLD_TRAIN: world_train, WORLD_BLEND: world_blend, WORLD_REFERENCE: world_reference, WORLD_VIEWS: world_views,
    **{name: partial(world_distilled, name) for name in DISTILLED}, WORLD_SIZES: world_sizes,
}  # fmt: skip


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
