"""A strength that changes while sampling: the numbers, and what the host makes of them."""

import pytest
import torch


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1.0, 0.0, 0.0, 1.0, "linear", 1), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]),
        ((0.0, 2.0, 0.5, 1.0, "linear", 0), [(0.0, 0.0), (0.5, 0.0), (1.0, 2.0)]),
        ((1.0, 0.0, 0.2, 0.6, "step", 1), [(0.0, 1.0), (0.2, 1.0), (0.4, 1.0), (0.6, 0.0)]),
        ((1.0, 0.0, 0.0, 1.0, "ease", 1), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]),
        ((1.0, 0.3, 0.7, 0.4, "linear", 5), [(0.0, 1.0), (0.4, 0.3)]),
        ((1.0, 0.3, 0.0, 0.0, "linear", 5), [(0.0, 0.3)]),
    ],
)
def test_the_keyframes_are_what_the_inputs_say(comfy, arguments, expected):
    from krona_host.patching.schedule import strengths

    pairs = strengths(*arguments)
    assert [p for p, _ in pairs] == pytest.approx([p for p, _ in expected])
    assert [s for _, s in pairs] == pytest.approx([s for _, s in expected])


def sample(comfy, model, hooks=None, steps=6):
    """Six steps of Euler with a condition that carries the hooks; every prediction of the network on the way."""
    import comfy.hooks
    import comfy.sample
    import comfy.samplers

    rng = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        cond = [[torch.randn(1, 77, 768, generator=rng), {}]]
        if hooks is not None:
            cond = comfy.hooks.set_hooks_for_conditioning(cond, hooks)
        noise = torch.randn(1, 4, 8, 8, generator=rng)
        seen = []
        comfy.sample.sample(
            model, noise, steps, 1.0, "euler", "normal", cond, cond, torch.zeros_like(noise), seed=1,
            callback=lambda step, x0, x, total: seen.append(x0.clone()),
        )  # fmt: skip
        return seen


def test_a_constant_schedule_is_the_adapter_applied(comfy, sd15, random_adapter):
    from krona_host.patching.apply import apply_adapter
    from krona_host.patching.schedule import scheduled_hooks

    adapter = random_adapter(sd15)
    hooks, report = scheduled_hooks(adapter, [(0.0, 0.6)], sd15)
    assert report == f"{len(adapter)} of {len(adapter)} layers matched."
    scheduled = sample(comfy, sd15, hooks)
    applied = sample(comfy, apply_adapter(adapter, sd15, strength_model=0.6).model)
    base = sample(comfy, sd15)
    for a, b, c in zip(scheduled, applied, base, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()
        assert (a - c).norm() > 1e-3 * c.norm()


def test_strength_zero_until_the_middle_is_the_base_until_the_middle(comfy, sd15, random_adapter):
    from krona_host.patching.schedule import scheduled_hooks

    hooks, _ = scheduled_hooks(random_adapter(sd15), [(0.0, 0.0), (0.5, 1.0)], sd15)
    scheduled, base = sample(comfy, sd15, hooks), sample(comfy, sd15)
    same = [bool((a - b).norm() <= 1e-5 * b.norm()) for a, b in zip(scheduled, base, strict=True)]
    assert same[0]
    assert not same[-1]
    assert same == sorted(same, reverse=True)


def test_the_weights_are_restored_after_sampling(comfy, sd15, random_adapter):
    from krona_host.patching.schedule import scheduled_hooks

    before = {k: v.clone() for k, v in sd15.model.state_dict().items()}
    hooks, _ = scheduled_hooks(random_adapter(sd15), [(0.0, 1.0), (0.3, 0.2)], sd15)
    sample(comfy, sd15, hooks)
    comfy.model_management.unload_all_models()
    assert all(torch.equal(v, before[k]) for k, v in sd15.model.state_dict().items())


def test_hooks_are_added_to_those_that_are_there(comfy, sd15, random_adapter):
    from krona_host.patching.schedule import scheduled_hooks

    first, second = random_adapter(sd15, 0), random_adapter(sd15, 1)
    one, _ = scheduled_hooks(first, [(0.0, 0.5)], sd15)
    both, _ = scheduled_hooks(second, [(0.0, 0.5)], sd15, previous=one)
    from krona_host.patching.apply import apply_adapter

    merged = apply_adapter(second, apply_adapter(first, sd15, strength_model=0.5).model, strength_model=0.5).model
    for a, b in zip(sample(comfy, sd15, both), sample(comfy, merged), strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()
