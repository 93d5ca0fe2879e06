"""Parallel branches as values: what each mode attends to, against loops over single tokens; names and files."""

import pytest
import torch
from torch.nn import functional as F

from krona_ops import Adapter, Full, Kron, LowRank, Matrix, load, save
from krona_ops.branches.attention import Grid, among_views, size_at, to_source
from krona_ops.branches.branch import branches_of, is_branch
from krona_ops.branches.projections import Bases, Beside, Own, SiteBranch
from krona_ops.errors import FormatError, ShapeError
from krona_ops.names.branches import GATE, MODES, PROJECTIONS, layer_name, place_of

SITE = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1"
HEADS = 3


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attend(q, k, v):
    heads = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


def one_token(q, keys, values):
    """What a single query ``(d,)`` takes from ``(m, d)`` keys and values: the formula of attention, head by head."""
    parts = []
    for q_head, k_head, v_head in zip(q.chunk(HEADS), keys.chunk(HEADS, 1), values.chunk(HEADS, 1), strict=True):
        parts.append(torch.softmax(k_head @ q_head / len(q_head) ** 0.5, 0) @ v_head)
    return torch.cat(parts)


def test_a_branch_is_read_without_notes_on_its_scale(tmp_path):
    """They are for files of which nobody knows by which rule they were made; asked for another rule, they speak."""
    kron = Kron(Full(drawn(2, 2).float()), Full(drawn(6, 6, seed=1).float()))
    layers = {layer_name(SITE, "row", part): kron for part in PROJECTIONS}
    branch = {**layers, layer_name(SITE, "row", GATE): Matrix(Full(torch.ones(1)))}
    file = save(Adapter(branch), tmp_path / "branch.safetensors")
    assert load(file).notes == ()
    assert load(file, "1").notes == ("4 layers: scale 1, as chosen.",)
    beside = save(Adapter({**branch, f"{SITE}.to_q": kron}), tmp_path / "both.safetensors")
    assert load(beside).notes == ("1 layer: both factors whole: scale 1 (LyCORIS rule).",)


def test_a_source_is_seen_by_all_samples_of_its_group():
    q, k, v = drawn(6, 5, 12), drawn(2, 7, 12, seed=1), drawn(2, 7, 12, seed=2)
    out = to_source(q, k, v, attend)
    for sample in range(6):
        for token in range(5):
            expected = one_token(q[sample, token], k[sample // 3], v[sample // 3])
            torch.testing.assert_close(out[sample, token], expected, rtol=0, atol=1e-12)


HEIGHT, WIDTH = 2, 3


def sees(mode, view, row, column):
    """The tokens ``(view, row, column)`` that one token attends to, and for ``row+col`` in up to two attentions."""
    views = range(6)
    if mode == "views":
        return [[(v, r, c) for v in views for r in range(HEIGHT) for c in range(WIDTH)]]
    if mode == "row":
        return [[(v, row, c) for v in views for c in range(WIDTH)]]
    found = []
    if view in (0, 1, 2, 3):
        found.append([(v, row, c) for v in (0, 1, 2, 3) for c in range(WIDTH)])
    if view in (0, 2, 4, 5):
        mine = WIDTH - 1 - column if view == 0 else column  # the front is seen in a mirror
        found.append([(v, r, WIDTH - 1 - mine if v == 0 else mine) for v in (0, 2, 4, 5) for r in range(HEIGHT)])
    return found


@pytest.mark.parametrize("mode", ["views", "row", "row+col"])
def test_views_see_what_their_mode_says(mode):
    q, k, v = (drawn(12, HEIGHT * WIDTH, 12, seed=n) for n in range(3))  # two groups of six views
    out = among_views(mode, q, k, v, Grid(6, HEIGHT, WIDTH), attend)
    for group in range(2):
        rows = slice(6 * group, 6 * group + 6)
        keys, values = (x[rows].unflatten(1, (HEIGHT, WIDTH)) for x in (k, v))
        for view in range(6):
            for token in range(HEIGHT * WIDTH):
                taken = []
                for places in sees(mode, view, token // WIDTH, token % WIDTH):
                    at = tuple(torch.tensor(index) for index in zip(*places, strict=True))
                    taken.append(one_token(q[6 * group + view, token], keys[at], values[at]))
                expected = torch.stack(taken).mean(0)
                torch.testing.assert_close(out[6 * group + view, token], expected, rtol=0, atol=1e-12)


def test_rows_of_pictures_with_one_row_are_all_views():
    q, k, v = (drawn(8, 5, 12, seed=n) for n in range(3))
    grid = Grid(4, 1, 5)
    assert torch.equal(among_views("row", q, k, v, grid, attend), among_views("views", q, k, v, grid, attend))


def test_views_in_another_order_give_the_same_in_that_order():
    q, k, v = (drawn(4, 6, 12, seed=n) for n in range(3))
    order, grid = [2, 0, 3, 1], Grid(4, 2, 3)
    for mode in ("views", "row"):
        plain = among_views(mode, q, k, v, grid, attend)
        torch.testing.assert_close(among_views(mode, q[order], k[order], v[order], grid, attend), plain[order])


def test_wrong_shapes_are_refused():
    q = drawn(6, 6, 12)
    with pytest.raises(ShapeError, match=r"6 samples make no groups of 4\..*whole groups"):
        among_views("views", q, q, q, Grid(4, 2, 3), attend)
    with pytest.raises(ShapeError, match=r"6 tokens make no picture of 2 × 4\..*ToMe"):
        among_views("row", q, q, q, Grid(3, 2, 4), attend)
    with pytest.raises(ShapeError, match=r"row\+col is for six views, and there are 3\."):
        among_views("row+col", q, q, q, Grid(3, 2, 3), attend)
    with pytest.raises(ShapeError, match=r"6 samples cannot be shared out among 4 sources"):
        to_source(q, q[:4], q[:4], attend)


def test_the_size_at_a_level():
    assert [size_at(n, 9, 14) for n in (126, 35, 12, 4)] == [(9, 14), (5, 7), (3, 4), (2, 2)]
    with pytest.raises(ShapeError, match="100 tokens belong to no level of a latent of 9 × 14"):
        size_at(100, 9, 14)


def test_the_output_of_a_branch_is_the_formula():
    """``g · (Wo(a) + ΔO a)`` with ``q = Wq n + ΔQ n`` and so on, and with matrices of its own instead."""
    n, s = drawn(2, 5, 12), drawn(2, 7, 12, seed=9)
    weights = [drawn(12, 12, seed=20 + i) for i in range(4)]
    deltas = [Kron(Full(drawn(4, 2, seed=30 + i)), Full(drawn(3, 6, seed=40 + i))) for i in range(4)]
    bases = Bases(*(lambda x, w=w: F.linear(x, w) for w in weights))
    whole = [w + torch.kron(d.a.dense(), d.b.dense()) for w, d in zip(weights, deltas, strict=True)]
    bias = drawn(12, seed=50)
    mixed = attend(n @ whole[0].mT, s @ whole[1].mT, s @ whole[2].mT)
    mix = lambda q, k, v: to_source(q, k, v, attend)  # noqa: E731
    beside = SiteBranch(*(Beside(d) for d in deltas), gate=0.3).output(bases, n, s, mix)
    torch.testing.assert_close(beside, 0.3 * (mixed @ whole[3].mT), rtol=0, atol=1e-11)
    own = SiteBranch(*(Own(w) for w in whole[:3]), Own(whole[3], bias)).output(bases, n, s, mix)
    torch.testing.assert_close(own, mixed @ whole[3].mT + bias, rtol=0, atol=1e-11)


def adapter(mode="reference", **changed):
    layers = {
        layer_name(SITE, mode, part): Kron(Full(torch.randn(4, 2)), Full(torch.randn(3, 6))) for part in PROJECTIONS
    }
    layers[layer_name(SITE, mode, GATE)] = Matrix(Full(torch.tensor([0.25])))
    return Adapter(layers | {layer_name(SITE, mode, part): delta for part, delta in changed.items()})


@pytest.mark.parametrize("mode", MODES)
def test_a_file_gives_back_what_was_saved(tmp_path, mode):
    one = adapter(mode)
    again = load(save(one, tmp_path / "branch.safetensors"))
    assert dict(again.layers) == dict(one.layers)
    [branch] = branches_of(again)
    assert (branch.mode, list(branch.sites), branch.sites[SITE].gate) == (mode, [SITE], 0.25)


def test_names_are_told_apart():
    assert place_of(layer_name(SITE, "row+col", "to_v")) == (SITE, "row+col", "to_v")
    others = (
        f"{SITE}.to_q",
        f"{SITE}.krona_sideways.to_q",
        f"{SITE}.krona_row.to_qkv",
        ".krona_row.to_q",
        "krona_row.gate",
    )
    assert [place_of(name) for name in others] == [None] * len(others)
    assert not is_branch(Adapter({f"{SITE}.to_q": Matrix(Full(torch.zeros(2, 2)))}))


def test_what_is_no_branch_is_refused():
    plain = Adapter({f"{SITE}.to_q": Matrix(Full(torch.zeros(2, 2)))})
    with pytest.raises(FormatError, match=r"no parallel branch\. Apply it with Apply KronA\."):
        branches_of(plain)
    with pytest.raises(FormatError, match="holds nothing"):
        branches_of(Adapter({}))
    with pytest.raises(FormatError, match=r"shape that it cannot have: gate\. Get"):
        branches_of(adapter(gate=Matrix(Full(torch.zeros(2)))))
    with pytest.raises(FormatError, match=r"shape that it cannot have: to_q\. Get"):
        branches_of(adapter(to_q=Matrix(Full(torch.zeros(2, 2, 3, 3)))))


def test_a_low_rank_update_is_as_good_as_a_product():
    [branch] = branches_of(adapter(to_q=Matrix(LowRank(torch.randn(12, 2), torch.randn(2, 12)))))
    assert branch.sites[SITE].q.shape == (12, 12)
