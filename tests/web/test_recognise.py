"""The browser and krona_ops say the same of files, whoever has written them."""

import json
import shutil
import subprocess
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import torch
from official_branches import i2v_adapter, mv_adapter
from originals import LAYERS, lycoris, peft_lokr
from resadapter_files import lora_file, norm_file, norm_shapes
from safetensors.torch import save_file

from krona_ops import Adapter, Full, Kron, LowRank, Matrix, load, save
from krona_ops.formats import inspection, strangers
from krona_ops.formats.pair import half_told
from krona_ops.formats.parts import split
from tools import tiny_models
from tools.generate import strangers as generated

TELL = Path(__file__).parent / "js" / "tell.mjs"
LYCORIS = {
    "lokr": [
        {"factor": 2},
        {"lora_dim": 8, "factor": 2},
        {"factor": 4, "lora_dim": 1, "decompose_both": True},
        {"factor": 2, "weight_decompose": True},
        {"use_scalar": True},
    ],
    "loha": [{}, {"weight_decompose": True}],
    "locon": [{}, {"weight_decompose": True}],
}
ATTENTION = "down_blocks.{}.attentions.0.transformer_blocks.0.attn1.processor.to_q"


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node")
    return found


def told(node: str, files: list[Path]) -> list[dict]:
    """What the browser's modules say."""
    done = subprocess.run([node, str(TELL), *map(str, files)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_lycoris(folder: Path) -> list[Path]:
    """Every kind and layer, and Tucker cores of convolutions."""
    files = []
    for kind, cases in LYCORIS.items():
        for layer in LAYERS:
            tucker = [{"use_tucker": True, **({"factor": 2} if kind == "lokr" else {})}] if layer.startswith("conv") else []
            for number, options in enumerate([*cases, *tucker]):
                place = folder / kind / layer / str(number)
                place.mkdir(parents=True)
                files.append(Path(lycoris(kind, layer, place, **options).path))
    return files


def by_peft(folder: Path) -> list[Path]:
    files = []
    for number, options in enumerate([{"decompose_factor": 2}, {"r": 8, "alpha": 3}]):
        (folder / f"peft {number}").mkdir()
        files.append(Path(peft_lokr("linear", folder / f"peft {number}", **options).path))
    return files


def by_us(folder: Path) -> list[Path]:
    """In every format that the pack writes, with biases, norms and a text encoder."""
    rng = torch.Generator().manual_seed(0)

    def full(*shape: int) -> Full:
        return Full(torch.randn(shape, generator=rng))

    kron = Adapter(
        {
            "diffusion_model.a.to_q": Kron(full(4, 2), full(8, 6)),
            "diffusion_model.a.to_k": Kron(full(4, 2), full(8, 6)),
            "diffusion_model.b": Kron(full(3, 2), full(5, 7, 3, 3)),
            "diffusion_model.b.bias": Matrix(full(15)),
            "diffusion_model.norm": Matrix(full(15)),
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj": Kron(full(3, 2), full(5, 7)),
        }
    )
    low = Adapter({f"diffusion_model.{n}": Matrix(LowRank(full(9, 3).value, full(3, 11).value)) for n in "abc"})
    shuffled = Adapter({ATTENTION.format(n): Kron(full(4, 2), full(8 * (n + 1), 6), layout="shuffled") for n in range(2)})
    branch = Adapter(
        {
            "x.attn1.krona_reference.to_q": Kron(full(4, 2), full(8, 6)),
            "x.attn1.krona_reference.gate": Matrix(full(1)),
            "y.attn1.krona_reference.to_out": Matrix(LowRank(full(9, 3).value, full(3, 11).value)),
            "y.attn1.krona_row+col.gate": Matrix(full(1)),
        }
    )
    return [
        save(branch, folder / "branch.safetensors"),
        save(kron, folder / "lokr.safetensors"),
        save(kron, folder / "kohya.safetensors", "kohya"),
        save(low, folder / "lora.safetensors", "lora"),
        save(low, folder / "kohya-lora.safetensors", "kohya-lora"),
        save(shuffled, folder / "diffusekrona.safetensors", "diffusekrona"),
        save(Adapter({"diffusion_model.norm": Matrix(full(15))}), folder / "diff.safetensors"),
    ]


def by_others(folder: Path) -> list[Path]:
    """With tensors that are left out, names of PEFT's adapters, and what ComfyUI has besides sums."""
    one = torch.ones
    lokr = {"x.to_q.lokr_w1": one(4, 2), "x.to_q.lokr_w2": one(8, 6)}
    peft = {f"base_model.model.{key}": value for key, value in lokr.items()}
    official = {
        f"{ATTENTION.format(n)}_lora.{end}": one(*shape)
        for n in range(3)
        for end, shape in (("down.weight", (2, 4)), ("up.weight", (8, 6)))
    }
    kinds = (
        {**lokr, "y.oft_blocks": one(2, 3, 3), "y.alpha": one(())}, {**lokr, "blocks.0.diff_m": one(1, 6, 8), "emb_params": one(2, 8)},
        {**lokr, "head.modules_to_save.default.weight": one(3, 3)}, {**lokr, "y.mystery": one(3), "z.alpha": one(())},
        {**peft, "mystery": one(3)}, {**peft, "z.alpha": one(())}, {f"{key}.robot": value for key, value in peft.items()},
        {"y.lora_A.robot.weight": one(2, 5), "y.lora_B.robot.weight": one(6, 2), "y.magnitude": one(6)}, {"norm.set_weight": one(6)},
        {"y.lora_down.weight": one(2, 5), "y.lora_up.weight": one(6, 2), "y.reshape_weight": one(2).long()},
        {**official, "mystery": one(3)}, {**official, **lokr, "b.lora_A.weight": one(2, 5), "b.lora_B.weight": one(6, 2)},
        {f"double_blocks.0.processor.{n}.{end}.weight": one(*shape) for n in ("qkv_lora1", "proj_lora2")
         for end, shape in (("down", (2, 5)), ("up", (6, 2)))},
        {"img_in.lora_A.weight": one(2, 5), "img_in.lora_B.weight": one(6, 2), "single_blocks.0.norm.key_norm.scale": one(3)},
    )  # fmt: skip
    files = [folder / f"{n}.safetensors" for n in range(len(kinds))]
    for path, tensors in zip(files, kinds, strict=True):
        save_file(tensors, path)
    return files


def by_authors_of_branches(folder: Path) -> list[Path]:
    """MV-Adapter's and I2V-Adapter's files, whole and with a place that is not, and what becomes of them here."""
    sites = {f"up_blocks.1.attentions.{n}.transformer_blocks.0.attn1": (4 + 2 * n, "") for n in range(3)}
    broken = mv_adapter(sites)
    del broken["up_blocks.1.attentions.1.transformer_blocks.0.attn1.processor.to_v_ref.weight"]
    twice = i2v_adapter(sites) | i2v_adapter(dict(list(sites.items())[:1]), processor=True)
    kinds = (
        mv_adapter(sites, ("mv",)), mv_adapter(sites, prefix="unet."), broken, i2v_adapter(sites, processor=True), twice,
        i2v_adapter(sites) | {"motion.0.weight": torch.ones(3, 3), "up_blocks.1.attn1.to_k_ff.weight": torch.ones(3, 3)},
        mv_adapter(sites) | i2v_adapter(sites),
    )  # fmt: skip
    files = [folder / f"{n}.safetensors" for n in range(len(kinds))]
    for path, tensors in zip(files, kinds, strict=True):
        save_file(tensors, path, metadata={"format": "pt"})
    return [*files, save(load(files[1]).scaled(0.5), folder / "ours.safetensors")]


def by_authors_of_resadapter(folder: Path) -> list[Path]:
    """Both of its files, with norms that are damaged, and with other things in them."""
    values = norm_file(norm_shapes((12, 20, 28)))
    one = torch.ones
    kinds = (
        lora_file((12, 20, 28)), values, {f"unet.{key}": value for key, value in values.items()},
        values | {"mid_block.resnets.0.norm1.weight": one(3)}, values | {"mid_block.resnets.0.norm1.bias": one(28, 1)},
        values | {"conv_norm_out.weight": one(3), "mid_block.resnets.0.conv1.weight": one(3, 3, 1, 1)},
        lora_file((12, 20, 28)) | {"lora_unet_conv_in.lora_up.weight": one(4, 2), "lora_unet_conv_in.lora_down.weight": one(2, 4)},
    )  # fmt: skip
    files = [folder / f"{n}.safetensors" for n in range(len(kinds))]
    for path, tensors in zip(files, kinds, strict=True):
        save_file(tensors, path, metadata={"format": "pt"})
    return files


@pytest.mark.parametrize("make", [by_lycoris, by_peft, by_us, by_others, by_authors_of_branches, by_authors_of_resadapter])
def test_the_browser_says_what_krona_ops_says(make, node, tmp_path):
    files = make(tmp_path)
    for path, browser in zip(files, told(node, files), strict=True):
        ours = inspection.inspect_header(path)
        assert (path, browser["kind"], browser["format"]) == (path, "adapter", ours.format)
        assert (path, browser["layers"]) == (path, len(ours.layers))
        pairs = Counter(layer.factors for layer in ours.layers if layer.factors)
        expected = [{"a": list(a), "b": list(b), "layers": count} for (a, b), count in pairs.most_common()]
        assert (path, browser["factors"]) == (path, expected)
        places = [{"mode": mode, "places": count} for mode, count in ours.branches.items()]
        assert (path, browser["branches"]) == (path, places)
        half, levels = half_told(ours.layers)
        assert (path, browser["half"], browser["levels"]) == (path, half or "", levels)
        if ours.format == "attention branch":
            assert set(browser["method"].split(", ")) == {layer.method for layer in ours.layers}


def test_the_browser_has_the_tables_of_krona_ops():
    assert generated.make() == generated.FILE.read_text("utf-8"), (
        "run: python3 tools/host.py run tools/generate/strangers.py"
    )


def test_the_browser_names_every_method_that_cannot_be_read_as_krona_ops_does(node, tmp_path):
    parts = [*strangers.SPECIAL, *(f"{start}x" for start, _ in strangers.STARTS), *chain(*strangers.BY_PART.values())]
    keys = [f"blocks.0.to_q.{part}{end}" for part in parts for end in ("", ".weight", ".default.weight")]
    keys += ["lllite_unet_x.conditioning1.0.weight", "blocks.0.to_q.up", "x.y.lora_A.absmax", "x.oft_blocks.a.b.c.d.e"]
    shapes = dict.fromkeys(keys, (2, 3)) | {"x.oft_blocks": (2, 2, 3, 3), "y.oft_blocks": (4, 3, 3)}
    files, expected = [], []
    for number, (key, shape) in enumerate(shapes.items()):
        if split(key) is None:
            files.append(tmp_path / f"{number}.safetensors")
            save_file({key: torch.ones(shape)}, files[-1])
            _, method, why = strangers.named(key, shape)
            is_none = method in (*strangers.NO_METHODS, strangers.QUANTISATION) or why.startswith("No method that is known")
            expected.append((key, "other" if is_none else "unsupported", "" if is_none else method))
    found = [(key, facts["kind"], facts["method"]) for (key, _, _), facts in zip(expected, told(node, files), strict=True)]
    assert found == expected
    assert {"BOFT", "OFT", "VeRA", "AdaLoRA", 'LoRA with "lora_x"'} <= {method for _, _, method in found}


def test_models_are_told_apart(node):
    files = [tiny_models.cached("sd15", clip=clip, vae=clip) for clip in (False, True)]
    assert [facts["kind"] for facts in told(node, files)] == ["checkpoint", "checkpoint"]
