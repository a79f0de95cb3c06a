# SPDX-License-Identifier: Apache-2.0
"""Which call a part of one belongs to: waits and exporters' functions, and the call around them.

What one thread does is nested: of two of its timed events one lies within the other, or they don't
meet. Must not know pandas.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.brackets import first_of
from dmabuf_trace.tables import of_kinds, order_of

Ints = NDArray[np.int64]
Structs = NDArray[np.void]

NONE: Final = -1


def _around(begin: Ints, end: Ints, thread: Ints) -> Ints:
    """For each interval, the index of the innermost one around it on its thread, or NONE.

    Intervals come thread by thread, those of one in the order in which they ended.
    """
    count = len(begin)
    is_first = first_of(thread)
    lowest = np.minimum.reduceat(begin, np.flatnonzero(is_first))
    spans = np.maximum.reduceat(end, np.flatnonzero(is_first)) - lowest + 1
    apart = (np.cumsum(spans) - spans - lowest)[np.cumsum(is_first) - 1]
    order = np.lexsort((-end, begin + apart))
    # how many of its thread's intervals are over when one begins: those that are not lie around it
    over = np.searchsorted(np.sort(end + apart), (begin + apart)[order], side="right")
    depth = np.arange(count) - over
    found = np.full(count, NONE, np.int64)
    for level in range(1, int(depth.max(initial=0)) + 1):
        outer = np.flatnonzero(depth == level - 1)
        inner = np.flatnonzero(depth == level)
        before = np.searchsorted(outer, inner) - 1
        found[order[inner]] = np.where(before >= 0, order[outer[before]], NONE)
    has = found != NONE
    around = has.copy()
    around[has] = (thread[found[has]] == thread[has]) & (begin[found[has]] <= begin[has])
    around[has] &= end[found[has]] >= end[has]
    # a call's event comes behind those of its parts
    around &= found > np.arange(count)
    return np.where(around, found, NONE)


def calls_of(events: Structs) -> Ints:
    """For each event that is part of a call, the position of that call's event; else NONE.

    ``events`` in ring order. The wait for the lock that an ``_unlocked`` variant takes lies ahead
    of the call that it was for: it belongs to the next call of its thread, where that is about the
    same buffer. A call whose own event is missing gives NONE.
    """
    found = np.full(len(events), NONE, np.int64)
    mine = _concerned(events)
    if not len(mine):
        return found
    mine = mine[order_of(events["tid"][mine])]
    kind, tid, ts, dur = (events[name][mine] for name in ("kind", "tid", "ts", "dur"))
    is_part = of_kinds(kind, schema.PARTS)
    timed = np.flatnonzero(dur > 0)
    parent = np.full(len(mine), NONE, np.int64)
    if len(timed):
        end: NDArray[Any] = ts[timed].astype(np.int64)
        around = _around(end - dur[timed].astype(np.int64), end, tid[timed])
        parent[timed] = np.where(around == NONE, NONE, timed[around])
    calls = np.where(is_part, parent, NONE)
    while len(deeper := np.flatnonzero((calls != NONE) & is_part[calls])):
        calls[deeper] = parent[calls[deeper]]
    # a wait ahead of its call
    waits = np.flatnonzero((kind == schema.KIND["lock_wait"]) & (calls == NONE))
    made = np.append(timed[~is_part[timed]], NONE)
    follows = made[np.searchsorted(made[:-1], waits)]
    buffer = events["buffer"][mine]
    same = (follows != NONE) & (tid[follows] == tid[waits]) & (buffer[follows] == buffer[waits])
    same &= ts[follows] - dur[follows] >= ts[waits]
    calls[waits[same]] = follows[same]
    has = calls != NONE
    found[mine[has]] = mine[calls[has]]
    return found


def _concerned(events: Structs) -> Ints:
    """Positions of parts, and of the calls of threads that have some."""
    is_part = of_kinds(events["kind"], schema.PARTS)
    if not is_part.any():
        return np.zeros(0, np.int64)
    of_threads = np.isin(events["tid"], np.unique(events["tid"][is_part]))
    return np.flatnonzero(is_part | of_threads & (events["dur"] > 0))


def under_way(events: Structs, calls: Ints) -> NDArray[np.bool_]:
    """Parts that belong to none of ``calls``, and whose thread made no call since."""
    found = np.zeros(len(events), np.bool_)
    is_part = of_kinds(events["kind"], schema.PARTS)
    waiting = np.flatnonzero(is_part & (calls == NONE))
    if len(waiting):
        threads, thread = np.unique(events["tid"][waiting], return_inverse=True)
        called = np.flatnonzero(~is_part & (events["dur"] > 0))
        called = called[np.isin(events["tid"][called], threads)]
        last = np.full(len(threads), NONE, np.int64)
        by = np.searchsorted(threads, events["tid"][called])
        last[by] = called  # the last one of a thread stays
        found[waiting[last[thread] < waiting]] = True
    return found
