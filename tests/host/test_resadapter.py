"""ResAdapter's two files on the real host's UNets, against weights that are written out in plain PyTorch.

The files are laid out as the authors' and hold random numbers, so a norm at another place, or a value taken for a change, is seen.
"""

import importlib
import re
import shutil

import pytest
import torch
from resadapter_files import norm_file
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from krona_ops import load, save
from krona_ops.__main__ import main
from krona_ops.errors import CoverageError, KronaError, ShapeError
from krona_ops.updates.absolute import waiting
from tools import tiny_models

RANK, ALPHA = 16, 8.0
KINDS = [("sd15", {"layout": "shaped"}), ("sdxl", {})]
NORM = re.compile(r"(.+\.resnets\.\d+\.norm[12])\.(weight|bias)")
SAMPLER = re.compile(r"(.+)\.(?:down|up)samplers\.0\.conv\.weight")


class Case:
    """A model of one kind, both files for it, and where in the host each tensor belongs."""

    def __init__(self, comfy, kind, options, folder, dtype=None):
        self.comfy, self.kind, self.options, self.dtype = comfy, kind, options, dtype
        self.model = self.fresh()
        names = comfy.utils.unet_to_diffusers(self.model.model.model_config.unet_config)
        self.base = {key: value.clone() for key, value in self.model.model.diffusion_model.state_dict().items()}
        own = {key: name for key, name in names.items() if name in self.base}
        self.norms = {key: name for key, name in own.items() if NORM.fullmatch(key)}
        self.samplers = {key.removesuffix(".weight"): name for key, name in own.items() if SAMPLER.fullmatch(key)}
        around = {key: self.base[name].float() for key, name in self.norms.items()}
        shapes = {key.removesuffix(".weight"): len(value) for key, value in around.items() if key.endswith(".weight")}
        self.values = norm_file(shapes, around=around)
        self.lora = self._lora()
        self.files = folder / "a.safetensors", folder / "b.safetensors"
        save_file(self.lora, self.files[0], metadata={"format": "pt"})
        save_file(self.values, self.files[1], metadata={"format": "pt"})

    def fresh(self):
        path = str(tiny_models.cached(self.kind, clip=False, vae=False, **self.options))
        model_options = {} if self.dtype is None else {"dtype": self.dtype}
        with torch.inference_mode():
            return self.comfy.sd.load_checkpoint_guess_config(
                path, output_vae=False, output_clip=False, model_options=model_options
            )[0]

    def _lora(self):
        rng = torch.Generator().manual_seed(4)
        tensors = {}
        for name, key in self.samplers.items():
            out, channels = self.base[key].shape[:2]
            flat = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{flat}.lora_down.weight"] = (torch.randn(RANK, channels, 3, 3, generator=rng) * 0.05).half()
            tensors[f"{flat}.lora_up.weight"] = (torch.randn(out, RANK, 1, 1, generator=rng) * 0.05).half()
            tensors[f"{flat}.alpha"] = torch.tensor(ALPHA).half()
        return tensors

    def expected(self, strength, *, lora=True, norms=True):
        """The weights that the files mean, in float64, by the host's name."""
        wanted = {}
        for key, name in self.norms.items() if norms else ():
            base = self.base[name].double()
            wanted[name] = base + strength * (self.values[key].double() - base)
        for sampler, name in self.samplers.items() if lora else ():
            flat = f"lora_unet_{sampler.replace('.', '_')}"
            up, down = (self.lora[f"{flat}.lora_{part}.weight"].double() for part in ("up", "down"))
            change = torch.einsum("or,rikl->oikl", up[..., 0, 0], down) * (ALPHA / RANK)
            wanted[name] = self.base[name].double() + strength * change
        return wanted

    def prediction(self, net):
        rng = torch.Generator().manual_seed(5)
        wide = 768 if self.kind == "sd15" else 2048
        x, context = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 77, wide, generator=rng)
        more = {} if self.kind == "sd15" else {"y": torch.randn(2, 2816, generator=rng)}
        with torch.inference_mode():
            return net.apply_model(x, torch.tensor([1.5, 0.4]), c_crossattn=context, **more).float()

    def reference(self, strength, **parts):
        """The prediction of a network of its own that has the expected weights in float32; nothing is patched."""
        twin = self.fresh().model
        for name, value in self.expected(strength, **parts).items():
            path, _, leaf = name.rpartition(".")
            plain = torch.nn.Parameter(value.float(), requires_grad=False)
            setattr(twin.diffusion_model.get_submodule(path), leaf, plain)
        return self.prediction(twin)

    def untouched(self):
        now = self.model.model.diffusion_model.state_dict()
        return all(torch.equal(now[key].view(torch.uint8), value.view(torch.uint8)) for key, value in self.base.items())


@pytest.fixture(scope="module", params=KINDS, ids=[kind for kind, _ in KINDS])
def case(request, comfy, tmp_path_factory):
    return Case(comfy, *request.param, tmp_path_factory.mktemp("files"))


def apply(adapter, model, strength=1.0, mode="auto"):
    from krona_host.patching.apply import apply_adapter

    return apply_adapter(adapter, model, None, strength, mode=mode)


def distance(left, right):
    return ((left.double() - right.double()).norm() / right.double().norm()).item()


def test_the_files_cover_all_norms_of_residual_blocks_and_all_samplers(case):
    applied = apply(load(case.files[0], other=case.files[1]), case.model)
    assert applied.matched == applied.layers == len(case.norms) + len(case.samplers)
    resnets = [name for name in case.base if re.search(r"\.(?:in_layers|out_layers)\.0\.(?:weight|bias)$", name)]
    assert sorted(case.norms.values()) == sorted(resnets)


@pytest.mark.parametrize("strength", [-0.5, 0.3, 0.6, 1.0, 1.4])
def test_merged_weights_are_on_the_line_between_base_and_file(case, load_net, strength):
    applied = apply(load(case.files[0], other=case.files[1]), case.model, strength, "merge").model
    net = load_net(applied)
    for name, wanted in case.expected(strength).items():
        got = net.diffusion_model.state_dict()[name]
        exact = wanted.to(got.dtype)
        assert torch.allclose(got.double(), exact.double(), rtol=2e-3 if got.dtype == torch.float16 else 3e-7, atol=1e-6), name
    load_net(case.model)
    assert case.untouched()


@pytest.fixture
def load_net(comfy):
    kept = []

    def load_one(model):
        kept.append(model)
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([model])
        return model.model

    return load_one


@pytest.mark.parametrize("mode", ["merge", "bypass"])
@pytest.mark.parametrize("parts", [{}, {"norms": False}, {"lora": False}])
def test_the_network_predicts_what_the_plain_one_does(case, load_net, mode, parts):
    lora, norms = case.files
    adapter = load(lora, other=norms) if not parts else load(norms if parts.get("lora") is False else lora)
    applied = apply(adapter, case.model, 0.7, mode).model
    got = case.prediction(load_net(applied))
    wanted, plain = case.reference(0.7, **parts), case.prediction(load_net(case.model))
    assert distance(plain, wanted) > 3e-3
    assert distance(got, wanted) < 2e-5
    assert case.untouched()


def test_a_bypassed_norm_is_that_of_plain_pytorch(case, load_net):
    applied = apply(load(case.files[1]), case.model, 0.7, "bypass").model
    net = load_net(applied).diffusion_model
    rng = torch.Generator().manual_seed(1)
    wanted = case.expected(0.7, lora=False)
    for name in sorted(case.norms.values())[::7]:
        path = name.rpartition(".")[0]
        module = net.get_submodule(path)
        x = torch.randn(2, module.num_channels, 3, 5, generator=rng)
        with torch.inference_mode():
            got = module(x)
        weight, bias = wanted[f"{path}.weight"].float(), wanted[f"{path}.bias"].float()
        assert distance(got, F.group_norm(x, module.num_groups, weight, bias, module.eps)) < 5e-7
    load_net(case.model)
    assert case.untouched()


def test_adapters_add_up_in_any_order(case, load_net):
    """Each is a change of the checkpoint's own weights, whatever is on the model, also while that is loaded."""
    adapter = load(case.files[1])
    once = apply(adapter, case.model, 0.5, "merge").model
    load_net(once)  # merged: the network holds other values now
    twice = apply(adapter, once, 0.5, "merge").model
    got = case.prediction(load_net(twice))
    assert distance(got, case.reference(1.0, lora=False)) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_types_of_weights(comfy, tmp_path, load_net, dtype):
    case = Case(comfy, "sd15", {"layout": "shaped"}, tmp_path, dtype)
    assert case.base["input_blocks.1.0.in_layers.0.weight"].dtype == dtype
    for mode in ("merge", "bypass"):
        applied = apply(load(case.files[0], other=case.files[1]), case.model, 0.6, mode).model
        net = load_net(applied)
        for name, wanted in case.expected(0.6).items() if mode == "merge" else ():
            half_a_step = torch.finfo(dtype).eps * 0.51 if dtype != torch.float32 else 3e-7
            got = net.diffusion_model.state_dict()[name].double()
            assert ((got - wanted).abs() <= half_a_step * wanted.abs() + 1e-6).all(), name
    load_net(case.model)
    assert case.untouched()


def test_a_base_in_float8_keeps_the_values_exactly(comfy, tmp_path, load_net):
    """Everything is in float8 there, norms too: merged, a value would be rounded by up to 6 %."""
    case = Case(comfy, "sd15", {"layout": "shaped"}, tmp_path, torch.float8_e4m3fn)
    name = "input_blocks.1.0.in_layers.0"
    assert case.base[f"{name}.weight"].dtype == torch.float8_e4m3fn
    applied = apply(load(case.files[0], other=case.files[1]), case.model, 0.6)
    assert applied.notes[0].startswith(f"{applied.layers} updates run beside their layers.")
    net = load_net(applied.model).diffusion_model
    x = torch.randn(2, net.get_submodule(name).num_channels, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got = net.get_submodule(name)(x)
    wanted = case.expected(0.6)
    weight, bias = (wanted[f"{name}.{end}"].float() for end in ("weight", "bias"))
    assert distance(got, F.group_norm(x, 32, weight, bias, 1e-5)) < 1e-6
    load_net(case.model)
    assert case.untouched()
    merged = apply(load(case.files[1]), case.model, 0.6, "merge")
    load_net(merged.model)
    load_net(case.model)
    assert case.untouched()


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_one_file_comes_out_that_stock_load_lora_applies_whole(case, comfy, tmp_path, load_net, caplog, strength):
    from krona_host.names.canonical import named_for_core

    pair = load(case.files[0], other=case.files[1])
    with pytest.raises(KronaError, match="Connect the MODEL to Load KronA"):
        save(named_for_core(pair, "lokr"), tmp_path / "no.safetensors")
    path = save(named_for_core(pair, "lokr", case.model), tmp_path / "one.safetensors")
    tensors = load_file(path)
    caplog.clear()
    with torch.inference_mode():
        stock, _ = comfy.sd.load_lora_for_models(case.model, None, tensors, strength, 0)
    assert "not loaded" not in caplog.text.lower()
    assert len(stock.patches) == len(case.norms) + len(case.samplers)
    theirs = case.prediction(load_net(stock))
    ours = case.prediction(load_net(apply(pair, case.model, strength, "merge").model))
    again = case.prediction(load_net(apply(load(path), case.model, strength, "merge").model))
    assert distance(theirs, ours) < 1e-6
    assert distance(again, ours) < 1e-6
    assert distance(theirs, case.reference(strength)) < 2e-5


def test_the_command_line_makes_the_same_file_from_the_checkpoint(case, comfy, tmp_path, capsys, load_net):
    checkpoint = str(tiny_models.cached(case.kind, clip=False, vae=False, **case.options))
    lora, norms = map(str, case.files)
    out = tmp_path / "out.safetensors"
    assert main(["convert", lora, "--other", norms, "-o", str(out)]) == 2
    assert "--against CHECKPOINT" in capsys.readouterr().err
    assert main(["convert", norms, "--other", lora, "--against", checkpoint, "-o", str(out), "--keep-names"]) == 0
    with torch.inference_mode():
        stock, _ = comfy.sd.load_lora_for_models(case.model, None, load_file(out), 1.0, 0)
    assert len(stock.patches) == len(case.norms) + len(case.samplers)
    assert distance(case.prediction(load_net(stock)), case.reference(1.0)) < 2e-5


def test_strength_zero_is_the_base_to_the_last_bit(case, load_net):
    before = case.prediction(load_net(case.model))
    assert torch.equal(case.prediction(load_net(apply(load(case.files[1]), case.model, 0.0).model)), before)


def test_a_schedule_takes_the_values_too(case):
    from krona_host.patching.schedule import scheduled_hooks

    hooks, report = scheduled_hooks(load(case.files[0], other=case.files[1]), [(0.0, 1.0), (0.5, 0.0)], case.model)
    [hook] = hooks.hooks
    name = next(iter(case.norms.values()))
    adapter = hook.weights[f"diffusion_model.{name}"]
    assert torch.equal(adapter.delta.dense(), case.values[next(iter(case.norms))] - case.base[name].float())
    assert report.startswith(f"{len(case.norms) + len(case.samplers)} of ")


# ----------------------------------------------------------------------------------------------------------------- nodes


@pytest.fixture
def folder(comfy, tmp_path, monkeypatch):
    """Where the loaders look."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "krona", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def run(module, name, **inputs):
    """What a node gives, called as the host calls it."""
    node = getattr(importlib.import_module(f"krona_pack.nodes.{module}"), name)
    return node.PREPARE_CLASS_CLONE(None).execute(**inputs).args


def put_files(case, folder):
    for path in case.files:
        shutil.copy(path, folder / path.name)
    return [path.name for path in case.files]


def test_the_nodes_load_apply_and_convert_both_files(case, folder, load_net):
    lora, norms = put_files(case, folder)
    applied, _, adapter, _ = run(
        "apply", "KronaLoadApply", model=case.model, file=lora, strength_model=0.8, strength_clip=1.0, other_file=norms
    )
    wanted = case.reference(0.8)
    assert distance(case.prediction(load_net(applied)), wanted) < 2e-5
    assert len(waiting(adapter.layers)) == len(case.norms)  # as a value it still waits for whatever model comes
    loaded, _ = run("load", "KronaLoad", file=norms, other_file=lora)
    other_way, _, report = run(
        "apply", "KronaApply", model=case.model, krona=loaded, strength_model=0.8, strength_clip=1.0, mode="auto"
    )
    assert report.startswith(f"{len(loaded)} of {len(loaded)} layers matched")
    assert distance(case.prediction(load_net(other_way)), wanted) < 2e-5
    against, _ = run("load", "KronaLoad", file=norms, other_file=lora, model=case.model)
    assert not waiting(against.layers)
    options = {"form": "LoRA", "factor_out": 8, "factor_in": 4, "terms": 1, "rank": RANK}
    with pytest.raises(KronaError, match="cannot be brought into another form without the model"):
        run("compress", "KronaConvert", krona=loaded, **options)
    converted, _ = run("compress", "KronaConvert", krona=loaded, **options, model=case.model)
    blended, = run(
        "blend", "KronaBlend", adapters={"krona0": loaded, "krona1": loaded}, strengths="0.5, 0.5", method="sum", normalise=False,
        density=0.5, seed=0, form="as it is", factor_out=8, factor_in=4, terms=1, rank=16, model=case.model,
    )  # fmt: skip
    for one in (against, converted, blended):
        assert distance(case.prediction(load_net(apply(one, case.model, 0.8, "merge").model)), wanted) < 3e-5
    load_net(case.model)
    assert case.untouched()


def test_load_krona_says_what_waits_for_the_model_and_where_it_goes(case, folder, monkeypatch):
    lora, norms = put_files(case, folder)
    texts = []
    module = importlib.import_module("krona_pack.nodes.load")
    monkeypatch.setattr(module, "tell", lambda text, node: texts.append(text))
    for inputs in ({"file": norms}, {"file": lora}, {"file": lora, "other_file": norms}, {"file": lora, "other_file": norms, "model": case.model}):
        run("load", "KronaLoad", **inputs)
    waits = f"{len(case.norms)} norms and biases are values as they end; they become changes against a model. Connect the MODEL to"
    assert [waits in text for text in texts] == [True, False, True, False]
    assert ["one of the two files of a ResAdapter" in text for text in texts] == [True, True, False, False]


def test_a_graph_from_before_has_no_second_file_and_the_new_inputs_are_last(folder):
    for module, name, names in (
        ("load", "KronaLoad", ["file", "scale", "other_file", "model"]),
        ("apply", "KronaLoadApply", ["model", "clip", "file", "strength_model", "strength_clip", "scale", "other_file"]),
    ):
        node = getattr(importlib.import_module(f"krona_pack.nodes.{module}"), name)
        schema = node.define_schema()
        assert [one.id for one in schema.inputs] == names
        added = [one for one in schema.inputs if one.id in ("other_file",)]
        assert all(one.optional and one.default == "(none)" for one in added)


def test_two_files_that_are_no_pair_are_an_error_of_the_node(case, folder):
    lora, _ = put_files(case, folder)
    with pytest.raises(KronaError, match="Both files are the LoRA of the down- and upsamplers"):
        run("load", "KronaLoad", file=lora, other_file=lora)
    with pytest.raises(KronaError, match="There is no such adapter file"):
        run("load", "KronaLoad", file=lora, other_file="gone.safetensors")


# ---------------------------------------------------------------------------------------------------------- wrong models


def test_a_transformer_is_no_such_unet(case, comfy):
    import families

    model = families.build("Flux")
    for file in case.files:
        with pytest.raises(CoverageError, match=r"The file is a ResAdapter's, for a UNet of .* and this flux1 model is no such UNet"):
            apply(load(file), model)


def test_files_for_another_base_are_refused(comfy, tmp_path):
    sd15 = Case(comfy, "sd15", {"layout": "shaped"}, tmp_path)
    (tmp_path / "xl").mkdir()
    sdxl = Case(comfy, "sdxl", {}, tmp_path / "xl")
    for files in ({"path": sdxl.files[0], "other": sdxl.files[1]}, {"path": sdxl.files[0]}, {"path": sdxl.files[1]}):
        with pytest.raises(KronaError, match="a UNet of 3 levels, as SDXL has, and this sd_v1 model's UNet has 2") as caught:
            apply(load(**files), sd15.model)
        assert "Load the SDXL model that it was made for, or the file for this model." in str(caught.value)


def test_other_sizes_are_refused_with_both(comfy, tmp_path):
    case = Case(comfy, "sd15", {"layout": "shaped"}, tmp_path)
    wrong = {key: value.repeat(2) if key.startswith("mid_block") else value for key, value in case.values.items()}
    save_file(wrong, tmp_path / "wide.safetensors")
    with pytest.raises(ShapeError, match=r"ResAdapter's for another base model: its update is 640, .*middle_block.0.in_layers.0 is 320"):
        apply(load(tmp_path / "wide.safetensors"), case.model)


def test_a_block_that_the_model_lacks_is_refused(comfy, tmp_path):
    case = Case(comfy, "sd15", {"layout": "shaped"}, tmp_path)
    more = {key.replace("resnets.0", "resnets.7"): value.clone() for key, value in case.values.items() if "mid_block.resnets.0" in key}
    save_file(case.values | more, tmp_path / "more.safetensors")
    with pytest.raises(CoverageError, match=f"4 of its {len(case.values) + 4} layers are not in this sd_v1 model"):
        apply(load(tmp_path / "more.safetensors"), case.model)
    assert not waiting(load(case.files[0]).layers)
