"""Make the thumbnails of ``example_workflows/`` and the pictures of the help pages: photographs of ComfyUI's editor.

    python tools/host.py run tools/generate/pictures.py [NAME ...]

Without a name all of them are made anew; a name is a node's id or the beginning of an example's name. The graphs run on
the tiny random model first, so that curves, heat maps and contact sheets are there.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from PIL import Image  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

from tools import tiny_models  # noqa: E402
from tools.comfyui import browser  # noqa: E402
from tools.comfyui.server import Server  # noqa: E402
from tools.comfyui.workflow import Graph, to_workflow  # noqa: E402
from tools.generate import workflows as examples  # noqa: E402
from tools.generate.workflows import ADAPTER, CHECKPOINT, LIGHT, MADE, STYLE, SUBJECT, node  # noqa: E402

HELP = PACK / "web" / "docs" / "images"
THUMBNAIL = 512
LARGEST = 60_000
"""Bytes of a picture: the pack is cloned by everyone."""
VIEWS = "mvadapter_t2mv_sdxl.safetensors"
GUIDED = "guidance_00001_.safetensors"
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": True, "Comfy.ColorPalette": "dark", "Comfy.Locale": "en",
    "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasMenu": False, "Comfy.Graph.CanvasInfo": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None", "Comfy.Workflow.ShowMissingModelsWarning": False,
}  # fmt: skip
QUICK = {
    "KSampler": {"steps": 2}, "EmptyLatentImage": {"width": 128, "height": 128}, "KronaDataset": {"resolution": 128},
    "KronaTrain": {"steps": 40, "learning_rate": 1e-2},
    "KronaTrainSettings": {"preview_every": 40, "preview_steps": 2, "preview_width": 64, "preview_height": 64},
}  # fmt: skip
"""What the tiny model is run with; what the picture shows is what the example says."""
TALL = {
    "PreviewImage": 330,
    "LoadImage": 300,
    "KronaInspect": 520,
    "KronaTrain": 640,
    "SaveImage": 330,
    "KronaLoadApply": 400,
    "KronaBranchApply": 460,
}
"""Heights of nodes that show pictures, once they have one."""
FOCUS = {
    examples.TRAIN: ("2", "3", "5"), examples.APPLY: ("1", "2", "3"), examples.DREAMBOOTH: ("3", "4", "5"),
    examples.PICTURES: ("6", "7", "9", "2"), examples.RESUME: ("2", "3"), examples.BLEND: ("2", "3", "4", "5"),
    examples.COMPARE: ("5", "6", "3"), examples.SCHEDULE: ("2", "3", "4"), examples.WEIGHTS: ("3", "5"),
    examples.WORLD_TRAIN: ("1", "2", "3", "5"), examples.WORLD_BLEND: ("22",), examples.WORLD_REFERENCE: ("24",),
    examples.WORLD_VIEWS: ("10", "11"), **dict.fromkeys(examples.DISTILLED, ("17",)), examples.WORLD_SIZES: ("15",),
}  # fmt: skip
"""The nodes that a thumbnail is about."""

Scene = tuple[Graph, tuple[tuple[str, ...], ...]]
"""A small graph and its columns."""


def _scenes() -> dict[str, Scene]:
    """Each node where it usually is."""
    base, load = node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT), node("KronaLoad", file=ADAPTER)
    loads = {"2": load, "3": node("KronaLoad", file=STYLE), "4": node("KronaLoad", file=LIGHT)}
    prompt = node("CLIPTextEncode", clip=["5", 1], text=SUBJECT)
    weights = node("KronaWeights", preset="all", rules="input_blocks=0.3\nmiddle_block=0.5")
    applied = node("KronaApply", model=["1", 0], clip=["1", 1], krona=["2", 0])

    def saved(origin: str, name: str = "loras/robot") -> dict:
        return node("KronaSave", krona=[origin, 0], filename_prefix=name)

    def prompt_of(origin: str) -> dict:
        return node("CLIPTextEncode", clip=[origin, 1], text=SUBJECT)

    def with_denoise(sampler: dict, denoise: list) -> dict:
        return {**sampler, "inputs": {**sampler["inputs"], "denoise": denoise}}

    def one_pass(*where: list) -> dict:
        made = examples.world_sampler(*where)
        return {**made, "inputs": {**made["inputs"], "cfg": 1.0}}

    def report(origin: str, output: int) -> dict:
        return node("PreviewAny", source=[origin, output])

    def trained(**inputs: object) -> dict:
        return examples.training(**inputs)

    return {
        "KronaLoadApply": (
            {
                "1": base, "5": node("KronaLoadApply", model=["1", 0], clip=["1", 1], file=ADAPTER, strength_model=0.8), "6": prompt,
                "7": node("CLIPTextEncode", clip=["5", 1], text="")
            },
            (("1",), ("5",), ("6", "7")),
        ),
        "KronaLoad": ({"1": base, "2": load, "5": applied, "6": prompt}, (("2", "1"), ("5",), ("6",))),
        "KronaApply": ({"1": base, "2": load, "5": applied, "6": prompt, "7": report("5", 2)}, (("1", "2"), ("5",), ("6", "7"))),
        "KronaWeights": (
            {"1": base, "2": load, "3": weights, "5": node(**applied_with(applied, weights=["3", 0])), "7": report("5", 2)},
            (("1", "2"), ("3", "5"), ("7",)),
        ),
        "KronaSchedule": (
            {
                "1": base, "2": load,
                "5": node("KronaSchedule", krona=["2", 0], model=["1", 0], clip=["1", 1], start=0.2, end=0.6, curve="ease"),
                "6": node("CLIPTextEncode", clip=["1", 1], text=SUBJECT), "7": node("CLIPTextEncode", clip=["1", 1], text=""),
                "8": node("PairConditioningSetProperties", positive_NEW=["6", 0], negative_NEW=["7", 0], hooks=["5", 0]),
            },
            (("1", "2"), ("5", "6", "7"), ("8",)),
        ),
        "KronaScale": (
            {"1": base, "2": load, "3": node("KronaScale", krona=["2", 0], strength=0.5), "5": node(**applied_with(applied, krona=["3", 0]))},
            (("2",), ("3", "1"), ("5",)),
        ),
        "KronaBlend": (
            {
                **loads, "6": saved("5", "loras/blend"),
                "5": node(
                    "KronaBlend", strengths="1, 0.7, 0.5", form="Kronecker product",
                    **{f"adapters.krona{number}": [key, 0] for number, key in enumerate(loads)},
                ),
            },
            (("2", "3", "4"), ("5", "6")),
        ),
        "KronaCompress": (
            {"2": load, "3": node("KronaCompress", krona=["2", 0], how="to an error"), "4": saved("3", "loras/smaller"), "5": report("3", 1)},
            (("2",), ("3",), ("4", "5")),
        ),
        "KronaExtract": (
            {
                "1": node("CheckpointLoaderSimple", ckpt_name="tuned.safetensors"), "2": base,
                "3": node("KronaExtract", tuned=["1", 0], base=["2", 0], form="Kronecker product"), "4": saved("3", "loras/extracted"),
            },
            (("1", "2"), ("3",), ("4",)),
        ),
        "KronaConvert": (
            {"2": load, "3": node("KronaConvert", krona=["2", 0], form="LoRA", rank=32), "4": saved("3", "loras/robot"), "5": report("3", 1)},
            (("2",), ("3",), ("4", "5")),
        ),
        "KronaSave": (
            {"2": load, "3": node("KronaScale", krona=["2", 0], strength=0.8), "4": saved("3")},
            (("2",), ("3",), ("4",)),
        ),
        "KronaInspect": ({"2": load, "3": node("KronaInspect", krona=["2", 0]), "4": report("3", 0)}, (("2",), ("3",), ("4",))),
        "KronaStack": (
            {
                "1": base, "2": node("KronaStack", file=ADAPTER), "3": node("KronaStack", file=STYLE, strength_model=0.7, lora_stack=["2", 0]),
                "5": node(**applied_with(applied, krona=["3", 1])),
            },
            (("2",), ("3", "1"), ("5",)),
        ),
        "KronaTargets": (
            {
                "1": base, "2": examples.dataset(), "4": node("KronaTargets", preset="cross-attention only", factor_out=64, factor_in=8),
                "3": trained(targets=["4", 0], name="cross-attention"),
            },
            (("4", "1", "2"), ("3",)),
        ),
        "KronaDataset": (
            {"1": base, "2": examples.dataset(), "5": node("PreviewImage", images=["2", 1]), "3": trained()}, (("2", "1"), ("5",), ("3",))
        ),
        "KronaPrompts": (
            {
                "1": node("KronaPrompts", prompts="a red cat on a sofa\na street at night, rain\na bowl of oranges"), "2": report("1", 1),
                "3": node("KronaPrompts", count=64), "4": report("3", 1),
            },
            (("1", "3"), ("2", "4")),
        ),
        "KronaTrainSettings": (
            {
                "1": base, "2": examples.dataset(), "4": node("KronaTrainSettings", preview_every=100, preview_prompts=f"{SUBJECT} on the moon"),
                "3": trained(settings=["4", 0], name="with previews"),
            },
            (("4", "1", "2"), ("3",)),
        ),
        "KronaBranchSettings": (
            {"1": node("KronaTrainSettings"), "2": node("KronaBranchSettings", settings=["1", 0])},
            (("1",), ("2",)),
        ),
        "KronaTrain": ({"1": base, "2": examples.dataset(), "3": trained(), "4": saved("3")}, (("1", "2"), ("3",), ("4",))),
        "KronaWorldLoader": (
            {
                "1": node("KronaWorldLoader"), "2": node("CLIPTextEncode", clip=["1", 1], text="a photo of a red robot waving with a hat on the beach at night"),
                "3": node("CLIPTextEncode", clip=["1", 1], text=""), "4": node("EmptyLatentImage", width=64, height=64, batch_size=1),
                "5": examples.world_sampler(["1", 0], ["2", 0], ["3", 0], ["4", 0]), "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
                "7": node("PreviewImage", images=["6", 0]),
            },
            (("1", "4"), ("2", "3"), ("5", "6"), ("7",)),
        ),
        "KronaDistill": (
            {
                "1": node("KronaWorldLoader"), "2": node("KronaPrompts", prompts=examples.world_prompts(32), count=0, seed=0),
                "3": node("KronaTargets", preset="attention and feed-forward", factor_out=4, factor_in=4),
                "4": node(
                    "KronaDistill", model=["1", 0], clip=["1", 1], vae=["1", 2], dataset=["2", 0], targets=["3", 0], what="guidance", name="guidance",
                    steps=60, learning_rate=0.0, batch_size=8, seed=0, drawings=32, preview_every=30,
                ),
            },
            (("1", "2"), ("3",), ("4",)),
        ),
        "KronaGuidance": (
            {
                "1": node("KronaWorldLoader"), "2": node("KronaGuidance", model=["1", 0], guidance=3.0, file=GUIDED),
                "3": node("CLIPTextEncode", clip=["1", 1], text=examples.SCENE), "4": node("CLIPTextEncode", clip=["1", 1], text=""),
                "5": node("EmptyLatentImage", width=64, height=64, batch_size=1), "6": one_pass(["2", 0], ["3", 0], ["4", 0], ["5", 0]),
                "7": node("VAEDecode", samples=["6", 0], vae=["1", 2]), "8": node("PreviewImage", images=["7", 0]),
            },
            (("1", "5"), ("2", "3", "4"), ("6", "7"), ("8",)),
        ),
        "KronaOneStep": (
            {
                "1": node("KronaWorldLoader"), "2": node("KronaOneStep", model=["1", 0]), "3": node("KSamplerSelect", sampler_name="euler"),
                "4": node("CLIPTextEncode", clip=["1", 1], text=examples.SCENE), "5": node("CLIPTextEncode", clip=["1", 1], text=""),
                "6": node("EmptyLatentImage", width=64, height=64, batch_size=1),
                "7": node(
                    "SamplerCustom", model=["1", 0], add_noise=True, noise_seed=3, cfg=1.0, positive=["4", 0], negative=["5", 0],
                    sampler=["3", 0], sigmas=["2", 0], latent_image=["6", 0],
                ),
                "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]), "9": node("PreviewImage", images=["8", 0]),
            },
            (("1", "6"), ("2", "3", "4", "5"), ("7", "8"), ("9",)),
        ),
        "KronaFirstFrame": (
            {
                "1": base, "2": node("LoadImage", image="beach.jpg"), "3": node("VAEEncode", pixels=["2", 0], vae=["1", 2]),
                "4": node("KronaFirstFrame", image=["3", 0]), "5": prompt_of("1"), "6": node("CLIPTextEncode", clip=["1", 1], text=""),
                "7": with_denoise(examples.sampler(["1", 0], ["5", 0], ["6", 0], ["4", 0]), ["4", 1]),
            },
            (("2", "1"), ("3", "4"), ("5", "6"), ("7",)),
        ),
        "KronaCameras": (
            {
                "1": node("KronaCameras", width=768, height=768), "2": node("PreviewImage", images=["1", 1]),
                "3": node("KronaCameras", where="an orbit", views=5, elevations="0, 30", projection="perspective"),
                "4": node("PreviewImage", images=["3", 1]),
            },
            (("1", "3"), ("2", "4")),
        ),
        "KronaViewCondition": (
            {
                "1": base, "2": node("KronaCameras", width=768, height=768), "3": prompt_of("1"), "4": node("CLIPTextEncode", clip=["1", 1], text=""),
                "5": node("KronaViewCondition", positive=["3", 0], negative=["4", 0], cameras=["2", 0], file=VIEWS),
                "6": node("EmptyLatentImage", width=768, height=768, batch_size=6),
                "7": examples.sampler(["1", 0], ["5", 0], ["5", 1], ["6", 0]),
            },
            (("1", "2"), ("3", "4"), ("5", "6"), ("7",)),
        ),
        "KronaBranchApply": (
            {
                "1": node("KronaWorldLoader"), "2": node("LoadImage", image="robot.png"), "3": node("VAEEncode", pixels=["2", 0], vae=["1", 2]),
                "5": node("KronaBranchApply", model=["1", 0], krona=["1", 3], reference=["3", 0], views=0),
                "6": node("CLIPTextEncode", clip=["1", 1], text="a photo of a robot sitting with a hat on the beach by day"),
                "7": node("CLIPTextEncode", clip=["1", 1], text=""), "8": node("EmptyLatentImage", width=64, height=64, batch_size=4),
                "9": examples.world_sampler(["5", 0], ["6", 0], ["7", 0], ["8", 0]), "10": node("VAEDecode", samples=["9", 0], vae=["1", 2]),
                "11": node("PreviewImage", images=["10", 0]),
            },
            (("1", "2"), ("3", "5"), ("6", "7", "8"), ("9", "10"), ("11",)),
        ),
        "KronaEvaluate": (
            {
                "1": node("KronaWorldLoader"), "2": node("CLIPTextEncode", clip=["1", 1], text="a photo of a robot waving with a hat on the beach by day"),
                "3": node("CLIPTextEncode", clip=["1", 1], text=""), "4": node("EmptyLatentImage", width=64, height=64, batch_size=4),
                "5": examples.world_sampler(["1", 0], ["2", 0], ["3", 0], ["4", 0]), "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
                "7": node("LoadImage", image="robot.png"),
                "8": node(
                    "KronaEvaluate", images=["6", 0], references=["7", 0], prompts="a photo of sks robot waving with a hat on the beach by day",
                    judges="small world",
                ),
                "9": node("PreviewImage", images=["8", 1]),
            },
            (("1", "4"), ("2", "3"), ("5", "6", "7"), ("8",), ("9",)),
        ),
    }  # fmt: skip


def applied_with(entry: Mapping, **inputs: object) -> dict:
    """A node with some inputs changed, as arguments of ``node``."""
    return {"kind": entry["class_type"], **entry["inputs"], **inputs}


class Studio:
    """ComfyUI with a tiny model in it, and a page in front of it that shows nothing but the graph.

    Args:
        server: Running.
        page: Of a browser, empty.
    """

    def __init__(self, server: Server, page: Page) -> None:
        self.server, self.page = server, page
        self.object_info = server.client.object_info()

    def open(self) -> None:
        """Load the page and hide what is not the graph."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(
            "() => !!window.LiteGraph?.registered_node_types?.['KronaTrain'] && !!window.app?.canvas?.graph"
        )
        self.page.wait_for_function("() => !document.querySelector('.p-blockui-mask, .p-progressspinner')")
        self.page.evaluate("app.extensionManager.focusMode = true")
        self.page.add_style_tag(content=".p-toast, .no-drag.fixed { display: none !important }")

    def show(self, workflow: Mapping, runs: bool) -> None:
        """Put a graph on the page, run it with small numbers, and close up the rows."""
        page = self.page
        page.evaluate("(graph) => app.loadGraphData(graph, true, true, 'picture')", workflow)
        page.wait_for_function(
            "(count) => document.querySelectorAll('[data-node-id]').length === count", arg=len(workflow["nodes"])
        )
        if runs:
            real = any(entry["type"] == "KronaWorldLoader" for entry in workflow["nodes"])  # it is quick as it is
            kept = page.evaluate(_TYPE, {} if real else QUICK)
            ended = page.evaluate(_RUN)
            if ended:
                raise SystemExit(f"A graph did not run: {ended}")
            page.evaluate(_TYPE_BACK, kept)
        page.evaluate(
            "(tall) => { for (const n of app.graph.nodes) n.setSize([n.size[0], tall[n.type] ?? 60]); }",
            TALL if runs else {name: TALL[name] for name in ("KronaLoadApply", "KronaBranchApply", "LoadImage")},
        )
        self.settle()
        page.evaluate(_STACK)
        self.settle()

    def settle(self) -> None:
        """Wait until pictures have loaded and what was changed has been drawn."""
        self.page.wait_for_function("() => [...document.images].every((image) => image.complete)")
        self.page.evaluate(
            "() => document.fonts.ready.then(() => new Promise((done) => "
            "{ let left = 6; const next = () => (left-- ? requestAnimationFrame(next) : done()); next(); }))"
        )

    def box(self, ids: Iterable[str] = ()) -> tuple[float, float, float, float]:
        """The rectangle around some nodes, or all, in the graph's pixels."""
        return tuple(self.page.evaluate(_BOX, [int(key) for key in ids]))

    def photograph(self, box: tuple[float, float, float, float], width: int, height: int, scale: float) -> Image.Image:
        """What the page shows of a rectangle."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate("() => { app.canvas.resize(); }")
        self.page.evaluate(
            "([x, y, scale]) => { app.canvas.ds.scale = scale; app.canvas.ds.offset = [-x, -y]; app.canvas.setDirty(true, true); }",
            [box[0], box[1], scale],
        )
        self.page.mouse.move(1, 1)
        self.settle()
        return Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")


_TYPE = """(changes) => {
    const kept = [];
    for (const node of app.graph.nodes)
        for (const [name, value] of Object.entries(changes[node.type] ?? {})) {
            const widget = node.widgets.find((w) => w.name === name);
            kept.push([node.id, name, widget.value]);
            widget.value = value;
        }
    return kept;
}"""
_TYPE_BACK = """(kept) => {
    for (const [id, name, value] of kept) app.graph.getNodeById(id).widgets.find((w) => w.name === name).value = value;
}"""
_RUN = """() => new Promise((done, failed) => {
    const names = ["execution_success", "execution_error", "execution_interrupted"];
    const end = (event) => {
        names.forEach((name) => app.api.removeEventListener(name, end));
        done(event.type === "execution_success" ? "" : JSON.stringify(event.detail));
    };
    names.forEach((name) => app.api.addEventListener(name, end));
    app.queuePrompt(0).then(() => {
        if (Object.keys(app.lastNodeErrors ?? {}).length) end({ type: "refused", detail: app.lastNodeErrors });
    }, failed);
    setTimeout(() => end({ type: "too long", detail: "ten minutes" }), 600000);
})"""
_STACK = """() => {
    const columns = {};
    for (const node of app.graph.nodes) (columns[node.pos[0]] ??= []).push(node);
    for (const column of Object.values(columns)) {
        let y = 60;
        for (const node of column.sort((a, b) => a.pos[1] - b.pos[1])) {
            node.pos = [node.pos[0], y];
            y += document.querySelector(`[data-node-id="${node.id}"]`).offsetHeight + 36;
        }
    }
}"""
_BOX = """(ids) => {
    const box = [Infinity, Infinity, -Infinity, -Infinity];
    for (const node of app.graph.nodes) {
        if (ids.length && !ids.includes(Number(node.id))) continue;
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        box[0] = Math.min(box[0], node.pos[0]);
        box[1] = Math.min(box[1], node.pos[1] - 30);
        box[2] = Math.max(box[2], node.pos[0] + element.offsetWidth);
        box[3] = Math.max(box[3], node.pos[1] - 30 + element.offsetHeight);
    }
    return box;
}"""


def thumbnail(studio: Studio, name: str) -> None:
    """A square card beside an example."""
    workflow = json.loads((examples.FOLDER / name).read_text(encoding="utf-8"))
    for entry, place in zip(
        (n for n in workflow["nodes"] if n["type"] == "LoadImage"), ("beach", "grass", "table"), strict=False
    ):
        entry["widgets_values"][0] = f"{place}.jpg"
    studio.show(workflow, runs=True)
    left, top, right, bottom = studio.box(FOCUS[name])
    side = max(right - left, bottom - top) + 40
    box = ((left + right - side) / 2, (top + bottom - side) / 2, 0, 0)
    picture = studio.photograph(box, 1024, 1024, 1024 / side).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    _save(picture, examples.FOLDER / name.replace(".json", ".jpg"))


def help_picture(studio: Studio, kind: str, scene: Scene) -> None:
    """A node among those that it is usually wired to."""
    graph, columns = scene
    graph = {key: graph[key] for column in columns for key in column}
    graph, layout, _ = examples.arrange(graph, columns, "", (0, 0))
    has_result = any(studio.object_info[entry["class_type"]]["output_node"] for entry in graph.values())
    # The tiny model has no tuned twin: there is nothing to extract.
    studio.show(to_workflow(graph, studio.object_info, layout, {}), runs=has_result and kind != "KronaExtract")
    left, top, right, bottom = studio.box()
    scale = min(1.0, 1100 / (right - left))
    width, height = round((right - left + 40) * scale), round((bottom - top + 40) * scale)
    _save(studio.photograph((left - 20, top - 20, 0, 0), width, height, scale), HELP / f"{kind}.jpg")


def _save(picture: Image.Image, path: Path) -> None:
    """At the best quality that stays small."""
    path.parent.mkdir(exist_ok=True)
    for quality in range(85, 35, -5):
        picture.save(path, "JPEG", quality=quality, optimize=True, progressive=True)
        if path.stat().st_size < LARGEST:
            break
    print(
        f"wrote {path.relative_to(PACK)}: {picture.width} × {picture.height}, {path.stat().st_size:,} bytes", flush=True
    )


def _lay_out(base: Path) -> None:
    """A ComfyUI folder with the files that the examples name."""
    checkpoints = base / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in (CHECKPOINT, "tuned.safetensors"):
        (checkpoints / name).symlink_to(tiny_models.cached("sd15", clip=True, vae=True))
    views = base / "models" / "krona" / VIEWS
    views.parent.mkdir()
    views.write_bytes((2).to_bytes(8, "little") + b"{}")  # its name alone is shown
    shutil.copytree(PACK / "samples" / "krobot", base / "input")
    shutil.copy(PACK / "samples" / "world" / "robot" / "4.png", base / "input" / "robot.png")


def _train(server: Server) -> None:
    """Adapters under the names that the examples load."""
    for seed, name in enumerate((ADAPTER, STYLE, LIGHT)):
        graph = {
            "1": examples.checkpoint(),
            "2": examples.dataset(resolution=128),
            "3": examples.training(name=name.partition("_")[0], steps=20, learning_rate=1e-2, seed=seed),
            "4": node(
                "KronaSave",
                krona=["3", 0],
                filename_prefix=f"loras/{name.partition('_')[0]}",
                trigger_words="sks robot",
            ),
        }
        server.client.run(graph)
    server.client.run(examples.world_train()[0])
    distill, _ = _scenes()["KronaDistill"]
    server.client.run({**distill, "9": node("KronaSave", krona=["4", 0], filename_prefix="loras/guidance")})


@contextmanager
def studio() -> Iterator[Studio]:
    """A studio, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        _lay_out(base)
        with Server(base, packs={"comfyui-krona": PACK}, cpu=True) as server:
            _train(server)
            server.client.post_json("/settings", SETTINGS)
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=str(browser.install()), args=["--no-sandbox"])
                opened = Studio(server, chromium.new_page(viewport={"width": 1400, "height": 1400}))
                opened.open()
                yield opened
                chromium.close()


def main(names: list[str]) -> None:
    """Make the pictures of these names, or all."""
    scenes = _scenes()
    with studio() as place:
        for name in MADE:
            if not names or any(name.startswith(wanted) for wanted in names if wanted.startswith("KronA ")):
                thumbnail(place, name)
        for kind, scene in scenes.items():
            if not names or kind in names:
                help_picture(place, kind, scene)


if __name__ == "__main__":
    main(sys.argv[1:])
