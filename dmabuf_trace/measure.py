# SPDX-License-Identifier: Apache-2.0
"""What analyses measure alike: how long calls took per group, bytes at most at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Column

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES: Final = (50, 95, 99)
TIMES: Final = tuple(
    Column(f"{name}_ns", "duration", name)
    for name in ("total", *(f"p{percent}" for percent in PERCENTILES), "max")
)
"""Columns of :func:`times`, without its keys and its count."""


def times(table: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """``keys``, ``count`` and :data:`TIMES` of a column of ns, a row per group, sorted by key.

    Percentiles are observed values (nearest rank). A gap is no call: a group of gaps has no row.
    """
    seen = table[table[column].notna()]
    groups = seen.groupby(keys, dropna=False).ngroup().to_numpy(np.int64)
    ns = seen[column].to_numpy(np.int64)
    order = np.lexsort((ns, groups))
    ns = ns[order]
    _, first, count = np.unique(groups[order], return_index=True, return_counts=True)
    found = seen[keys].iloc[order[first]].reset_index(drop=True)
    sums: NDArray[np.int64] = np.concatenate([[0], np.cumsum(ns)])
    found["count"] = count
    found["total_ns"] = sums[first + count] - sums[first]
    for percent in PERCENTILES:
        found[f"p{percent}_ns"] = ns[first + (count * percent + 99) // 100 - 1]
    found["max_ns"] = ns[first + count - 1]
    return found


def peak_bytes(table: pd.DataFrame, start: int) -> int:
    """Most bytes (``size_bytes``) between ``begin`` and ``end`` at once.

    What began unseen counts from ``start``, what has no known end to the end of the trace.
    """
    begins = table["begin"].fillna(start).to_numpy(np.int64)
    sizes = table["size_bytes"].fillna(0).to_numpy(np.int64)
    is_over = table["end"].notna().to_numpy()
    ends = table["end"].fillna(0).to_numpy(np.int64)[is_over]
    moments = np.concatenate([begins, ends])
    changes = np.concatenate([sizes, -sizes[is_over]])
    alive = np.cumsum(changes[np.argsort(moments, kind="stable")])
    return int(alive.max(initial=0))
