# SPDX-License-Identifier: Apache-2.0
"""Rules of CPU access: mappings into the kernel, brackets, ioctls that are interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.errnos import INTERRUPTED
from dmabuf_trace.measure import joined
from dmabuf_trace.rules.facts import Facts, Found, broken, truth

if TYPE_CHECKING:
    import pandas as pd

_SYNCS: Final = ("cpu_begin", "cpu_end")


def vmap_balanced(facts: Facts, _: None) -> Found:
    """A vmap has a vunmap ahead of the release, a vunmap has a vmap."""
    rows = facts.table("vmaps")
    begun, ends = rows["begin"].notna(), rows["end"].notna()
    left, released = _left(facts, rows[begun & rows["open"]])
    extra = rows[ends & ~begun]
    extra = extra[facts.exported(extra)]
    found = broken((left, released, "vmapped at the release"), (extra, "end", "no vmap before"))
    return Found(int((begun & ends).sum()) + len(extra) + len(left), found)


def _left(facts: Facts, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[int]]:
    """Those that were open at the release of their buffer, and when that was."""
    released = facts.released(rows)
    return rows[released.notna()], released


def cpu_access_bracketed(facts: Facts, last: pd.DataFrame | None) -> Found:
    """A begin has an end, of the same direction; ``last``: the last access of each owner."""
    rows = facts.table("cpu_accesses")
    begun, ends = rows["begin"].notna(), rows["end"].notna()
    left, released = _left(facts, rows[begun & ~ends])
    extra = rows[ends & ~begun]
    extra = extra[facts.exported(extra)]
    otherwise, last = _otherwise(facts, _accesses(rows), last)
    found = broken(
        (left, released, "no end before the release"),
        (extra, "end", "ended what was not begun"),
        (otherwise, "end", "ended with another direction"),
    )
    return Found(int((begun & ends).sum()) + len(left) + len(extra), found, waiting=last)


def _accesses(rows: pd.DataFrame) -> pd.DataFrame:
    """Those with both ends: whose they are, and whether these differ in direction."""
    both = rows["begin"].notna() & rows["end"].notna()
    owner = rows["pid"].where(rows["by"] == "process", 0)
    differs = truth(rows["direction"] != rows["end_direction"])
    columns = rows[["inode", "pid", "comm", "buffer_id", "begin", "end"]]
    found: pd.DataFrame = columns.assign(owner=owner, differs=differs, apart=True)[both]
    return found.astype(dict.fromkeys(("buffer_id", "owner", "begin", "end"), "int64"))


def _otherwise(
    facts: Facts, new: pd.DataFrame, last: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accesses that ended otherwise than they began, and the last one of each owner.

    Of accesses that overlap nothing says which end is whose: they are not judged.
    """
    rows = joined(last, new)
    rows = rows.take(np.lexsort([rows["owner"], rows["buffer_id"]]))
    begin, end, owner, buffer = (
        rows[name].to_numpy() for name in ("begin", "end", "owner", "buffer_id")
    )
    follows = (owner[1:] == owner[:-1]) & (buffer[1:] == buffer[:-1])
    overlaps = follows & (begin[1:] < end[:-1])
    follows, overlaps = np.append(follows, False), np.append(overlaps, False)
    rows["apart"] &= ~np.roll(overlaps, 1)
    gone = np.isin(buffer, facts.view.buffers["id"]) | facts.view.is_last
    over = (follows | gone) & ~overlaps
    return rows[truth(rows["differs"] & rows["apart"]) & over], rows[~follows & ~gone]


def sync_restarted(facts: Facts, waiting: pd.DataFrame | None) -> Found:
    """An interrupted DMA_BUF_IOCTL_SYNC is the next one of its thread on the buffer, again.

    ``waiting`` are those that nothing follows, and whether their thread ``lived`` on: one of which
    nothing more is seen may have been killed by that signal.
    """
    view, failed = facts.view, facts.table("errors")
    failed = failed[failed["kind"].isin(_SYNCS) & failed["errno"].isin(INTERRUPTED)]
    of = joined(waiting, failed[["tid", "inode"]])
    if not len(of):
        return Found()
    tids, inodes = (of[name].dropna().to_numpy(np.int64) for name in ("tid", "inode"))
    columns = ["ts", "kind", "inode", "detail", "ret", "tid", "pid", "comm"]
    syncs = view.events_of(*_SYNCS, tids=tids, inodes=inodes)[columns].assign(lived=False)
    rows = joined(waiting, syncs)
    then = rows.groupby(["tid", "inode"])[["kind", "detail"]].shift(-1)
    followed = then["kind"].notna()
    again = ((then["kind"] == rows["kind"]) & (then["detail"] == rows["detail"])).fillna(False)
    asked = (-rows["ret"]).isin(INTERRUPTED)
    given_up = rows[asked & followed & ~again.astype(bool)]
    waiting = _living(facts, rows[asked & ~followed])
    cases = int((asked & followed).sum())
    if view.is_last:
        given_up = joined(given_up, waiting[waiting["lived"]])
        cases += int(waiting["lived"].sum())
    return Found(cases, broken((given_up, "ts", "interrupted and not restarted")), waiting=waiting)


def _living(facts: Facts, rows: pd.DataFrame) -> pd.DataFrame:
    """Whether the threads of these calls made any later."""
    if not len(rows):
        return rows
    later = facts.view.last_calls(rows["tid"].to_numpy(np.int64))
    return rows.assign(lived=rows["lived"] | (rows["tid"].map(later) > rows["ts"]))
