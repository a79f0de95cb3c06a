# SPDX-License-Identifier: Apache-2.0
"""When a recording begins and ends, and which of its blocks hold which time, with few blocks read.

Blocks of events follow each other in time; within one, and by microseconds between two, times are
not in order. Must not know pandas.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import Final

from dmabuf_trace import header
from dmabuf_trace.blocks import Block, BlockKind, EndBlock, EventBlock, Mark, SnapshotBlock
from dmabuf_trace.errors import InputError
from dmabuf_trace.recording import Reader
from dmabuf_trace.units import duration_text

Window = tuple[int, int]
"""From when until ahead of when, ns."""

NEIGHBOURS: Final = 4
"""Blocks of events whose times may overlap."""
_EVENTS: Final = (BlockKind.EVENTS, BlockKind.PACKED_EVENTS)
_MOMENTS: Final = (BlockKind.SNAPSHOT, BlockKind.MARK, BlockKind.END)


class Extent:
    """Of a recording, up to its first damaged block; ``checked``: those of events are looked at.

    Without, a block of events that is damaged counts, but no more than its head is read.
    """

    def __init__(self, reader: Reader, *, checked: bool) -> None:
        self._reader = reader
        heads = list(reader.heads(checked=checked))
        self._events = [offset for offset, kind in heads if kind in _EVENTS]
        self._others = [(offset, kind) for offset, kind in heads if kind not in _EVENTS]

    def offsets(self, *kinds: BlockKind) -> list[int]:
        """Of the blocks of these kinds, but for those of events."""
        return [offset for offset, kind in self._others if kind in kinds]

    @cached_property
    def whole(self) -> Window:
        """When the recording began, and the last time that is known, of CLOCK_MONOTONIC."""
        last = [offsets[-1] for kind in _MOMENTS if (offsets := self.offsets(kind))]
        ends = (*self._events[:NEIGHBOURS], *self._events[-NEIGHBOURS:], *last)
        times = [time for offset in ends for time in _times(self._reader.block_at(offset))]
        start = header.start(self._reader.header)
        return min(times, default=0) if start is None else start, max(times, default=0)

    def part(self, window: Window) -> Window:
        """A window since the recording began, of CLOCK_MONOTONIC.

        Raises:
            InputError: the recording has nothing of that time.
        """
        start, last = self.whole
        part = (start + window[0], min(start + window[1], last + 1))
        if part[0] >= part[1]:
            hint = f"it ends after {duration_text(last - start)}"
            raise InputError(f"{self._reader.path} has nothing of that time", hint)
        return part

    def outside(self, start: int, end: int) -> frozenset[int]:
        """Offsets of the blocks of events that hold nothing of a time."""
        first = bisect_left(self._events, start, key=self._latest) - NEIGHBOURS
        last = bisect_left(self._events, end, key=self._latest) + NEIGHBOURS
        return frozenset((*self._events[: max(first, 0)], *self._events[last:]))

    def _latest(self, offset: int) -> int:
        return max(_times(self._reader.block_at(offset)), default=0)


def _times(block: Block | None) -> tuple[int, ...]:
    match block:
        case EventBlock(events) if len(events):
            return int(events["ts"].min()), int(events["ts"].max())
        case SnapshotBlock(ts=ts) | Mark(ts=ts) | EndBlock(ts=ts):
            return (ts,)
    return ()
