"""The rows of the binary files of an index."""

from __future__ import annotations

import numpy as np

NO_ROW = (1 << 64) - 1
"""In place of an offset: the image is a file of its own, which has the pair's name."""

PAIR = np.dtype(
    [
        ("offset", "<u8"),
        ("key", "<u8"),
        ("span", "<u8"),
        ("length", "<u4"),
        ("shard", "<u4"),
        ("kinds", "<u4"),
    ]
)
"""Where an image or record begins in its shard and its bytes (of an image in a table: row, bytes); where its
name and its texts begin; number of the shard; a bit for each kind of which it has a usable text."""
SPAN = np.dtype([("offset", "<u8"), ("length", "<u4"), ("column", "<u2")])
"""Where a text begins (in its shard, in texts.bin, or a row of a token array), its bytes, its column."""
