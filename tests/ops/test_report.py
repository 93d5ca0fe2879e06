"""Reports: measures against the dense updates, the grid, and tables that line up."""

import math

import pytest
import torch
from torch.testing import assert_close

from krona_ops import Adapter, Dora, Full, Kron, LowRank, Matrix, Sum, save
from krona_ops.formats.inspection import inspect_header
from krona_ops.operations.report import aligned, describe, effective_rank, report, report_of_header

from .deltas import randn

NAMES = [
    f"diffusion_model.{block}.1.transformer_blocks.0.{leaf}"
    for block in ("output_blocks.3", "input_blocks.10", "input_blocks.4")
    for leaf in ("attn1.to_q", "attn2.to_v", "ff.net.2")
]


def example():
    g = torch.Generator().manual_seed(0)
    layers = {name: Kron(Full(randn(g, 4, 3)), Full(randn(g, 3, 6)), 0.5 + n) for n, name in enumerate(NAMES)}
    layers["lora_te1_text_model_encoder_layers_3_self_attn_q_proj"] = Matrix(LowRank(randn(g, 8, 2), randn(g, 2, 8)))
    return Adapter(layers, notes=("scale 1",))


def test_measures_are_those_of_the_dense_update():
    adapter = example()
    for line in report(adapter).layers:
        dense = adapter.layers[line.name].dense()
        assert_close(line.norm, float(dense.norm()))
        assert_close(line.rms, float(dense.square().mean().sqrt()))
        assert_close(line.effective_rank, effective_rank(torch.linalg.svdvals(dense)), rtol=1e-6, atol=1e-6)
    assert_close(report(adapter).norm, math.sqrt(sum(float(d.dense().square().sum()) for d in adapter.layers.values())))


@pytest.mark.parametrize(("values", "expected"), [((1, 1, 1), 3), ((5, 0, 0), 1), ((0, 0), 0)])
def test_the_effective_rank_counts_equal_directions(values, expected):
    assert_close(effective_rank(torch.tensor(values, dtype=torch.float64)), float(expected))


@pytest.mark.parametrize("measure", ["rms", "norm"])
def test_the_grid_gathers_by_block_and_role(measure):
    adapter = example()
    grid = report(adapter).grid(measure)
    assert grid.blocks == ("input_blocks.4", "input_blocks.10", "output_blocks.3", "text_encoder.layers.3")
    assert grid.roles == ("self q", "cross v", "feed-forward")
    dense = {name: delta.dense() for name, delta in adapter.layers.items()}

    def together(names):
        entries = torch.cat([dense[name].flatten() for name in names])
        return float(entries.square().mean().sqrt() if measure == "rms" else entries.norm())

    for row, block in enumerate(("input_blocks.4", "input_blocks.10", "output_blocks.3")):
        names = [name for name in NAMES if block in name]
        assert_close(grid.of_blocks[row], together(names))
        assert_close(list(grid.values[row]), [together([name]) for name in names])
    assert grid.values[3][1:] == (None, None)
    assert_close(grid.of_roles[1], together([name for name in NAMES if "to_v" in name]))


def test_tables_line_up_in_the_order_of_the_model():
    table = report(example()).table("block").splitlines()
    assert [line.split()[0] for line in table if line[0] != "─"] == [
        "block", "input_blocks.4", "input_blocks.10", "output_blocks.3", "text_encoder.layers.3", "all",
    ]  # fmt: skip
    rows = [line for line in table if line.startswith(("input", "output"))]
    assert {line.index("4×3 ⊗ 3×6") for line in rows} == {table[0].index("form")}
    layers = report(example()).table()
    assert len(layers.splitlines()) == 10 + 4
    assert "LoRA 2" in layers
    assert "12×18" in layers
    assert report(example()).table("role").splitlines()[2].startswith("self q             4")
    assert report(Adapter({})).table("block").splitlines()[-1].split() == ["all", "0", "0"]


def test_numbers_stand_right_and_words_left():
    assert aligned(("n", "word"), [(1, "a"), (10, "bb")]).splitlines() == [" n  word", "────────", " 1  a", "10  bb"]


def test_forms_are_named_in_a_few_signs():
    g = torch.Generator().manual_seed(1)
    kron = Kron(Full(randn(g, 4, 3)), LowRank(randn(g, 3, 2), randn(g, 2, 6)), layout="shuffled")
    lora, dense = Matrix(LowRank(randn(g, 12, 2), randn(g, 2, 18))), Matrix(Full(randn(g, 12, 18)))
    assert describe(kron) == "4×3 ⊗ 3×6 (rank 2), shuffled"
    assert describe(Sum((lora, dense, Sum((lora, lora))))) == "3 × (LoRA 2) + dense"
    assert describe(Dora(lora, torch.ones(12, 1))) == "DoRA of LoRA 2"


def test_dora_is_listed_but_not_measured():
    measured = report(Adapter({"x.attn1.to_q": Dora(Matrix(Full(torch.ones(4, 6))), torch.ones(4, 1))}))
    assert (measured.layers[0].norm, measured.layers[0].rms, measured.layers[0].effective_rank) == (None, None, None)
    assert measured.grid().blocks == ()
    assert "‖ΔW‖" not in measured.table()


def test_a_header_is_enough_for_everything_but_the_measures(tmp_path):
    g = torch.Generator().manual_seed(2)
    path = save(
        Adapter({name: Kron(Full(randn(g, 4, 3)), Full(randn(g, 3, 6))) for name in NAMES}), tmp_path / "a.safetensors"
    )
    of_header = report_of_header(inspect_header(path))
    assert [(line.block, line.role, line.shape) for line in of_header.layers[:1]] == [
        ("input_blocks.10", "self q", (12, 18))
    ]
    assert of_header.layers[0].form == "LoKr 4×3 ⊗ 3×6"
    assert "‖ΔW‖" not in of_header.table("layer")
