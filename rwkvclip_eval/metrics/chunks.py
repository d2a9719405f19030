"""Walks a score matrix in blocks of rows, so that memory stays bounded whatever its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_ELEMENTS = 1 << 23
"""Scores held at once: 32 MiB of float32; temporaries of a metric take a few times as much."""


def row_chunks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Yield slices that cover `num_rows` rows, each of at most `CHUNK_ELEMENTS` scores (one row at least)."""
    step = max(1, CHUNK_ELEMENTS // max(1, num_columns))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def require_finite(**arrays: np.ndarray[Any, Any]) -> None:
    """Refuse NaN and infinity: every comparison with NaN is false, which would count as a perfect rank.

    Raises:
        ValueError: an array holds a non-finite value; the text names the array and its first bad row.
    """
    for name, array in arrays.items():
        # A sum in float64 is finite exactly when all float32 terms are; it needs no mask of the array's size.
        with np.errstate(invalid="ignore"):
            sums = np.sum(array, axis=-1, dtype=np.float64)
        if not np.isfinite(sums).all():
            row = int(np.flatnonzero(~np.isfinite(np.atleast_1d(sums)))[0])
            raise ValueError(f"{name} must be finite; row {row} holds NaN or infinity.")
