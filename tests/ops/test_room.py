"""Small factors of large updates: what keeps the structure works at any size,
what would form the update says which layer and how large."""

import pytest
import torch
from torch.testing import assert_close

from krona_ops import (
    Adapter,
    DenseForm,
    Full,
    Hadamard,
    Kron,
    KronForm,
    LowRank,
    LowRankForm,
    Matrix,
    Sum,
    Tucker,
    blend,
    compress,
    load,
    report,
    save,
)
from krona_ops.errors import FormatError, KronaError, SizeError
from krona_ops.nearest.linalg import eigh
from krona_ops.room import LARGEST_SIDE, MOST_NUMBERS, VARIABLE, layer_by_layer, most_numbers
from krona_ops.updates.reshape import reshaped
from krona_ops.updates.rows import Rows

N = 20_000


def thin(n=N):
    return LowRank(torch.full((n, 1), 0.5), torch.full((1, n), 2.0))


LARGE = {
    "lora": Matrix(thin()),
    "loha": Matrix(Hadamard(thin(), thin())),
    "tucker": Matrix(Tucker(torch.ones(1, 1, 3, 3), torch.ones(1, N), torch.ones(1, N))),
    "kron": Kron(Full(torch.ones(200, 100)), Full(torch.ones(100, 200))),
    "factor": Kron(Full(torch.ones(1, 1)), thin()),
    "sum": Sum((Matrix(thin()), Kron(Full(torch.ones(200, 200)), Full(torch.ones(100, 100))))),
    "rows": Rows(Matrix(thin()), 5, 7),
}


@pytest.mark.parametrize("kind", LARGE)
def test_what_would_form_a_large_update_is_refused_with_layer_size_and_remedy(kind):
    adapter = Adapter({"a.b": LARGE[kind]})
    for use in (
        lambda: blend([(adapter, 1.0), (adapter, 0.5)], method="ties"),
        lambda: blend([(adapter, 1.0)], method="dare"),
        lambda: compress(adapter, DenseForm()),
    ):
        with pytest.raises(
            SizeError,
            match=rf"^a\.b: .* 20000 × 20000.* numbers when it is formed; {MOST_NUMBERS:,} are allowed\. .*{VARIABLE}",
        ):
            use()


@pytest.mark.parametrize("kind", ["lora", "loha", "tucker", "kron", "factor"])
def test_what_keeps_the_structure_does_not_mind(kind, tmp_path):
    adapter = Adapter({"a.b": LARGE[kind]})
    both = blend([(adapter, 1.0), (adapter, 0.5)])
    assert both.layers["a.b"].shape == adapter.layers["a.b"].shape
    assert load(save(adapter, tmp_path / "x.safetensors")).layers["a.b"].shape == adapter.layers["a.b"].shape


def test_reports_measure_what_can_be_measured_and_name_the_rest():
    measured = report(
        Adapter({**{kind: delta for kind, delta in LARGE.items() if kind != "rows"}, "small": Matrix(Full(torch.ones(2, 2)))})
    )
    norms = {layer.name: layer.norm for layer in measured.layers}
    assert_close(norms["lora"], float(N))
    assert_close(norms["kron"], float(N))
    assert_close(norms["sum"], 2.0 * N)
    assert norms["small"] == 2.0
    assert (norms["loha"], norms["factor"]) == (None, None)
    assert [note.partition(": The update is")[0].partition(": A factor is")[0] for note in measured.notes] == [
        "Not measured: loha",
        "Not measured: factor",
    ]
    assert "loha" in measured.table("layer")


def test_a_large_lora_becomes_a_small_one_without_being_formed():
    compressed, lost = compress(Adapter({"a": LARGE["lora"]}), LowRankForm(1))
    assert lost.error < 1e-6
    assert compressed.layers["a"].factor.up.shape == (N, 1)
    compressed, lost = compress(Adapter({"a": LARGE["lora"]}), KronForm((50, 50)))
    assert lost.error < 1e-6


def test_the_bound_is_the_operators(monkeypatch):
    small = Matrix(LowRank(torch.ones(4, 1), torch.ones(1, 5)))
    monkeypatch.setenv(VARIABLE, "19")
    with pytest.raises(SizeError, match="4 × 5, 20 numbers when it is formed; 19 are allowed"):
        small.dense()
    monkeypatch.setenv(VARIABLE, "20")
    assert small.dense().sum() == 20
    for nonsense in ("", "-1", "1e9", "²", "9" * 30):
        monkeypatch.setenv(VARIABLE, nonsense)
        assert most_numbers() == MOST_NUMBERS


def test_a_weight_that_is_as_large_gets_its_update_whatever_the_bound(monkeypatch):
    monkeypatch.setenv(VARIABLE, "3")
    deltas = [
        Matrix(LowRank(torch.ones(4, 1), torch.ones(1, 6))),
        Matrix(Hadamard(LowRank(torch.ones(4, 1), torch.ones(1, 6)), LowRank(torch.ones(4, 1), torch.ones(1, 6)))),
        Kron(LowRank(torch.ones(2, 1), torch.ones(1, 3)), LowRank(torch.ones(2, 1), torch.ones(1, 2))),
        Rows(Kron(Full(torch.ones(2, 3)), Full(torch.ones(3, 2))), 1, 4),
    ]
    for delta in deltas:
        assert delta.add_to(torch.zeros(4, 6)).sum() == 24
        assert delta.apply(torch.ones(1, 6)).sum() == 24
    assert reshaped(Kron(Full(torch.ones(2, 3)), Full(torch.ones(2, 2))), (4, 2, 3)).shape == (4, 2, 3)


def test_a_matrix_that_takes_an_hour_is_not_decomposed():
    with pytest.raises(SizeError, match=rf"{LARGEST_SIDE + 1} × {LARGEST_SIDE + 1} has to be decomposed"):
        eigh(torch.zeros(1).expand(LARGEST_SIDE + 1, LARGEST_SIDE + 1))


def test_too_little_memory_is_an_error_of_the_layer():
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory."),
    ):
        with pytest.raises(SizeError, match=r"^a\.b: There is not enough memory"), layer_by_layer("a.b"):
            raise error
    with pytest.raises(RuntimeError, match="else"), layer_by_layer("a.b"):
        raise RuntimeError("something else")
    with pytest.raises(FormatError, match=r"^a\.b: it\.$"), layer_by_layer("a.b"):
        raise FormatError("it.")
    with pytest.raises(KronaError, match=r"^c: it\.$"), layer_by_layer("a.b"):
        raise KronaError("it.", layer="c")
