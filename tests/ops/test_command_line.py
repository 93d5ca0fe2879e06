"""``python -m krona_ops``, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
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
    converted = load("c.safetensors")
    for name, delta in example(0).layers.items():
        assert_close(converted.layers[name].dense(), delta.dense() * (1 if name.endswith("q") else 2))
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


def locon(core=(4, 4)):
    g = torch.Generator().manual_seed(0)
    return {
        "x.lora_down.weight": torch.randn(core[1], 10, 1, 1, generator=g),
        "x.lora_mid.weight": torch.randn(*core, 3, 2, generator=g),
        "x.lora_up.weight": torch.randn(12, core[0], 1, 1, generator=g),
        "x.alpha": torch.tensor(2.0),
    }


@pytest.mark.parametrize("rank", [None, 16, 5])
@pytest.mark.parametrize("core", [(4, 4), (3, 5), (5, 3)])
def test_a_locon_with_a_core_becomes_a_lora_exactly(rank, core, folder, capsys):
    save_file(locon(core), "locon.safetensors")
    more = ["--rank", str(rank)] if rank else []
    assert main(["convert", "locon.safetensors", "-o", "out.safetensors", "--keep-names", "--format", "lora", *more]) == 0
    assert_close(
        load("out.safetensors").layers["x"].dense(), load("locon.safetensors").layers["x"].dense(), rtol=1e-4, atol=1e-4
    )
    assert "became LoRAs" not in capsys.readouterr().out


def test_a_core_of_a_higher_rank_than_asked_for_is_cut_and_the_error_told(folder, capsys):
    save_file(locon(), "locon.safetensors")
    assert (
        main(["convert", "locon.safetensors", "-o", "out.safetensors", "--keep-names", "--format", "lora", "--rank", "2"]) == 0
    )
    assert "1 layers became LoRAs, largest relative error 0." in capsys.readouterr().out
    assert load("out.safetensors").layers["x"].factor.down.shape[0] == 2


VECTORS = {
    "n.diff": torch.ones(5),
    "n.diff_b": torch.ones(5),
    "x.lora_down.weight": torch.ones(4, 7),
    "x.lora_up.weight": torch.ones(6, 4),
}


def test_norms_and_biases_say_what_helps_and_it_does(folder, capsys):
    save_file(VECTORS, "norms.safetensors")
    convert = [
        "convert",
        "norms.safetensors",
        "--rank",
        "16",
        "--keep-names",
        "--overwrite",
        "-o",
        "out.safetensors",
        "--format",
    ]
    assert main([*convert, "lora"]) == 2
    message = capsys.readouterr().err
    assert (
        "n: The LoRA files of diffusers and PEFT hold matrices only, and this is the update of a norm or a bias and 1 more"
        in message
    )
    assert all(text in message for text in ("kohya-lora", "--leave-out-vectors"))
    assert "rank" not in message
    assert main([*convert, "kohya-lora"]) == 0
    assert len(load("out.safetensors")) == 3
    assert main([*convert, "lora", "--leave-out-vectors"]) == 0
    assert "2 norms and biases were left out: n, n.bias" in capsys.readouterr().out
    assert set(load("out.safetensors").layers) == {"x"}


@pytest.mark.parametrize("chain", [1, 2])
def test_overwriting_a_link_replaces_the_file_that_it_leads_to(chain, folder):
    (folder / "elsewhere").mkdir()
    target = folder / "elsewhere" / "real.safetensors"
    target.write_bytes((folder / "b.safetensors").read_bytes())
    links = [folder / f"link-{n}.safetensors" for n in range(chain)]
    for link, end in zip(links, [*links[1:], Path("elsewhere/real.safetensors")], strict=True):
        link.symlink_to(end)
    assert main(["convert", "a.safetensors", "-o", str(links[0])]) == 2
    assert main(["convert", "a.safetensors", "-o", str(links[0]), "--overwrite"]) == 0
    assert all(link.is_symlink() for link in links)
    assert not target.is_symlink()
    assert dict(load(target).layers) == dict(load("a.safetensors").layers)
    assert [path.name for path in target.parent.iterdir()] == ["real.safetensors"]


def test_a_link_to_nothing_yet_gets_its_file_and_a_circle_is_an_error(folder, capsys):
    Path("new.safetensors").symlink_to("later.sft")
    assert main(["convert", "a.safetensors", "-o", "new.safetensors"]) == 0
    assert Path("new.safetensors").is_symlink()
    assert len(load("later.sft")) == len(NAMES)
    Path("one.safetensors").symlink_to("two.safetensors")
    Path("two.safetensors").symlink_to("one.safetensors")
    assert main(["convert", "a.safetensors", "-o", "one.safetensors", "--overwrite"]) == 2
    assert "leads back to itself" in capsys.readouterr().err


def test_the_short_suffix_is_read_and_written(folder, capsys):
    assert main(["convert", "a.safetensors", "-o", "short.SFT"]) == 0
    assert main(["inspect", "short.SFT"]) == 0
    assert "lokr, 4 layers" in capsys.readouterr().out


def test_what_the_authors_loader_will_refuse_is_said_when_it_is_written(folder, capsys):
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q"
    tensors = {f"{name}_lora.down.weight": torch.ones(3, 2), f"{name}_lora.up.weight": torch.ones(5, 4)}
    save_file(tensors, "official.safetensors")
    assert main(["convert", "official.safetensors", "-o", "again.safetensors", "--format", "diffusekrona"]) == 0
    assert "refuses such a file, for it has 1 of the" in capsys.readouterr().out
