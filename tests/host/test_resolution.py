"""The preset "resolution (ResAdapter)" on UNets of the host: what it takes, and that a training of it moves nothing else."""

from dataclasses import replace

import families
import pytest
import tiny_families
import torch
from torch.testing import assert_close

from krona_ops import TargetRule, report, save
from krona_ops.errors import ConfigError, CoverageError
from krona_ops.targets.parts import BIASES, MODEL_PARTS, NORMS, SAMPLERS
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.targets import targets_of
from krona_train.run.events import Saved, Started

COUNTS = {"SD15": (6, 44, 99_840, 821_184), "SDXL": (4, 34, 66_560, 360_256)}
"""Convolutions, norms, numbers of the norms, numbers of the convolutions at 8 × 8."""
UNETS = tuple(COUNTS)


@pytest.fixture(autouse=True)
def one_thread():
    """These models are so small that a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def preset(comfy):
    """The node's settings for the preset."""
    from krona_pack.nodes.targets import RESOLUTION, KronaTargets

    def settings(factors=(8, 8), preset=RESOLUTION, **inputs):
        return KronaTargets.execute(preset, *factors, **inputs).args[0]

    return settings


class Shapes:
    """As a backbone, of a model without memory."""

    def __init__(self, net):
        self.net = net

    def weights(self, *, vectors=False):
        from krona_host.model.layer_shape import layer_shape, vectors_of

        shapes = {}
        for name, module in self.net.named_modules(prefix="diffusion_model"):
            shape = layer_shape(module)
            shapes |= {} if shape is None else {name: shape}
            lengths = vectors_of(name, module, shape is not None) if vectors else ()
            shapes |= {vector: (length,) for vector, length in lengths}
        return shapes


def shapes_of(family):
    return Shapes(families.build(family).model.diffusion_model)


@pytest.mark.parametrize("family", COUNTS)
def test_the_preset_takes_the_samplers_and_the_norms_of_the_real_unet_and_nothing_else(preset, family):
    convolutions, norms, numbers, factors = COUNTS[family]
    targets = targets_of(shapes_of(family), preset())
    samplers = [t for t in targets if not t.is_vector]
    vectors = [t for t in targets if t.is_vector]
    assert len(samplers) == convolutions
    assert {t.name.removesuffix(".bias") for t in vectors} == {t.name for t in vectors if not t.name.endswith(".bias")}
    assert len(vectors) == 2 * norms  # each with a weight and a bias
    assert sum(t.shape[0] for t in vectors) == numbers
    assert sum(t.sizes.parameters for t in samplers) == factors
    assert {t.kind for t in vectors} == {"difference"}
    assert {t.kind for t in samplers} == {""}
    assert all(t.name.endswith((".op", ".conv")) and t.sizes.kernel == (3, 3) for t in samplers)


def test_other_unets_have_it_too_and_a_model_of_another_kind_is_refused(preset):
    for family in ("SD20", "SDXLRefiner", "SVD_img2vid"):
        assert len(targets_of(shapes_of(family), preset())) > 20
    for family in ("Flux", "SD3", "WAN21_T2V", "PixArtSigma"):
        with pytest.raises(CoverageError, match=r"no down- and upsamplers; this preset is for UNets\. Load a UNet, such as SD1\.5"):
            targets_of(shapes_of(family), preset())


def test_only_narrows_the_preset_rules_come_before_it_and_attention_is_off(preset):
    down = targets_of(shapes_of("SD15"), preset(only="input_blocks"))
    assert {t.name.split(".")[1] for t in down} == {"input_blocks"}
    with_keys = targets_of(shapes_of("SD15"), preset(rules=r"attn2; k; 64x4", q="off"))
    assert sum("attn2" in t.name for t in with_keys) == 16
    assert len(with_keys) == 16 + 6 + 88
    for part in ("q", "k", "v", "out"):
        with pytest.raises(ConfigError, match=rf"trains no attention, and {part} has factors of its own\. Leave q, k, v and out empty"):
            preset(**{part: "8x8"})


def test_biases_of_attention_are_those_of_its_projections(preset):
    from krona_pack.nodes.targets import RULES

    sd15 = targets_of(shapes_of("SD15"), preset(preset=RULES, rules=BIASES))
    assert len(sd15) == 32
    assert all(t.name.endswith("to_out.0.bias") and t.kind == "difference" for t in sd15)
    flux = targets_of(shapes_of("Flux"), preset(preset=RULES, rules=f"{BIASES}; ; ; 0.5; full"))
    assert all(t.name.endswith(".bias") and t.kind == "full" and t.rate == 0.5 for t in flux)
    assert any("double_blocks.0.img_attn.qkv" in t.name for t in flux)
    with pytest.raises(ConfigError, match=r"norms of the residual blocks have no factors, so lora cannot be trained.*kind out"):
        targets_of(shapes_of("SD15"), preset(preset=RULES, rules=f"{NORMS}; ; ; ; lora"))


def settings_of(adapter, steps=4, **changes):
    optimizer = OptimizerConfig(learning_rate=2e-2, rate_by_width=0.0)
    return TrainConfig(steps=steps, batch_size=2, adapter=adapter, optimizer=optimizer, save_every=2, **changes)


@pytest.fixture
def train(comfy):
    from krona_train.comfyui.model import ComfyBackbone

    def run(family, config, sink=lambda event: None, resume=None):
        model = tiny_families.build(family)
        data = [tiny_families.example(family, seed) for seed in (0, 1)]
        return model, fit(ComfyBackbone(model), data, config, sink, resume)

    return run


def state_of(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("kind", ["kronecker", "lora"])
@pytest.mark.parametrize("family", UNETS)
def test_a_trained_file_is_whole_in_the_stock_loader_and_the_same_as_in_the_packs(comfy, load, preset, train, tmp_path, family, kind):
    """Untouched weights keep their bits, in the training and in the model with the adapter; norms are exact at any strength."""
    import comfy.sd
    import comfy.utils

    from krona_host.patching.apply import apply_adapter
    from krona_ops import load as load_file

    events = []
    model, adapter = train(family, settings_of(preset((4, 4), adapter=kind)), events.append)
    before = state_of(tiny_families.build(family).model)
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())
    [started] = [event for event in events if isinstance(event, Started)]
    assert started.notes == ()
    assert started.parameters == adapter.parameters == report(adapter).parameters
    assert all(delta.dense().abs().max() > 0 for delta in adapter.layers.values())

    path = save(adapter, tmp_path / "resolution.safetensors")
    file = comfy.utils.load_torch_file(str(path), safe_load=True)
    names = ("lokr_w1", "lokr_w2") if kind == "kronecker" else ("lora_up.weight", "lora_down.weight", "alpha")
    ends = {key.partition(".0.op.")[2] or key.partition(".conv.")[2] or key.rpartition(".")[2] for key in file}
    assert ends == {*names, "diff", "diff_b"}
    assert set(load_file(path).layers) == set(adapter.layers)

    for strength in (1.0, 0.6):
        theirs, _ = comfy.sd.load_lora_for_models(model, None, file, strength, 0.0)
        assert len(theirs.patches) == len(adapter.layers)
        stock = state_of(load(theirs))
        ours = state_of(load(apply_adapter(load_file(path), model, strength_model=strength).model))
        changed = {key for key, value in ours.items() if not torch.equal(value, before[key])}
        keys = {f"{n}" if n.endswith(".bias") else f"{n}.weight" for n in adapter.layers}
        assert changed == keys
        for key, value in ours.items():
            assert_close(stock[key], value, rtol=0, atol=1e-6)
        for name, delta in adapter.layers.items():
            if len(delta.shape) == 1:
                key = name if name.endswith(".bias") else f"{name}.weight"
                exact = before[key].double() + strength * delta.dense().double()
                assert_close(ours[key].double(), exact, rtol=0, atol=1.2e-7)  # the rounding of a number near 1
    after = state_of(load(model))
    assert all(torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("family", UNETS)
def test_merged_and_bypassed_predict_alike(comfy, load, preset, train, family):
    from krona_host.patching.apply import apply_adapter
    from krona_train.comfyui.model import ComfyBackbone

    model, adapter = train(family, settings_of(preset((4, 4)), steps=2))

    def predicted(patcher):
        backbone = ComfyBackbone(patcher)
        with backbone.ready(), torch.no_grad():
            batch = backbone.collate([tiny_families.example(family)])
            noise = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(4))
            sigma = torch.tensor([3.0])
            return backbone.predict(backbone.add_noise(batch.x0, noise, sigma), sigma, batch.conditions)

    base = predicted(model)
    merged, bypassed = (
        predicted(apply_adapter(adapter, model, strength_model=0.6, mode=mode).model) for mode in ("merge", "bypass")
    )
    assert (merged - base).norm() > 1e-3 * base.norm()
    assert (merged - bypassed).norm() <= 1e-5 * base.norm()


@pytest.mark.parametrize("family", UNETS)
def test_a_stop_in_the_middle_changes_no_bit(preset, train, family):
    events = []
    config = settings_of(preset((4, 4)))
    _, whole = train(family, config, events.append)
    state = next(event.state for event in events if isinstance(event, Saved))
    assert state.step == 2
    _, resumed = train(family, config, resume=state)
    assert whole.layers.keys() == resumed.layers.keys()
    assert all(torch.equal(whole.layers[name].dense(), delta.dense()) for name, delta in resumed.layers.items())


def test_a_unet_of_one_level_trains_its_norms_and_the_run_says_what_it_lacks(comfy, preset, world):
    """The small world's."""
    from krona_train.adapters.targets import missing_parts
    from krona_train.comfyui.model import ComfyBackbone

    backbone, config = ComfyBackbone(world[0]), preset()
    targets = targets_of(backbone, config)
    has = any(map(MODEL_PARTS[SAMPLERS].has, backbone.weights()))
    assert {MODEL_PARTS[NORMS].has(t.name) for t in targets} == ({True, False} if has else {True})
    assert missing_parts(backbone, config) == (
        () if has else ("The model has no down- and upsamplers, so the rule for them trains nothing.",)
    )
    assert missing_parts(backbone, replace(config, targets=(TargetRule(),))) == ()


def test_a_branch_has_no_norms(preset, train):
    from krona_train.comfyui.model import ComfyBackbone

    with pytest.raises(ConfigError, match="A parallel branch has an attention's projections and nothing else, no down- and upsamplers"):
        targets_of(ComfyBackbone(tiny_families.build("SD15")), preset(), "reference")


def test_the_settings_go_through_a_file(preset):
    from krona_train.config import from_dict, to_dict

    config = preset(adapter="lora")
    assert from_dict(AdapterConfig, to_dict(config)) == config
    assert config.kinds == {"lora", "difference"}


def test_an_adapter_of_norms_alone_is_drawn_and_compressed(comfy):
    from krona_pack.nodes.compress import BY_ERROR, BY_FACTORS, BY_SIZE, KronaCompress
    from krona_pack.nodes.inspect import KronaInspect

    from krona_ops import Adapter, Full, Matrix

    names = [f"diffusion_model.input_blocks.{n}.0.{part}.0{end}" for n in (1, 2) for part in ("in_layers", "out_layers") for end in ("", ".bias")]
    rng = torch.Generator().manual_seed(2)
    adapter = Adapter({name: Matrix(Full(torch.randn(32, generator=rng))) for name in names})
    shown = KronaInspect.execute(adapter, "how far weights move", "block")
    table, heat, spectra, _ = shown.args
    assert "256" in table
    assert heat.shape[-1] == spectra.shape[-1] == 3
    assert heat.std() > 0.01
    [grid] = shown.ui["krona_grid"]
    assert (grid["blocks"], grid["roles"]) == (["input_blocks.1", "input_blocks.2"], ["norm"])
    assert grid["subtitle"] == "8 layers, 256 parameters"
    for how in (BY_FACTORS, BY_SIZE, BY_ERROR):
        compressed, told = KronaCompress.execute(adapter, how, 8, 4, 1, 1000, 0.1).args
        assert compressed.layers == adapter.layers
        assert "8 of them are of norms and biases, which have no factors and stay as they are" in told
