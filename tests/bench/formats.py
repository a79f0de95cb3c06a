# SPDX-License-Identifier: Apache-2.0
"""The same events as other tools would store them, encoded by hand: for their size only.

Each encoder stores what an event of its kind has, and no more: the fields that are not empty in
:data:`schema.KINDS`. A call that takes time is an entry and a return, as these tools have it.
File headers, symbols and formats are left out, and so is padding at the end of ring pages: all of
it is in the others' favour.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema

PAGE_BYTES, PAGE_HEAD = 4096, 16
"""A page of ftrace's ring, and the time stamp and length that it begins with."""

PERF_SAMPLE: Final = 8 + 8 + 8 + 8 + 8 + 8 + 4
"""perf_event_header, ip, pid and tid, time, cpu, period, size of the raw record."""

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]


def _arguments(kind: schema.Kind) -> list[str]:
    """Fields that an event of a kind has, besides who, when and how long."""
    used = {
        "buffer": True,
        "object": bool(kind.object),
        "value": bool(kind.value),
        "aux": bool(kind.aux),
        "detail": bool(kind.detail),
    }
    return [name for name, there in used.items() if there]


def _words(events: NDArray[np.void], names: list[str]) -> Bytes:
    """Fields of events as rows of 64-bit words, in bytes."""
    columns = [events[name].astype("<i8") for name in names]
    return np.stack(columns, axis=1).view(np.uint8)


_COMMON: Final = np.dtype([("type", "<u2"), ("flags", "u1"), ("preempt", "u1"), ("pid", "<i4")])
"""What every record of ftrace begins with."""


def _trace_records(events: NDArray[np.void], kind: schema.Kind) -> Iterator[tuple[Words, Bytes]]:
    """Times and records, as a kprobe event and the event of its return have them."""
    common = np.zeros(len(events), _COMMON)
    common["type"], common["pid"] = 1_000 + kind.id, events["tid"]
    head = common.view(np.uint8).reshape(-1, _COMMON.itemsize)
    place = np.full((len(events), 1), 0xFFFF_FFFF_8100_0000 + (kind.id << 12), "<u8").view(np.uint8)
    arguments = _words(events, _arguments(kind))
    yield events["ts"] - events["dur"], np.hstack([head, place, arguments])
    if kind.timed:
        common["type"] += 100
        yield events["ts"].copy(), np.hstack([head, place, place, _words(events, ["ret"])])


def _by_kind(events: NDArray[np.void]) -> Iterator[tuple[schema.Kind, NDArray[np.void]]]:
    for kind in schema.KINDS:
        chosen = events[events["kind"] == kind.id]
        if len(chosen):
            yield kind, chosen


class _Stream:
    """Records of several sizes, put in order of a key."""

    def __init__(self) -> None:
        self._keys: list[NDArray[np.uint64]] = []
        self._rows: list[Bytes] = []

    def add(self, keys: NDArray[np.uint64], rows: Bytes) -> None:
        """Rows of one size, each with its key."""
        self._keys.append(keys)
        self._rows.append(rows)

    def joined(self) -> bytes:
        """All rows in order."""
        keys = np.concatenate(self._keys)
        sizes = np.repeat([rows.shape[1] for rows in self._rows], [len(k) for k in self._keys])
        order = np.argsort(keys, kind="stable")
        starts = np.empty(len(keys), np.int64)
        starts[order] = np.cumsum(sizes[order]) - sizes[order]
        content = np.zeros(int(sizes.sum()), np.uint8)
        first = 0
        for rows in self._rows:
            places = starts[first : first + len(rows), None] + np.arange(rows.shape[1])
            content[places] = rows
            first += len(rows)
        return content.tobytes()


def ftrace(events: NDArray[np.void]) -> bytes:
    """The pages of ftrace's ring, processor by processor: the bulk of a trace.dat."""
    stream = _Stream()
    for kind, chosen in _by_kind(events):
        for ts, record in _trace_records(chosen, kind):
            # a word with the record's length in five bits and the time since the one before
            word = ((ts & np.uint64((1 << 27) - 1)) << np.uint64(5)).astype("<u4")
            head = (word | np.uint32(record.shape[1] // 4)).view(np.uint8).reshape(-1, 4)
            key = ts | chosen["cpu"].astype(np.uint64) << np.uint64(56)
            stream.add(key, np.hstack([head, record]))
    content = stream.joined()
    room = PAGE_BYTES - PAGE_HEAD
    pages = [content[start : start + room] for start in range(0, len(content), room)]
    return b"".join(struct.pack("<QQ", 0, len(page)) + page for page in pages)


def perf(events: NDArray[np.void]) -> bytes:
    """The samples of a perf.data, with the same kprobe events as their raw part."""
    stream = _Stream()
    for kind, chosen in _by_kind(events):
        for ts, record in _trace_records(chosen, kind):
            size = PERF_SAMPLE + record.shape[1]
            sample = np.zeros((len(chosen), -(-size // 8)), "<u8")
            sample[:, 0] = 9 | size << 48
            sample[:, 1] = 0xFFFF_FFFF_8100_0000 + (kind.id << 12)
            sample[:, 2] = chosen["pid"].astype(np.uint64) | chosen["tid"].astype(
                np.uint64
            ) << np.uint64(32)
            sample[:, 3] = ts
            sample[:, 4] = chosen["cpu"]
            sample[:, 5] = 1
            rows = sample.view(np.uint8)
            rows[:, PERF_SAMPLE - 4] = record.shape[1]
            rows[:, PERF_SAMPLE:size] = record
            stream.add(ts, rows)
    return stream.joined()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _packet(since: int, track_event: bytes) -> bytes:
    """A TracePacket on the one sequence, its time as the difference to the packet before."""
    body = b"\x40" + _varint(since) + b"\x50\x01\x5a" + _varint(len(track_event)) + track_event
    return b"\x0a" + _varint(len(body)) + body


def perfetto(events: NDArray[np.void]) -> bytes:
    """Packets of a Perfetto trace: a slice per timed call, an instant per other event.

    The track is the thread; fields are debug annotations with interned names.
    """
    marks: list[tuple[int, bytes]] = []
    by_id = {kind.id: (kind, _arguments(kind)) for kind in schema.KINDS}
    names = ("ts", "dur", "tid", "kind", "ret", "buffer", "object", "value", "aux", "detail")
    numbers = {name: index for index, name in enumerate(names)}
    for row in zip(*(events[name].tolist() for name in names), strict=True):
        ts, dur, tid, number, ret = row[:5]
        kind, arguments = by_id[number]
        track = b"\x58" + _varint(tid)
        body = b"\x48" + (b"\x01" if kind.timed else b"\x03") + b"\x50" + _varint(number) + track
        for name in arguments:
            note = b"\x08" + _varint(numbers[name]) + b"\x18" + _varint(row[numbers[name]])
            body += b"\x22" + _varint(len(note)) + note
        marks.append((ts - dur, body))
        if kind.timed:
            note = b"\x08\x04\x20" + _varint(ret % (1 << 64))
            marks.append((ts, b"\x48\x02" + track + b"\x22" + _varint(len(note)) + note))
    marks.sort(key=lambda mark: mark[0])
    before = marks[0][0] if marks else 0
    packets = []
    for ts, body in marks:
        packets.append(_packet(ts - before, body))
        before = ts
    return b"".join(packets)
