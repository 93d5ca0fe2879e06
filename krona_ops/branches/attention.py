"""What a parallel branch attends to, mode by mode: pure functions of queries, keys and values.

Batches are groups of ``views`` samples that follow one another (views of one thing, frames of one clip), and tokens lie
row by row in a picture of ``height × width`` of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError
from ..names.branches import Mode

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``attend(q, k, v)`` of all heads: ``(b, n, d)``, ``(b, m, d)`` and ``(b, m, d)`` to ``(b, n, d)``."""


@dataclass(frozen=True)
class Grid:
    """How the tokens of a batch lie: in groups, and within each sample in rows."""

    views: int
    """Samples of a group."""
    height: int
    width: int

    def require(self, q: Tensor) -> None:
        """Refuse tokens ``(B, N, d)`` that do not lie so.

        Raises:
            ShapeError: The samples make no whole groups, or the tokens no whole rows.
        """
        if q.shape[0] % self.views:
            raise ShapeError(
                f"{q.shape[0]} samples make no groups of {self.views}.",
                found=q.shape[0],
                expected=f"a multiple of {self.views}",
                remedy="Draw whole groups: make the batch a multiple of the number of views.",
            )
        if q.shape[1] != self.height * self.width:
            raise ShapeError(
                f"{q.shape[1]} tokens make no picture of {self.height} × {self.width}.",
                found=q.shape[1],
                expected=self.height * self.width,
                remedy="Nothing may join or cut tokens before a branch (ToMe, HyperTile).",
            )


def size_at(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of an attention's tokens, by the latent's; each level of a UNet halves both, rounding up.

    >>> size_at(6, 4, 5)
    (2, 3)

    Raises:
        ShapeError: At no level are there so many tokens.
    """
    rows, columns = height, width
    while rows * columns > tokens:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != tokens:
        raise ShapeError(
            f"{tokens} tokens belong to no level of a latent of {height} × {width}.",
            found=tokens,
            expected=f"{height * width} tokens, or those of the size halved some times",
            remedy="Nothing may join or cut tokens before a branch (ToMe, HyperTile).",
        )
    return rows, columns


def to_source(q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
    """Every sample attends to the tokens of its group's source.

    That is the mode ``reference``, and ``first`` (I2V-Adapter, Guo et al. 2023, eq. 5).

    Args:
        q: ``(B, N, d)``.
        k, v: ``(S, M, d)``, one source for each of ``S`` groups of ``B / S`` samples.

    Raises:
        ShapeError: The samples cannot be shared out among so many sources.
    """
    each, rest = divmod(q.shape[0], k.shape[0])
    if rest:
        raise ShapeError(
            f"{q.shape[0]} samples cannot be shared out among {k.shape[0]} sources.",
            found=k.shape[0],
            expected=f"a number that divides {q.shape[0]}",
            remedy="Give one reference, or one for each group of the batch.",
        )
    return attend(q, k.repeat_interleave(each, 0), v.repeat_interleave(each, 0))


def among_views(mode: Mode, q: Tensor, k: Tensor, v: Tensor, grid: Grid, attend: Attend) -> Tensor:
    """Every sample attends to the samples of its group, itself among them.

    ``views`` takes all their tokens (MV-Adapter, Huang et al. 2024, section 4.1), ``row`` those in the same row, as it
    does for cameras at one height, ``row+col`` is `_rows_and_columns`.

    Args:
        q, k, v: ``(B, N, d)``.

    Raises:
        ShapeError: See `Grid.require`; or the mode wants another number of views.
    """
    grid.require(q)
    if mode == "views":
        groups = (q.shape[0] // grid.views, grid.views * q.shape[1], q.shape[2])
        return attend(*(x.reshape(groups) for x in (q, k, v))).reshape(q.shape)
    within = _rows if mode == "row" else _rows_and_columns
    pictures = (-1, grid.views, grid.height, grid.width)
    queries, keys, values = (x.reshape(*pictures, x.shape[-1]) for x in (q, k, v))
    return within(queries, keys, values, attend).reshape(q.shape)


def _rows(q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
    """``(G, V, h, w, d)``, each row attending to the same row of all views."""
    groups, views, height, width, wide = q.shape
    rows = [x.transpose(1, 2).reshape(groups * height, views * width, wide) for x in (q, k, v)]
    return attend(*rows).reshape(groups, height, views, width, wide).transpose(1, 2)


AROUND = (0, 1, 2, 3)
"""Of the six views of ``row+col``: those around, at 0, 90, 180 and 270 degrees; they share their rows."""
OVER = (0, 2, 4, 5)
"""Front, back, from above and from below; they share their columns."""


def _rows_and_columns(q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
    """``(G, 6, h, w, d)``: rows among the four views around, columns among front, back, above and below.

    The front is mirrored for the columns, since its left is the back's right. What is in both is the mean
    (MV-Adapter's attention for texturing).

    Raises:
        ShapeError: There are not six views.
    """
    if q.shape[1] != len({*AROUND, *OVER}):
        raise ShapeError(
            f"The mode row+col is for six views, and there are {q.shape[1]}.",
            found=q.shape[1],
            expected="6: at 0, 90, 180 and 270 degrees, from above, from below",
            remedy="Draw six views in this order, or take the mode row or views.",
        )
    around, over = list(AROUND), list(OVER)
    rows = _rows(q[:, around], k[:, around], v[:, around], attend)
    queries, keys, values = (_mirrored(x[:, over]).transpose(2, 3) for x in (q, k, v))
    down = _mirrored(_rows(queries, keys, values, attend).transpose(2, 3))
    joined = q.new_empty(q.shape)
    joined[:, [1, 3]] = rows[:, [1, 3]]
    joined[:, [4, 5]] = down[:, [2, 3]]
    joined[:, [0, 2]] = (rows[:, [0, 2]] + down[:, [0, 1]]) / 2
    return joined


def _mirrored(x: Tensor) -> Tensor:
    """``(G, 4, h, w, d)`` of the views of `OVER`, with the front mirrored."""
    return torch.cat([x[:, :1].flip(3), x[:, 1:]], 1)
