# SPDX-License-Identifier: Apache-2.0
"""How long calls took, per group of them."""

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
