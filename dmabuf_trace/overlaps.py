# SPDX-License-Identifier: Apache-2.0
"""CPU accesses that end in another direction than they began in.

Where several overlap nothing says which end is whose: their directions are compared as a set, once
none of them is open. Until then only what differs is kept, a row per pair of directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.measure import added, joined

if TYPE_CHECKING:
    import pandas as pd

_OWNER: Final = ["buffer_id", "by", "owner"]
_DIRECTIONS: Final = ["direction", "end_direction"]
_FACTS: Final = ["inode", "exporter", "size_bytes", "pid", "comm", "begin", "end"]
_ROWS: Final = [*_OWNER, *_DIRECTIONS, *_FACTS, "id", "weight", "is_open"]
_NEVER: Final = np.iinfo(np.int64).max


def turned(
    before: pd.DataFrame | None, accesses: pd.DataFrame, opened: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Of those that overlap the first that differs, ``count`` being how many can't be told from a
    mere mix-up of ends; and what overlaps with one that is ``opened``, for the next stretch.
    """
    suspects = joined(before, accesses[_differ(accesses)])["buffer_id"]
    if suspects.empty:
        return accesses.iloc[:0], None
    parts = []
    for table, is_open in ((accesses, False), (opened, True)):
        mine = table[table["buffer_id"].isin(suspects) & table["begin"].notna()]
        owner = mine["pid"].where(mine["by"] == "process", 0)
        parts.append(mine.assign(owner=owner, weight=1, is_open=is_open)[_ROWS])
    rows = joined(before, *parts).sort_values([*_OWNER, "id"], ignore_index=True)
    rows = rows.assign(together=_together(rows))
    is_growing = rows["together"].isin(rows.loc[rows["is_open"], "together"])
    differs = _differ(rows)
    left = rows[is_growing & differs].assign(end=_NEVER)  # so that it overlaps with what follows
    firsts = dict.fromkeys((*_FACTS, "id", "is_open"), "first")
    left = added(None, left, [*_OWNER, *_DIRECTIONS], **firsts, weight="sum")
    return _judged(rows[~is_growing], differs[~is_growing]), left


def _differ(rows: pd.DataFrame) -> pd.Series[bool]:
    """Both are known, and differ."""
    return (rows["direction"] != rows["end_direction"]).fillna(False).astype("bool")


def _together(rows: pd.DataFrame) -> pd.Series[int]:
    """A number for those that overlap: ends are in the order of their begins, so what overlaps
    anything overlaps its predecessor."""
    end = rows["end"].fillna(_NEVER)
    is_apart = (rows["begin"] >= end.shift()).fillna(True).astype("bool")
    for name in _OWNER:
        is_apart |= rows[name] != rows[name].shift()
    return is_apart.astype("int64").cumsum()


def _judged(rows: pd.DataFrame, differs: pd.Series[bool]) -> pd.DataFrame:
    about = rows[differs | rows["end_direction"].isna()]
    more = joined(
        about[["together", "direction"]].assign(more=-about["weight"]),
        about[["together"]].assign(direction=about["end_direction"], more=about["weight"]),
    )
    sides = more.groupby(["together", "direction"])["more"].sum().clip(lower=0)
    counts = sides.groupby(level="together").sum()
    first = rows[differs].drop_duplicates("together")
    first = first.assign(count=first["together"].map(counts))
    return first[first["count"] > 0]
