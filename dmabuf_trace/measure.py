# SPDX-License-Identifier: Apache-2.0
"""What is added up over the stretches of a trace: groups of rows, and how long calls took.

What is kept does not grow with the trace. Lengths are kept as they are up to :data:`EXACT`
different ones; beyond, those that differ by less than a thousandth become one, the longest of them.
So percentiles are observed values (nearest rank), of long traces up to 0.1 % too long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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

EXACT: Final = 1 << 16
BITS: Final = 10
"""Bits behind the first one by which lengths are told apart."""


def joined(*parts: pd.DataFrame | None) -> pd.DataFrame:
    """Rows of several tables, the first of which may not be there."""
    import pandas as pd

    tables = [part for part in parts if part is not None]
    return pd.concat([table for table in tables if len(table)] or tables[-1:], ignore_index=True)


def added(
    before: pd.DataFrame | None, rows: pd.DataFrame, keys: list[str], /, **how: str
) -> pd.DataFrame:
    """Rows by group, sorted, those of the stretches ``before`` with them.

    Each other column by ``sum`` (of gaps alone: a gap), ``min``, ``max``, ``first`` or ``last`` (of
    what is no gap).
    """
    import pandas as pd

    groups = joined(before, rows[[*keys, *how]]).groupby(keys, dropna=False)
    found = [
        groups[mine].sum(min_count=1) if way == "sum" else groups[mine].agg(way)
        for way in dict.fromkeys(how.values())
        if (mine := [name for name in how if how[name] == way])
    ]
    return pd.concat(found, axis="columns")[[*how]].reset_index()


def numbered(
    before: pd.DataFrame | None, rows: pd.DataFrame, keys: list[str]
) -> tuple[pd.DataFrame, NDArray[Any]]:
    """All groups so far, each at the place that it had ``before``, and the place of each row's."""
    mine = rows.groupby(keys, dropna=False, sort=False).ngroup()
    number = mine.to_numpy(np.int64)
    is_first = np.diff(np.maximum.accumulate(number), prepend=-1) > 0
    groups = joined(before, rows.loc[is_first, keys])
    places = groups.groupby(keys, dropna=False, sort=False).ngroup()
    known = 0 if before is None else len(before)
    found = places.to_numpy(np.int64)[known:].take(number)
    return groups[~places.duplicated()].reset_index(drop=True), found


def lengths(
    before: pd.DataFrame | None, table: pd.DataFrame, keys: list[str], column: str
) -> pd.DataFrame:
    """How many calls of a group took how long: ``keys``, ``ns``, ``count``, ``total_ns``.

    ``column`` of ``table`` has ns; a gap is no call.
    """
    seen = table.loc[table[column].notna(), [*keys, column]]
    ns = seen[column].to_numpy(np.int64)
    rows = joined(before, seen[keys].assign(ns=ns, count=np.int64(1), total_ns=ns))
    found = rows.groupby([*keys, "ns"], dropna=False, sort=False).sum().reset_index()
    if len(found) <= EXACT:
        return found
    spare = np.maximum(np.frexp(found["ns"].to_numpy(np.float64))[1] - 1 - BITS, 0)
    classes = found.assign(about=found["ns"].to_numpy(np.int64) >> spare << spare)
    kept = added(None, classes, [*keys, "about"], ns="max", count="sum", total_ns="sum")
    return kept.drop(columns="about")


def times(lengths: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """``keys``, ``count`` and :data:`TIMES`, a row per group, sorted by key."""
    ordered = lengths.sort_values([*keys, "ns"], kind="stable")
    groups = ordered.groupby(keys, dropna=False, sort=True)
    found = groups[keys].head(1).reset_index(drop=True)
    number = groups.ngroup().to_numpy(np.int64)
    ns, counts = (ordered[name].to_numpy(np.int64) for name in ("ns", "count"))
    last = np.flatnonzero(np.append(number[1:] != number[:-1], True)[: len(number)])
    upto: NDArray[Any] = np.cumsum(counts)
    before = np.concatenate([[0], upto[last]])[: len(last)]
    found["count"] = upto[last] - before
    found["total_ns"] = groups["total_ns"].sum().to_numpy(np.int64)
    for percent in PERCENTILES:
        rank = (found["count"].to_numpy(np.int64) * percent + 99) // 100
        found[f"p{percent}_ns"] = ns[np.searchsorted(upto, before + rank)]
    found["max_ns"] = ns[last]
    return found
