"""``python -m krona_ops``, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from krona_ops import Adapter, Full, Kron, load, save
from krona_ops.__main__ import main

NAMES = [
    f"diffusion_model.{block}.1.transformer_blocks.0.attn1.to_{p}" for block in ("input_blocks.4", "middle_block") for p in "qv"
]


def example(seed):
    g = torch.Generator().manual_seed(seed)
    return Adapter({n: Kron(Full(torch.randn(4, 3, generator=g)), Full(torch.randn(3, 6, generator=g))) for n in NAMES})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for seed, name in enumerate("ab"):
        save(example(seed), tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    """In a process of its own: what reaches stdout, stderr and the shell."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "krona_ops", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env={"PYTHONPATH": str(root), "PYTHONUTF8": "1"}, check=False
    )


def test_inspect_prints_a_table(folder):
    done = run("inspect", "a.safetensors", "b.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a.safetensors: lokr, 4 layers, 120 parameters, ")
    assert "input_blocks.4       2          60  LoKr 4×3 ⊗ 3×6" in done.stdout


def test_errors_are_one_line_on_stderr_with_status_2(folder):
    for arguments in (["inspect", "missing.safetensors"], ["convert", "a.safetensors", "-o", "b.safetensors"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
    assert "The file exists. Add --overwrite" in done.stderr
    assert run("polish", "a.safetensors").returncode == 2


def test_inspect_reads_no_tensor_until_it_is_asked_to(folder, monkeypatch, capsys):
    monkeypatch.setattr("krona_ops.__main__.load", None)
    assert main(["inspect", "a.safetensors"]) == 0
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(["inspect", "a.safetensors", "--tensors", "--by", "layer"]) == 0
    assert "eff. rank" in capsys.readouterr().out


def test_convert_scales_by_name_and_writes_other_formats(folder, capsys):
    assert main(["convert", "a.safetensors", "-o", "c.safetensors", "--strength", "2", "--weights", "q=0.5, nope=0"]) == 0
    assert '"nope" matches none' in capsys.readouterr().out
    found = load("c.safetensors")
    for name, delta in example(0).layers.items():
        assert_close(found.layers[name].dense(), delta.dense() * (1 if name.endswith("q") else 2))
    assert (
        main(["convert", "a.safetensors", "-o", "lora.safetensors", "--format", "lora", "--rank", "9", "--weights", "all"]) == 0
    )
    assert "4 layers became LoRAs, largest relative error" in capsys.readouterr().out
    assert [d.dense().shape for d in load("lora.safetensors").layers.values()] == [(12, 18)] * 4


def test_blend_adds_and_compresses(folder, capsys):
    assert main(["blend", "a.safetensors", "a.safetensors=-0.5", "-o", "half.safetensors"]) == 0
    for name, delta in load("half.safetensors").layers.items():
        assert_close(delta.dense(), 0.5 * example(0).layers[name].dense())
    assert main(["blend", "a.safetensors", "b.safetensors=0.25", "-o", "ab.safetensors", "--factors", "4x3"]) == 0
    assert "relative error" in capsys.readouterr().out
    options = ["--method", "ties", "--density", "0.5", "--factors", "4x3", "--normalise", "-o", "ties.safetensors"]
    assert main(["blend", "a.safetensors", "b.safetensors", *options]) == 0
    assert all(isinstance(delta, Kron) for delta in load("ties.safetensors").layers.values())


def test_compress_takes_factors_or_a_budget(folder, capsys):
    assert main(["compress", "a.safetensors", "-o", "c.safetensors", "--factors", "2x3", "--by-layer"]) == 0
    assert {delta.a.shape for delta in load("c.safetensors").layers.values()} == {(2, 3)}
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4 + 1
    assert main(["compress", "a.safetensors", "-o", "d.safetensors", "--parameters", "100"]) == 0
    assert load("d.safetensors").parameters <= 100
    assert main(["compress", "a.safetensors", "-o", "e.safetensors", "--error", "1e-9", "--factors", "2x3"]) == 2
    assert "cannot be met" in capsys.readouterr().err
    assert not Path("e.safetensors").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["compress", "a.safetensors", "-o", "e.safetensors", "--factors", "64"])
