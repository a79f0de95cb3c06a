# SPDX-License-Identifier: Apache-2.0
"""The pairing that a skilled user writes first: ``groupby().shift()`` over events in a DataFrame.

It is told the kinds to pair and gets the events as columns, not as a recording: no names, no
losses, no check of anything.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmabuf_trace import schema

PAIRS: Final = (
    ("export", "release", "buffer"),
    ("attach", "detach", "object"),
    ("map", "unmap", "value"),
    ("fd_install", "fd_close", "object"),
    ("pin", "unpin", "object"),
    ("vmap", "vunmap", "object"),
    ("cpu_begin", "cpu_end", "buffer"),
    ("kernel_begin", "kernel_end", "buffer"),
)
COLUMNS: Final = np.dtype(
    [(name, schema.EVENT_DTYPE[name]) for name in ("ts", "kind", "buffer", "object", "value")]
)


def columns(events: NDArray[np.void]) -> NDArray[np.void]:
    """What it needs of events."""
    kept = np.empty(len(events), COLUMNS)
    for name in COLUMNS.names or ():
        kept[name] = events[name]
    return kept


def pair(path: Path) -> None:
    """Pair all, and say how long each sort lasts."""
    table = pd.DataFrame(np.fromfile(path, COLUMNS))
    for begin, end, key in PAIRS:
        kinds = [schema.KIND[begin], schema.KIND[end]]
        mine = table[table["kind"].isin(kinds)].sort_values("ts", kind="stable")
        grouped = mine.groupby(key)
        mine = mine.assign(next_kind=grouped["kind"].shift(-1), end=grouped["ts"].shift(-1))
        begun = mine[mine["kind"] == kinds[0]]
        ended = begun[begun["next_kind"] == kinds[1]]
        print(begin, len(begun), len(ended), (ended["end"] - ended["ts"]).mean())


if __name__ == "__main__":
    pair(Path(sys.argv[1]))
