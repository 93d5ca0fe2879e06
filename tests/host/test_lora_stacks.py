"""LORA_STACK with stand-ins for other packs, in real graphs: names are relative to the LoRA folders, in both directions."""

import hashlib
import io
import json
from pathlib import Path

import graphs
import numpy as np
import pytest
import torch
from graphs import CHECKPOINT, link, node
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from krona_ops import Adapter, Full, Kron, load, save
from tools.comfyui.server import RunFailed

PACKS = ("Efficiency", "Manager")
BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0"


def adapter(seed):
    rng = torch.Generator().manual_seed(seed)
    factors = ((torch.randn(8, 4, generator=rng), torch.randn(40, 80, generator=rng) * 0.01) for _ in "qkv")
    layers = {f"{BLOCK}.attn1.to_{p}": Kron(Full(a), Full(b)) for p, (a, b) in zip("qkv", factors, strict=True)}
    return Adapter(layers, {"ss_base_model_version": "sd_v1"})


def dense(value):
    return {name: delta.dense().double() for name, delta in value.layers.items()}


def assert_same(updates, expected):
    assert updates.keys() == expected.keys()
    for name, value in expected.items():
        assert (updates[name] - value).norm() <= 1e-5 * value.norm(), name


def summed(server, graph, stack):
    """The sum of a KronA Stack, saved by ComfyUI's own node, which takes sums too."""
    server.client.run({**graph, "98": node("SaveLoRA", lora=link(stack, 2), prefix="loras/sum of a stack")})
    [file] = (server.base / "output" / "loras").glob("sum of a stack*.safetensors")
    updates = dense(load(file))
    file.unlink()
    return updates


def picture(server, graph, model):
    result = server.client.run({"1": graphs.checkpoint(CHECKPOINT), **graph, **graphs.render(model, start=200)})
    [file] = result.files("204")
    return np.asarray(Image.open(io.BytesIO(server.client.view(**file))), dtype=int)


@pytest.fixture(scope="module")
def files(server):
    """``twin`` is in both folders, with other contents; ``lonely`` only in models/krona."""
    kinds = {"loras": {"twin": 1, "sub/row": 2}, "krona": {"twin": 3, "lonely": 4}}
    for folder, seeds in kinds.items():
        for name, seed in seeds.items():
            path = server.base / "models" / folder / "stacks" / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(adapter(seed), path)


def stack(file="(none)", strength=1.0, **inputs):
    return node("KronaStack", file=file, strength_model=strength, strength_clip=1.0, **inputs)


def row(pack, name, strength=1.0, **inputs):
    name = name if pack == "Efficiency" else name.removesuffix(".safetensors")
    return node(f"StandIn{pack}Stacker", lora_name=name, strength_model=strength, strength_clip=1.0, **inputs)


@pytest.mark.parametrize("pack", PACKS)
def test_rows_of_others_are_files_of_the_lora_folders_also_where_models_krona_has_one_of_that_name(server, files, pack):
    graph = {
        "2": row(pack, "stacks/twin.safetensors", 0.5),
        "3": row(pack, "stacks/sub/row.safetensors", -1.0, lora_stack=link(2)),
        "4": stack(lora_stack=link(3)),
    }
    updates = summed(server, graph, 4)
    twin, other = dense(adapter(1)), dense(adapter(2))
    assert_same(updates, {name: 0.5 * twin[name] - other[name] for name in twin})


@pytest.mark.parametrize("pack", PACKS)
def test_our_rows_are_found_by_others_and_what_they_cannot_find_has_none(server, files, pack):
    """Row for the file of models/loras; the one of models/krona is in 'krona' alone, and the next KronA Stack still has it."""
    graph = {
        "2": stack("stacks/sub/row.safetensors", 0.5),
        "3": stack("stacks/lonely.safetensors", lora_stack=link(2)),
        "4": stack("stacks/twin.safetensors", lora_stack=link(3)),  # the menu's twin is that of models/krona
        "5": row(pack, "", lora_stack=link(4)),
        "6": node(f"StandIn{pack}Loader", model=link(1), lora_stack=link(5)),
    }
    shown = picture(server, graph, link(6))
    alone = picture(server, {"3": graphs.load_apply("stacks/sub/row.safetensors", 0.5)}, link(3))
    assert np.abs(shown - alone).max() <= 1
    updates = summed(server, graph | {"1": graphs.checkpoint(CHECKPOINT)}, 4)
    row_, lonely, twin = (dense(adapter(seed)) for seed in (2, 4, 3))
    assert_same(updates, {name: 0.5 * row_[name] + lonely[name] + twin[name] for name in row_})


def test_a_row_that_is_in_no_lora_folder_is_an_error_although_models_krona_has_such_a_file(server, files):
    graph = {"2": row("Efficiency", "stacks/lonely.safetensors"), "4": stack(lora_stack=link(2)), "99": graphs.save(link(4, 1))}
    with pytest.raises(RunFailed, match=r"stacks/lonely\.safetensors: There is no such file in the LoRA folders"):
        server.client.run(graph)


def test_what_is_left_out_of_each_file_is_on_the_node(server, files):
    """Rows, the file and the LORA_MODEL are read by this node; the adapter that comes by wire was told of where it was read."""
    folders = {"row": "loras", "file": "krona", "wire": "krona"}
    for name, folder in folders.items():
        path = server.base / "models" / folder / "stacks" / f"odd {name}.safetensors"
        save(adapter(5), path)
        with safe_open(path, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (not a dict)
        save_file({**tensors, f"{name}.oft_blocks": torch.ones(2, 3, 3)}, path)
    graph = {
        "2": row("Efficiency", "stacks/odd row.safetensors"),
        "3": graphs.load("stacks/odd wire.safetensors"),
        "4": stack("stacks/odd file.safetensors", lora_stack=link(2), krona=link(3)),
        "5": node("SaveLoRA", lora=link(4, 2), prefix="loras/odd"),
    }
    [text] = server.client.run(graph).texts("4")
    assert "stacks/odd file.safetensors is in no LoRA folder" in text
    for name in ("row", "file"):
        assert f"stacks/odd {name}.safetensors: Left out: OFT (1: {name})" in text
    assert "(1: wire)" not in text


@pytest.mark.parametrize("spelling", ["stacks\\sub\\row.safetensors", "stacks/sub/row", "full path"])
def test_rows_in_other_spellings_are_found(server, files, spelling):
    path = server.base / "models" / "loras" / "stacks" / "sub" / "row.safetensors"
    spelling = str(path) if spelling == "full path" else spelling
    updates = summed(server, {"2": row("Efficiency", spelling), "4": stack(lora_stack=link(2))}, 4)
    assert_same(updates, dense(adapter(2)))


def test_what_is_saved_by_default_is_in_the_menu_of_load_lora_and_of_the_krona_loaders(server, files):
    """And what Lora-Manager reads is beside it: it takes neither base model nor words from the file (25e72b4, metadata_manager)."""
    graph = {
        "10": graphs.load("stacks/lonely.safetensors"),
        "1": graphs.checkpoint(CHECKPOINT),
        "5": node("EmptyImage", width=64, height=48, batch_size=1, color=0xFF8000),
    }
    info = server.client.get_json("/object_info/KronaSave")["KronaSave"]["input"]["required"]
    inputs = {
        "krona": link(10),
        "filename_prefix": info["filename_prefix"][1]["default"],
        "trigger_words": "sks robot",
        "thumbnail": link(5),
    }
    result = server.client.run({**graph, "99": node("KronaSave", **inputs)})
    [file] = result.outputs["99"]["files"]
    path = server.base / "output" / file["subfolder"] / file["filename"]
    for kind, name in (("LoraLoader", "lora_name"), ("KronaLoad", "file"), ("KronaLoadApply", "file")):
        options = server.client.get_json(f"/object_info/{kind}")[kind]["input"]["required"][name]
        assert file["filename"] in (options[0] if isinstance(options[0], list) else options[1]["options"])
    entry = json.loads(path.with_suffix(".metadata.json").read_text("utf-8"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = {
        "file_name": path.stem,
        "file_path": path.as_posix(),
        "size": path.stat().st_size,
        "sha256": digest,
        "base_model": "SD 1.5",
    }
    assert entry.items() >= wanted.items()
    assert entry["civitai"]["trainedWords"] == ["sks robot"]
    assert Path(entry["preview_url"]).read_bytes()[:3] == b"\xff\xd8\xff"
    for suffix in (".safetensors", ".metadata.json", ".jpeg"):
        path.with_suffix(suffix).unlink()


@pytest.mark.parametrize("prefix", ["krona/elsewhere", "elsewhere"])
def test_elsewhere_nothing_is_written_beside_the_file(server, files, prefix):
    graph = {"10": graphs.load("stacks/lonely.safetensors"), "99": graphs.save(link(10), prefix)}
    [file] = server.client.run(graph).outputs["99"]["files"]
    path = server.base / "output" / file["subfolder"] / file["filename"]
    assert [other.name for other in path.parent.glob(f"{path.stem}*")] == [path.name]
