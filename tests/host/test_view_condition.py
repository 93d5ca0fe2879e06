"""MV-Adapter's condition encoder against diffusers' own: its features, where they go, which row gets which, and wrong files."""

import pytest
import torch
from views import NARROW, WIDE, conditioning, model_of, reference, write

from krona_ops.branches.cameras import SIX, Cameras
from krona_ops.branches.rays import conditions
from krona_ops.errors import AdapterFileError, ConfigError, DataError
from krona_ops.formats.header import CONVERT

PLACES = {
    "sd21": (("input", 2), ("input", 5), ("input", 8), ("input", 11)),
    "sdxl": (("input", 3), ("input", 5), ("input", 8), ("middle", 0)),
}
"""Where diffusers adds the four features: behind the last block of each level, or behind what halves SDXL's first."""
FAMILIES = pytest.mark.parametrize("family", ["sd21", "sdxl"])


def maps(views, height, width, seed=0):
    return torch.rand(views, 6, height, width, generator=torch.Generator().manual_seed(seed))


def latents(rows, height, width, seed=1):
    return torch.randn(rows, 4, height, width, generator=torch.Generator().manual_seed(seed))


def control_of(path, given):
    from krona_host.views.condition import ViewControl
    from krona_host.views.encoder import load_encoder

    return ViewControl(load_encoder(path), given)


def ask(control, x, chunks=1, **options):
    with torch.inference_mode():
        return control.get_control(x, torch.full((x.shape[0],), 1.0), {}, chunks, options)


def by_place(made):
    """What the host will add, by the block that it is added to: it takes the last of each list first."""
    return {
        (part, number): each
        for part, blocks in made.items()
        for number, each in enumerate(reversed(blocks))
        if each is not None
    }


def assert_features(made, features, family, tolerance):
    places = by_place(made)
    assert places.keys() == set(PLACES[family])
    for place, feature in zip(PLACES[family], features, strict=True):
        assert places[place].shape == feature.shape
        assert (places[place] - feature).abs().max() <= tolerance * feature.abs().max(), place


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Files and diffusers' networks of both families, narrow."""
    folder = tmp_path_factory.mktemp("narrow")
    networks = {family: reference(family) for family in ("sd21", "sdxl")}
    return {
        family: (write(folder / f"mvadapter_t2mv_{family}.safetensors", each), each) for family, each in networks.items()
    }


@FAMILIES
def test_a_file_of_the_official_layout_gives_diffusers_features(comfy, family, tmp_path):
    from krona_host.views.encoder import load_encoder

    network = reference(family, WIDE).half().float()
    path = write(tmp_path / f"mvadapter_i2mv_{family}.safetensors", network, torch.float16)
    given = conditions(Cameras(SIX[:2], 96, 64))
    encoder = load_encoder(path)
    assert encoder.layout.channels == WIDE
    assert encoder.layout.patch == {"sd21": 8, "sdxl": 16}[family]
    assert encoder.parameters == sum(p.numel() for p in network.parameters())
    made = ask(control_of(path, given), latents(2, 8, 12))
    assert_features(made, network(given), family, 1e-6)


@FAMILIES
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (9, 2), (13, 16)])
def test_features_are_diffusers_at_every_size_odd_ones_too(comfy, family, size, narrow):
    path, network = narrow[family]
    height, width = size
    patch = {"sd21": 8, "sdxl": 16}[family]
    full = [-(-side * 8 // patch) * patch for side in size]
    given = maps(3, *full)
    made = ask(control_of(path, given), latents(3, height, width))
    assert_features(made, network(given), family, 1e-6)


def test_maps_of_another_size_are_brought_to_that_of_the_latent(comfy, narrow):
    path, network = narrow["sd21"]
    given = maps(2, 32, 48)
    made = ask(control_of(path, given), latents(2, 8, 12))
    assert_features(made, network(given.repeat_interleave(2, -1).repeat_interleave(2, -2)), "sd21", 1e-6)


def test_of_even_sizes_the_hosts_own_adapter_gives_the_same(comfy, narrow):
    """SD2.1's has as many numbers per place as the host knows; SDXL's the host builds as another one."""
    import comfy.controlnet
    from safetensors.torch import load_file

    path, _ = narrow["sd21"]
    weights = {name: tensor for name, tensor in load_file(path).items() if name.startswith("adapter.")}
    given, x = maps(2, 64, 64), latents(2, 8, 8)
    stock = comfy.controlnet.load_t2i_adapter(weights).set_cond_hint(given)
    assert not comfy.controlnet.load_t2i_adapter(
        {name: tensor for name, tensor in load_file(narrow["sdxl"][0]).items() if name.startswith("adapter.")}
    ).t2i_model.xl
    ours, its = by_place(ask(control_of(path, given), x)), by_place(ask(stock, x))
    assert ours.keys() == its.keys()
    assert all(torch.equal(ours[place], its[place]) for place in ours)


@FAMILIES
def test_features_are_added_where_diffusers_adds_them(comfy, family, narrow, load):
    path, network = narrow[family]
    net = load(model_of(family))
    control = control_of(path, maps(2, 64, 64))
    control.pre_run(net, lambda percent: 1000.0 * (1 - percent))
    x, sigma = latents(2, 8, 8), torch.tensor([2.0, 0.5])
    rng = torch.Generator().manual_seed(6)
    said = {"c_crossattn": torch.randn(2, 7, 24, generator=rng)}
    said |= {"y": torch.randn(2, 2816, generator=rng)} if family == "sdxl" else {}
    handles = []
    unet = net.diffusion_model
    with torch.inference_mode():
        base = net.apply_model(x, sigma, **said)
        ours = net.apply_model(x, sigma, control=ask(control, x), **said)
        for (part, number), feature in zip(PLACES[family], network(maps(2, 64, 64)), strict=True):
            block = unet.middle_block if part == "middle" else unet.input_blocks[number]
            hook = block[-1].register_forward_hook(lambda module, given, out, feature=feature: out + feature)
            handles.append(hook)
        expected = net.apply_model(x, sigma, **said)
        for handle in handles:
            handle.remove()
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (ours - base).abs().max() > 1e-2 * base.abs().max()


def test_every_row_gets_the_features_of_its_own_view_however_the_batch_is_made(comfy, narrow):
    path, network = narrow["sd21"]
    given = maps(3, 64, 64)
    features = network(given)
    control = control_of(path, given)
    for rows, chunks in ((3, 1), (6, 2), (6, 1), (12, 2), (3, 1), (9, 3)):  # one after the other, as areas and hooks make them
        made = by_place(ask(control, latents(rows, 8, 8), chunks))
        for place, feature in zip(PLACES["sd21"], features, strict=True):
            assert torch.allclose(made[place], feature.repeat(rows // 3, 1, 1, 1), rtol=0, atol=1e-5)


def test_an_area_of_the_picture_has_features_of_its_own_size(comfy, narrow):
    path, network = narrow["sd21"]
    given = maps(2, 64, 64)
    control = control_of(path, given)
    middle = network(given[..., 16:-16, :])  # as of any control: cut around the middle
    for size, features in (((8, 8), network(given)), ((4, 8), middle), ((8, 8), network(given))):
        assert_features(ask(control, latents(2, *size)), features, "sd21", 1e-6)


def test_one_view_is_every_rows(comfy, narrow):
    path, network = narrow["sd21"]
    given = maps(1, 64, 64)
    made = ask(control_of(path, given), latents(5, 8, 8))
    assert_features(made, [feature.expand(5, -1, -1, -1) for feature in network(given)], "sd21", 1e-6)


def test_a_context_window_gets_the_views_of_its_rows(comfy):
    from comfy.context_windows import IndexListContextWindow

    from krona_host.views.condition import views_of_rows

    window = IndexListContextWindow([4, 5, 0], dim=0, total_frames=6)
    assert views_of_rows(6, 2, 3, {"context_window": window}) == [1, 2, 0, 1, 2, 0]
    window.causal_anchor_index = 3
    assert views_of_rows(4, 1, 3, {"context_window": window}) == [0, 1, 2, 0]
    assert views_of_rows(3, 1, 3, {"context_window": IndexListContextWindow([0, 1], dim=2, total_frames=9)}) == [0, 1, 2]
    with pytest.raises(ConfigError, match="The batch has 7 pictures, and the condition 3 views"):
        views_of_rows(3, 1, 3, {"context_window": IndexListContextWindow([0, 1, 2], dim=0, total_frames=7)})


@pytest.mark.parametrize(("rows", "chunks", "pictures"), [(4, 1, 4), (2, 1, 2), (8, 2, 4), (10, 2, 5)])
def test_rows_that_are_no_whole_groups_are_refused(comfy, rows, chunks, pictures, narrow):
    control = control_of(narrow["sd21"][0], maps(3, 64, 64))
    with pytest.raises(ConfigError) as caught:
        ask(control, latents(rows, 8, 8), chunks)
    assert str(caught.value) == (
        f"KronA View Condition: The batch has {pictures} pictures, and the condition 3 views. "
        "Make batch_size 3 of the empty latent, or a multiple: one group of 3 after the other."
    )


def sample(model, positive, negative, noise, steps=3, cfg=3.0):
    import comfy.sample

    with torch.inference_mode():
        empty = torch.zeros_like(noise)
        return comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", positive, negative, empty, seed=1)


@FAMILIES
def test_views_in_one_batch_are_each_alone_and_groups_of_them_too(comfy, family, narrow):
    from krona_host.views.condition import with_views

    path, _ = narrow[family]
    model, given, noise = model_of(family), maps(3, 64, 64), latents(6, 8, 8)
    prompts = conditioning(family, 0), conditioning(family, 1)
    together = sample(model, *with_views(prompts, control_of(path, given), 1.0, 0.0, 1.0), noise)
    for row, each in enumerate(together):
        alone = with_views(prompts, control_of(path, given[row % 3][None]), 1.0, 0.0, 1.0)
        expected = sample(model, *alone, noise[row][None])[0]
        assert (each - expected).norm() <= 1e-4 * expected.norm(), row
    base = sample(model, *prompts, noise)
    assert (together - base).norm() > 1e-2 * base.norm()


def test_both_conditions_in_one_batch_or_one_after_the_other_are_the_same(comfy, narrow):
    """Two nodes in the place of one make two controls, which the host never puts into one batch."""
    from krona_host.views.condition import with_views

    path, _ = narrow["sd21"]
    model, given, noise = model_of("sd21"), maps(2, 64, 64), latents(4, 8, 8)
    positive, negative = conditioning("sd21", 0), conditioning("sd21", 1)
    shared = with_views((positive, negative), control_of(path, given), 0.7, 0.0, 1.0)
    assert shared[0][0][1]["control"] is shared[1][0][1]["control"]
    [apart], [other] = (with_views((each,), control_of(path, given), 0.7, 0.0, 1.0) for each in (positive, negative))
    a, b = sample(model, *shared, noise), sample(model, apart, other, noise)
    assert (a - b).norm() <= 1e-5 * a.norm()


def test_strength_0_leaves_the_conditionings_as_they_are(comfy, narrow):
    from krona_host.views.condition import with_views

    prompts = conditioning("sd21", 0), conditioning("sd21", 1)
    control = control_of(narrow["sd21"][0], maps(2, 64, 64))
    after = with_views(prompts, control, 0.0, 0.0, 1.0)
    assert after[0] is prompts[0]
    assert after[1] is prompts[1]
    with_views(prompts, control, 1.0, 0.0, 1.0)
    assert "control" not in prompts[0][0][1]


def test_strength_multiplies_and_controls_before_it_add_up(comfy, narrow):
    from krona_host.views.condition import with_views

    path, network = narrow["sd21"]
    first, second = maps(2, 64, 64), maps(2, 64, 64, seed=9)
    prompts = (conditioning("sd21", 0),)
    before = with_views(prompts, control_of(path, first), 0.5, 0.0, 1.0)
    [after] = with_views(before, control_of(path, second), 2.0, 0.0, 1.0)
    made = ask(after[0][1]["control"], latents(2, 8, 8))
    expected = [0.5 * a + 2.0 * b for a, b in zip(network(first), network(second), strict=True)]
    assert_features(made, expected, "sd21", 1e-6)
    again = ask(after[0][1]["control"], latents(2, 8, 8))  # nothing was multiplied in place
    assert_features(again, expected, "sd21", 1e-6)


def test_it_acts_from_start_to_end(comfy, narrow):
    from krona_host.views.condition import with_views

    model = model_of("sd21")
    control = control_of(narrow["sd21"][0], maps(2, 64, 64))
    [made] = with_views((conditioning("sd21", 0),), control, 1.0, 0.25, 0.5)
    own = made[0][1]["control"]
    sampling = model.model.model_sampling
    own.pre_run(model.model, sampling.percent_to_sigma)
    for percent, acts in ((0.1, False), (0.3, True), (0.45, True), (0.6, False)):
        t = torch.full((2,), float(sampling.percent_to_sigma(percent)))
        assert (own.get_control(latents(2, 8, 8), t, {}, 1, {}) is not None) == acts
    with pytest.raises(ConfigError) as caught:
        with_views((conditioning("sd21", 0),), control, 1.0, 0.5, 0.25)
    assert str(caught.value) == (
        "KronA View Condition: It would begin at 0.5 of the way and end before that, at 0.25. "
        "Set start_percent below end_percent: 0 is pure noise, 1 the finished picture."
    )


def test_after_a_sampling_nothing_is_kept(comfy, narrow):
    control = control_of(narrow["sd21"][0], maps(2, 64, 64)).set_cond_hint(maps(2, 64, 64), 0.3, (0.1, 0.9))
    ask(control, latents(2, 8, 8))
    assert control._features
    control.cleanup()
    assert not control._features


def test_a_copy_for_another_gpu_is_its_own(comfy, narrow):
    control = control_of(narrow["sd21"][0], maps(2, 64, 64)).set_cond_hint(maps(2, 64, 64), 0.3, (0.1, 0.9))
    if not hasattr(control, "get_instance_for_device"):
        pytest.skip("this ComfyUI does not sample on several GPUs")
    other = control.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    assert control.get_instance_for_device(torch.device("cpu")) is other
    assert (other.strength, other.timestep_percent_range) == (0.3, (0.1, 0.9))
    a, b = by_place(ask(control, latents(2, 8, 8))), by_place(ask(other, latents(2, 8, 8)))
    assert all(torch.equal(a[place], b[place]) for place in a)
    assert control.inference_memory_requirements(torch.float32) == 4 * control.encoder.parameters


@pytest.mark.parametrize(
    ("encoder", "model", "text"),
    [
        ("sd21", "sdxl", "The condition encoder is for SD2.1, and the model is another one (SDXL)."),
        ("sdxl", "sd21", "The condition encoder is for SDXL, and the model is another one (SD15)."),
    ],
)
def test_a_model_of_another_family_is_refused_by_name(comfy, encoder, model, text, narrow):
    from krona_host.views.condition import with_views

    noise = latents(2, 8, 8)
    prompts = conditioning(model, 0), conditioning(model, 1)
    given = with_views(prompts, control_of(narrow[encoder][0], maps(2, 64, 64)), 1.0, 0.0, 1.0)
    with pytest.raises(ConfigError) as caught:
        sample(model_of(model), *given, noise)
    assert str(caught.value).startswith(f"KronA View Condition: {text} Take a checkpoint of")


def test_other_widths_and_other_kinds_of_models_are_refused(comfy, sd15, narrow):
    from krona_host.model.small_world import load_world
    from tools import tiny_models

    control = control_of(narrow["sd21"][0], maps(2, 64, 64))
    control.pre_run(model_of("sd21").model, lambda percent: 1.0)
    with torch.inference_mode():
        world = load_world()[0]
        flux = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("flux")), output_vae=False, output_clip=False)[0]
    for model, name in ((sd15, "SD15"), (world, "WorldModel"), (flux, "Flux")):
        with pytest.raises(ConfigError, match=rf"is for SD2.1, and the model is another one \({name}\)"):
            control.pre_run(model.model, lambda percent: 1.0)


# ------------------------------------------------------------------------------------------------------------------ files


def refused(path):
    from krona_host.views.encoder import load_encoder

    with pytest.raises(AdapterFileError) as caught:
        load_encoder(path)
    return str(caught.value).replace(f"{path}: ", "", 1)


FIRST = "adapter.body.1.resnets.1.block1.weight"
DAMAGES = {
    "no encoder": (
        None,
        "This file has no condition encoder. Choose a file of MV-Adapter, such as mvadapter_t2mv_sdxl.safetensors.",
    ),
    "no entry": (
        {"adapter.conv_in.weight": None},
        "adapter.conv_in.weight: The condition encoder lacks this tensor. The file is cut short or of another program: get it again.",
    ),
    "one missing": (
        {FIRST: None},
        f"{FIRST}: The condition encoder lacks this tensor. The file is cut short or of another program: get it again.",
    ),
    "a level missing": (
        {"adapter.body.3.resnets.0.block1.weight": None},
        "adapter.body.3.resnets.0.block1.weight: The condition encoder lacks this tensor. "
        "The file is cut short or of another program: get it again.",
    ),
    "two missing": (
        {FIRST: None, "adapter.body.3.resnets.1.block2.bias": None},
        f"{FIRST}: The condition encoder lacks this tensor and 1 more. The file is cut short or of another program: get it again.",
    ),
    "one too many": (
        {"adapter.body.3.resnets.2.block1.weight": torch.zeros(128, 128, 3, 3)},
        "adapter.body.3.resnets.2.block1.weight: The condition encoder has a tensor that MV-Adapter's has not. The file is of another "
        "program, and what its encoder computes is not known: get MV-Adapter's own.",
    ),
    "another shape": (
        {FIRST: torch.zeros(64, 63, 3, 3)},
        f"{FIRST}: It has the shape (64, 63, 3, 3), and (64, 64, 3, 3) fits the others. "
        "The file is damaged or of another program: get it again.",
    ),
    "no convolution": (
        {"adapter.conv_in.weight": torch.zeros(32, 384)},
        "adapter.conv_in.weight: It has the shape (32, 384), which no convolution has. "
        "The file is damaged or of another program: get it again.",
    ),
    "an empty convolution": (
        {"adapter.body.2.resnets.0.block1.weight": torch.zeros(0, 128, 3, 3)},
        "adapter.body.2.resnets.0.block1.weight: It has the shape (0, 128, 3, 3), which no convolution has. "
        "The file is damaged or of another program: get it again.",
    ),
    "a kernel that makes features larger": (
        {f"adapter.body.{level}.resnets.{n}.block2.weight": torch.zeros(NARROW[level], NARROW[level], 2, 2) for level in range(4) for n in (0, 1)},
        "adapter.body.0.resnets.0.block2.weight: It has the shape (32, 32, 2, 2), and (32, 32, 1, 1) fits the others. "
        "The file is damaged or of another program: get it again.",
    ),
    "more numbers than can be counted": (
        {
            "adapter.body.0.resnets.0.block2.weight": torch.zeros(1, 1, 2**20, 1, dtype=torch.uint8),
            **{f"adapter.body.{level}.resnets.0.block1.weight": torch.zeros(4096, 1, 1, 1) for level in range(4)},
        },
        "adapter.body.0.resnets.0.block1.weight: It has the shape (4096, 1, 1, 1), and (4096, 4096, 3, 3) fits the others. "
        "The file is damaged or of another program: get it again.",
    ),
    "whole numbers": (
        {FIRST: torch.zeros(64, 64, 3, 3, dtype=torch.int8)},
        f"{FIRST}: It has the type I8, and weights of an encoder are F32, F16 or BF16. "
        "The file was changed by another program: get MV-Adapter's own.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_file_is_refused_with_the_tensor_and_what_to_do(comfy, damage, tmp_path):
    changes, text = DAMAGES[damage]
    network = reference("sd21") if changes else torch.nn.Identity()
    assert refused(write(tmp_path / "x.safetensors", network, **(changes or {}))) == text


def test_an_encoder_for_sdxl_whose_last_level_takes_other_channels_is_refused(comfy, tmp_path):
    """Of SD2.1's each level brings what it gets to channels of its own; SDXL's last one takes them as they are."""
    from krona_host.views.encoder import Layout, load_encoder

    paths = {}
    for patch in (8, 16):
        shapes = Layout(patch, (2, 3, 4, 5), 1).shapes()
        paths[patch] = write(tmp_path / f"{patch}.safetensors", torch.nn.Identity(), **{n: torch.zeros(s) for n, s in shapes.items()})
    assert load_encoder(paths[8]).layout.channels == (2, 3, 4, 5)
    assert refused(paths[16]) == (
        "adapter.body.3.resnets.0.block1.weight: It has the shape (5, 5, 3, 3), and (4, 4, 3, 3) fits the others. "
        "The file is damaged or of another program: get it again."
    )


def test_an_adapter_for_three_channels_is_refused(comfy, tmp_path):
    path = write(tmp_path / "x.safetensors", reference("sd21", in_channels=3))
    assert refused(path) == (
        "adapter.conv_in.weight: It takes 192 numbers per place, not 384 (SD2.1) or 1,536 (SDXL): six channels in patches of 8 or 16. "
        "A T2I-Adapter for pictures of three channels belongs into ComfyUI's Load ControlNet Model."
    )


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".ckpt"])
def test_a_pickle_is_never_opened_and_the_message_says_how_to_convert_it(comfy, suffix, tmp_path):
    path = tmp_path / f"mvadapter{suffix}"
    torch.save(reference("sd21").state_dict(), path)
    assert refused(path) == f"This file cannot be read: {suffix} files are never opened, they can run code. {CONVERT}"


def test_the_way_to_convert_works(comfy, tmp_path):
    import shlex
    import subprocess
    import sys

    from krona_host.views.encoder import load_encoder

    torch.save(reference("sd21").state_dict(), tmp_path / "mv.adapter.pth")
    _, *words = shlex.split(CONVERT.partition(": ")[2])
    subprocess.run([sys.executable, *words[:-1], str(tmp_path / "mv.adapter.pth")], check=True)
    assert load_encoder(tmp_path / "mv.adapter.safetensors").layout.channels == NARROW


def test_a_damaged_file_is_refused_as_by_every_loader(comfy, tmp_path):
    path = write(tmp_path / "x.safetensors", reference("sd21"))
    path.write_bytes(path.read_bytes()[:-10])
    assert "the header speaks of" in refused(path)


def test_nothing_but_the_encoder_is_read(comfy, tmp_path):
    """The projections of the attention are forty times as many."""
    from krona_ops.files import load_tensors

    path = write(tmp_path / "x.safetensors", reference("sd21"))
    some = load_tensors(path, ["adapter.conv_in.bias", "adapter.body.0.resnets.0.block1.bias"])
    everything = load_tensors(path)
    assert some.keys() == {"adapter.conv_in.bias", "adapter.body.0.resnets.0.block1.bias"}
    assert all(torch.equal(tensor, everything[name]) for name, tensor in some.items())


# ------------------------------------------------------------------------------------------------------------------- maps


def test_position_and_normal_maps_stand_behind_each_other(comfy):
    from krona_host.views.condition import maps_of

    position, normal = torch.rand(2, 4, 6, 3) * 1.2 - 0.1, torch.rand(2, 4, 6, 4)
    made = maps_of(position, normal)
    assert made.shape == (2, 6, 4, 6)
    assert torch.equal(made[:, :3], position.permute(0, 3, 1, 2).clamp(0, 1))
    assert torch.equal(made[:, 3:], normal[..., :3].permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("position", "normal", "text"),
    [
        (
            (2, 4, 6, 3),
            (3, 4, 6, 3),
            "normal: There are 2 position maps of 6 × 4 pixels and 3 normal maps of 6 × 4. Give both maps of every view, in one order and of one size.",
        ),
        (
            (2, 4, 6, 3),
            (2, 4, 8, 3),
            "normal: There are 2 position maps of 6 × 4 pixels and 2 normal maps of 8 × 4. Give both maps of every view, in one order and of one size.",
        ),
        (
            (2, 4, 6, 1),
            (2, 4, 6, 3),
            "position: The pictures have the shape (2, 4, 6, 1). Connect pictures in colour, one for each view.",
        ),
        (
            (2, 4, 6, 3),
            (4, 6, 3),
            "normal: The pictures have the shape (4, 6, 3). Connect pictures in colour, one for each view.",
        ),
    ],
)
def test_maps_that_do_not_fit_together_are_refused(comfy, position, normal, text):
    from krona_host.views.condition import maps_of

    with pytest.raises(DataError) as caught:
        maps_of(torch.zeros(position), torch.zeros(normal))
    assert str(caught.value) == text


