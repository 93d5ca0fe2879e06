"""Files of MV-Adapter and I2V-Adapter in the real host's sampler, against the papers' formulas in plain PyTorch.

Numbers are random, so a matrix that is transposed, or at another place, is seen.
"""

import families
import pytest
import torch
from official_branches import SD, SDXL, TINY_SD15, TINY_SDXL, i2v_adapter, mv_adapter
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

from krona_ops import load, save
from krona_ops.branches.branch import branches_of
from krona_ops.errors import ConfigError, CoverageError, FormatError, ShapeError
from krona_ops.formats import attention_branch
from krona_ops.formats.header import Header
from tools import tiny_models


def loaded(comfy, family, **options):
    path = tiny_models.cached(family, clip=False, vae=False, **options)
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


@pytest.fixture(scope="module")
def sd15(comfy):
    return loaded(comfy, "sd15", layout="shaped"), TINY_SD15, tiny_models.conditioning("sd15", ["a robot", "blurry"])


@pytest.fixture(scope="module")
def sdxl(comfy):
    return loaded(comfy, "sdxl"), TINY_SDXL, tiny_models.conditioning("sdxl", ["a robot", "blurry"])


def apply(adapter, model, **use):
    from krona_host.branches.apply import Use, apply_branches

    return apply_branches(adapter, model, Use(**use))


def file_of(tensors, folder, name="x.safetensors"):
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return load(folder / name)


# ----------------------------------------------------------------------------------------------------------- they draw


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_t2mv_is_the_authors_attention_in_rows(family, request, tmp_path):
    model, sites, prompts = request.getfixturevalue(family)
    tensors = mv_adapter(sites, ("mv",))
    patched, report = apply(file_of(tensors, tmp_path), model, strength=0.7, views=3)
    assert report == f"row: beside {len(sites)} of {len(sites)} self-attentions. It counts for the negative prompt too."
    start = torch.zeros(6, 4, *SIZE)  # two groups of three views
    ours, plain = sample(patched, prompts, start, steps=1), sample(model, prompts, start, steps=1)
    with hooked(model, sites, Authors(tensors, views=3, pattern=in_rows, scale=0.7)) as split:
        expected = sample(split, prompts, start, steps=1)
    assert distance(ours, plain) > 0.02  # it does something
    assert distance(ours, expected) < 1e-5


def test_tg2mv_is_the_authors_attention_in_rows_and_columns(sd15, tmp_path):
    model, sites, prompts = sd15
    tensors = mv_adapter(sites, ("mv",))
    adapter = file_of(tensors, tmp_path)
    patched, report = apply(adapter, model, mode="row+col", views=6)
    assert report.startswith("row+col: beside 7 of 7 self-attentions.")
    start = torch.zeros(6, 4, *SIZE)
    ours = sample(patched, prompts, start, steps=1)
    with hooked(model, sites, Authors(tensors, views=6, pattern=in_rows_and_columns)) as split:
        expected = sample(split, prompts, start, steps=1)
    assert distance(sample(apply(adapter, model, views=6)[0], prompts, start, steps=1), expected) > 0.01  # rows alone
    assert distance(ours, expected) < 1e-5


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_i2mv_guides_as_the_authors_pipeline(family, request, tmp_path):
    """Both branches for both prompts; under the negative one the reference is tokens of zeros, which leaves its bias."""
    model, sites, prompts = request.getfixturevalue(family)
    tensors = mv_adapter(sites)
    reference = latents(1, seed=3) / 0.18215
    adapter = file_of(tensors, tmp_path)
    start = torch.zeros(2, 4, *SIZE)
    tokens = tokens_of(model, sites, prompts[0], reference, start)
    of_authors = Authors(tensors, views=2, pattern=in_rows, tokens=tokens)
    with hooked(model, sites, of_authors) as split:
        expected = sample(split, prompts, start)
    for rows in (None, "both"):
        patched, report = apply(adapter, model, reference=reference, views=2, rows=rows)
        assert report.count("It counts for the negative prompt too.") == 2
        assert distance(sample(patched, prompts, start), expected) < 1e-5
    patched, report = apply(adapter, model, reference=reference, views=2, rows="positive")
    assert "MV-Adapter lets it count for the negative prompt too (both)" in report
    alone = sample(patched, prompts, start)
    assert distance(alone, expected) > 0.02
    with hooked(model, sites, Authors(tensors, views=2, pattern=in_rows, tokens=tokens, positive_alone=True)) as split:
        assert distance(alone, sample(split, prompts, start)) < 1e-5


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_i2v_is_the_papers_attention_to_the_first_frame(family, request, tmp_path):
    model, sites, prompts = request.getfixturevalue(family)
    tensors = i2v_adapter(sites)
    adapter = file_of(tensors, tmp_path)
    start = latents(6, seed=8) / 0.18215  # two clips of three frames
    patched, report = apply(adapter, model, views=3)
    assert report.startswith(f"first: beside {len(sites)} of {len(sites)} self-attentions. It counts for the negative")
    ours = sample(patched, prompts, start)
    frames = model.model.process_latent_in(start[::3])

    with hooked(model, sites, Authors(tensors, views=3)) as split:
        split.add_wrapper_with_key("apply_model", "first frame", first_frames_given(frames, 3))
        expected = sample(split, prompts, start)
    assert torch.equal(ours[::3], start[::3])
    others = [n for n in range(6) if n % 3]
    assert distance(ours[others], expected[others]) < 1e-5
    plain, _ = apply(adapter, model, views=3, strength=0.0)
    assert distance(ours[others], sample(plain, prompts, start)[others]) > 0.02


def test_saved_in_our_own_format_they_draw_the_same_to_the_last_bit(sd15, tmp_path):
    from krona_host.names.canonical import named_for_core

    model, sites, prompts = sd15
    reference, start = latents(1, seed=3), torch.zeros(2, 4, *SIZE)
    adapter = file_of(mv_adapter(sites, prefix="unet."), tmp_path)
    drawn = sample(apply(adapter, model, reference=reference)[0], prompts, start, steps=1)
    for name, connected in (("one", None), ("two", model)):
        again = load(save(named_for_core(adapter, "lokr", connected), tmp_path / f"{name}.safetensors"))
        assert torch.equal(sample(apply(again, model, reference=reference)[0], prompts, start, steps=1), drawn)


def test_a_scaled_file_is_one_at_that_strength(sd15, tmp_path):
    model, sites, prompts = sd15
    adapter, start = file_of(mv_adapter(sites, ("mv",)), tmp_path), torch.zeros(2, 4, *SIZE)
    scaled = sample(apply(adapter.scaled(0.5), model)[0], prompts, start, steps=1)
    assert torch.equal(scaled, sample(apply(adapter, model, strength=0.5)[0], prompts, start, steps=1))
    plain = sample(model, prompts, start, steps=1)
    for off in (apply(adapter, model, strength=0.0)[0], apply(adapter.scaled(0.0), model)[0]):
        assert torch.equal(sample(off, prompts, start, steps=1), plain)


# -------------------------------------------------------------------------------------------------- where they belong


@pytest.fixture(scope="module")
def real():
    """UNets of full size without memory."""
    made = {}

    def build(family):
        if family not in made:
            made[family] = families.build(family)
        return made[family]

    return build


def without_memory(tensors):
    header = Header.of(tensors, {})
    return attention_branch.read(header.placeholders(), header)


@pytest.mark.parametrize(("family", "sites", "count"), [("SD15", SD, 16), ("SD20", SD, 16), ("SDXL", SDXL, 70)])
@pytest.mark.parametrize("prefix", ["", "unet."])
def test_every_place_of_the_real_models_is_met(comfy, real, family, sites, count, prefix):
    from krona_host.branches.places import matched, spots_of

    model = real(family)
    spots = spots_of(model.model)
    assert len(spots) == len(sites) == count
    for tensors in (mv_adapter(sites, prefix=prefix, device="meta"), i2v_adapter(sites, prefix=prefix, device="meta")):
        for branch in branches_of(without_memory(tensors)):
            parts = matched(branch, model)
            by_place = {spots[spot].name: part for spot, part in parts.items()}
            assert len(by_place) == count
            assert all(by_place[ours] is branch.sites[f"{prefix}{theirs}"] for theirs, (_, ours) in sites.items())


def test_a_file_for_another_model_is_refused_with_both_widths(comfy, real):
    from krona_host.branches.places import matched

    [sd, *_], [xl, *_] = (branches_of(without_memory(mv_adapter(sites, device="meta"))) for sites in (SD, SDXL))
    for branch, family in ((sd, "SDXL"), (xl, "SD20")):
        with pytest.raises(
            ShapeError, match=r"to_q: The branch is for a model of another width: it has \d+ × \d+, the model \d+"
        ):
            matched(branch, real(family))


def down(sites):
    return {site: facts for site, facts in sites.items() if site.startswith("down")}


def test_half_a_file_says_so_and_half_of_another_models_is_refused(comfy, real):
    """The downward blocks of SD and SDXL have names and widths in common."""
    from krona_host.branches.places import matched, unmatched

    [sd], [xl] = (branches_of(without_memory(mv_adapter(down(s), ("mv",), device="meta"))) for s in (SD, SDXL))
    parts = matched(sd, real("SD15"))
    assert (len(parts), unmatched(sd, parts)) == (6, 0)
    with pytest.raises(CoverageError, match=r"for another kind of model: this one has 4 of its 24 places"):
        matched(xl, real("SD15"))


def test_a_damaged_place_is_missing_in_the_report(sd15, tmp_path):
    model, sites, _ = sd15
    tensors = mv_adapter(sites, ("mv",))
    del tensors["mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_k_mv.weight"]
    adapter = file_of(tensors, tmp_path)
    assert [left.names for left in adapter.left_out if left.method == "MV-Adapter branch"] == [
        ("mid_block.attentions.0.transformer_blocks.0.attn1",)
    ]
    assert apply(adapter, model)[1].startswith("row: beside 6 of 7 self-attentions.")


def test_a_place_under_two_names_is_refused(sd15, tmp_path):
    model, sites, _ = sd15
    site = next(iter(sites))
    one = {site: sites[site]}
    adapter = file_of(mv_adapter(one, ("mv",)) | mv_adapter(one, ("mv",), prefix="unet."), tmp_path)
    with pytest.raises(FormatError, match="has this place twice, under two names"):
        apply(adapter, model)


# ------------------------------------------------------------------------------------------------- what is made of it


def test_modes_are_chosen_for_branches_among_views_alone(sd15, tmp_path):
    model, sites, prompts = sd15
    both = file_of(mv_adapter(sites), tmp_path)
    assert apply(both, model, mode="views", reference=latents(1))[1].count("views: beside 7 of 7") == 1
    with pytest.raises(ConfigError, match=r"The mode row\+col is for branches among views, and there is none"):
        apply(file_of(i2v_adapter(sites), tmp_path, "y.safetensors"), model, mode="row+col")
    four = apply(file_of(mv_adapter(sites, ("mv",)), tmp_path, "z.safetensors"), model, mode="row+col", views=4)[0]
    with pytest.raises(ShapeError, match=r"row\+col is for six views, and there are 4"):
        sample(four, prompts, torch.zeros(4, 4, *SIZE), steps=1)
    with pytest.raises(ConfigError, match="attends to reference pictures, and there are none"):
        apply(both, model)


def test_who_applies_updates_of_weights_sends_a_branch_elsewhere(sd15, tmp_path):
    from krona_host.names.canonical import canonical
    from krona_host.patching.apply import apply_adapter

    model, sites, _ = sd15
    adapter = file_of(mv_adapter(sites), tmp_path)
    with pytest.raises(CoverageError, match=r"row in 7 places\)\..*Apply it with Apply KronA Branch"):
        apply_adapter(adapter, model)
    assert canonical(adapter, model) == adapter


def test_the_nodes_show_it_and_scale_its_gates(sd15, tmp_path):
    from krona_pack.nodes.inspect import KronaInspect
    from krona_pack.nodes.scale import KronaScale

    _, sites, _ = sd15
    adapter = file_of(mv_adapter(sites), tmp_path)
    table = KronaInspect.execute(adapter, "how far weights move", "layer").args[0]
    assert table.count("MV-Adapter") == 10 * len(sites)
    scaled, _ = KronaScale.execute(adapter, 0.5).args
    assert {part.gate for branch in branches_of(scaled) for part in branch.sites.values()} == {0.5}


def test_what_the_authors_files_cost():
    """The numbers of docs/branches-official.md."""
    counted = {}
    for name, sites in (("SD", SD), ("SDXL", SDXL)):
        for kinds in (("mv",), ("mv", "ref")):
            counted[name, len(kinds)] = without_memory(mv_adapter(sites, kinds, device="meta")).parameters
    assert {key: round(value / 1e6, 1) for key, value in counted.items()} == {
        ("SD", 1): 49.6, ("SD", 2): 99.1, ("SDXL", 1): 409.7, ("SDXL", 2): 819.4,
    }  # fmt: skip
