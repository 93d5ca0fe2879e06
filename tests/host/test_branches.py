"""Parallel branches in the real host's sampler, on the small world's model: against the formula in plain PyTorch, and
beside everything else that patches a model."""

import gc
import weakref
from typing import ClassVar

import pytest
import torch
from branch_cases import ALONE, CHANNELS, EMPTY, SIZE, branch, latents, sample
from torch.nn import functional as F

from krona_ops import Adapter, Full, Kron, Matrix
from krona_ops.errors import ConfigError, CoverageError, FormatError, ShapeError
from krona_ops.names.branches import GATE, PROJECTIONS, layer_name


def use(**changed):
    from krona_host.branches.apply import Use

    return Use(**changed)


def apply(adapter, model, **changed):
    from krona_host.branches.apply import apply_branches

    return apply_branches(adapter, model, use(**changed))[0]


def dense(adapter, name):
    return adapter.layers[name].dense()


def in_plain_torch(model, adapter, mode, views, sources, strength, besides=lambda path: 0):
    """Forward hooks that add the formula of a branch to each self-attention, where all rows are of one prompt.

    Args:
        sources: For each attention's name, tokens ``(1, M, d)``; ``None`` where the batch itself is the source.
        besides: What a projection's weight gains that is not merged into it.
    """
    from krona_host.model.attention import attention_sites

    handles = []
    for name, _, *paths, heads in attention_sites(model.model.diffusion_model):
        deltas = [dense(adapter, layer_name(name, mode, part)) for part in PROJECTIONS]
        gate = float(dense(adapter, layer_name(name, mode, GATE)))

        def add(attention, args, out, *, name=name, paths=paths, deltas=deltas, gate=gate, heads=heads):
            x = args[0]
            pairs = zip(paths, deltas, strict=True)
            weights = [model.model.get_submodule(path).weight + delta + besides(path) for path, delta in pairs]
            source = sources[name] if sources is not None else x.reshape(len(x) // views, -1, x.shape[-1])
            q, k, v = (F.linear(t, w) for t, w in zip((x, source, source), weights[:3], strict=True))
            if sources is None:
                q = q.reshape(len(source), -1, q.shape[-1])
            k, v = (t.expand(len(q), *t.shape[1:]) for t in (k, v))
            split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
            mixed = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2).reshape(len(x), -1, q.shape[-1])
            return out + strength * gate * F.linear(mixed, weights[3], attention.to_out[0].bias)

        handles.append(model.model.get_submodule(name).register_forward_hook(add))
    return handles


def one_pass(model, prompts, x):
    """One call of the model as a sampler makes it, without guidance."""
    return sample(model, prompts, x, cfg=1.0, steps=1)


def tokens_of(model, prompts, reference):
    """What each self-attention reads of clean references, in a pass of its own at the smallest noise."""
    import comfy.sampler_helpers
    import comfy.samplers

    from krona_host.model.attention import attention_sites

    net, read, handles = model.model, {}, []
    for name, *_ in attention_sites(net.diffusion_model):
        module = net.get_submodule(name)
        handles.append(module.register_forward_hook(lambda m, args, out, name=name: read.update({name: args[0]})))
    with torch.inference_mode():
        clean = net.process_latent_in(reference)
        sigma = net.model_sampling.sigmas[:1]
        [cond] = comfy.samplers.encode_model_conds(
            net.extra_conds, comfy.sampler_helpers.convert_cond(prompts[0]), clean, clean.device, "positive"
        )
        known = {key: value.process_cond(batch_size=len(clean)).cond for key, value in cond["model_conds"].items()}
        x = clean * (sigma**2 + 1) ** 0.5
        net.apply_model(x, sigma.expand(len(x)), transformer_options={}, **known)
    for handle in handles:
        handle.remove()
    return {name: tokens.reshape(1, -1, tokens.shape[-1]) for name, tokens in read.items()}


@pytest.mark.parametrize(("mode", "references"), [("reference", 1), ("reference", 3), ("views", 0)])
def test_it_is_the_formula_in_plain_pytorch(world, prompts, mode, references):
    model, _, _ = world
    adapter = branch(model, mode)
    reference = latents(references, seed=3, size=(8, 6)) if references else None  # of another size than the picture
    patched = apply(adapter, model, strength=0.7, reference=reference, views=2)
    noisy = latents(4)
    ours = one_pass(patched, prompts, noisy)
    sources = tokens_of(model, prompts, reference) if references else None
    handles = in_plain_torch(model, adapter, mode, 2, sources, 0.7)
    try:
        expected = one_pass(model, prompts, noisy)
    finally:
        for handle in handles:
            handle.remove()
    plain = one_pass(model, prompts, noisy)
    assert (ours - plain).norm() > 0.05 * plain.norm()  # it does something
    assert (ours - expected).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize("mode", ["reference", "first", ALONE, "views", "row"])
def test_nothing_changes_at_strength_0_or_with_gates_at_0(world, prompts, mode):
    model = world[0]
    start = latents(2, seed=8)
    plain = sample(model, prompts, start)
    none = apply(branch(model, mode), model, strength=0.0, reference=latents(1))
    assert torch.equal(sample(none, prompts, start), plain)
    shut = sample(apply(branch(model, mode, gate=0.0), model, reference=latents(1)), prompts, start)
    if mode in ("first", ALONE):  # the first frame stays all the same, and nobody looks at it
        assert torch.equal(shut[:1], latents(1))
        shut, plain = shut[1:], plain[1:]
    assert torch.equal(shut, plain)


def test_rows_count_by_what_the_guider_calls_them(world, prompts):
    """With guidance the unwanted rows stay as they are, whether both stand in one batch or not, in every guider."""
    from krona_host.branches.sampling import wanted_ids

    class Guider:
        conds: ClassVar = {
            "positive": [{"uuid": 1}, {"uuid": 2}],
            "middle": [{"uuid": 3}],
            "negative": [{"uuid": 4}, {"uuid": 1}],  # a copy that the host makes for an area, with the id of the first
            "empty_negative_prompt": [{"uuid": 5}],
        }

    assert wanted_ids(Guider) == {1, 2, 3}
    model = world[0]
    adapter = branch(model)
    positive, both = (apply(adapter, model, reference=latents(1), rows=rows) for rows in ("positive", "both"))
    assert not torch.equal(sample(positive, prompts, EMPTY), sample(both, prompts, EMPTY))
    seen = []
    split = positive.clone()
    split.add_wrapper_with_key(
        "calc_cond_batch",
        "one by one",
        lambda executor, net, conds, *rest: (
            seen.append(len(conds)) or [executor(net, [cond], *rest)[0] for cond in conds]
        ),
    )
    torch.testing.assert_close(sample(split, prompts, EMPTY), sample(positive, prompts, EMPTY), rtol=0, atol=2e-5)
    assert set(seen) == {2}


def test_groups_in_one_batch_are_as_alone(world, prompts):
    model = world[0]
    for mode in ("views", "row", "first", ALONE):
        patched = apply(branch(model, mode), model, views=2)
        start = latents(4, seed=8)
        together = sample(patched, prompts, start, denoise=0.9, steps=2)
        import comfy.sample

        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(5))
        for group in range(2):
            rows = slice(2 * group, 2 * group + 2)
            with torch.inference_mode():
                alone = comfy.sample.sample(
                    patched,
                    noise[rows],
                    2,
                    3.0,
                    "euler",
                    "normal",
                    prompts[0],
                    prompts[1],
                    start[rows],
                    denoise=0.9,
                    seed=5,
                )
            assert torch.equal(together[rows], alone), mode


def test_a_changed_view_reaches_its_own_group_alone(world, prompts):
    model = world[0]
    patched = apply(branch(model, "views"), model, views=2)
    start = latents(4)
    changed = start.clone()
    changed[0] += 1
    one, other = (sample(patched, prompts, s, denoise=0.8, steps=2) for s in (start, changed))
    assert not torch.equal(one[1], other[1])
    assert torch.equal(one[2:], other[2:])


@pytest.mark.parametrize("mode", ["first", ALONE])
def test_the_first_frame_stays_to_the_last_bit(world, prompts, mode):
    model = world[0]
    adapter = branch(model, mode)
    start = latents(6) / 0.18215
    for sampler in ("euler", "dpmpp_2m_sde", "euler_ancestral"):
        drawn = sample(apply(adapter, model, views=3), prompts, start, sampler=sampler)
        assert torch.equal(drawn[::3], start[::3]), sampler
        assert not torch.equal(drawn[1], start[1])
    given = latents(1, seed=4) / 0.18215
    drawn = sample(apply(adapter, model, views=3, reference=given), prompts, torch.zeros_like(start))
    assert torch.equal(drawn[::3], given.expand(2, -1, -1, -1))
    changed = sample(apply(adapter, model, views=3, reference=2 * given), prompts, torch.zeros_like(start))
    assert not torch.equal(drawn[1], changed[1])  # the frames look at it


@pytest.mark.parametrize("rows", ["positive", "both"])
@pytest.mark.parametrize("alike", [True, False])
def test_first_that_reads_alone_is_reference_with_the_first_frame_to_the_last_bit(world, prompts, rows, alike):
    """In all rows but the first, which is the frame; under one prompt and under several in one batch."""
    model = world[0]
    red, blurry, night = prompts
    positive = red if alike else in_one_batch(red, night, red)
    frame, start = latents(1, seed=4), latents(3, seed=8)
    reference = apply(branch(model), model, reference=frame, rows=rows)
    expected = sample(reference, (positive, blurry), start)
    with_others, alone = (apply(branch(model, m), model, reference=frame, rows=rows) for m in ("first", ALONE))
    drawn = sample(alone, (positive, blurry), start)
    assert torch.equal(drawn[1:], expected[1:])
    assert torch.equal(drawn[:1], frame)
    assert not torch.equal(drawn[1:], sample(with_others, (positive, blurry), start)[1:])
    # the frame may as well be the first of the latents that are sampled on
    start[:1] = frame
    on_it = apply(branch(model, ALONE), model, rows=rows)
    assert torch.equal(sample(on_it, (positive, blurry), start)[1:], sample(reference, (positive, blurry), start)[1:])


def test_the_report_says_that_the_first_frame_is_read_alone(world):
    from krona_host.branches.apply import apply_branches

    reports = [apply_branches(branch(world[0], mode), world[0], use())[1] for mode in ("first", ALONE)]
    beside = "first: beside 7 of 7 self-attentions."
    assert reports == [beside, f"{beside} The first frame is read alone, at no noise."]


def test_first_frames_are_read_once_for_each_group_and_prompt(world, prompts):
    """One by one, and not under a prompt that none of the frames that are drawn has."""
    red, blurry, night = prompts
    passes = []

    def count(executor, x, *rest, **more):
        passes.append(len(x))
        return executor(x, *rest, **more)

    def counted(views, *conds):
        patched = apply(branch(world[0], ALONE), world[0], views=views).clone()
        patched.add_wrapper_with_key("diffusion_model", "count", count)
        passes.clear()
        drawn = sample(patched, (in_one_batch(*conds), blurry), latents(4, seed=8))
        assert torch.isfinite(drawn).all()
        return passes.count(1), len(passes) - passes.count(1)

    assert counted(4, red, red, red, red) == (1, 3)  # three steps
    assert counted(2, red, red, red, red) == (2, 3)
    assert counted(4, red, red, night, red) == (2, 3)
    assert counted(4, night, red, red, red) == (1, 3)
    assert counted(1, red, red, red, red) == (0, 3)  # nothing is drawn


def in_one_batch(*conds):
    """Prompts as one condition, with one for each picture of a batch."""
    (texts, pooled) = zip(*((text, options["pooled_output"]) for cond in conds for text, options in cond), strict=True)
    return [[torch.cat(texts), {"pooled_output": torch.cat(pooled)}]]


@pytest.mark.parametrize("rows", ["positive", "both"])
@pytest.mark.parametrize("references", [1, 2])
def test_each_picture_of_a_batch_looks_at_the_reference_under_its_own_prompt(world, prompts, references, rows):
    """It is then what it is among pictures that all have its prompt; the pass is made once for each of the prompts."""
    patched = apply(branch(world[0]), world[0], reference=latents(references), rows=rows).clone()
    passes = []

    def count(executor, x, *rest, **more):
        passes.append(len(x))
        return executor(x, *rest, **more)

    patched.add_wrapper_with_key("diffusion_model", "count", count)
    start = latents(4, seed=8)
    red, blurry, night = prompts
    mixed = sample(patched, (in_one_batch(red, night, night, red), blurry), start)
    unwanted = 1 if rows == "both" else 0
    assert len(passes) == 2 + unwanted + 3  # two prompts are read once, then there are three steps
    assert passes.count(references) == 2 + unwanted
    passes.clear()
    for prompt, own in ((red, [0, 3]), (night, [1, 2])):
        alike = sample(patched, (in_one_batch(prompt, prompt, prompt, prompt), blurry), start)
        assert torch.equal(alike, sample(patched, (prompt, blurry), start))
        assert (mixed[own] - alike[own]).norm() < 1e-5 * alike[own].norm()
        others = [n for n in range(4) if n not in own]
        assert (mixed[others] - alike[others]).norm() > 1e-3 * alike[others].norm()
    assert passes.count(references) == 4 * (1 + unwanted)


def test_it_counts_from_start_to_end(world, prompts):
    model = world[0]
    adapter, reference = branch(model), latents(1)
    whole, none = apply(adapter, model, reference=reference), model
    early = apply(adapter, model, reference=reference, end=0.5)
    late = apply(adapter, model, reference=reference, start=0.5)
    drawn = [sample(m, prompts, EMPTY) for m in (whole, none, early, late)]
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(4) for j in range(i))
    never = apply(adapter, model, reference=reference, start=1.0, end=1.0)
    assert torch.equal(sample(never, prompts, EMPTY), drawn[1])


def test_several_branches_add_up(world, prompts):
    """Two branches in one file, two files, and one at twice the strength."""
    model = world[0]
    reference = latents(1)
    one, two = branch(model, seed=1), branch(model, "views", seed=2)
    both = Adapter({**one.layers, **two.layers})
    chained = apply(two, apply(one, model, reference=reference, views=2), reference=reference, views=2)
    at_once = apply(both, model, reference=reference, views=2)
    assert torch.equal(sample(chained, prompts, EMPTY), sample(at_once, prompts, EMPTY))
    twice = apply(one, apply(one, model, reference=reference), reference=reference)
    doubled = apply(one, model, strength=2.0, reference=reference)
    a, b = one_pass(twice, prompts, EMPTY), one_pass(doubled, prompts, EMPTY)
    assert (a - b).norm() < 1e-5 * a.norm()


@pytest.mark.parametrize("mode", ["merge", "bypass"])
def test_adapters_below_it_count_in_its_projections(world, prompts, random_adapter, mode):
    """The branch calls the base's projections as modules, so an adapter on them is in the branch's output too."""
    from krona_host.patching.apply import apply_adapter

    model = world[0]
    adapter = random_adapter(model)
    below = apply_adapter(adapter, model, mode=mode).model
    ours = one_pass(apply(branch(model, "views"), below, views=2), prompts, EMPTY)

    def besides(path):
        return adapter.layers[path].dense() if mode == "bypass" else 0

    handles = in_plain_torch(below, branch(model, "views"), "views", 2, None, 1.0, besides)
    try:
        expected = one_pass(below, prompts, EMPTY)
    finally:
        for handle in handles:
            handle.remove()
    assert (ours - one_pass(below, prompts, EMPTY)).norm() > 0.01 * ours.norm()
    assert (ours - expected).norm() < 2e-5 * ours.norm()


@pytest.mark.parametrize("mode", ["reference", ALONE])
def test_nothing_stays_on_the_model_or_in_memory(world, prompts, mode):
    """A sampling leaves no patch on the network, and what it kept of the reference is gone with it."""
    from krona_host.branches import patch

    model = world[0]
    plain = sample(model, prompts, EMPTY)
    kept = []
    patched = apply(branch(model, mode), model, reference=latents(1))
    patched.add_wrapper_with_key(
        "sampler_sample",
        "watch",
        lambda executor, guider, sigmas, extra, *rest: (
            kept.extend(
                weakref.ref(v)
                for v in extra["model_options"]["transformer_options"].values()
                if isinstance(v, patch.Sampling)
            )
            or executor(guider, sigmas, extra, *rest)
        ),
    )
    sample(patched, prompts, EMPTY)
    gc.collect()
    assert kept
    assert all(reference() is None for reference in kept)
    assert torch.equal(sample(model, prompts, EMPTY), plain)
    assert not any(key.startswith("krona") for key in model.model_options.get("transformer_options", {}))


def test_a_sampling_that_is_cancelled_leaves_nothing(world, prompts):
    import comfy.model_management

    model = world[0]
    plain = sample(model, prompts, EMPTY)
    patched = apply(branch(model), model, reference=latents(1))
    seen = []

    def stop(executor, *args, **more):
        seen.append(1)
        if len(seen) > 2:
            raise comfy.model_management.InterruptProcessingException
        return executor(*args, **more)

    patched.add_wrapper_with_key("apply_model", "stop", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(patched, prompts, EMPTY)
    assert torch.equal(sample(model, prompts, EMPTY), plain)


def test_what_cannot_work_is_refused(world, sd15, prompts):
    from comfy_extras.nodes_hypertile import HyperTile
    from comfy_extras.nodes_tomesd import TomePatchModel

    model = world[0]
    adapter = branch(model)
    with pytest.raises(ConfigError, match=r"attends to reference pictures, and there are none.*VAE Encode"):
        apply(adapter, model)
    with pytest.raises(ShapeError, match=r"The reference is a latent of another kind of model"):
        apply(adapter, model, reference=torch.zeros(1, 4, *SIZE))
    with pytest.raises(ShapeError, match=r"The reference holds no picture"):
        apply(adapter, model, reference=latents(1)[:0])
    wide = {name: Kron(Full(torch.zeros(4, 2)), Full(torch.zeros(8, 8))) for name in list(adapter.layers)[:4]}
    with pytest.raises(ShapeError, match=r"to_q: The branch is for a model of another width"):
        apply(Adapter(wide), model, reference=latents(1))
    moved = {name.replace("blocks.", "blocks.9"): delta for name, delta in adapter.layers.items()}
    with pytest.raises(CoverageError, match="None of the places where this branch stands is in the model"):
        apply(Adapter(moved), model, reference=latents(1))
    with pytest.raises(FormatError, match="no parallel branch"):
        apply(Adapter({"diffusion_model.x": Matrix(Full(torch.zeros(2, 2)))}), model)
    tiled = HyperTile.execute(model, 32, 2, 2, False)[0]
    merged = TomePatchModel.execute(model, 0.5)[0]
    for joined, name in ((tiled, "HyperTile"), (merged, "Token Merging")):
        with pytest.raises(ConfigError, match=rf"{name}.* is on the model, which joins or cuts the tokens"):
            apply(adapter, joined, reference=latents(1))
    big = torch.zeros(1, CHANNELS, 16, 16)
    after = TomePatchModel.execute(apply(adapter, model, reference=latents(1)), 0.5)[0]
    with pytest.raises(ShapeError, match=r"joins or cuts the tokens.*Take HyperTile and ToMe"):
        sample(after, prompts, big)
    with pytest.raises(ShapeError, match=r"A batch of 3 cannot be drawn in groups of 2\."):
        sample(apply(branch(model, "views"), model, views=2), prompts, torch.zeros(3, CHANNELS, *SIZE))
    for first in ("first", ALONE):
        with pytest.raises(ConfigError, match=r"There is no first frame\..*KronA First Frame"):
            sample(apply(branch(model, first), model), prompts, EMPTY)
    with pytest.raises(ShapeError, match=r"2 references for 1 groups of 4 frames"):
        sample(apply(branch(model, "first"), model, reference=latents(2)), prompts, torch.zeros(4, CHANNELS, *SIZE))
    with pytest.raises(ShapeError, match="The first frame has another size"):
        sample(apply(branch(model, "first"), model, reference=latents(1, size=(4, 4))), prompts, EMPTY)


def test_a_transformer_model_is_refused(comfy):
    from tools import tiny_models

    with torch.inference_mode():
        [flux] = comfy.sd.load_checkpoint_guess_config(
            str(tiny_models.cached("flux")), output_vae=False, output_clip=False
        )[:1]
    with pytest.raises(CoverageError, match=r"stands beside the self-attentions of a UNet, and this model has none"):
        apply(Adapter({layer_name("diffusion_model.x.attn1", "row", GATE): Matrix(Full(torch.ones(1)))}), flux)


def test_area_prompts_and_context_windows_cut_groups(world, prompts):
    model = world[0]
    area = [[prompts[0][0][0], {**prompts[0][0][1], "area": (4, 4, 0, 0), "strength": 1.0}]] + prompts[2]
    for mode in ("row", ALONE):
        with pytest.raises(ConfigError, match=r"for an area of the picture, in which the rows of the views are cut"):
            sample(apply(branch(model, mode), model, reference=latents(1)), [area, prompts[1]], EMPTY)
    for mode, more in (("views", {}), ("reference", {"reference": latents(1)})):
        drawn = sample(apply(branch(model, mode), model, **more), [area, prompts[1]], EMPTY)
        assert torch.isfinite(drawn).all()
    for mode in ("views", ALONE):
        windows = apply(branch(model, mode), model, reference=latents(1))
        in_windows(windows)
        with pytest.raises(ConfigError, match=rf"drawn at a time, which cuts the groups.*{mode.partition(',')[0]}"):
            sample(windows, prompts, EMPTY)


def in_windows(model):
    """Have each picture of a batch drawn by itself, as context windows may."""
    model.add_wrapper_with_key(
        "calc_cond_batch",
        "windows",
        lambda executor, net, conds, x, t, options: [
            torch.cat(parts)
            for parts in zip(
                *(executor(net, conds, x[i : i + 1], t[i : i + 1], options) for i in range(len(x))), strict=True
            )
        ],
    )
