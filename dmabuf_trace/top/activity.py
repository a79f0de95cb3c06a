# SPDX-License-Identifier: Apache-2.0
"""What is alive and what happens, kept up to date batch by batch in bounded memory.

:meth:`Activity.moment` gives all that is to be shown, as of a time, and never changes it again: so
whoever shows it may take as long as it likes. What was released is forgotten.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import SnapshotBlock
from dmabuf_trace.lifecycle import Lifecycle
from dmabuf_trace.names import Names
from dmabuf_trace.tables import Flag, Rows, look_up, of_kinds, order_of, together
from dmabuf_trace.top.floors import Floors, Levels
from dmabuf_trace.top.recent import BUCKETS, Recent, Sums, bucket_of
from dmabuf_trace.trend import Trend

Array = NDArray[Any]
Structs = NDArray[np.void]

CALLS: Final = ("export", "attach", "map")
"""Calls that are counted and timed; in vectors of rates failed ones come behind them."""
FAILED: Final = len(CALLS)
GROUPS: Final = ("exporters", "processes", "devices")
THREAD_BITS: Final = np.uint64(32)

_CALL_KINDS: Final = tuple(schema.KIND[name] for name in CALLS)
_EXPORT, _, _MAP = _CALL_KINDS
_FDS: Final = ("fd_install", "fd_close", "fork")
_TOGETHER: Final = 1 << 14
"""Events that are paired at once, each time with all open rows; a moment waits for no more."""
_KEPT: Final = 1 << 17
"""Latest events that are kept, for the story of a buffer."""
_COURSE: Final = 240
_SHORTEST: Final = 50_000_000
"""ns between two samples of the course."""
_NAMES: Final = 1 << 16


class Sample(NamedTuple):
    """Levels at a time (ns), and counts since the beginning."""

    ts: int
    buffers: int
    size_bytes: int
    events: int
    export: int
    attach: int
    map: int


class Batch(NamedTuple):
    """Events, and the ids of the buffer and of the attachment that each is about."""

    events: Structs
    buffers: Array
    attachments: Array


@dataclass(frozen=True, eq=False)
class Moment:
    """As of ``ts`` (ns, CLOCK_MONOTONIC): counts since ``start``, rates and lengths ``since``.

    ``rates`` and ``lengths`` are by group of :data:`GROUPS`, then by key: string id of an exporter
    or a device, pid and tid of a process in one number. ``calls`` has lengths by place in
    :data:`CALLS`. In ``rows`` is what is open; a buffer from before has the pid of a process that
    held it then. ``fds`` by pid; None: not observed. ``unlisted``: of the buffers from before only
    those that a process held are known; ``unreadable`` processes could not be looked into.
    """

    start: int
    since: int
    ts: int
    events: int
    lost: int
    kinds: Array
    failed: int
    calls: Sums
    rates: Mapping[str, Sums]
    lengths: Mapping[str, Sums]
    rows: Rows
    fds: Mapping[int, int] | None
    course: tuple[Sample, ...]
    growing: Mapping[tuple[int, int], Trend]
    latest: tuple[Batch, ...]
    names: Names
    missing: Mapping[str, str]
    unlisted: bool
    unreadable: int

    @property
    def seconds(self) -> float:
        """How long rates and lengths are taken over."""
        return max(self.ts - self.since, 1) / 1e9

    def per_second(self, kind: str) -> float | None:
        """Rate of a kind of event; None: not observed."""
        if kind in self.missing:
            return None
        return float(self.kinds[schema.KIND[kind]] / self.seconds)


class Activity:
    """``missing`` are the kinds of event that are not observed, and why; ``start`` in ns."""

    def __init__(self, start: int, missing: Mapping[str, str]) -> None:
        self._start = start
        self._missing = missing
        self._lifecycle = Lifecycle()
        self._waiting: list[Structs] = []
        self._held = np.zeros(0, [("inode", "<u8"), ("pid", "<u4")])
        self._fds: Counter[int] = Counter()
        self._look: SnapshotBlock | None = None
        self._counts = np.zeros(schema.KIND_SLOTS, np.int64)
        self._lost = 0
        self._kinds = Recent(schema.KIND_SLOTS + 1, start)
        self._calls = Recent(BUCKETS, start)
        self._rates = {group: Recent(FAILED + 1, start) for group in GROUPS}
        self._lengths = {group: Recent(BUCKETS, start) for group in ("exporters", "devices")}
        self._floors = Floors()
        self._course: deque[Sample] = deque(maxlen=_COURSE)
        self._latest: deque[Batch] = deque()

    def look(self, snapshot: SnapshotBlock) -> None:
        """Take a look at the holders; one at the start shows what was there before."""
        self._take_waiting()
        self._lifecycle.feed_snapshot(snapshot)
        if snapshot.when != "start":
            return
        self._look = snapshot
        holders = snapshot.holders
        held = {holder.buffer: holder.pid for holder in reversed(holders)}
        self._held = np.array(sorted(held.items()), self._held.dtype)
        for pid, comm in {holder.pid: holder.comm for holder in holders}.items():
            self._lifecycle.names.remember_thread(pid, snapshot.ts, comm)
        self._fds.update(holder.pid for holder in holders if holder.fd >= 0)

    def feed_names(self, names: Structs) -> None:
        """Take names, ahead of the events that use them."""
        self._lifecycle.feed_names(names)

    def feed(self, events: Structs) -> None:
        """Take events in ring order; they are not to be changed any more."""
        if len(events):
            self._waiting.append(events)
            if sum(map(len, self._waiting)) >= _TOGETHER:
                self._take_waiting()

    def lose(self, losses: NDArray[np.uint64]) -> None:
        """Take the cumulative loss counters."""
        self._lost = schema.lost_events(losses)

    def moment(self, ts: int) -> Moment:
        """All that is to be shown at ``ts`` (ns); ends an interval."""
        self._take_waiting()
        rows = self._lifecycle.finish()
        self._fill(rows.buffers)
        same = self._same_exporters()
        rows.buffers["exporter"] = _replaced(rows.buffers["exporter"], same)
        alive = int(rows.buffers["size"].sum())
        export, attach, mapped = self._counts[list(_CALL_KINDS)].tolist()
        events = int(self._counts.sum())
        sample = Sample(ts, len(rows.buffers), alive, events, export, attach, mapped)
        if self._course and ts - self._course[-1].ts < _SHORTEST:
            self._course.pop()  # no rate can be told from so little time
        self._course.append(sample)
        self._floors.take(ts, _levels(rows.buffers))
        rates = {group: recent.step(ts) for group, recent in self._rates.items()}
        lengths = {group: recent.step(ts) for group, recent in self._lengths.items()}
        for sums in (rates, lengths):
            sums["exporters"] = _merged(sums["exporters"], same)
        kinds = self._kinds.step(ts).get(0, np.zeros(schema.KIND_SLOTS + 1, np.int64))
        self._forget_names(rows)
        return Moment(
            *(self._start, self._kinds.since, ts, events, self._lost),
            kinds=kinds[:-1],
            failed=int(kinds[-1]),
            calls=self._calls.step(ts),
            rates=rates,
            lengths=lengths,
            rows=rows,
            fds=self._open_fds(rows.fds),
            course=tuple(self._course),
            growing=self._floors.growing(),
            latest=tuple(self._latest),
            names=self._lifecycle.names,
            missing=self._missing,
            unlisted=self._look is None or not self._look.complete,
            unreadable=self._look.unreadable if self._look else 0,
        )

    def _fill(self, buffers: Structs) -> None:
        """Give buffers from before a process that held them then."""
        unseen = buffers["pid"] == 0
        if unseen.any():
            pids = look_up(buffers["inode"][unseen], self._held["inode"], self._held["pid"])
            buffers["pid"][unseen] = buffers["tid"][unseen] = pids

    def _same_exporters(self) -> dict[int, int]:
        """Ids that stand for the same exporter as another: one from a look, one from the kernel."""
        first: dict[str, int] = {}
        ids = self._lifecycle.names.exporters().items()
        return {key: first[text] for key, text in ids if first.setdefault(text, key) != key}

    def _open_fds(self, opened: Structs) -> Mapping[int, int] | None:
        if not self._missing.keys().isdisjoint(_FDS):
            return None
        pids, counts = np.unique(opened["pid"], return_counts=True)
        return self._fds + Counter(dict(zip(pids.tolist(), counts.tolist(), strict=True)))

    def _forget_names(self, rows: Rows) -> None:
        """Of many, keep the names that what is open needs."""
        names = self._lifecycle.names
        if names.count > _NAMES:
            tables = (rows.buffers, rows.mappings, rows.fds)
            threads = np.concatenate([table["tid"] for table in tables])
            names.keep(set(threads.tolist()), set(rows.buffers["name"].tolist()))

    def _take_waiting(self) -> None:
        if not self._waiting:
            return
        events = together(self._waiting)
        self._waiting.clear()
        rows = self._lifecycle.feed(events)
        kinds = np.minimum(events["kind"], schema.KIND_SLOTS - 1)
        self._lifecycle.names.feed_forks(events[kinds == schema.KIND["fork"]])
        self._counts += np.bincount(kinds, minlength=schema.KIND_SLOTS)
        self._count(events, kinds, rows)
        closed = rows.fds[rows.fds["flags"] & Flag.BEGIN_UNSEEN != 0]
        self._fds -= Counter(closed["end_pid"].tolist())
        self._keep(Batch(events, rows.event_buffers, rows.event_attachments))

    def _keep(self, batch: Batch) -> None:
        """Keep the latest events."""
        self._latest.append(Batch(*(column[-_KEPT:] for column in batch)))
        kept = sum(len(each.events) for each in self._latest)
        while kept - len(self._latest[0].events) >= _KEPT:
            kept -= len(self._latest.popleft().events)

    def _count(self, events: Structs, kinds: Array, rows: Rows) -> None:
        """Add to the rates and the lengths."""
        calls = np.flatnonzero(of_kinds(kinds, _CALL_KINDS))
        about, kind = events.take(calls), kinds[calls]
        call = np.searchsorted(_CALL_KINDS, kind)
        failed = about["ret"] < 0
        slot = np.where(failed, FAILED, call)
        known = together([self._lifecycle.open_buffers, rows.buffers])
        known = known.take(order_of(known["id"]))
        exporter = look_up(rows.event_buffers[calls], known["id"], known["exporter"])
        exporter = np.where(kind == _EXPORT, about["aux"], exporter)
        by_device = kind != _EXPORT
        thread = about["pid"].astype(np.uint64) << THREAD_BITS | about["tid"]
        self._rates["exporters"].add(exporter, slot)
        self._rates["devices"].add(about["aux"][by_device], slot[by_device])
        self._rates["processes"].add(thread, slot)
        bucket = bucket_of(about["dur"])
        self._calls.add(call[~failed], bucket[~failed])
        mapped = ~failed & (kind == _MAP)
        self._lengths["exporters"].add(exporter[mapped], bucket[mapped])
        self._lengths["devices"].add(about["aux"][mapped], bucket[mapped])
        none = np.zeros(len(kinds), np.int64)
        self._kinds.add(none, kinds)
        lost = np.flatnonzero((events["ret"] < 0) & ~of_kinds(kinds, schema.PARTS))
        self._kinds.add(none[lost], np.full(len(lost), schema.KIND_SLOTS))


def _replaced(keys: Array, by: Mapping[int, int]) -> Array:
    for old, new in by.items():
        keys = np.where(keys == old, np.uint64(new), keys)
    return keys


def _merged(sums: Sums, same: Mapping[int, int]) -> Sums:
    found: Sums = {}
    for key, row in sums.items():
        kept = same.get(key, key)
        found[kept] = found[kept] + row if kept in found else row
    return found


def _levels(buffers: Structs) -> Levels:
    """How many buffers are alive of each exporter and process."""
    exporters, of = np.unique(buffers["exporter"], return_inverse=True)
    groups, counts = np.unique(of << 32 | buffers["pid"], return_counts=True)
    pids = (groups & 0xFFFFFFFF).tolist()
    keys = zip(exporters[groups >> 32].tolist(), pids, strict=True)
    return dict(zip(keys, counts.tolist(), strict=True))
