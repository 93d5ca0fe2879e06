"""A run's folder, and the picture of its loss."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_loop import config, examples

from krona_ops import load
from krona_train import AdapterConfig, OptimizerConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import PreviewConfig, ValidationConfig, from_yaml
from krona_train.drawing.plot import loss_curve, smoothed
from krona_train.run.events import Stepped, Validated, to_all
from krona_train.run.folder import Run
from krona_train.run.metadata import describe


def test_a_run_folder_holds_settings_metrics_and_result(tmp_path):
    settings = config(steps=5)
    metadata = describe(settings, name="robot", family="toy", captions=["a", "b", "b"], resolution=64)
    run = Run(tmp_path / "run", settings, metadata)
    adapter = fit(ToyBackbone(), examples(), settings, run)
    assert from_yaml((run.folder / "run.yaml").read_text()) == settings
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["event"] for row in rows] == ["started", *["step"] * 5, "ended"]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 5]
    assert [row["loss"] for row in rows[1:-1]] == run.losses
    saved = load(run.adapter_file)
    assert run.adapter_file == run.folder / "adapter.safetensors"
    assert dict(saved.layers) == dict(adapter.layers)
    assert saved.metadata["ss_steps"] == "5"
    assert saved.metadata["modelspec.trigger_phrase"] == "b"
    assert json.loads(saved.metadata["ss_tag_frequency"]) == {"robot": {"b": 2, "a": 1}}


def test_previews_validations_and_the_best_adapter_are_kept(tmp_path):
    settings = config(
        steps=7,
        validation=ValidationConfig(every=3, pictures=1),
        preview=PreviewConfig(every=4),
        optimizer=OptimizerConfig(learning_rate=5e-2),
    )
    run, events = Run(tmp_path / "run", settings, {"krona.layout": "kron"}), []

    def draw(adapter):
        return [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]

    fit(ToyBackbone(), examples(), settings, to_all(run, events.append), preview=draw)
    assert sorted(p.name for p in (run.folder / "previews").iterdir()) == [
        f"step-{step:06}-{number}.png" for step in (0, 4, 7) for number in (1, 2)
    ]
    assert Image.open(run.previews[1][1][1]).getpixel((0, 0)) == (0, 0, 255)
    validated = [e for e in events if isinstance(e, Validated)]
    assert run.validations == [(e.step, e.loss) for e in validated]
    best = [e for e in validated if e.is_best][-1]
    kept = load(run.folder / "adapter-best.safetensors")
    assert dict(kept.layers) == dict(best.adapter.layers)
    assert kept.metadata["ss_steps"] == str(best.step)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["event"] for row in rows].count("preview") == 3


def test_a_lora_is_saved_as_one(tmp_path):
    settings = config(adapter=AdapterConfig(kind="lora", rank=3, alpha=6.0))
    run = Run(tmp_path / "run", settings, {})
    adapter = fit(ToyBackbone(), examples(), settings, run)
    saved = load(run.adapter_file)
    assert saved.layers.keys() == adapter.layers.keys()
    for name, delta in adapter.layers.items():
        assert torch.allclose(saved.layers[name].dense(), delta.dense(), rtol=1e-5, atol=1e-9)
        assert delta.dense().any()
        assert torch.linalg.matrix_rank(delta.dense()) <= 3


def test_a_stopped_run_keeps_the_factors_under_a_name_that_says_so(tmp_path):
    settings = config(steps=9)
    run = Run(tmp_path / "run", settings, {})

    def stop(event):
        run(event)
        if isinstance(event, Stepped) and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ToyBackbone(), examples(), settings, stop)
    assert run.adapter_file.name == "adapter-stopped-at-000004.safetensors"
    assert dict(load(run.adapter_file).layers) == dict(fit(ToyBackbone(), examples(), config(steps=4)).layers)
    assert not (run.folder / "adapter.safetensors").exists()


def test_a_run_that_stops_before_its_first_step_keeps_nothing(tmp_path):
    run = Run(tmp_path / "run", config(), {})

    def stop(event):
        run(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ToyBackbone(), examples(), config(), stop)
    assert run.adapter_file is None


@pytest.mark.parametrize("count", [0, 1, 2, 7, 400])
def test_the_loss_curve_is_drawn_for_any_number_of_steps(count):
    losses = (1 + torch.rand(count, generator=torch.Generator().manual_seed(0))).tolist()
    picture = loss_curve(losses, "title", (400, 300))
    assert picture.size == (400, 300)
    colored = np.ptp(np.asarray(picture, dtype=int), axis=2) > 60
    assert colored.any() == (count > 0)


def test_the_running_mean_is_the_mean_of_its_window():
    values = np.random.default_rng(0).random(40)
    expected = [values[max(0, n - 2) : n + 3].mean() for n in range(40)]
    assert np.allclose(smoothed(values), expected)
    assert np.allclose(smoothed(np.full(5, 3.0)), 3.0)
