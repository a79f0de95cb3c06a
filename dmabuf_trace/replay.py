# SPDX-License-Identifier: Apache-2.0
"""A recording's events as lines, read once and in bounded memory. Must not know pandas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import header, schema
from dmabuf_trace.blocks import (
    BlockKind,
    CgroupBlock,
    EventBlock,
    LossBlock,
    NameBlock,
    SnapshotBlock,
    StackBlock,
    UserStackBlock,
)
from dmabuf_trace.extent import Extent, Window
from dmabuf_trace.lines import Lines, Passing, Wanted
from dmabuf_trace.recording import Reader

BATCH_EVENTS: Final = 1 << 12


class Replay:
    """Iterate over it, once: what is wanted of a recording, or of a ``window`` of it, in the order
    of the ring; ``losses`` and :meth:`doubts` are known then. A context manager.

    ``start`` is when the recording began (ns, CLOCK_MONOTONIC), ``stacks`` and ``user_stacks`` are
    frames by id.

    Raises:
        InputError: as :class:`recording.Reader`, or the recording has nothing of that time.
    """

    def __init__(self, path: Path, wanted: Wanted, window: Window | None = None) -> None:
        self.losses: NDArray[Any] = np.zeros(schema.LOSS_SHAPE, np.uint64)
        self.stacks: dict[int, tuple[str, ...]] = {}
        self.user_stacks: dict[int, tuple[str, ...]] = {}
        self._wanted = wanted
        self._reader = Reader(path)
        extent = Extent(self._reader, checked=False)
        self.start = extent.whole[0]
        self._part = extent.part(window) if window else None
        self._unwanted = extent.outside(*self._part) if self._part else frozenset()
        self._read_stacks(extent.offsets(BlockKind.STACKS, BlockKind.USER_STACKS))

    def _read_stacks(self, offsets: list[int]) -> None:
        """They follow the events that have them."""
        for block in map(self._reader.block_at, offsets):
            match block:
                case StackBlock(stacks):
                    self.stacks |= stacks
                case UserStackBlock(stacks):
                    self.user_stacks = stacks

    def __iter__(self) -> Iterator[Lines]:
        passing = Passing(self._wanted)
        for block in self._reader.blocks(self._unwanted, BATCH_EVENTS):
            match block:
                case NameBlock(names):
                    passing.names.feed(names)
                case CgroupBlock(paths):
                    passing.names.feed_cgroups(paths)
                case SnapshotBlock(buffers=buffers):
                    passing.know(buffers)
                case LossBlock(losses):
                    self.losses = losses
                case EventBlock(events):
                    yield passing.feed(self._within(events))

    def _within(self, events: NDArray[np.void]) -> NDArray[np.void]:
        if not self._part:
            return events
        start, end = self._part
        return events[(events["ts"] >= start) & (events["ts"] < end)]

    def doubts(self) -> Iterator[str]:
        """What else may be missing, a line each; nothing here is escaped yet."""
        wanted = [schema.KIND_NAMES[kind] for kind in self._wanted.kinds] or schema.KIND
        for kind, reason in header.missing(self._reader.header).items():
            if kind in wanted:
                yield f"not observed: {kind} ({reason or 'no reason given'})"
        if filters := header.filters(self._reader.header):
            yield f"recorded with {' '.join(filters)}: what that leaves out is not there"
        if self._reader.cut:
            yield f"the recording {self._reader.cut.reason}; all up to there is shown"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
