# SPDX-License-Identifier: Apache-2.0
"""Decides which events go into a block together, and whether there is time to pack them.

Packing pays with many events at once and costs some 400 ns an event: at 100,000 events a second 4 %
of a processor, at a million more than all else together. So events wait for others to be packed
with, for a moment that a killed recorder may lose; and those that come too fast are handed on as
they are. The clock is that of the events, so the same events give the same blocks. Must not know
files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import packing

WAIT_NS: Final = 250_000_000
"""Longest wait of an event for others."""

PACKED_EVENTS: Final = 1 << 15
"""Events that are packed together, at most."""

BURST_EVENTS: Final = 1 << 10
BURST_NS: Final = 10_000
"""A burst begins with a batch of so many events, on average so close together or closer. It goes on
with any batch whose events are as close, and nothing of it is packed."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The payload of one block: packed events, or records of :data:`schema.EVENT_DTYPE`."""

    packed: bool
    payload: bytes | memoryview


class Gatherer:
    """Takes events in batches and gives them back in pieces, in the same order."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.void]] = []
        self._count = 0
        self._oldest = 0
        self._newest = 0
        self._bursting = False

    def add(self, events: NDArray[np.void]) -> Iterator[Piece]:
        """Take a batch (:data:`schema.EVENT_DTYPE`, not changed afterwards); what is to be written.

        A batch is judged by the time since the one before: a few quick events are no burst.
        """
        if not len(events):
            return
        newest = int(events["ts"][-1])
        since, self._newest = newest - self._newest, newest
        close = since < len(events) * BURST_NS
        self._bursting = close and (self._bursting or len(events) >= BURST_EVENTS)
        if self._bursting:
            yield from self.rest()
            for start in range(0, len(events), packing.MAX_EVENTS):
                part = np.ascontiguousarray(events[start : start + packing.MAX_EVENTS])
                yield Piece(False, part.view(np.uint8).data)
            return
        if not self._waiting:
            self._oldest = int(events["ts"][0])
        self._waiting.append(events)
        self._count += len(events)
        if self._count >= PACKED_EVENTS:
            yield from self.rest()
        yield from self.due(newest)

    def due(self, now: int) -> Iterator[Piece]:
        """What has waited long enough at ``now`` (ns, CLOCK_MONOTONIC)."""
        if self._waiting and now - self._oldest >= WAIT_NS:
            yield from self.rest()

    def rest(self) -> Iterator[Piece]:
        """All that still waits."""
        if not self._waiting:
            return
        events = np.concatenate(self._waiting)
        self._waiting.clear()
        self._count = 0
        for start in range(0, len(events), PACKED_EVENTS):
            yield Piece(True, packing.pack(events[start : start + PACKED_EVENTS]))
