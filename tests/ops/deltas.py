"""Updates of every kind and size for the property tests."""

import torch
from hypothesis import strategies as st

from krona_ops import Full, Kron, LowRank, Matrix, Sum, Tucker
from krona_ops.updates.shapes import divisors

WIDTHS = (4, 6, 12, 18, 20, 30)
KERNELS = ((), (), (3,), (3, 2))


def randn(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@st.composite
def shapes(draw):
    return (draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(WIDTHS)), *draw(st.sampled_from(KERNELS)))


@st.composite
def pairs(draw, shape):
    """Factors that divide a shape."""
    return draw(st.sampled_from(divisors(shape[0]))), draw(st.sampled_from(divisors(shape[1])))


@st.composite
def krons(draw, shape, factors=None, layout=None):
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    p, q = factors or draw(pairs(shape))
    a = Full(randn(g, p, q))
    if draw(st.booleans()) and factors is None:
        a = LowRank(randn(g, p, 2), randn(g, 2, q))
    b = Full(randn(g, shape[0] // p, shape[1] // q, *shape[2:]))
    return Kron(a, b, draw(st.sampled_from((1.0, -0.7, 3.0))), layout or draw(st.sampled_from(("kron", "shuffled"))))


@st.composite
def terms(draw, shape):
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(("kron", "kron", "low rank", "dense", "tucker")))
    scale = draw(st.sampled_from((1.0, -0.3, 2.0)))
    if kind == "kron":
        return draw(krons(shape))
    if kind == "dense":
        return Matrix(Full(randn(g, *shape)), scale)
    if kind == "tucker" and len(shape) > 2:
        return Matrix(Tucker(randn(g, 2, 3, *shape[2:]), randn(g, 2, shape[0]), randn(g, 3, shape[1])), scale)
    rank = draw(st.integers(1, 4))
    return Matrix(LowRank(randn(g, shape[0], rank), randn(g, rank, *shape[1:])), scale)


@st.composite
def deltas(draw, shape=None):
    """One term, or a sum of several, or a sum of sums."""
    shape = shape or draw(shapes())
    parts = draw(st.lists(terms(shape), min_size=1, max_size=4))
    if len(parts) == 1:
        return parts[0]
    return Sum((parts[0], Sum(tuple(parts[1:])))) if draw(st.booleans()) else Sum(tuple(parts))


def rearranged(dense, sizes, layout):
    """R(ΔW), entry by entry from the definition: the oracle for `krona_ops.nearest.kronecker`."""
    out_a, in_a, out_b, in_b = sizes
    rows = []
    for m in range(out_a):
        for i in range(in_a):
            picked = [m * out_b + k if layout == "kron" else k * out_a + m for k in range(out_b)]
            rows.append(dense[picked][:, i * in_b : (i + 1) * in_b].flatten())
    return torch.stack(rows)
