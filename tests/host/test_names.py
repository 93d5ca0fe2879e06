"""Every name that some tool writes, on every model family of the host."""

import re
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import converters
import dialects
import families
import name_table
import pytest
import text_encoders
import torch
from name_table import update

from krona_ops import Adapter, Dora, Full, Kron, Matrix
from krona_ops.errors import CoverageError, ShapeError
from krona_ops.names.places import block_of
from krona_ops.operations.strengths import parse_weights, selectors
from krona_ops.updates.rows import rows

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def resolve(comfy):
    from krona_host.names.resolution import resolve

    return resolve


@pytest.fixture(scope="module")
def counts(resolve):
    """Of every family, made once: the test of the table reads them again."""
    models, encoders = {}, {}

    def of(family):
        if family not in models:
            models[family] = dict(name_table.model_counts(family, resolve))
        return models[family]

    def of_encoder(name):
        if name not in encoders:
            encoders[name] = dict(name_table.encoder_counts(name, resolve))
        return encoders[name]

    return SimpleNamespace(model=of, encoder=of_encoder)


def test_every_family_of_the_table_is_the_hosts_and_newer_ones_are_told(comfy):
    """A newer host's families are no failure: the tables are for the host at hand."""
    import comfy.supported_models

    assert {families.class_name(family) for family in families.FAMILIES} - families.gone() <= {
        model.__name__ for model in comfy.supported_models.models
    }
    if families.missing():
        warnings.warn(f"This ComfyUI has families that tests/support/families.py lacks: {sorted(families.missing())}", stacklevel=1)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_dialect_finds_every_layer(counts, family):
    for dialect, count in counts.model(family).items():
        assert not count.wrong, (dialect, count.wrong[:5])
        assert count.pack == count.layers >= count.core
    assert counts.model(family)["diffusion_model."].layers > 0


@pytest.mark.parametrize("name", text_encoders.TEXT_ENCODERS)
def test_every_dialect_finds_every_layer_of_the_text_encoders(counts, name):
    for dialect, count in counts.encoder(name).items():
        assert not count.wrong, (dialect, count.wrong[:5])
    assert counts.encoder(name)["text_encoders."].layers > 0


def test_the_table_in_the_document_is_up_to_date(counts):
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text[text.index(name_table.BEGIN) : text.index(name_table.END) + len(name_table.END)]
    assert table == name_table.make(counts.model, counts.encoder), "run: python3 tools/host.py run tools/generate/names_table.py"


DIFFUSERS = {
    "SD3": "SD3Transformer2DModel",
    "AuraFlow": "AuraFlowTransformer2DModel",
    "PixArtSigma": "PixArtTransformer2DModel",
    "Flux": "FluxTransformer2DModel",
    "Chroma": "ChromaTransformer2DModel",
    "Flux2": "Flux2Transformer2DModel",
    "Lumina2": "Lumina2Transformer2DModel",
    "ZImage": "ZImageTransformer2DModel",
    "Krea2": "Krea2Transformer2DModel",
    "QwenImage": "QwenImageTransformer2DModel",
    "ErnieImage": "ErnieImageTransformer2DModel",
    "Ideogram4": "Ideogram4Transformer2DModel",
    "JoyImage": "JoyImageEditTransformer3DModel",
    "MiniMaxH3": "MiniMaxH3Transformer3DModel",
    "Kandinsky5": "Kandinsky5Transformer3DModel",
    "ACEStep15": "AceStepTransformer1DModel",
    "HunyuanVideo": "HunyuanVideoTransformer3DModel",
    "HunyuanVideo15": "HunyuanVideo15Transformer3DModel",
    "HunyuanImage21": "HunyuanImageTransformer2DModel",
    "WAN21_T2V": "WanTransformer3DModel",
    "CosmosT2V": "CosmosTransformer3DModel",
    "CosmosT2IPredict2": "CosmosTransformer3DModel",
    "GenmoMochi": "MochiTransformer3DModel",
    "CogVideoX_T2V": "CogVideoXTransformer3DModel",
    "LTXV": "LTXVideoTransformer3DModel",
    "LTXAV": "LTX2VideoTransformer3DModel",
    "StableAudio": "StableAudioDiTModel",
    "StableAudio3": "StableAudio3DiTModel",
    "Stable_Cascade_C": "StableCascadeUNet",
    "SD15": "UNet2DConditionModel",
    "SVD_img2vid": "UNetSpatioTemporalConditionModel",
    "LongCatImage": "LongCatImageTransformer2DModel",
    "WAN21_Vace": "WanVACETransformer3DModel",
    "WAN22_Animate": "WanAnimateTransformer3DModel",
}


PREFIXES = (
    "Hunyuan_video_I2V_lora_", "pipe.dit.", "pipe.transformer.", "module.", "_orig_mod.", "net.", "model.", "dit.", "base_model.model.",
    "transformer._orig_mod.", "module.transformer.module.", "base_model.model._orig_mod.", "lora_unet__orig_mod_", "model.model.",
    "pipe.dit.base_model.model.", "model.diffusion_model.", "diffusion_model._orig_mod.", "net.module.net.", "lycoris__orig_mod_",
)  # fmt: skip


@pytest.mark.parametrize(
    "family", ["HunyuanVideo", "WAN21_T2V", "Flux", "Lumina2", "StableAudio", "QwenImage", "LTXV", "SD3", "Segmind_Vega"]
)
def test_every_prefix_is_taken_off_every_name_of_a_family(resolve, family, comfy):
    model = families.build(family)
    shapes = dialects.layers(model.model)
    wheres = {**dialects.diffusers(family, model.model), **dialects.native(model.model)}
    expected, layers = {}, {}
    for prefix in PREFIXES:
        for name, where in wheres.items():
            spelled = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
            shape = shapes[where.key.removeprefix(dialects.ROOT).removesuffix(".weight")]
            layers[spelled] = update((where.offset[2] if where.offset else shape[0], *shape[1:]))
            expected[id(layers[spelled])] = (where.key, where.offset)
    sites = {id(delta): (site.key, site.offset) for site, delta in resolve(Adapter(layers), model).model}
    whole = {key: (0, 0, shapes[key.removeprefix(dialects.ROOT).removesuffix(".weight")][0]) for key, _ in expected.values()}
    wrong = [
        name
        for name, delta in layers.items()
        if (at := sites.get(id(delta))) is None
        or at[0] != expected[id(delta)][0]
        or (at[1] or whole[at[0]]) != (expected[id(delta)][1] or whole[at[0]])
    ]
    assert not wrong, wrong[:5]


@pytest.mark.parametrize(
    ("prefix", "encoder"),
    [
        ("module.", "clip_l"), ("pipe.text_encoder.", "clip_l"), ("pipe.text_encoder_2.", "clip_g"), ("text_encoder._orig_mod.", "clip_l"),
        ("text_encoder_2.base_model.model.", "clip_g"), ("lora_te2__orig_mod_", "clip_g"), ("module.text_encoder_2.module.", "clip_g"),
        ("net.", "clip_l"), ("base_model.model._orig_mod.", "clip_l"), ("te2.", "clip_g"),
    ],
)  # fmt: skip
def test_every_prefix_is_taken_off_a_text_encoders_names(resolve, sdxl_clip, prefix, encoder):
    name = "text_model.encoder.layers.3.mlp.fc1"
    width = {"clip_l": 768, "clip_g": 1280}[encoder]
    spelled = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
    [(site, _)] = resolve(Adapter({spelled: update((4 * width, width))}), None, sdxl_clip).clip
    assert site.key == f"{encoder}.transformer.{name}.weight"


@pytest.mark.parametrize(
    ("family", "name", "key"),
    [
        ("LTXAV", "connectors.video_connector.transformer_blocks.1.attn1.to_q", "video_embeddings_connector.transformer_1d_blocks.1.attn1.to_q"),
        ("LTXAV", "audio_connector.transformer_blocks.0.ff.net.0.proj", "audio_embeddings_connector.transformer_1d_blocks.0.ff.net.0.proj"),
        ("Anima", "text_conditioner.blocks.2.cross_attn.o_proj", "llm_adapter.blocks.2.cross_attn.o_proj"),
        ("Anima", "lycoris_text_conditioner_blocks_2_mlp_0", "llm_adapter.blocks.2.mlp.0"),
        ("ACEStep15", "condition_encoder.lyric_encoder.layers.1.self_attn.to_k", "encoder.lyric_encoder.layers.1.self_attn.k_proj"),
        ("Stable_Cascade_C", "prior.clf.1", "clf.1"),
        ("Ideogram4", "conditional_transformer.layers.0.adaln_modulation", "layers.0.adaln_modulation"),
    ],
)  # fmt: skip
def test_layers_that_diffusers_keeps_in_another_part_of_the_pipeline_are_found(resolve, comfy, family, name, key):
    model = families.build(family)
    shape = dialects.layers(model.model)[key]
    [(site, _)] = resolve(Adapter({name: update(shape)}), model).model
    assert (site.key, site.offset, site.function) == (f"{dialects.ROOT}{key}.weight", None, None)


@pytest.mark.parametrize("family", ["HunyuanVideo", "HunyuanVideo15", "HunyuanImage21", "HunyuanImage21Refiner"])
def test_the_names_of_the_original_repository_are_found_where_the_host_renames_them(resolve, comfy, family):
    """What a trainer writes that trains the checkpoint as it is published; the host's own renaming on loading is the oracle."""
    model = families.build(family)
    renamed = {}
    for path, shape in dialects.layers(model.model).items():
        original = converters.hunyuan_original(f"{path}.weight")
        assert list(model.model.model_config.process_unet_state_dict({original: 0})) == [f"{path}.weight"]
        renamed[original.removesuffix(".weight")] = (path, shape)
    names = {spell(name): where for name, where in renamed.items() for spell in (*dialects.DIALECTS.values(),)}
    adapter = Adapter({name: update(shape) for name, (_, shape) in names.items()})
    resolution = resolve(adapter, model)
    sites = {id(delta): site for site, delta in resolution.model}
    wrong = [name for name, (path, _) in names.items() if str(sites.get(id(adapter.layers[name]))) != f"{dialects.ROOT}{path}"]
    assert not wrong, wrong[:5]


_OPTIONS = {
    "PixArtSigma": r"adaln_single\.emb\.(?:aspect_ratio|resolution)_embedder",  # Alpha has them
    "StableAudio3": r".*to_local_embed",  # inpainting
    "Stable_Cascade_C": r"down_downscalers\.#\.1$",  # stage C has blocks there
}
"""Layers that diffusers' class has with its default options and the family's released models have not."""


@pytest.mark.parametrize("family", DIFFUSERS)
def test_diffusers_names_are_those_of_diffusers_own_classes(comfy, family):
    """The oracles of the other tests are converters and rules after scripts; here the library itself says what its layers are called."""
    diffusers = pytest.importorskip("diffusers")
    cls = getattr(diffusers, DIFFUSERS[family], None)
    if cls is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {DIFFUSERS[family]}")
    with torch.device("meta"):
        theirs = cls()
    pattern = re.compile(r"\d+(?=\.)")
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    wanted = {pattern.sub("#", name) for name, module in theirs.named_modules() if isinstance(module, kinds)}
    net = families.build(family).model
    ours = {pattern.sub("#", name) for name in (*dialects.diffusers(family, net), *dialects.native(net))}
    options = _OPTIONS.get(family)
    wanted = {name for name in wanted if options is None or not re.match(options, name)}
    assert wanted
    assert wanted <= ours


@pytest.fixture(scope="module")
def krea2(comfy):
    return families.build("Krea2")


@pytest.fixture(scope="module")
def sdxl(comfy):
    return families.build("SDXL")


@pytest.fixture(scope="module")
def sdxl_clip(comfy):
    return text_encoders.build("SDXL")


def test_a_fused_layer_goes_to_the_weights_that_the_model_keeps_apart(resolve, krea2):
    """ComfyUI #16234: a LoKr of one `attn_to_qkv` for Krea 2, whose k and v are narrower than its q."""
    delta = Kron(Full(torch.randn(48, 4)), Full(torch.randn(192, 1536)))  # (9216, 6144)
    resolution = resolve(Adapter({"lycoris_transformer_blocks_1_attn_to_qkv": delta}), krea2)
    keys = [site.key for site, _ in resolution.model]
    assert keys == [f"diffusion_model.blocks.1.attn.w{part}.weight" for part in "qkv"]
    assert [part.shape for _, part in resolution.model] == [(6144, 6144), (1536, 6144), (1536, 6144)]
    parts = torch.cat([part.a.dense() for _, part in resolution.model])  # cut between rows of A, so still Kronecker products
    assert torch.equal(parts, delta.a.dense())
    assert resolution.report() == "1 of 1 layers matched."


def test_rows_that_no_factor_can_be_cut_at_are_merged_by_the_host_and_run_beside_the_layer(comfy):
    from krona_host.patching.weight_adapter import KronaWeightAdapter

    whole = Kron(Full(torch.randn(4, 5)), Full(torch.randn(9, 7)), layout="shuffled")
    part = rows(whole, 12, 12)
    adapter, weight = KronaWeightAdapter.of(part), torch.randn(12, 35)
    merged = comfy.lora.calculate_weight([(0.6, adapter, 1.0, None, None)], weight.clone(), "key")
    torch.testing.assert_close(merged, weight + 0.6 * whole.dense()[12:24], rtol=0, atol=1e-5)
    x = torch.randn(3, 35)
    torch.testing.assert_close(part.apply(x), x @ whole.dense()[12:24].T, rtol=1e-4, atol=1e-4)


def test_a_fused_layer_goes_to_the_fused_weight_whatever_it_is_called(resolve, comfy):
    flux = families.build("Flux")
    adapter = Adapter({"transformer.transformer_blocks.0.attn.to_qkv": update((9216, 3072))})
    [(site, _)] = resolve(adapter, flux).model
    assert site.key == "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    assert site.offset in (None, (0, 0, 9216))


def test_narrow_keys_and_values_have_their_own_rows(resolve, comfy):
    lumina = families.build("Lumina2")
    names = {
        f"diffusion_model.layers.0.attention.to_{part}": update((height, 2304))
        for part, height in zip("qkv", (2304, 768, 768), strict=True)
    }
    sites = [site for site, _ in resolve(Adapter(names), lumina).model]
    assert [site.offset for site in sites] == [(0, 0, 2304), (0, 2304, 768), (0, 3072, 768)]


def test_a_function_of_the_host_is_kept(resolve, comfy):
    sd3 = families.build("SD3")
    [(site, _)] = resolve(Adapter({"transformer.norm_out.linear": update((3072, 1536))}), sd3).model
    assert site.key == "diffusion_model.final_layer.adaLN_modulation.1.weight"
    halves = torch.arange(4.0)[:, None]
    assert site.function(halves).flatten().tolist() == [2, 3, 0, 1]
    assert site.patch_key == (site.key, None, site.function)


def test_a_layer_whose_host_function_cannot_be_obeyed_beside_it_is_merged(resolve, comfy):
    from krona_host.patching.bypass import can_bypass

    sd3 = families.build("SD3")
    [(site, delta)] = resolve(Adapter({"transformer.norm_out.linear": update((3072, 1536))}), sd3).model
    assert not can_bypass(site, delta, sd3.model.get_submodule(site.module))


def test_a_bias_goes_by_its_layers_name(resolve, comfy):
    flux = families.build("Flux")
    adapter = Adapter({"transformer.transformer_blocks.0.attn.to_out.0.bias": Matrix(Full(torch.zeros(3072)))})
    [(site, _)] = resolve(adapter, flux).model
    assert site.key == "diffusion_model.double_blocks.0.img_attn.proj.bias"


@pytest.mark.parametrize(
    ("name", "key", "offset"),
    [
        ("transformer.blocks.0.ffn.net.0.proj.bias", "blocks.0.ffn.0.bias", None),
        ("lycoris_blocks_0_attn1_to_k.bias", "blocks.0.self_attn.k.bias", None),
        ("pipe.dit.head.head.bias", "head.head.bias", None),
    ],
)
def test_a_bias_goes_by_every_name_of_its_layer(resolve, comfy, name, key, offset):
    wan = families.build("WAN21_T2V")
    height = wan.model.get_submodule(f"diffusion_model.{key}".removesuffix(".bias")).out_features
    [(site, _)] = resolve(Adapter({name: Matrix(Full(torch.zeros(height)))}), wan).model
    assert (site.key, site.offset, site.function) == (f"diffusion_model.{key}", offset, None)


def test_a_part_of_a_fused_bias_has_its_rows_and_a_swapped_one_its_order(resolve, comfy):
    hunyuan = families.build("HunyuanVideo")
    names = {"transformer_blocks.0.attn.add_k_proj.bias": 3072, "norm_out.linear.bias": 6144}
    adapter = Adapter({name: Matrix(Full(torch.zeros(height))) for name, height in names.items()})
    (part, _), (swapped, _) = resolve(adapter, hunyuan).model
    assert (part.key, part.offset) == ("diffusion_model.double_blocks.0.txt_attn.qkv.bias", (0, 3072, 3072))
    assert swapped.key == "diffusion_model.final_layer.adaLN_modulation.1.bias"
    assert swapped.function(torch.arange(4)).tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize("order", [(1, 0), (0, 3, 1, 4, 2)])
def test_rows_in_another_order_are_merged_in_the_models_with_dora_and_without(comfy, order):
    from krona_host.names.sites import reordered
    from krona_host.patching.weight_adapter import KronaWeightAdapter

    height = 4 * len(order)
    weight, update = torch.randn(height, 6), Matrix(Full(torch.randn(height, 6)))
    blocks = weight.chunk(len(order))
    theirs = torch.cat([blocks[i] for i in order])
    for delta in (update, Dora(update, torch.rand(height, 1) + 0.5)):
        after = delta.add_to(theirs.clone(), 0.6).chunk(len(order))
        expected = torch.cat([after[order.index(block)] for block in range(len(order))])
        patch = (0.6, KronaWeightAdapter.of(delta), 1.0, None, reordered(order))
        torch.testing.assert_close(comfy.lora.calculate_weight([patch], weight.clone(), "key"), expected)


def test_the_last_block_of_sd3_has_its_modulation_of_the_text_in_its_own_order(resolve, comfy):
    """diffusers: scale before shift; ComfyUI's own map adds them as they come."""
    sd3 = families.build("SD3")
    for prefix in ("transformer.", "lycoris_", "module."):
        name = prefix + "transformer_blocks.2.norm1_context.linear".replace(".", "_" if prefix[-1] == "_" else ".")
        [(site, _)] = resolve(Adapter({name: update((3072, 1536))}), sd3).model
        assert site.key == "diffusion_model.joint_blocks.2.context_block.adaLN_modulation.1.weight"
        assert site.function(torch.arange(4)).tolist() == [2, 3, 0, 1]
    own = "diffusion_model.joint_blocks.2.context_block.adaLN_modulation.1"
    [(site, _)] = resolve(Adapter({own: update((3072, 1536))}), sd3).model
    assert site.function is None


def test_a_flattened_or_pointwise_update_takes_the_shape_of_its_weight(resolve, comfy):
    unet = families.build("SD15")
    name = "diffusion_model.input_blocks.1.1.proj_in"
    [(_, delta)] = resolve(Adapter({name: Kron(Full(torch.randn(8, 4)), Full(torch.randn(40, 80)))}), unet).model
    assert delta.shape == (320, 320, 1, 1)


def test_a_name_that_fits_two_weights_is_refused_with_both(resolve, comfy):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.diffusion_model = torch.nn.ModuleDict({"a_b": torch.nn.ModuleDict({"c": torch.nn.Linear(3, 5)})})
            self.diffusion_model["a"] = torch.nn.ModuleDict({"b_c": torch.nn.Linear(3, 5), "d": torch.nn.Linear(3, 5)})
            self.model_config = SimpleNamespace(unet_config={})

    net = SimpleNamespace(model=Net())
    adapter = Adapter({"lycoris_a_b_c": update((5, 3)), "lycoris_a_d": update((5, 3))})
    resolution = resolve(adapter, net)
    assert resolution.report() == (
        "1 of 2 layers matched; 1 unmatched: lycoris_a_b_c: its name fits both diffusion_model.a_b.c and diffusion_model.a.b_c."
    )


def test_a_name_that_only_looks_like_the_models_must_have_its_shape(resolve, sdxl):
    good = "lycoris_middle_block_1_transformer_blocks_0_attn1_to_q"
    bad = "lycoris_middle_block_1_transformer_blocks_0_attn2_to_k"
    resolution = resolve(Adapter({good: update((1280, 1280)), bad: update((1280, 768))}), sdxl)
    assert resolution.unmatched == (bad,)
    assert resolution.report() == (
        f"1 of 2 layers matched; 1 unmatched: {bad}: its update is 1280 × 768, "
        "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k is 1280 × 2048."
    )


PREFIXES = ("diffusion_model.", "", "lora_unet_", "lycoris_", "base_model.model.", "model.diffusion_model.", "transformer.")


def spelled(prefix, path):
    return prefix + (path.replace(".", "_") if prefix.endswith("_") else path)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_layer_of_another_shape_is_left_out_and_told_whatever_its_prefix(resolve, sdxl, prefix):
    block = "middle_block.1.transformer_blocks.0."
    good = [spelled(prefix, f"{block}attn{n}.to_{p}") for n, p in ((1, "q"), (1, "k"), (2, "q"))]
    bad = [spelled(prefix, f"{block}attn2.to_{p}") for p in "kv"]
    adapter = Adapter({**{n: update((1280, 1280)) for n in good}, **{n: update((1280, 768)) for n in bad}})
    resolution = resolve(adapter, sdxl)
    assert resolution.unmatched == tuple(bad)
    assert len(resolution.model) == 3
    assert "2 of them have another shape than the model's weight and are left out" in resolution.report()
    assert f"{bad[0]}: its update is 1280 × 768, diffusion_model.{block}attn2.to_k is 1280 × 2048" in resolution.report()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_adapter_that_mostly_does_not_fit_is_for_another_base_model_whatever_its_prefix(resolve, sdxl, prefix):
    block = "middle_block.1.transformer_blocks.0."
    names = [spelled(prefix, f"{block}attn2.to_{p}") for p in "qkv"]
    layers = dict(zip(names, [update((1280, 1280)), update((1280, 768)), update((1280, 768))], strict=True))
    with pytest.raises(ShapeError, match=r"2 of 3 layers have another shape .* SD1.5 .* trained for another base model"):
        resolve(Adapter(layers), sdxl)


def test_a_few_other_shapes_among_many_unknown_names_do_not_refuse_the_rest(resolve, sdxl):
    good = {f"diffusion_model.input_blocks.{b}.1.transformer_blocks.0.attn{n}.to_q": 640 for b in (4, 5) for n in (1, 2)}
    good |= {f"diffusion_model.middle_block.1.transformer_blocks.{t}.attn{n}.to_q": 1280 for t in range(10) for n in (1, 2)}
    layers = {name: update((width, width)) for name, width in good.items()}
    layers |= {f"diffusion_model.nobody.{n}": update((4, 4)) for n in range(40)}
    layers["diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"] = update((1280, 768))
    assert resolve(Adapter(layers), sdxl).report().startswith("24 of 65 layers matched; 41 unmatched")


def test_the_two_text_encoders_of_sdxl_are_told_apart(resolve, sdxl, sdxl_clip):
    path = "text_model_encoder_layers_3_self_attn_q_proj"
    widths = {"lora_te1_": 768, "lora_te2_": 1280, "lycoris_text_encoder_2_": 1280, "base_model.model.": 768}
    adapter = Adapter({prefix + path: update((width, width)) for prefix, width in widths.items()})
    resolution = resolve(adapter, sdxl, sdxl_clip)
    encoders = [site.key.split(".")[0] for site, _ in resolution.clip]
    assert encoders == ["clip_l", "clip_g", "clip_g", "clip_l"]
    assert resolution.report() == "4 of 4 layers matched (4 in the text encoder)."


def test_layers_of_a_text_encoder_without_one_say_what_to_connect(resolve, sdxl):
    text = "lora_te1_text_model_encoder_layers_3_self_attn_q_proj"
    both = Adapter(
        {"diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q": update((1280, 1280)), text: update((768, 768))}
    )
    expected = f"1 of 2 layers matched; 1 unmatched: {text}: it belongs to a text encoder; connect the CLIP."
    assert resolve(both, sdxl).report() == expected
    with pytest.raises(CoverageError) as caught:
        resolve(Adapter({text: update((768, 768))}), sdxl)
    assert str(caught.value) == (
        f"{text}: All of the adapter's 1 layers belong to a text encoder, and none is connected; "
        "its layers look like a text encoder (CLIP-L, as in SD1.5 and SDXL). Connect the CLIP."
    )


def test_nothing_found_says_which_base_model_the_layers_fit(resolve, krea2):
    adapter = Adapter(
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": update((640, 2048))},
        {"ss_base_model_version": "sdxl_base_v1-0"},
    )
    with pytest.raises(CoverageError) as caught:
        resolve(adapter, krea2)
    assert str(caught.value) == (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k: None of the adapter's 1 layers exists in this Krea2 model; "
        "the file says it was trained on sdxl_base_v1-0, its layers look like SDXL (cross attention width 2048). "
        "Load the checkpoint that the adapter was trained for."
    )


@pytest.mark.parametrize(
    ("name", "key", "offset"),
    [
        ("double_blocks.0.processor.qkv_lora1", "double_blocks.0.img_attn.qkv", None),
        ("double_blocks.0.processor.proj_lora2", "double_blocks.0.txt_attn.proj", None),
        ("single_blocks.1.processor.qkv_lora", "single_blocks.1.linear1", (0, 0, 9216)),
        ("single_blocks.1.processor.proj_lora", "single_blocks.1.linear2", None),
    ],
)
def test_the_processors_of_flux_loras_are_understood(resolve, comfy, name, key, offset):
    flux = families.build("Flux")
    height, width = {"linear1": (9216, 3072), "linear2": (3072, 15360), "qkv": (9216, 3072), "proj": (3072, 3072)}[
        key.split(".")[-1]
    ]
    [(site, _)] = resolve(Adapter({name: update((height, width))}), flux).model
    assert (site.key, site.offset) == (f"diffusion_model.{key}.weight", offset)


def every_layer(net, prefix):
    from krona_host.model.layer_shape import layer_shape

    return [f"{prefix}{path}" for path, module in net.named_modules() if layer_shape(module) is not None]


def assert_each_selector_chooses_its_block(names):
    blocks = {}
    for name in names:
        blocks.setdefault(block_of(name), set()).add(name)
    chosen = selectors(names)
    assert chosen.keys() == blocks.keys()
    for block, selector in chosen.items():
        weights = parse_weights(f"default=0, {selector}=1")
        assert {name for name in names if weights.of(name)} == blocks[block], selector


@cache
def text_layers(name):
    return every_layer(text_encoders.build(name).cond_stage_model, "")


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_selector_of_a_block_chooses_its_layers_in_every_family_and_dialect(family, comfy):
    net = families.build(family).model
    names = every_layer(net.diffusion_model, "")
    text = text_layers("SDXL")
    for spell in dialects.DIALECTS.values():
        assert_each_selector_chooses_its_block([*map(spell, names), *text])
        text = []  # once is enough: it has the same names
    if "num_res_blocks" in net.model_config.unet_config:
        theirs = dialects.diffusers(family, net)
        for spell in dialects.DIFFUSERS_UNET.values():
            assert_each_selector_chooses_its_block([spell(name) for name in theirs])


@pytest.mark.parametrize("name", text_encoders.TEXT_ENCODERS)
def test_the_selector_of_a_block_chooses_its_layers_in_every_text_encoder(name, comfy):
    assert_each_selector_chooses_its_block(text_layers(name))
