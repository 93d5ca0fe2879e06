"""Files of MV-Adapter and I2V-Adapter from the pack's nodes to drawn latents, against the papers' formulas.

One file is at KronA View Condition, which takes its condition encoder, and at Load KronA, which takes its attention. The
UNets have all blocks of SD2.1's and SDXL's and are a tenth as wide.
"""

from contextlib import contextmanager

import families
import pytest
import torch
import views
from official_branches import i2v_adapter, mv_adapter, unet_sites
from official_formulas import (
    SIZE,
    Authors,
    distance,
    first_frames_given,
    hooked,
    in_rows,
    in_rows_and_columns,
    latents,
    sample,
    tokens_of,
)
from safetensors.torch import save_file

from krona_ops.branches.cameras import SIX, Cameras
from krona_ops.branches.rays import conditions
from krona_ops.branches.similarity import groups_of_frames
from krona_ops.errors import CoverageError

SITES = {
    "sd21": unet_sites(
        {0: (2, 1, 32), 1: (2, 1, 64), 2: (2, 1, 128)}, (1, 128), {1: (3, 1, 128), 2: (3, 1, 64), 3: (3, 1, 32)}
    ),
    "sdxl": unet_sites({1: (2, 1, 64), 2: (2, 1, 128)}, (1, 128), {0: (3, 1, 128), 1: (3, 1, 64)}),
}
PLACES = {
    "sd21": (("input", 2), ("input", 5), ("input", 8), ("input", 11)),
    "sdxl": (("input", 3), ("input", 5), ("input", 8), ("middle", 0)),
}
KINDS = {"t2mv": ("mv",), "i2mv": ("mv", "ref"), "tg2mv": ("mv",), "ig2mv": ("mv", "ref")}
VIEWS = 6


@pytest.fixture
def folder(comfy, tmp_path, monkeypatch):
    """Where the loaders look."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "krona", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


def run(module, name, **inputs):
    """What a node gives, called as the host calls it."""
    import importlib

    node = getattr(importlib.import_module(f"krona_pack.nodes.{module}"), name)
    return node.PREPARE_CLASS_CLONE(None).execute(**inputs).args


def loaded(folder, name, tensors):
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, metadata={"format": "pt"})
    adapter, _ = run("load", "KronaLoad", file=name)
    return adapter


@contextmanager
def added(model, family, features):
    """The encoder's features behind the blocks where diffusers adds them."""
    unet, handles = model.model.diffusion_model, []
    for (part, number), feature in zip(PLACES[family], features, strict=True):
        block = unet.middle_block if part == "middle" else unet.input_blocks[number]

        def add(module, args, out, *, feature=feature):
            return out + feature.repeat(len(out) // VIEWS, 1, 1, 1)

        handles.append(block[-1].register_forward_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_mv_adapter_draws_what_the_formulas_say(family, kind, folder):
    model, sites, network = views.model_of(family), SITES[family], views.reference(family)
    name = f"mvadapter_{kind}_{family}.safetensors"
    attention = mv_adapter(sites, KINDS[kind], encoder=False)
    adapter = loaded(folder, name, attention | network.state_dict())
    positive, negative = (views.conditioning(family, seed) for seed in (0, 1))

    height, width = (8 * side for side in SIZE)
    if kind in ("t2mv", "i2mv"):
        cameras = Cameras(SIX, width, height)
        given, maps = {"cameras": cameras}, conditions(cameras)
    else:
        rng = torch.Generator().manual_seed(2)
        given = {part: torch.rand(VIEWS, height, width, 3, generator=rng) for part in ("position", "normal")}
        maps = torch.cat([given["position"], given["normal"]], -1).movedim(-1, 1)
    *seen, _ = run(
        *("view_condition", "KronaViewCondition"),
        **{"positive": positive, "negative": negative, "file": name, **given},
        **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
    )
    use = {"mode": "row+col"} if kind in ("tg2mv", "ig2mv") else {}
    reference = latents(1, seed=3) / 0.18215
    if "ref" in KINDS[kind]:
        use["reference"] = {"samples": reference}
    patched, report = run("branch", "KronaBranchApply", model=model, strength=1.0, krona=adapter, views=VIEWS, **use)
    assert f"{use.get('mode', 'row')}: beside {len(sites)} of {len(sites)} self-attentions." in report
    start = torch.zeros(VIEWS, 4, *SIZE)
    ours = sample(patched, [each[0] for each in seen], start, steps=1)

    prompts = positive[0], negative[0]
    tokens = tokens_of(model, sites, prompts[0], reference, start) if "ref" in KINDS[kind] else None
    pattern = in_rows_and_columns if use.get("mode") else in_rows
    of_authors = Authors(attention, views=VIEWS, pattern=pattern, tokens=tokens)
    with torch.no_grad():
        features = network(maps)
    with hooked(model, sites, of_authors) as split, added(model, family, features):
        expected = sample(split, prompts, start, steps=1)
    assert distance(ours, expected) < 1e-5
    with hooked(model, sites, of_authors) as split:
        assert distance(ours, sample(split, prompts, start, steps=1)) > 0.01  # the encoder does something
    alone = sample(model, [each[0] for each in seen], start, steps=1)
    assert distance(ours, alone) > 0.01  # and so does the attention


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_i2v_adapter_draws_from_the_frames_of_its_prior(family, folder):
    model, sites = views.model_of(family), SITES[family]
    tensors = i2v_adapter(sites)
    adapter = loaded(folder, "i2v_module.safetensors", tensors)
    picture = latents(2, seed=8) / 0.18215
    frames = {"frames": 3, "p": 0.5, "blur": 1.0, "start": 0.8, "seed": 4}
    latent, denoise = run("first_frame", "KronaFirstFrame", image={"samples": picture}, **frames)
    patched, report = run("branch", "KronaBranchApply", model=model, strength=1.0, krona=adapter, views=3)
    assert report.startswith(f"first: beside {len(sites)} of {len(sites)} self-attentions.")
    prompts = [views.conditioning(family, seed)[0] for seed in (0, 1)]
    ours = sample(patched, prompts, latent["samples"], denoise=denoise)

    start = groups_of_frames(picture, 3, 0.5, 1.0, 4)
    first = model.model.process_latent_in(picture)
    with hooked(model, sites, Authors(tensors, views=3)) as split:
        split.add_wrapper_with_key("apply_model", "first frame", first_frames_given(first, 3))
        expected = sample(split, prompts, start, denoise=0.8)
    assert torch.equal(ours[::3], picture)
    others = [n for n in range(6) if n % 3]
    assert distance(ours[others], expected[others]) < 1e-5
    assert distance(ours[others], sample(model, prompts, start, denoise=0.8)[others]) > 0.02


def test_the_report_says_what_the_node_was_told_about_guidance(folder):
    model, sites = views.model_of("sd21"), SITES["sd21"]
    adapter = loaded(folder, "t2mv.safetensors", mv_adapter(sites, ("mv",)))
    inputs = {"model": model, "strength": 1.0, "krona": adapter, "views": VIEWS}
    reports = [
        run("branch", "KronaBranchApply", **inputs, **more)[1] for more in ({}, {"rows": "both"}, {"rows": "positive"})
    ]
    assert reports[0] == reports[1] == "row: beside 16 of 16 self-attentions. It counts for the negative prompt too."
    assert "MV-Adapter lets it count for the negative prompt too (both)" in reports[2]


def test_a_file_for_transformers_is_for_no_unet(folder):
    adapter = loaded(folder, "t2mv.safetensors", mv_adapter(SITES["sd21"], ("mv",)))
    with pytest.raises(CoverageError, match="beside the self-attentions of a UNet, and this model has none"):
        run("branch", "KronaBranchApply", model=families.build("Flux"), strength=1.0, krona=adapter)
