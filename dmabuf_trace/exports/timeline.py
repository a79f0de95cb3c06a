# SPDX-License-Identifier: Apache-2.0
"""What of a recording is shown on a time line, and on which tracks.

A process has a track with a slice for each buffer that it exported (and its vmaps and CPU accesses)
and one per thread, with the calls that it made and the parts of these; a device has what it
attached, mapped and pinned. What overlaps is put on lanes of one track. A slice that nothing ended
has no end. Buffers are joined with their attachments by flows. A process is its pid: one that has
the pid of an earlier one goes by that one's name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmabuf_trace import holders, schema
from dmabuf_trace.analysis import View, doubts, records
from dmabuf_trace.exports.calls import timed
from dmabuf_trace.exports.packets import BYTES, COUNT, Packets
from dmabuf_trace.levels import spans
from dmabuf_trace.names import UNKNOWN
from dmabuf_trace.tables import order_of
from dmabuf_trace.trace import Trace
from dmabuf_trace.units import bytes_text

Row = dict[str, Any]
Ints = NDArray[np.int64]

UNSEEN: Final = "buffers whose export was not seen"
TOTALS: Final = "all buffers"
RATES: Final = "events per second"
AT_ONCE: Final = 1 << 14
BIN_NS: Final = 100_000_000
"""Events are counted per so many ns."""

_OF_ALL: Final = ("inode", "name", "exporter", "size_bytes", "error")
_OF_LIVES: Final = (
    *(*_OF_ALL, "origin", "importer", "p2p", "direction", "end_direction"),
    *("entries", "cached", "by", "comm", "pid", "outlived"),
)
_OF_CALLS: Final = (*_OF_ALL, "device", "fence_context", "fence_seqno", "mappings", "pins")
"""Columns that a slice or a moment shows, of those that its table has; its track tells more."""


@dataclass(frozen=True, slots=True)
class _Life:
    """A table of what a process or a device has, its track, how a slice without an end is called,
    and the events that are its begin and its ends.
    """

    table: str
    track: str
    endless: str
    begins: str
    ends: tuple[str, ...]
    of_device: bool = True


_LIVES: Final = (
    _Life("attachments", "attached", "never detached", "attach", ("detach",)),
    _Life("mappings", "mapped", "never unmapped", "map", ("unmap", "detach")),
    _Life("pins", "pinned", "never unpinned", "pin", ("unpin", "detach")),
    _Life("vmaps", "vmaps", "never given back", "vmap", ("vunmap",), of_device=False),
    _Life(
        "cpu_accesses",
        "CPU accesses",
        "never ended",
        "cpu_begin",
        ("cpu_end", "kernel_end"),
        of_device=False,
    ),
)
_BUFFERS: Final = _Life(
    "buffers", "buffers", "never released", "export", ("release",), of_device=False
)


class Timeline:
    """Takes stretches; what needs all of them is written by :meth:`finish`."""

    def __init__(self, packets: Packets) -> None:
        self.threads: dict[int, int] = {}
        """Tracks by thread, of those that made a call."""
        self._packets = packets
        self._levels: dict[int, list[tuple[Ints, Ints]]] = defaultdict(list)
        self._rates: dict[int, list[tuple[Ints, Ints]]] = defaultdict(list)

    def take(self, stretch: Trace) -> None:
        """Write what was settled in a stretch."""
        self._buffers(stretch)
        for life in _LIVES:
            self._lives(stretch, life)
        self._calls(stretch)
        self._moves(stretch)
        self._count(stretch)

    def finish(self) -> None:
        """Write the counters."""
        for track, parts in self._levels.items():
            times, changes = map(np.concatenate, zip(*parts, strict=True))
            order = order_of(times)
            times, values = times[order], np.cumsum(changes[order])
            is_last = np.append(times[1:] != times[:-1], True)
            self._write_counter(track, times[is_last], values[is_last])
        for kind, parts in self._rates.items():
            times, counts = map(np.concatenate, zip(*parts, strict=True))
            name = schema.KIND_NAMES.get(kind, f"kind {kind}")
            track = self._packets.counter(name, COUNT, self._packets.track(RATES))
            self._write_counter(track, *_rate(times, counts))

    def _write_counter(self, track: int, times: Ints, values: Ints) -> None:
        for ts, value in zip(times.tolist(), values.tolist(), strict=True):
            self._packets.count(track, ts, value)

    def _process(self, stretch: Trace, pid: int, row: Row) -> int:
        """The track of a process, by its name when it first made a call."""
        name = stretch.names.comm(pid, row["begin"] or stretch.start)
        return self._packets.process(pid, row["comm"] if name == UNKNOWN else name)

    def _thread(self, stretch: Trace, row: Row) -> int:
        pid, tid = row["pid"], row["tid"]
        process = self._process(stretch, pid, row)
        self.threads[tid] = self._packets.thread(process, pid, tid, row["comm"])
        return self.threads[tid]

    def _buffers(self, stretch: Trace) -> None:
        view = View(stretch, holders.NEEDS)
        held = holders.at_end(view) if stretch.stretch.is_last else {}
        rows = spans(view, stretch.buffers)
        totals, endless = self._packets.track(TOTALS), _endless(stretch, _BUFFERS)
        by_process = rows["pid"].fillna(-1)
        for pid, mine in rows.groupby(by_process):
            first = records(mine.head(1))[0]
            seen = pid >= 0
            parent = (
                self._process(stretch, int(pid), first) if seen else self._packets.track(UNSEEN)
            )
            self._level(stretch, _BUFFERS, "alive", parent, mine)
            for row in _by_end(mine):
                size = "" if row["size_bytes"] is None else bytes_text(row["size_bytes"])
                name = " ".join(filter(None, (str(row["inode"]), row["name"], size)))
                args = _args(row, _OF_LIVES)
                if by := held.get(row["id"]):
                    args["held by"] = ", ".join(map(holders.text, by))
                self._slice(
                    _BUFFERS.track, parent, row, _called(name, row, endless), args, row["id"]
                )
        for exporter, mine in rows.groupby(rows["exporter"].fillna(UNKNOWN)):
            self._level(stretch, _BUFFERS, f"alive of {exporter}", totals, mine)
        self._level(stretch, _BUFFERS, "alive", totals, rows)

    def _level(
        self, stretch: Trace, life: _Life, name: str, parent: int, rows: pd.DataFrame
    ) -> None:
        """Count the bytes of rows while they last, where both ends were observed.

        Unknown sizes add nothing.
        """
        if rows.empty or not stretch.missing.keys().isdisjoint((life.begins, *life.ends)):
            return
        sizes = rows["size_bytes"].fillna(0).to_numpy(np.int64)
        is_over = rows["until"].notna().to_numpy()
        times = [rows["since"].to_numpy(np.int64), rows["until"][is_over].to_numpy(np.int64)]
        changes = [sizes, -sizes[is_over]]
        track = self._packets.counter(name, BYTES, parent)
        self._levels[track].append((np.concatenate(times), np.concatenate(changes)))

    def _slice(
        self, name: str, parent: int, row: Row, text: str, args: Row, flow: int | None = None
    ) -> None:
        begin, end = row["since"], row["until"]
        if end is not None:
            end = max(begin, end)  # processors do not quite agree on the time
        track = self._packets.free_lane(name, parent, begin, end)
        self._packets.begin(track, begin, text, args, flow)
        if end is not None:
            self._packets.end(track, end)

    def _lives(self, stretch: Trace, life: _Life) -> None:
        rows: pd.DataFrame = getattr(stretch, life.table)
        until = rows["end"].mask(rows["end"].isna() & ~rows["open"], stretch.end)
        since = rows["begin"].fillna(stretch.start).clip(lower=stretch.start)
        rows = rows.assign(since=since, until=until, end_lost=until.notna() & rows["end"].isna())
        endless = _endless(stretch, life)
        by = ["device", "driver", "bus"] if life.of_device else ["pid"]
        for _, mine in rows.groupby(by):
            first = records(mine.head(1))[0]
            if life.of_device:
                kind = ", ".join(filter(None, (first["driver"], first["bus"])))
                called = f"device {first['device']}" + (f" ({kind})" if kind else "")
                parent = self._packets.track(called)
            else:
                parent = self._process(stretch, first["pid"], first)
            if life.table == "mappings":
                self._level(stretch, life, "mapped", parent, mine)
            for row in _by_end(mine):
                known = (row["inode"], row["exporter"], row.get("direction"))
                name = " ".join(str(each) for each in known if each is not None)
                flow = row["buffer_id"] if life.table == "attachments" else None
                text = _called(name, row, endless)
                self._slice(life.track, parent, row, text, _args(row, _OF_LIVES), flow)

    def _calls(self, stretch: Trace) -> None:
        """A slice per call, nested as they were; what would end behind the one around it is cut."""
        thread, track, ends = None, 0, list[int]()
        for row in _each(timed(stretch)):
            if thread != (row["pid"], row["tid"]):
                self._end_all(track, ends)
                thread, track = (row["pid"], row["tid"]), self._thread(stretch, row)
            while ends and ends[-1] <= row["begin"]:
                self._packets.end(track, ends.pop())
            self._packets.begin(track, row["begin"], row["what"], _args(row, _OF_CALLS))
            ends.append(max(row["begin"], min([row["end"], *ends[-1:]])))
        self._end_all(track, ends)

    def _end_all(self, track: int, ends: list[int]) -> None:
        while ends:
            self._packets.end(track, ends.pop())

    def _moves(self, stretch: Trace) -> None:
        for row in records(stretch.moves.assign(begin=stretch.moves["ts"])):
            track = self._thread(stretch, row)
            self._packets.instant(track, row["ts"], "move", _args(row, _OF_CALLS))

    def _count(self, stretch: Trace) -> None:
        bins = stretch.raw["ts"].astype(np.int64) // BIN_NS
        kinds = stretch.raw["kind"]
        for kind in np.unique(kinds).tolist():
            self._rates[kind].append(np.unique(bins[kinds == kind], return_counts=True))


def _by_end(rows: pd.DataFrame) -> Iterator[Row]:
    return _each(rows.sort_values(["until", "since"]))  # those without an end come last


def _each(rows: pd.DataFrame) -> Iterator[Row]:
    """Rows as dicts, of which few are there at once."""
    for start in range(0, len(rows), AT_ONCE):
        yield from records(rows.iloc[start : start + AT_ONCE])


def _args(row: Row, columns: tuple[str, ...]) -> Row:
    return {name: row[name] for name in columns if row.get(name) not in (None, "")}


def _endless(stretch: Trace, life: _Life) -> str:
    """What may be said of a slice without an end."""
    if not stretch.missing.keys().isdisjoint(life.ends):
        return "its end is not observed"
    if stretch.window_ns:
        return "no end in this time"
    return life.endless + (", as far as is known" if doubts(stretch, life.ends) else "")


def _called(name: str, row: Row, endless: str) -> str:
    """A name with what is odd about its end."""
    if row["until"] is None:
        return f"{name} ({endless})"
    return f"{name} (its end was lost)" if row["end_lost"] else name


def _rate(bins: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Times, and how many a second there are from each on."""
    places, which = np.unique(bins, return_inverse=True)
    sums = np.bincount(which, counts).astype(np.int64) * (1_000_000_000 // BIN_NS)
    empty = np.setdiff1d(places + 1, places)
    times = np.concatenate([places, empty])
    order = order_of(times)
    values = np.concatenate([sums, np.zeros_like(empty)])
    return times[order] * BIN_NS, values[order]
