# SPDX-License-Identifier: Apache-2.0
"""What the blocks of a recording come to: rows by the lifecycle, and what belongs to them.

A recording is read at once, or in stretches, each of which is forgotten with the next: what has
ended in a stretch is settled in it and comes up in no other. Must not know pandas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.ahead import ahead
from dmabuf_trace.blocks import (
    Block,
    BuildBlock,
    CgroupBlock,
    EndBlock,
    EventBlock,
    LossBlock,
    Mark,
    NameBlock,
    Probed,
    ProbedBlock,
    SnapshotBlock,
    StackBlock,
    UserStackBlock,
)
from dmabuf_trace.calls import NONE, calls_of, under_way
from dmabuf_trace.extent import Extent
from dmabuf_trace.lifecycle import Lifecycle
from dmabuf_trace.reconcile import Differences, compare, settle
from dmabuf_trace.recording import Reader
from dmabuf_trace.tables import BUFFER_DTYPE, Flag, Rows, empty, together, without

Structs = NDArray[np.void]
Array = NDArray[Any]

BATCH_EVENTS: Final = 1 << 16
BLOCKS_AHEAD: Final = 4
"""Of so many events, decoded while those before them are paired."""
STRETCH_EVENTS: Final = 3 << 19
HELD_EVENTS: Final = 1 << 16
"""Parts of calls that may wait for their call."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events in the order of the ring, and what they came to.

    ``rows`` are settled: what is over, and of the last stretch also what stays open. ``present``
    are all that were there at some time in it, ``known`` those and what they refer to; ids above
    those in ``before`` came up in it. ``calls`` has, for each event that is part of a call, the
    position of that call's event, else -1; a part comes up with its call, as long as no more than
    :data:`HELD_EVENTS` wait for theirs. ``looks`` are those in it, ``marks`` all up to its end.
    ``since`` and ``until``: the latest event ahead of it and in it, ns; 0: none.
    """

    raw: Structs
    calls: Array
    rows: Rows
    present: Rows
    known: Rows
    before: dict[str, int]
    looks: tuple[SnapshotBlock, ...]
    marks: tuple[Mark, ...]
    since: int
    until: int
    is_last: bool = True

    def unsettled(self) -> Array:
        """Ids of the buffers that are open, or of which something is: more of them may follow."""
        if self.is_last:
            return np.zeros(0, np.int64)
        return np.concatenate(
            [
                rows["id" if name == "buffers" else "buffer_id"][rows["flags"] & Flag.OPEN != 0]
                for name, rows in self.present.lives()
            ]
        )

    def window(self, start: int, end: int) -> Stretch:
        """What lived or happened from ``start`` until ahead of ``end``."""
        inside = (self.raw["ts"] >= start) & (self.raw["ts"] < end)
        places = np.append(np.where(inside, np.cumsum(inside) - 1, NONE), NONE)
        rows = self.rows.window(start, end, inside)
        return replace(
            self,
            raw=self.raw.compress(inside),
            calls=places[self.calls[inside]],
            rows=rows,
            present=rows,
            known=rows,
            looks=tuple(look for look in self.looks if start <= look.ts < end),
            marks=tuple(mark for mark in self.marks if start <= mark.ts < end),
        )


@dataclass(slots=True)
class Read:
    """What the blocks of a file hold, as far as it has been read; of a ``window`` only, in ns.

    With an ``inode`` number, of events and rows only those of buffers that had it are kept.
    """

    window: tuple[int, int] | None = None
    inode: int | None = None
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    snapshots: dict[str, SnapshotBlock] = field(default_factory=dict)
    looked: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, int] = field(default_factory=dict)
    seen: Array = field(default_factory=lambda: np.zeros(schema.KIND_SLOTS, np.int64))
    events: int = 0
    first_export: int = np.iinfo(np.int64).max
    stacks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    builds: dict[str, str] = field(default_factory=dict)
    user_stacks: UserStackBlock = field(default_factory=lambda: UserStackBlock({}))
    probed: list[Probed] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    differences: Differences = field(default_factory=Differences)
    end: EndBlock | None = None
    is_marked_over: bool = False
    """A mark tells that the file has all of the window."""

    _events: list[Structs] = field(default_factory=lambda: [empty(schema.EVENT_DTYPE)])
    _rows: list[Rows] = field(default_factory=list)
    _looks: list[SnapshotBlock] = field(default_factory=list)
    _waiting: list[Structs] = field(default_factory=list)
    _retained: Structs = field(default_factory=lambda: empty(BUFFER_DTYPE))
    _lost: Structs = field(default_factory=lambda: empty(BUFFER_DTYPE))
    _buffers: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    _attachments: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    _last_ids: Counter[str] = field(default_factory=Counter)
    _since: int = 0
    _until: int = 0
    _counted: Array = field(default_factory=lambda: np.zeros(schema.LOSS_SHAPE, np.uint64))
    _counted_before: Array = field(default_factory=lambda: np.zeros(schema.LOSS_SHAPE, np.uint64))

    @property
    def losses(self) -> Array:
        """Loss counters, of a window without what was lost by the last mark ahead of it, and by the
        first one after it: they carry no times of their own."""
        lost: Array = np.maximum(self._counted, self._counted_before) - self._counted_before
        return lost

    def stretches(self, reader: Reader, extent: Extent, events: int | None) -> Iterator[Stretch]:
        """The recording in stretches of so many ``events`` or some more, or at once.

        None ends between two events of the same time: what ends then may end ahead of what begins.
        The look at the end is in the last one.
        """
        unwanted = extent.outside(*self.window) if self.window else ()
        blocks = reader.blocks(unwanted, min(BATCH_EVENTS, events or BATCH_EVENTS))
        for block in ahead(blocks, BLOCKS_AHEAD):
            match block:
                case EventBlock(found):
                    wanted = self._wanted(found)
                    if events and self._may_end(events, wanted):
                        self._feed()
                        yield self._stretch()
                    self._waiting.append(wanted)
                    if sum(map(len, self._waiting)) >= BATCH_EVENTS:
                        self._feed()
                case SnapshotBlock():
                    self._feed()
                    self._look(block)
                case _:
                    self._take(block)
        self._feed()
        yield self._last()

    def _may_end(self, events: int, following: Structs) -> bool:
        """Whether a stretch of so many events may end ahead of the following ones."""
        parts = [*self._events[1:], *self._waiting]
        if "end" in self.looked or sum(map(len, parts)) < events or not len(following):
            return False
        last = next(part for part in reversed(parts) if len(part))
        return bool(last["ts"][-1] != following["ts"][0])

    def _feed(self) -> None:
        """Pair what is waiting: a quiet recording has thousands of blocks of a few events."""
        if self._waiting:
            events = together(self._waiting)
            self._waiting.clear()
            self.lifecycle.names.feed_forks(events.compress(events["kind"] == schema.KIND["fork"]))
            rows = self.lifecycle.feed(events)
            self._note_exports(rows)
            kept, rows = self._kept(events, rows)
            self._events.append(kept)
            self._rows.append(rows)
            self.events += len(events)
            known = events["kind"][events["kind"] < schema.KIND_SLOTS]
            self.seen += np.bincount(known, minlength=schema.KIND_SLOTS)
            self._until = max(self._until, int(events["ts"].max(initial=0)))

    def _wanted(self, events: Structs) -> Structs:
        if not self.window:
            return events
        start, end = self.window
        return events.compress((events["ts"] >= start) & (events["ts"] < end))

    def _is_inside(self, ts: int) -> bool:
        return not self.window or self.window[0] <= ts < self.window[1]

    def _kept(self, events: Structs, rows: Rows) -> tuple[Structs, Rows]:
        """What is about the wanted buffers."""
        if self.inode is None:
            return events, rows
        of, through = rows.event_buffers, rows.event_attachments
        first = rows.buffers["id"][rows.buffers["inode"] == self.inode]
        self._buffers = _with(self._buffers, of[events["buffer"] == self.inode], first)
        mine = np.isin(of, self._buffers)
        self._attachments = _with(self._attachments, through[mine])
        return events.compress(mine), rows.about(self._buffers, self._attachments, mine)

    def _look(self, look: SnapshotBlock) -> None:
        if self.window and look.ts < self.window[0]:
            self.lifecycle.feed_known(look)
            return
        if not self._is_inside(look.ts):
            return
        self.lifecycle.feed_snapshot(look)
        self._looks.append(look if self.inode is None else look.about(self.inode))
        self.snapshots[look.when] = look
        self.looked[look.when] += 1
        self.unreadable[look.when] = max(self.unreadable.get(look.when, 0), look.unreadable)

    def _mark(self, mark: Mark) -> None:
        if self._is_inside(mark.ts):
            self.marks.append(mark)
        if self.window and mark.ts <= self.window[0]:
            self._counted_before = self._counted
        if self.window and mark.ts >= self.window[1]:
            self.is_marked_over = True

    def _look_at_the_end(self) -> None:
        """In a window that has no other, the last look within it is the one at its end."""
        look = self.snapshots.get("during")
        if not self.window or not look or "end" in self.snapshots:
            return
        self.snapshots["end"] = look = replace(look, when="end")
        self.unreadable["end"] = look.unreadable
        self._looks = [each for each in self._looks if each.ts != look.ts]
        self._looks.append(look if self.inode is None else look.about(self.inode))

    def _take(self, block: Block) -> None:
        match block:
            case NameBlock(names):
                self.lifecycle.feed_names(names)
            case LossBlock(losses) if not self.is_marked_over:
                self._counted = losses
            case CgroupBlock(paths):
                self.lifecycle.names.feed_cgroups(paths)
            case ProbedBlock(probed):
                self.probed.extend(probed)
            case Mark():
                self._mark(block)
            case StackBlock(stacks):
                self.stacks |= stacks
            case BuildBlock(ids):
                self.builds |= ids
            case UserStackBlock():
                self.user_stacks = block
            case EndBlock():
                self.end = block

    def _stretch(self) -> Stretch:
        """What was read since the last one; what is open is left for those that follow."""
        raw = together(self._events)
        self._events.clear()
        rows = Rows.join(self._rows)
        self._rows.clear()
        calls = calls_of(raw)
        later = under_way(raw, calls)
        later[np.flatnonzero(later)[:-HELD_EVENTS]] = False
        self._events, self._rows = [raw.compress(later)], [_NOTHING.with_events(rows, later)]
        places = np.append(np.cumsum(~later) - 1, NONE)  # the last one is that of no call
        settled = rows.with_events(rows, ~later)
        opened = self.lifecycle.finish()
        self._note_exports(opened)
        left = without(raw, np.flatnonzero(later))
        return self._made(left, places[calls[~later]], settled, opened)

    def _last(self) -> Stretch:
        """What is left, and all that stays open."""
        self._look_at_the_end()
        opened = self.lifecycle.finish()
        self.differences = compare(opened.buffers, self.lifecycle.known(), self.snapshots)
        settle(opened.buffers, self.differences)
        self._note_exports(opened)
        _, opened = self._kept(self._events[0][:0], opened)
        raw = together(self._events)
        return self._made(raw, calls_of(raw), Rows.join([*self._rows, opened]), None)

    def _note_exports(self, rows: Rows) -> None:
        exported = rows.buffers["inode"][rows.buffers["begin"] != 0]
        self.first_export = min(self.first_export, int(exported.min(initial=self.first_export)))

    def _made(self, raw: Structs, calls: Array, rows: Rows, opened: Rows | None) -> Stretch:
        present = Rows.join([rows, opened]) if opened else rows
        stretch = Stretch(
            raw,
            calls,
            rows,
            present.with_buffers(self._lost),
            present.with_buffers(self._retained),
            dict(self._last_ids),
            tuple(self._looks),
            tuple(self.marks),
            self._since,
            self._until,
            is_last=opened is None,
        )
        if opened:
            self._remember(stretch, opened)
        return stretch

    def _remember(self, stretch: Stretch, opened: Rows) -> None:
        """What the next stretch has to know of those before."""
        self._looks.clear()
        self._since = stretch.until
        for name, rows in stretch.present.lives():
            self._last_ids[name] = int(rows["id"].max(initial=self._last_ids[name]))
        over = stretch.rows.buffers
        self._lost = together([self._lost, over.compress(over["flags"] & Flag.END_LOST != 0)])
        referred = [rows["buffer_id"] for name, rows in opened.lives() if name != "buffers"]
        referred.append(self._rows[0].event_buffers)
        known = stretch.known.buffers
        gone = known.compress(~np.isin(known["id"], opened.buffers["id"]))
        self._retained = gone.compress(np.isin(gone["id"], np.concatenate(referred)))


def _with(ids: Array, *more: Array) -> Array:
    """Distinct ids, without that of none."""
    every: Array = np.unique(np.concatenate([ids, *more]))
    found: Array = every[every != 0]
    return found


_NOTHING: Final = Lifecycle().finish()
