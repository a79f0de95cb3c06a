# SPDX-License-Identifier: Apache-2.0
"""How much is alive at once: lives, from a begin to an end, as steps of a level.

At one and the same time begins come before ends. Must not know what it is that lives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import View
from dmabuf_trace.measure import added

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]


def spans(view: View, buffers: pd.DataFrame) -> pd.DataFrame:
    """Buffers, alive in the trace from ``since`` to ``until``; NA: alive at its end.

    One whose export was lost is there from when it was first seen, one with a lost release until
    the end of the trace, where it is gone. Of a window, what lies outside is cut off.
    """
    is_new = buffers["origin"].isin(("lost", "unwatched"))
    since = buffers["begin"].fillna(buffers["seen"].where(is_new, view.start))
    until = buffers["end"].mask(buffers["end_lost"], view.end)
    return buffers.assign(
        since=since.clip(lower=view.start),
        until=until.mask((until > view.end).fillna(False)),
    )


def steps(spans: pd.DataFrame) -> tuple[Array, Array]:
    """Times, and from each of them on: how many buffers are alive and how many bytes.

    One more level than times, as the first is that before all. Unknown sizes add nothing.
    """
    is_over = spans["until"].notna().to_numpy()
    times = np.concatenate(
        [spans["since"].to_numpy(np.int64), spans["until"][is_over].to_numpy(np.int64)]
    )
    sizes = spans["size_bytes"].fillna(0).to_numpy(np.int64)
    made = np.stack([np.ones_like(sizes), sizes], axis=1)
    order = np.argsort(times, kind="stable")
    changes = np.concatenate([made, -made[is_over]])[order]
    levels = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(changes, axis=0)])
    return times[order], levels


@dataclass(frozen=True, slots=True)
class Course:
    """A level over a trace, as far as it was taken: ``[:, 0]`` buffers, ``[:, 1]`` bytes.

    ``levels`` are those at ``moments``, the first of which is the start of the trace, ``tops`` the
    most bytes from each of them until the next. ``peak`` is when the most bytes were alive first.
    """

    moments: Array
    levels: Array
    tops: Array
    peak: int
    peak_bytes: int = 0

    @classmethod
    def at(cls, moments: Array) -> Course:
        """None alive yet."""
        nothing = np.zeros(len(moments), np.int64)
        return cls(moments, np.stack([nothing, nothing], axis=1), nothing, int(moments[0]))

    def late(self, since: Array, changes: Array, until: int) -> Course:
        """With what was alive from ``since`` to ``until``, which is how far this was taken.

        Of one that was not there from the start, the peak may have been elsewhere.
        """
        known = (self.moments <= until)[:, None]
        reached = self.moments[:, None] >= since
        levels = self.levels + np.where(known, reached @ changes, 0)
        within = np.append(self.moments[1:], until)[:, None] >= since
        tops = self.tops + np.where(known, within @ changes, 0)[:, 1]
        more = int(changes[since <= self.peak, 1].sum())
        return replace(self, levels=levels, tops=tops, peak_bytes=self.peak_bytes + more)

    def take(self, spans: pd.DataFrame, since: int, until: int) -> Course:
        """With a stretch: what was alive at some time after ``since``, up to ``until``."""
        times, levels = steps(spans)
        now = slice(*np.searchsorted(times, [since, until], side="right"))
        first, last = np.searchsorted(self.moments, [since, until], side="right")
        passed = np.searchsorted(times, self.moments[first:last], side="right")
        at, tops = self.levels.copy(), self.tops.copy()
        at[first:last] = levels[passed]
        tops[first:last] = levels[passed, 1]
        of = np.searchsorted(self.moments, times[now]) - 1
        after = levels[now.start : now.stop + 1, 1]
        np.maximum.at(tops, of[of >= 0], after[1:][of >= 0])
        found = replace(self, levels=at, tops=tops)
        highest = int(after.argmax())
        if after[highest] <= self.peak_bytes:
            return found
        peak = int(times[now][highest - 1]) if highest else since
        return replace(found, peak=peak, peak_bytes=int(after[highest]))


def peaks(
    before: pd.DataFrame | None, present: pd.DataFrame, keys: list[str], view: View
) -> pd.DataFrame:
    """``keys`` and ``peak_bytes``: most bytes (``size_bytes``) of a group at once, so far.

    ``present`` are rows that were there at some time in the stretch, ``fresh`` or not, from
    ``begin`` to ``end``. What began unseen counts from the start of the trace, what has no known
    end to its end.
    """
    unseen = present["fresh"] & present["begin"].isna()
    if before is not None:  # it was there all the time, and comes to light only now
        late = present[unseen].groupby(keys, dropna=False)["size_bytes"].sum().rename("late")
        before = before.join(late, on=keys)
        before["peak_bytes"] += before.pop("late").fillna(0).astype("int64")
    ordered = present.sort_values(keys)
    group = ordered.groupby(keys, dropna=False).ngroup().to_numpy(np.int64)
    is_over = ordered["end"].notna().to_numpy()
    begins = ordered["begin"].fillna(view.start).to_numpy(np.int64)
    times = np.concatenate([begins, ordered["end"][is_over].to_numpy(np.int64)])
    sizes = ordered["size_bytes"].fillna(0).to_numpy(np.int64)
    of = np.concatenate([group, group[is_over]])
    order = np.lexsort((times, of))  # begins ahead of ends
    levels = np.cumsum(np.concatenate([sizes, -sizes[is_over]])[order])
    numbers, first = np.unique(of[order], return_index=True)
    ahead = np.concatenate([[0], levels])[first]
    found = ordered[keys].iloc[np.unique(group, return_index=True)[1]]
    most = np.maximum.reduceat(levels, first) - ahead if len(numbers) else levels
    rows: pd.DataFrame = found.assign(peak_bytes=np.maximum(most, 0))
    return added(before, rows, keys, peak_bytes="max")


def peak_bytes(table: pd.DataFrame, start: int) -> int:
    """Most bytes (``size_bytes``) between ``begin`` and ``end`` at once.

    What began unseen counts from ``start``, what has no known end to the end of the trace.
    """
    _, levels = steps(table.assign(since=table["begin"].fillna(start), until=table["end"]))
    return int(levels[:, 1].max())
