"""The tables of other tools' names: what a rule says, and that no two say the same of different layers."""

import re

import pytest

from krona_ops.names.dialects import TABLES, OtherName, Table, table_of
from krona_ops.names.spellings import flat

TABLE = Table(
    ("stem",),
    {
        "blocks.#.attn.qkv": "transformer_blocks.#.attn.to_{q|k|v}",
        "blocks.#.parts.#.mlp.0": ("ff.#.#.net.0", "mlp.#.#.fc1"),
        "final": "<1 0> norm_out",
    },
    roots=(("inner.", "outer."), ("inner.", "")),
)


def test_a_number_is_the_same_on_both_sides():
    assert list(TABLE.of("blocks.12.parts.3.mlp.0")) == [OtherName("ff.12.3.net.0"), OtherName("mlp.12.3.fc1")]
    assert list(TABLE.of("blocks.12.parts.3.mlp.2")) == []


def test_parts_are_in_the_order_of_their_rows():
    names = list(TABLE.of("blocks.0.attn.qkv"))
    assert [(n.name[-4:], n.part, n.parts) for n in names] == [("to_q", 0, 3), ("to_k", 1, 3), ("to_v", 2, 3)]


def test_another_order_of_rows_goes_with_the_name():
    assert list(TABLE.of("final")) == [OtherName("norm_out", order=(1, 0))]


def test_a_beginning_may_have_several_names():
    assert list(TABLE.rooted("inner.inner.x")) == ["outer.inner.x", "inner.x"]
    assert list(TABLE.rooted("other.inner.x")) == []


def test_a_model_is_told_by_the_layers_that_it_has():
    assert table_of({"blocks.0.self_attn.o", "blocks.0.ffn.0"}) is next(
        t for t in TABLES if "blocks.0.self_attn.o" in t.signs
    )
    assert table_of({"blocks.0.something"}) is None


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.signs[0])
def test_no_two_layers_of_a_kind_share_a_name(table):
    """Alternatives of one layer that no model has both of (`img_in` and `img_in.proj`) still differ in their names."""
    owners: dict[str, set[str]] = {}
    for path in table.names:
        example = re.sub("#", "7", path)
        for other in table.of(example):
            owners.setdefault(flat(other.name), set()).add(path)
    shared = {name: paths for name, paths in owners.items() if len(paths) > 1}
    assert all(
        len({p.rpartition(".")[2] for p in paths}) == len(paths) and len(paths) == 2 for paths in shared.values()
    ), shared
    assert table.source
