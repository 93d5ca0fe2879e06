"""Guided drawings as material: what the host's own guidance draws, for every kind of model, kept and made once."""

import itertools
from dataclasses import replace

import pytest
import tiny_families
import torch
from torch.testing import assert_close

from krona_ops.errors import ConfigError, DataError
from krona_train.batches.examples import Item
from krona_train.data.cache import Cache
from krona_train.objectives.rollouts import Rollouts

FAMILIES = ("SD15", "SD20", "SDXL", "SD3", "AuraFlow", "Lumina2", "ZImage", "WAN21_T2V")
"""ε, v and flow, with latents of two and of three dimensions."""
HOW = Rollouts(count=5, steps=4, lowest=1.0, highest=6.0)


class Cancelled(Exception):
    """What a progress bar raises."""


def prompts(name, count=4):
    """Three prompts, and at the end what guidance leads away from."""
    examples = [tiny_families.example(name, seed) for seed in range(count)]
    return [Item((replace(e, latent=None, shape=tuple(e.latent.shape), caption=f"{n}"),)) for n, e in enumerate(examples)]


def roll(model, items, how=HOW, *, at_once=8, cache=None, identity="a model", told=lambda *args: None, seed=3):
    from krona_train.comfyui.rollouts import roll_out

    text = items[-1].forms[0].condition
    return roll_out(model, items[:-1], text, how, seed=seed, at_once=at_once, identity=identity, cache=cache, told=told)


def by_the_host(model, item, negative, how, x_t, sigmas, guidance):
    """The end of the host's own euler sampler with classifier-free guidance, in the model's own scale."""
    import comfy.samplers

    text = item.forms[0].condition
    guider = comfy.samplers.CFGGuider(model)
    entries = text.size.entries()
    guider.set_conds([[text.embedding, {**text.extras, **entries}]], [[negative.embedding, {**negative.extras, **entries}]])
    guider.set_cfg(guidance)
    zeros = torch.zeros_like(x_t)[None]
    sampling = model.get_model_object("model_sampling")
    noise = x_t[None].float() / sampling.noise_scaling(sigmas[:1], torch.ones_like(zeros), zeros, True).flatten()[0]
    euler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        drawn = guider.sample(noise, zeros, euler, sigmas, disable_pbar=True, seed=0)
        return model.model.process_latent_in(drawn)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_drawing_is_the_hosts_own_and_its_states_lie_on_the_way(comfy, name):
    """Five drawings of three prompts in one batch, each with a guidance of its own."""
    model, items = tiny_families.build(name), prompts(name)
    rolled = roll(model, items)
    assert [item.forms[0].caption for item in rolled] == ["0", "1", "2", "0", "1"]
    assert len({item.forms[0].seen.guidance for item in rolled}) == 5
    negative = items[-1].forms[0].condition
    for item in (rolled[0], rolled[4]):
        seen = [form.seen for form in item.forms]
        assert len(seen) == HOW.steps
        assert all(1 <= each.guidance <= 6 for each in seen)
        sigmas = torch.tensor([*(each.sigma for each in seen), 0.0])
        assert sigmas.diff().lt(0).all()
        end = by_the_host(model, item, negative, HOW, seen[0].x_t, sigmas, seen[0].guidance)
        scale = end.abs().max()
        # The noise is known in half precision here.
        assert (seen[-1].x0.float() - end).abs().max() <= 1e-2 * scale
        for before, after in itertools.pairwise(seen):
            x, x0 = before.x_t.float(), before.x0.float()
            step = x + (x - x0) / before.sigma * (after.sigma - before.sigma)
            assert (step - after.x_t.float()).abs().max() <= 4e-3 * after.x_t.float().abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_drawings_in_one_batch_are_those_that_are_made_alone(comfy, name):
    model, items = tiny_families.build(name), prompts(name)
    for together, alone in zip(roll(model, items), roll(model, items, at_once=1), strict=True):
        for a, b in zip(together.forms, alone.forms, strict=True):
            assert a.seen.sigma == b.seen.sigma
            assert a.seen.guidance == b.seen.guidance
            assert_close(a.seen.x0.float(), b.seen.x0.float(), rtol=0, atol=2e-3 * b.seen.x0.float().abs().max().item())


STATES = {"dpm_fast", "heun", "dpm_2", "uni_pc", "dpmpp_2s_ancestral", "sa_solver_pece", "dpmpp_2m_cfg_pp"}
"""Samplers that ask twice a step, or tell of another state than the one that they asked about; `euler` is above."""


@pytest.mark.parametrize("name", ["SD15", "SD3"])
def test_whatever_sampler_draws_what_is_learnt_is_the_guided_prediction_of_the_state(comfy, name):
    """By two passes of the model, of each state of each of the host's samplers and of some schedules."""
    from comfy.samplers import KSampler

    from krona_train.comfyui.model import ComfyBackbone

    model, items = tiny_families.build(name), prompts(name)
    backbone = ComfyBackbone(model, guidance=0.0)
    samplers = KSampler.SAMPLERS if name == "SD15" else sorted(STATES)
    assert set(KSampler.SAMPLERS) >= STATES
    with backbone.ready(), torch.no_grad():
        for sampler in samplers:
            how = replace(HOW, count=1, steps=2, lowest=2.0, sampler=sampler, scheduler="karras" if name == "SD15" else "beta")
            for item in roll(model, items, how):
                batch = backbone.collate(item.forms)
                negative = backbone.collate([replace(items[-1].forms[0], seen=form.seen) for form in item.forms])
                seen, scale = batch.seen, batch.seen.guidance.reshape(-1, *[1] * (batch.seen.x_t.ndim - 1))
                assert (seen.sigma > 0).all(), sampler
                with_prompt = backbone.predict(seen.x_t, seen.sigma, batch.conditions)
                without = backbone.predict(seen.x_t, seen.sigma, negative.conditions)
                guided = without + scale * (with_prompt - without)
                assert_close(seen.x0, guided, rtol=0, atol=2e-2 * guided.abs().max().item(), msg=lambda m, s=sampler: f"{s}: {m}")
                assert len(item.forms) >= 2, sampler


@pytest.mark.parametrize("sampler", ["euler_ancestral", "ddpm", "dpmpp_2m_sde", "dpm_adaptive"])
def test_a_drawing_with_chance_on_its_way_is_the_same_again_and_alone(comfy, sampler):
    model, items = tiny_families.build("SD15"), prompts("SD15")
    how = replace(HOW, count=3, sampler=sampler)
    first, again = roll(model, items, how), roll(model, items, how, at_once=2)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.forms[-1].seen.x_t, b.forms[-1].seen.x_t)
    fewer = roll(model, items, replace(how, count=2))
    assert torch.equal(fewer[1].forms[-1].seen.x_t, first[1].forms[-1].seen.x_t)


def test_another_sampler_makes_other_drawings(comfy, tmp_path):
    model, items, made = tiny_families.build("SD15"), prompts("SD15"), []
    for how in (HOW, replace(HOW, sampler="dpmpp_2m"), replace(HOW, scheduler="karras")):
        made.append(roll(model, items, how, cache=Cache(tmp_path)))
    ends = [items[0].forms[-1].seen.x_t for items in made]
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_only_the_ends_are_kept_for_pairs(comfy):
    model, items = tiny_families.build("SD15"), prompts("SD15")
    ways, ends = roll(model, items), roll(model, items, replace(HOW, keep="ends"))
    for way, end in zip(ways, ends, strict=True):
        [form] = end.forms
        assert form.seen.sigma == way.forms[0].seen.sigma
        assert torch.equal(form.seen.x_t, way.forms[0].seen.x_t)
        assert_close(form.seen.x0.float(), way.forms[-1].seen.x0.float(), rtol=0, atol=5e-3)


def test_plain_drawings_go_without_guidance_and_note_what_it_would_be(comfy):
    model, items = tiny_families.build("SD15"), prompts("SD15")
    strong = replace(HOW, lowest=6.0)
    plain, guided, none = (
        roll(model, items, how)
        for how in (replace(strong, guided=False), strong, replace(HOW, highest=1.0))
    )  # fmt: skip
    for a, b, c in zip(plain, guided, none, strict=True):
        assert torch.equal(a.forms[0].seen.x0, b.forms[0].seen.x0)  # the same state, the same guidance
        assert not torch.equal(a.forms[0].seen.x0, c.forms[0].seen.x0)
        assert_close(a.forms[-1].seen.x_t.float(), c.forms[-1].seen.x_t.float(), rtol=0, atol=5e-3)
        assert (a.forms[-1].seen.x_t - b.forms[-1].seen.x_t).abs().max() > 1e-2


def test_what_was_made_before_a_cancel_is_there_afterwards(comfy, tmp_path):
    model, items = tiny_families.build("SD15"), prompts("SD15")
    cache, calls = Cache(tmp_path), []

    def cancels(done, total, what):
        calls.append((done, total))
        if done >= 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        roll(model, items, at_once=2, cache=cache, told=cancels)
    assert calls == [(0, 5), (2, 5)]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    told = []
    rolled = roll(model, items, at_once=2, cache=cache, told=lambda *args: told.append(args[:2]))
    assert told == [(2, 5), (4, 5), (5, 5)]
    again = []
    kept = roll(model, items, at_once=2, cache=Cache(tmp_path), told=lambda *args: again.append(args[:2]))
    assert again == [(5, 5)]
    plain = roll(model, items, at_once=2, cache=None)
    for a, b, c in zip(rolled, kept, plain, strict=True):
        for x, y, z in zip(a.forms, b.forms, c.forms, strict=True):
            assert torch.equal(x.seen.x_t, y.seen.x_t)
            assert torch.equal(x.seen.x0, y.seen.x0)
            assert torch.equal(x.seen.x0, z.seen.x0)


def test_more_drawings_use_those_that_there_are(comfy, tmp_path):
    model, items = tiny_families.build("SD15"), prompts("SD15")
    roll(model, items, cache=Cache(tmp_path))
    told = []
    roll(model, items, replace(HOW, count=7), cache=Cache(tmp_path), told=lambda *args: told.append(args[:2]))
    assert told == [(5, 7), (7, 7)]
    for changed in (replace(HOW, steps=5), replace(HOW, highest=5.0), replace(HOW, negative="blurry"), replace(HOW, guided=False)):
        told.clear()
        roll(model, items, changed, cache=Cache(tmp_path), told=lambda *args: told.append(args[:2]))
        assert told == [(0, 5), (5, 5)]


def test_a_model_with_guidance_of_its_own_way_is_asked_one_drawing_at_a_time(comfy):
    """Such a way expects one number for the whole batch; here it doubles what guidance does."""
    model, items = tiny_families.build("SD15"), prompts("SD15")
    batches = []

    def doubled(args):
        batches.append((len(args["input"]), args["cond_scale"]))
        return args["uncond"] + (args["cond"] - args["uncond"]) * 2 * args["cond_scale"]

    own = model.clone()
    own.set_model_sampler_cfg_function(doubled)
    changed, usual = roll(own, items), roll(model, items)
    assert {size for size, _ in batches} == {1}
    assert {scale for _, scale in batches} == {item.forms[0].seen.guidance for item in changed}
    assert not torch.equal(changed[0].forms[0].seen.x0, usual[0].forms[0].seen.x0)


def test_nothing_is_kept_of_a_model_that_draws_otherwise_than_its_weights_tell(comfy, tmp_path):
    """Else drawings without its guidance would serve one with the same weights."""
    model, items, told = tiny_families.build("SD15"), prompts("SD15"), []
    roll(model, items, cache=Cache(tmp_path))
    changed, shifted = model.clone(), model.clone()
    changed.set_model_sampler_post_cfg_function(lambda args: args["denoised"] / 2)
    shifted.add_object_patch("model_sampling", model.model.model_sampling)
    for other in (changed, shifted):
        told.clear()
        roll(other, items, cache=Cache(tmp_path), told=lambda *args: told.append(args[0]))
        assert told[0] == 0
    told.clear()
    roll(model, items, cache=Cache(tmp_path), told=lambda *args: told.append(args[0]))
    assert told == [5]


def test_a_model_with_its_guidance_built_in_is_refused(comfy):
    model, items = tiny_families.build("Flux"), prompts("Flux")
    with pytest.raises(ConfigError, match="guidance built in"):
        roll(model, items)


def test_nothing_random_and_nothing_of_the_model_is_moved(comfy):
    model, items = tiny_families.build("SD15"), prompts("SD15")
    options, state = {**model.model_options}, torch.get_rng_state()
    first = roll(model, items)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.model_options == options
    second = roll(model, items)
    assert all(torch.equal(a.forms[-1].seen.x0, b.forms[-1].seen.x0) for a, b in zip(first, second, strict=True))
    assert not first[0].forms[0].seen.x0.is_inference()


def test_pictures_are_no_prompts(comfy, world, tmp_path):
    from krona_train.config import TrainConfig
    from krona_train.data.pictures import Dataset, from_tensor
    from krona_train.objectives.guidance_config import GuidanceConfig
    from krona_train.session.material import Places, prepare

    pictures = Dataset(from_tensor(torch.rand(2, 64, 64, 3), "a robot"))
    config = TrainConfig(objective=GuidanceConfig(drawings=1))
    with pytest.raises(DataError, match="not from pictures"):
        prepare(*world, pictures, config, Places(tmp_path, tmp_path), lambda *args: None)
