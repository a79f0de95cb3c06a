# SPDX-License-Identifier: Apache-2.0
"""A recording that somebody still writes, followed: what is open as of now, in bounded memory.

Reads only what is new, so that asking a thousand times costs no more than the file is long. Who
holds what, and by which stack, is for :func:`trace.stretches` of a window. Must not know pandas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import EventBlock, LossBlock, NameBlock, SnapshotBlock
from dmabuf_trace.lifecycle import Lifecycle
from dmabuf_trace.reconcile import compare, settle
from dmabuf_trace.recording import Reader
from dmabuf_trace.tables import Flag, together

Structs = NDArray[np.void]

_EXPORT = schema.KIND["export"]


class Tail:
    """``exports`` counts those that succeeded, ``losses`` has :data:`schema.LOSS_SHAPE`.

    Raises:
        InputError: as :class:`recording.Reader`.
    """

    def __init__(self, path: Path) -> None:
        self.exports = 0
        self.losses: NDArray[Any] = np.zeros(schema.LOSS_SHAPE, np.uint64)
        self._reader = Reader(path)
        self._place: int | None = None
        self._is_whole = False
        self._lifecycle = Lifecycle()
        self._look: SnapshotBlock | None = None
        self._waiting: list[Structs] = []

    @property
    def start(self) -> int:
        """When the recording began, ns of CLOCK_MONOTONIC."""
        return int(self._reader.header["start"]["monotonic_ns"])

    def advance(self) -> None:
        """Take what was written since."""
        if self._is_whole:
            return
        for block in self._reader.blocks(since=self._place):
            match block:
                case EventBlock(events):
                    self._waiting.append(events)
                case NameBlock(names):
                    self._lifecycle.feed_names(names)
                case SnapshotBlock():
                    self._feed()
                    self._lifecycle.feed_snapshot(block)
                    self._look = block
                case LossBlock(losses):
                    self.losses = losses
        self._feed()
        self._is_whole = self._reader.cut is None
        if self._reader.cut:
            self._place = self._reader.cut.offset

    def _feed(self) -> None:
        if self._waiting:
            events = together(self._waiting)
            self._waiting.clear()
            self._lifecycle.feed(events)
            self.exports += int(((events["kind"] == _EXPORT) & (events["ret"] >= 0)).sum())

    def exported_since(self, ts: int) -> Structs:
        """Buffers (:data:`tables.BUFFER_DTYPE`) that are there, and were exported since then.

        What the last look shows to be gone is gone.
        """
        found = self._lifecycle.finish().buffers
        looks = {"end": self._look} if self._look else {}
        settle(found, compare(found, self._lifecycle.known(), looks))
        return found.compress((found["flags"] & Flag.OPEN != 0) & (found["begin"] >= ts))

    def close(self) -> None:
        """Read no more."""
        self._reader.close()
