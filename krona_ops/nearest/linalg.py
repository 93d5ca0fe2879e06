"""Decompositions in float64, by numpy's LAPACK.

torch's own splits even a 64 × 4 matrix over all cores: with another process on the machine each call then waits for a
time slice, 84 ms where numpy takes 0.03 (2 cores, torch 2.11).
At 1280 × 1280, numpy's ``eigh`` takes half the time of torch's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import KronaError, SizeError
from ..room import LARGEST_SIDE


def qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``Q R`` with as many columns as the smaller side."""
    return _by_numpy(np.linalg.qr, matrix)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``U, σ, Vᵀ`` with as many singular values as the smaller side, descending."""
    return _by_numpy(lambda m: np.linalg.svd(m, full_matrices=False), matrix)


def singular_values(matrix: Tensor) -> Tensor:
    """The singular values of a matrix, descending."""
    return _by_numpy(lambda m: (np.linalg.svd(m, compute_uv=False),), matrix)[0]


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix."""
    return _by_numpy(np.linalg.eigh, matrix)


def _by_numpy(decompose: Callable[[np.ndarray], tuple], matrix: Tensor) -> tuple:
    if min(matrix.shape) > LARGEST_SIDE:
        raise SizeError(
            f"A matrix of {' × '.join(map(str, matrix.shape))} has to be decomposed, which takes an hour.",
            found=tuple(matrix.shape),
            expected=f"a smaller side of {LARGEST_SIDE} at most",
            remedy="Leave this layer out, or choose another form.",
        )
    if not bool(torch.isfinite(matrix).all()):
        raise KronaError(
            "The update holds numbers that are not finite.",
            found="inf or nan",
            expected="finite numbers",
            remedy="The file is damaged, or was saved in half precision with numbers too large for it; get another copy.",
        )
    parts = decompose(matrix.detach().double().cpu().numpy())
    return tuple(torch.from_numpy(np.ascontiguousarray(part)).to(matrix.device) for part in parts)
