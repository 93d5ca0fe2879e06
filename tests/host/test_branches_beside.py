"""Parallel branches beside everything else that the host puts on a model, its prompts and its guidance.

Beside each of them: with gates of 0 the picture is what it is without the branch, bit for bit; with others the answers to
wanted prompts change in the first step, and those to unwanted ones stay as they are, bit for bit.
"""

from contextlib import contextmanager

import pytest
import torch
from branch_cases import EMPTY, SIZE, branch, latents, sample


def applied(adapter, model, **changed):
    from krona_host.branches.apply import Use, apply_branches

    return apply_branches(adapter, model, Use(**{"reference": latents(1), **changed}))[0]


@pytest.fixture
def model(world):
    return world[0]


def changed_cond(cond, **entries):
    return [[tensor, {**options, **entries}] for tensor, options in cond]


def answers(model, draw):
    """What the model answers to each list of prompts while something is drawn, call by call."""
    seen = []
    watched = model.clone()

    def watch(executor, net, conds, *rest):
        out = executor(net, conds, *rest)
        seen.append([None if cond is None else one.clone() for cond, one in zip(conds, out, strict=True)])
        return out

    watched.add_wrapper_with_key("calc_cond_batch", "watch", watch)
    draw(watched)
    return seen


def check(draw, model, wanted=(0,), unwanted=(1,), modes=("reference", "views"), seed=0, **use):
    """The two laws of this module.

    Args:
        draw: ``draw(model, steps)`` gives latents.
        wanted, unwanted: Which of the lists of prompts that the guidance asks for in its first call.
    """
    plain = draw(model, 3)
    before = answers(model, lambda watched: draw(watched, 1))
    for mode in modes:
        still = applied(branch(model, mode, gate=0.0), model, **use)
        assert torch.equal(draw(still, 3), plain), mode
        patched = applied(branch(model, mode, seed=seed), model, **use)
        after = answers(patched, lambda watched: draw(watched, 1))
        assert len(after) == len(before)
        for number in wanted:
            moved = (after[0][number] - before[0][number]).norm()
            assert moved > 1e-3 * before[0][number].norm(), (mode, number)
        for number in unwanted:
            assert torch.equal(after[0][number], before[0][number]), (mode, number)
        assert not torch.equal(draw(patched, 3), plain), mode
    assert torch.equal(draw(model, 3), plain)  # nothing stayed


def drawing(positive, negative, **options):
    return lambda model, steps: sample(model, (positive, negative), EMPTY, steps=steps, **options)


def test_alone(model, prompts):
    check(drawing(prompts[0], prompts[1]), model)


def test_prompts_of_different_lengths(model, world, prompts):
    """They cannot stand in one batch, so the host asks for them one after the other."""
    clip = world[1]
    with torch.inference_mode():
        long = clip.encode_from_tokens_scheduled(clip.tokenize("a red robot " * 12))
    assert long[0][0].shape[1] > prompts[1][0][0].shape[1]
    check(drawing(long, prompts[1]), model)


def control_net():
    """The host's own class with random weights, for the small world's latents."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    from krona_host.model.small_world import UNET

    settings = {key: value for key, value in UNET.items() if key not in ("out_channels", "transformer_depth_output")}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.manual_cast, **settings)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.03)
    return comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))


def with_control(prompts, strength=1.0):
    import nodes

    picture = torch.rand(1, 8 * SIZE[0], 8 * SIZE[1], 3, generator=torch.Generator().manual_seed(7))
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    return apply(prompts[0], prompts[1], control_net(), picture, strength, 0.0, 1.0)


def test_a_control_net(model, prompts):
    """It adds its features before the branch reads them; the pass over the reference is without it."""
    positive, negative = with_control(prompts)
    with torch.inference_mode():
        controlled, plain = (drawing(*pair)(model, 1) for pair in ((positive, negative), prompts[:2]))
        assert (controlled - plain).norm() > 0.01 * plain.norm()
        check(drawing(positive, negative), model)


@pytest.mark.parametrize("mode", ["reference", "views"])
def test_an_adapter_in_hooks_is_the_adapter_applied(model, prompts, random_adapter, mode):
    import comfy.hooks

    from krona_host.patching.apply import apply_adapter
    from krona_host.patching.schedule import scheduled_hooks

    adapter = random_adapter(model)
    hooks, _ = scheduled_hooks(adapter, [(0.0, 0.6)], model)
    conds = [comfy.hooks.set_hooks_for_conditioning(cond, hooks) for cond in prompts[:2]]
    check(drawing(*conds), model, modes=(mode,))
    hooked = drawing(*conds)(applied(branch(model, mode), model), 3)
    below = apply_adapter(adapter, model, strength_model=0.6).model
    merged = drawing(*prompts[:2])(applied(branch(model, mode), below), 3)
    assert (hooked - merged).norm() < 1e-4 * merged.norm()


def test_an_adapter_whose_strength_changes(model, prompts, random_adapter):
    import comfy.hooks

    from krona_host.patching.schedule import scheduled_hooks

    hooks, _ = scheduled_hooks(random_adapter(model), [(0.0, 0.0), (0.4, 1.0)], model)
    conds = [comfy.hooks.set_hooks_for_conditioning(cond, hooks) for cond in prompts[:2]]
    check(drawing(*conds), model)


def test_patches_of_the_cross_attention(model, prompts):
    """Both kinds get the same options as the branch's own patches, and act where no branch does."""
    patched = model.clone()
    patched.set_model_attn2_patch(lambda n, context, value, options: (n, 1.3 * context, value))
    patched.set_model_attn2_output_patch(lambda out, options: 0.7 * out)
    patched.set_model_attn1_output_patch(lambda out, options: 1.1 * out)
    assert not torch.equal(drawing(*prompts[:2])(patched, 1), drawing(*prompts[:2])(model, 1))
    check(drawing(*prompts[:2]), patched)


@pytest.fixture(scope="module")
def rounded(world):
    """The small world with its weights in fp8, which the host writes out as each layer is called."""
    import comfy.model_patcher

    from krona_host.model.small_world import UNET, WorldModel

    config = WorldModel(dict(UNET))
    config.set_inference_dtype(torch.float8_e4m3fn, torch.float32)
    with torch.inference_mode():
        net = config.get_model({}, "", device=torch.device("cpu"))
        net.diffusion_model.load_state_dict(world[0].model.diffusion_model.state_dict())
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(net, load_device=cpu, offload_device=cpu)


def test_weights_in_fp8(rounded, prompts, random_adapter):
    """With an adapter beside its layers, which keeps it whole; the branch's own factors are never rounded."""
    from krona_host.patching.apply import apply_adapter

    weights = [p for name, p in rounded.model.named_parameters() if ".attn1." in name and p.ndim == 2]
    assert {weight.dtype for weight in weights} == {torch.float8_e4m3fn}
    check(drawing(*prompts[:2]), rounded)
    below = apply_adapter(random_adapter(rounded), rounded).model
    check(drawing(*prompts[:2]), below)


@contextmanager
def unloaded(model):
    """While something is drawn, the host has taken every weight off again, as it does where memory is short."""
    watched = model.clone()
    added_late = []

    def take_off(executor, *args, **kwargs):
        patcher = executor.class_obj.model_patcher
        patcher.partially_unload(torch.device("cpu"), 1e12)
        added_late.append(patcher.lowvram_patch_counter())
        return executor(*args, **kwargs)

    watched.add_wrapper_with_key("outer_sample", "take off", take_off)
    yield watched
    assert min(added_late) > 0
    with torch.inference_mode():
        model.detach()


@pytest.mark.parametrize("mode", ["reference", "views"])
def test_weights_that_are_offloaded(world, prompts, random_adapter, mode):
    """Merged adapters are then added as each layer is called, and the branch calls the layers too."""
    from krona_host.patching.apply import apply_adapter

    below = apply_adapter(random_adapter(world[0]), world[0], mode="merge").model
    patched = applied(branch(below, mode), below)
    loaded = drawing(*prompts[:2])(patched, 2)
    with unloaded(patched) as offloaded:
        assert (drawing(*prompts[:2])(offloaded, 2) - loaded).norm() < 1e-5 * loaded.norm()
    with unloaded(below) as offloaded:
        check(drawing(*prompts[:2]), offloaded, modes=(mode,))


def test_prompts_for_areas_and_masks(model, prompts):
    area = changed_cond(prompts[0], area=(4, 4, 0, 2), strength=1.0) + prompts[2]
    check(drawing(area, prompts[1]), model)
    mask = torch.zeros(1, *SIZE)
    mask[:, 2:4] = 1
    masked = changed_cond(prompts[0], mask=mask, mask_strength=0.8, set_area_to_bounds=False) + prompts[2]
    check(drawing(masked, prompts[1]), model, modes=("reference", "views", "row"))


def test_prompts_for_a_part_of_the_time(model, prompts):
    early, late = (
        changed_cond(prompts[n], start_percent=start, end_percent=end)
        for n, start, end in ((0, 0.0, 0.5), (2, 0.5, 1.0))
    )
    check(drawing(early + late, prompts[1]), model)


def drawing_with(make, latent=EMPTY):
    """As `drawing`, by the host's own guider that ``make(model)`` gives."""
    import comfy.samplers

    def draw(model, steps):
        guider = make(model)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
        with torch.inference_mode():
            return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, seed=5)

    return draw


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_two_prompts_with_guidance_of_their_own(model, prompts, style):
    """DualCFG asks for negative, middle and positive, in this order."""

    def make(model):
        from comfy_extras.nodes_custom_sampler import DualCFGGuider

        return DualCFGGuider.execute(model, prompts[0], prompts[2], prompts[1], 3.0, 2.0, style)[0]

    check(drawing_with(make), model, wanted=(1, 2), unwanted=(0,))


def test_perp_neg(model, prompts):
    """It asks for positive, negative and an empty prompt."""

    def make(model):
        from comfy_extras.nodes_perpneg import PerpNegGuider

        return PerpNegGuider.execute(model, prompts[0], prompts[1], prompts[2], 3.0, 0.8)[0]

    check(drawing_with(make), model, wanted=(0,), unwanted=(1, 2))


def test_a_prompt_that_is_made_up_on_the_way_is_not_wanted(model, prompts):
    """The older PerpNeg asks for its empty prompt beside the guider, which never had it."""
    from comfy_extras.nodes_perpneg import PerpNeg

    patched = PerpNeg.execute(model, prompts[2], 0.8)[0]
    check(drawing(*prompts[:2]), patched)
    before = answers(patched, lambda watched: drawing(*prompts[:2])(watched, 1))
    after = answers(applied(branch(patched), patched), lambda watched: drawing(*prompts[:2])(watched, 1))
    assert [len(call) for call in after] == [2, 1]
    assert torch.equal(after[1][0], before[1][0])


@pytest.fixture(scope="module")
def with_a_middle(world):
    """The small world's layers, and a random transformer in the middle, which it has none of."""
    import comfy.model_patcher

    from krona_host.model.small_world import UNET, WorldModel

    config = WorldModel({**UNET, "transformer_depth_middle": 1})
    config.set_inference_dtype(torch.float32, None)
    rng = torch.Generator().manual_seed(4)
    with torch.inference_mode():
        net = config.get_model({}, "", device=torch.device("cpu"))
        missing, _ = net.diffusion_model.load_state_dict(world[0].model.diffusion_model.state_dict(), strict=False)
        for name in missing:
            parameter = net.diffusion_model.get_parameter(name)
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    assert any("middle_block" in name for name in missing)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(net, load_device=cpu, offload_device=cpu)


def test_self_attention_guidance(with_a_middle, prompts):
    """It asks for the unwanted prompt once more, on a blurred picture; its attention replaces the host's in the middle."""
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    guided = SelfAttentionGuidance.execute(with_a_middle, 0.5, 2.0)[0]
    check(drawing(*prompts[:2]), guided)
    after = answers(applied(branch(guided), guided), lambda watched: drawing(*prompts[:2])(watched, 1))
    assert [len(call) for call in after] == [2, 1]
    assert any("middle_block" in name for name in branch(guided).layers)


def test_an_inpainting_mask(model, prompts):
    """What lies outside the mask is the picture, and the branch counts inside."""
    start, mask = latents(2, seed=9), torch.zeros(2, 1, *SIZE)
    mask[..., 2:5] = 1

    def draw(model, steps):
        import comfy.sample

        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, steps, 3.0, "euler", "normal", prompts[0], prompts[1], start, noise_mask=mask, seed=5
            )

    check(draw, model)
    drawn = draw(applied(branch(model), model), 3)
    torch.testing.assert_close(drawn[..., 6:], start[..., 6:])


def test_no_guidance_at_all(model, prompts):
    """At cfg 1 the host leaves the unwanted prompt out."""
    check(drawing(*prompts[:2], cfg=1.0), model, unwanted=())
