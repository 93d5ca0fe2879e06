"""Adapters as material, through the real server: every node of that family, the files it writes, the pictures that come out."""

import io
import json

import graphs
import numpy as np
import pytest
import torch
from graphs import CHECKPOINT, link, node
from PIL import Image

from krona_ops import Adapter, Full, Kron, LowRank, Matrix, load, save
from tools.comfyui.server import PromptRejected, RunFailed

SPECS = {"a.safetensors": 1, "b.safetensors": 2, "c.safetensors": 3}
BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
LAYERS = {f"{BLOCK}.attn{n}.to_{p}": (320, 768 if n == 2 and p in "kv" else 320) for n in (1, 2) for p in ("q", "k", "v")}


def adapter(seed, names=str):
    rng = torch.Generator().manual_seed(seed)
    layers = {}
    for name, (out, width) in LAYERS.items():
        a = torch.randn(8, 4, generator=rng)
        b = torch.randn(out // 8, width // 4, generator=rng) * 0.2 / width**0.5
        layers[names(name)] = Kron(Full(a), Full(b))
    return Adapter(layers, {"ss_base_model_version": "sd_v1"})


@pytest.fixture(scope="module")
def files(server):
    folder = server.base / "models" / "krona" / "material"
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in SPECS.items():
        save(adapter(seed), folder / name)
    save(adapter(2, lambda n: n.replace("diffusion_model.", "lora_unet_").replace(".", "_")), folder / "b-kohya.safetensors")
    return {name.removesuffix(".safetensors"): f"material/{name}" for name in [*SPECS, "b-kohya.safetensors"]}


def dense(value):
    return {name: delta.dense().double() for name, delta in value.layers.items()}


def assert_same(updates, expected, tolerance=1e-5):
    assert updates.keys() == expected.keys()
    for name, value in expected.items():
        assert (updates[name] - value).norm() <= tolerance * value.norm(), name


def saved(server, graph, krona, form="form"):
    """Save an adapter of a graph and load the file here."""
    result = server.client.run({**graph, "99": graphs.save(krona, "krona/test/out")})
    [file] = result.outputs["99"]["files"]
    return load(server.base / "output" / file["subfolder"] / file["filename"]), result


def picture(server, graph, model):
    result = server.client.run({"1": graphs.checkpoint(CHECKPOINT), **graph, **graphs.render(model, start=200)})
    [file] = result.files("204")
    return np.asarray(Image.open(io.BytesIO(server.client.view(**file))), dtype=np.int16)


def text(server, graph, source):
    result = server.client.run({**graph, "98": node("PreviewAny", source=source)})
    return result.outputs["98"]["text"][0]


BLEND = {
    "strengths": "", "method": "sum", "normalise": False, "density": 0.5, "seed": 0, "form": "as it is", "factor_out": 64,
    "factor_in": 4, "terms": 1, "rank": 32,
}  # fmt: skip


def blend(*sources, **changes):
    sockets = {f"adapters.krona{n}": source for n, source in enumerate(sources)}
    return node("KronaBlend", **sockets, **{**BLEND, **changes})


def loads(files, *names):
    return {str(n): graphs.load(files[name]) for n, name in enumerate(names, 10)}


def test_scaling_is_exact(server, files):
    graph = {**loads(files, "a"), "2": node("KronaScale", krona=link(10), strength=-0.5)}
    result, _ = saved(server, graph, link(2))
    assert_same(dense(result), {n: -0.5 * d for n, d in dense(adapter(1)).items()}, 1e-7)


def test_weights_act_by_name_and_say_what_matched_nothing(server, files):
    weights = node("KronaWeights", preset="cross attention only", rules="q=0.5, double_blocks.3=0")
    graph = {**loads(files, "a"), "2": weights, "3": node("KronaScale", krona=link(10), strength=2.0, weights=link(2))}
    result, _ = saved(server, graph, link(3))
    expected = {n: d * (2.0 if ".to_q" not in n else 1.0) for n, d in dense(adapter(1)).items() if "attn2" in n or ".to_q" in n}
    assert_same(dense(result), expected, 1e-7)
    report = text(server, graph, link(3, 1))
    assert "4 of 6 layers act." in report
    assert '"double_blocks.3" matches none' in report


def test_wrong_weights_are_refused_before_anything_runs(server, files):
    graph = {"2": node("KronaWeights", preset="all", rules="q=much"), "98": node("PreviewAny", source=link(2))}
    with pytest.raises(PromptRejected, match=r'"q" has the strength "much"'):
        server.client.post(graph)


def test_a_blend_of_three_is_their_sum_and_draws_what_applying_them_in_a_row_draws(server, files):
    graph = {**loads(files, "a", "b", "c"), "2": blend(link(10), link(11), link(12), strengths="1, 0.5, -0.3")}
    merged = picture(server, {**graph, "3": graphs.apply(link(2))}, link(3))
    row = {
        "4": graphs.apply(link(10), strength=1.0),
        "5": graphs.apply(link(11), model=link(4), strength=0.5),
        "6": graphs.apply(link(12), model=link(5), strength=-0.3),
    }
    in_a_row = picture(server, {**graph, **row}, link(6))
    base = picture(server, {}, link(1))
    assert np.abs(merged - in_a_row).max() <= 1
    assert np.abs(merged - base).max() > 3


def test_a_blend_can_be_brought_into_one_product_a_lora_or_dense_weights(server, files):
    expected = {n: d + e for (n, d), e in zip(dense(adapter(1)).items(), dense(adapter(2)).values(), strict=True)}
    for form, kind, tolerance in (("Kronecker product", Kron, 1.0), ("LoRA", Matrix, 0.99), ("dense", Matrix, 1e-6)):
        graph = {**loads(files, "a", "b"), "2": blend(link(10), link(11), form=form, factor_out=8, factor_in=4, rank=64)}
        blended, _ = saved(server, graph, link(2))
        assert {type(d) for d in blended.layers.values()} == {kind}
        assert_same(dense(blended), expected, tolerance)


def test_with_a_model_a_blend_knows_layers_by_any_name(server, files):
    graph = {"1": graphs.checkpoint(CHECKPOINT), **loads(files, "b", "b-kohya")}
    graph["2"] = blend(link(10), link(11), model=link(1), form="dense")
    blended, _ = saved(server, graph, link(2))
    assert_same(dense(blended), {n: 2 * d for n, d in dense(adapter(2)).items()})


def test_too_many_strengths_and_words_are_errors(server, files):
    for strengths, message in (("1, 2, 3", "There are 3 strengths for 2 adapters"), ("1, x", "are no list of numbers")):
        graph = {**loads(files, "a", "b"), "2": blend(link(10), link(11), strengths=strengths), "99": graphs.save(link(2))}
        with pytest.raises(RunFailed, match=message):
            server.client.run(graph)


COMPRESS = {"factor_out": 8, "factor_in": 4, "terms": 1, "parameters": 10_000, "error": 0.5}


def test_compressing_to_its_own_factors_loses_nothing_and_a_budget_is_kept(server, files):
    own = {**loads(files, "a"), "2": node("KronaCompress", krona=link(10), how="to these factors", **COMPRESS)}
    smaller, _ = saved(server, own, link(2))
    assert_same(dense(smaller), dense(adapter(1)), 1e-5)
    assert "6 layers" in text(server, own, link(2, 1))
    budget = {**loads(files, "a"), "2": node("KronaCompress", krona=link(10), how="to a number of parameters", **COMPRESS)}
    smaller, _ = saved(server, budget, link(2))
    assert 0 < smaller.parameters <= 10_000


def test_converting_to_a_lora_of_full_rank_is_exact_and_core_draws_the_same_picture(server, files):
    form = {"form": "LoRA", "factor_out": 64, "factor_in": 4, "terms": 1, "rank": 320}
    graph = {**loads(files, "a"), "2": node("KronaConvert", krona=link(10), **form)}
    converted, result = saved(server, graph, link(2))
    assert all(isinstance(d, Matrix) and isinstance(d.factor, LowRank) for d in converted.layers.values())
    assert_same(dense(converted), dense(adapter(1)), 1e-5)
    [file] = result.outputs["99"]["files"]
    source = server.base / "output" / file["subfolder"] / file["filename"]
    target = server.base / "models" / "loras" / "converted.safetensors"
    target.write_bytes(source.read_bytes())
    ours = picture(server, {"3": graphs.load_apply(files["a"])}, link(3))
    core = picture(server, {"3": graphs.load_lora("converted.safetensors")}, link(3))
    assert np.abs(ours - core).max() <= 1


def test_extracting_what_was_applied_gives_it_back(server, files):
    form = {"form": "Kronecker product", "factor_out": 8, "factor_in": 4, "terms": 1, "rank": 32}
    graph = {
        "1": graphs.checkpoint(CHECKPOINT),
        **loads(files, "a"),
        "2": graphs.apply(link(10), strength=0.7, mode="merge"),
        "3": node("KronaExtract", tuned=link(2), base=link(1), **form),
    }
    extracted, _ = saved(server, graph, link(3))
    assert_same(dense(extracted), {n: 0.7 * d for n, d in dense(adapter(1)).items()}, 1e-3)
    assert extracted.metadata["ss_base_model_version"] == "sd_v1"


def test_a_stack_grows_and_sums_and_cores_nodes_take_the_sum(server, files):
    first = node("KronaStack", file=files["a"], strength_model=0.5, strength_clip=1.0)
    second = node("KronaStack", file=files["b"], strength_model=-1.0, strength_clip=1.0, lora_stack=link(2), krona=link(10))
    graph = {**loads(files, "c"), "2": first, "3": second}
    expected = {
        n: 0.5 * a - b + c
        for n, a, b, c in zip(LAYERS, *(dense(adapter(s)).values() for s in (1, 2, 3)), strict=True)
    }  # fmt: skip
    core = {"4": node("SaveLoRA", lora=link(3, 2), prefix="loras/stack")}
    server.client.run({**graph, **core})
    [file] = (server.base / "output" / "loras").glob("stack*.safetensors")
    assert_same(dense(load(file)), expected, 1e-5)
    file.unlink()


def test_a_lora_model_of_core_comes_in(server, files):
    graph = {
        **loads(files, "a"),
        "2": node("KronaStack", file="(none)", strength_model=1.0, strength_clip=1.0, krona=link(10)),
        "3": node("KronaStack", file="(none)", strength_model=1.0, strength_clip=1.0, lora_model=link(2, 2)),
    }
    result, _ = saved(server, graph, link(3, 1))
    assert_same(dense(result), dense(adapter(1)), 1e-7)


def test_an_empty_stack_is_an_error(server, files):
    graph = {"2": node("KronaStack", file="(none)", strength_model=1.0, strength_clip=1.0), "99": graphs.save(link(2, 1))}
    with pytest.raises(RunFailed, match="There is nothing to stack"):
        server.client.run(graph)


def test_a_schedule_reaches_the_sampler(server, files):
    def scheduled(start, end):
        inputs = {"strength_start": start, "strength_end": end, "start": 0.0, "end": 1.0, "curve": "linear", "keyframes": 4}
        graph = {
            "1": graphs.checkpoint(CHECKPOINT),
            **loads(files, "a"),
            "2": node("KronaSchedule", krona=link(10), model=link(1), **inputs),
            "3": node("CLIPTextEncode", clip=link(1, 1), text="a photo"),
            "4": node("ConditioningSetProperties", cond_NEW=link(3), strength=1.0, set_cond_area="default", hooks=link(2)),
        }
        sampled = graphs.render(link(1), start=200)
        sampled["202"]["inputs"] |= {"positive": link(4), "negative": link(4), "steps": 4}
        result = server.client.run({**graph, **sampled})
        [file] = result.files("204")
        return np.asarray(Image.open(io.BytesIO(server.client.view(**file))), dtype=np.int16)

    nothing, half, whole, fading = scheduled(0.0, 0.0), scheduled(0.5, 0.5), scheduled(1.0, 1.0), scheduled(1.0, 0.0)
    assert np.abs(nothing - whole).max() > 3
    assert np.abs(nothing - half).max() > 3
    assert np.abs(whole - half).max() > 3
    assert not np.array_equal(whole, fading)  # the first of four steps decides nearly all with a random model


def test_the_file_tells_how_it_was_made(server, files):
    graph = {**loads(files, "a", "b"), "2": blend(link(10), link(11), form="Kronecker product", factor_out=8)}
    blended, _ = saved(server, graph, link(2))
    assert json.loads(blended.metadata["prompt"])["2"]["class_type"] == "KronaBlend"


def test_inspecting_draws_and_tells(server, files):
    graph = {**loads(files, "a"), "2": node("KronaInspect", krona=link(10), measure="how far weights move", table_by="layer")}
    shown = {"3": node("PreviewImage", images=link(2, 1)), "4": node("PreviewImage", images=link(2, 2))}
    table = text(server, {**graph, **shown}, link(2))
    for name in LAYERS:
        assert name in table
    assert "8×4 ⊗ 40×192" in table
    result = server.client.run({**graph, **shown})
    [grid] = result.outputs["2"]["krona_grid"]
    assert sorted(layer["name"] for layer in grid["layers"]) == sorted(LAYERS)
    assert [len(row) for row in grid["values"]] == [len(grid["roles"])] * len(grid["blocks"])
    for number in ("3", "4"):
        [file] = result.files(number)
        picture = np.asarray(Image.open(io.BytesIO(server.client.view(**file))), dtype=int)
        assert picture.shape[0] > 200
        assert np.ptp(picture, axis=2).max() > 60


@pytest.mark.parametrize(
    ("kind", "needs_model"),
    [("kohya / LyCORIS LoKr", False), ("LoRA (kohya)", False), ("LoRA (diffusers)", True)],
)
def test_every_format_of_the_menu_can_be_loaded_again_and_draws_the_same(server, files, kind, needs_model):
    graph = {"1": graphs.checkpoint(CHECKPOINT), **loads(files, "a")}
    inputs = {
        "krona": link(10),
        "filename_prefix": "krona/formats/x",
        "format": kind,
        "rank": 320,
        "trigger_words": "sks robot",
    }
    if needs_model:
        with pytest.raises(RunFailed, match="Connect the model that the adapter is for"):
            server.client.run({**graph, "99": node("KronaSave", **inputs)})
        inputs["model"] = link(1)
    result = server.client.run({**graph, "99": node("KronaSave", **inputs)})
    [file] = result.outputs["99"]["files"]
    name = f"formats/{file['filename']}"
    assert (
        load(server.base / "output" / file["subfolder"] / file["filename"]).metadata["modelspec.trigger_phrase"] == "sks robot"
    )
    again = picture(server, {"3": graphs.load_apply(name)}, link(3))
    first = picture(server, {"3": graphs.load_apply(files["a"])}, link(3))
    assert np.abs(again - first).max() <= 1


def test_a_thumbnail_travels_in_the_file(server, files):
    graph = {**loads(files, "a"), "5": node("EmptyImage", width=640, height=480, batch_size=1, color=0xFF8000)}
    inputs = {"krona": link(10), "filename_prefix": "krona/formats/thumb", "thumbnail": link(5)}
    result = server.client.run({**graph, "99": node("KronaSave", **inputs)})
    [file] = result.outputs["99"]["files"]
    thumbnail = load(server.base / "output" / file["subfolder"] / file["filename"]).metadata["modelspec.thumbnail"]
    assert thumbnail.startswith("data:image/jpeg;base64,")
    assert len(thumbnail) < 60_000
