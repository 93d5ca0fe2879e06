"""What a stranger adds in one file each, a kind of layer, an objective with a second adapter, a format, has all that the pack's own have."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from extension import plain_text_names, train
from extension.critic import CRITIC
from torch.testing import assert_close

from krona_ops import Adapter, load, save
from krona_ops.errors import ConfigError
from krona_ops.formats import registry
from krona_train import fit
from krona_train.adapters import layers
from krona_train.adapters.attach import attached
from krona_train.adapters.layers import layer_type_of
from krona_train.adapters.layers.protocol import BIAS, base_of
from krona_train.adapters.targets import targets_of
from krona_train.adapters.trainee import build_layers
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import DenoisingConfig, from_dict, to_dict
from krona_train.objectives import kinds
from krona_train.run.events import Ended, Started, Stepped
from krona_train.run.layout import METRICS
from krona_train.run.metrics import read
from krona_train.run.state import TrainState, newest

SCRIPT = Path(train.__file__)


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setattr(layers, "LAYERS", layers.LAYERS)
    monkeypatch.setattr(kinds, "OBJECTIVES", kinds.OBJECTIVES)
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, plain_text_names))
    train.add()


def state_of(folder):
    return TrainState.load(newest(folder))


def test_a_killed_training_goes_on_to_the_same_result_bit_for_bit(added, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = train.train(whole)
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run(
        [sys.executable, str(SCRIPT), str(killed), "4"], check=False, timeout=300, capture_output=True, env=there
    )
    assert died.returncode == -9, died.stderr.decode()
    assert state_of(killed).step == 4
    assert train.train(killed) == result
    ours, theirs = state_of(killed), state_of(whole)
    assert ours.numbers == theirs.numbers
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)
    assert f"adapters.{CRITIC}.factors.attn2.to_q.value" in theirs.tensors
    assert theirs.numbers["objective"] == {"seen": 2 * train.STEPS}
    named = [(row["event"], row["others"]) for row in read(whole / METRICS) if "others" in row]
    assert named == [("started", [CRITIC]), ("ended", [CRITIC])]
    for name in ("adapter.safetensors", f"adapter-of-{CRITIC}.safetensors"):
        assert load(whole / name) == load(killed / name)
    assert dict(load(whole / "adapter.safetensors").layers) == dict(result.layers)


def test_every_kind_of_layer_and_both_adapters_have_moved(added):
    events = []
    result = fit(ToyBackbone(), train.examples(), train.config(), events.append)
    [started] = [event for event in events if isinstance(event, Started)]
    assert "The critic learns too." in started.notes
    [ended] = [event for event in events if isinstance(event, Ended)]
    steps = [event for event in events if isinstance(event, Stepped)]
    assert all(event.losses.keys() == {CRITIC} and event.losses[CRITIC] > 0 for event in steps)
    assert ended.adapter == result
    assert set(result.layers) == {
        *(f"attn{n}.to_{part}" for n in (1, 2) for part in "qkv"),
        *("attn1.to_out.0", "mlp.0.bias", "proj_out", "proj_out.bias", "mlp.2", "mlp.2.bias"),
    }
    assert set(ended.others) == {CRITIC}
    assert set(ended.others[CRITIC].layers) == {"attn2.to_q", "attn2.to_out.0", "attn2.to_out.0.bias"}
    for adapter in (result, ended.others[CRITIC]):
        assert all(delta.dense().abs().max() > 0 for delta in adapter.layers.values())


def test_the_result_merged_into_the_weights_is_what_was_trained(added):
    """By its weight, which never went through the trainer's own forward pass."""
    result, backbone, settings = fit(ToyBackbone(), train.examples(), train.config()), ToyBackbone(), train.config().adapter
    targets = targets_of(backbone, settings)

    def base(name):
        return base_of(backbone.module(name.removesuffix(BIAS)), name)

    built = build_layers(targets, settings, 0, backbone.device, base)
    for target in targets:
        form = layer_type_of(target, settings)
        built[target.name].begin_at(form.as_it_is(result.layers[target.name], target, settings))
    rng = torch.Generator().manual_seed(2)
    x, sigma = torch.randn(3, 4, 6, 5, generator=rng), torch.rand(3, generator=rng)
    context = torch.randn(3, 7, 24, generator=rng)
    with backbone.ready(), torch.no_grad():
        with attached(backbone, built):
            trained = backbone.net(x, sigma, context)
        for name, delta in result.layers.items():
            parameter = backbone.net.get_parameter(name if name.endswith(BIAS) else f"{name}.weight")
            parameter += delta.dense()
        assert_close(backbone.net(x, sigma, context), trained, rtol=1e-4, atol=1e-5)


def test_a_format_is_written_and_read_by_its_own_names(added, tmp_path):
    result = fit(ToyBackbone(), train.examples(), train.config())
    outer = Adapter({name: delta for name, delta in result.layers.items() if name == "attn1.to_q"})
    save(outer, tmp_path / "outer.safetensors", "outer")
    assert load(tmp_path / "outer.safetensors").layers == outer.layers
    with pytest.raises(ConfigError) as error:
        save(outer, tmp_path / "no.safetensors", "no such")
    assert "or outer or" in error.value.expected


def test_settings_name_an_added_objective_by_its_kind(added):
    settings = train.config()
    written = to_dict(settings)
    assert written["objective"] == {"kind": "critic", "pull": 0.25}
    assert from_dict(type(settings), written) == settings
    assert from_dict(type(settings), {}).objective == DenoisingConfig()


def test_what_nobody_has_added_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match=r"objective\.kind is 'critic'; it must be one of denoising"):
        from_dict(type(train.config()), {"objective": {"kind": "critic"}})
    with pytest.raises(ConfigError, match=r"no objective critic.*Choose one of denoising"):
        fit(ToyBackbone(), train.examples(), train.config())
    with pytest.raises(ConfigError, match=r"no kind of layer .*outer.*Choose one of kronecker, lora, sum, difference, full"):
        fit(ToyBackbone(), train.examples(), replace(train.config(), objective=DenoisingConfig()))
