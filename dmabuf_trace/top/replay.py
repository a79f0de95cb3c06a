# SPDX-License-Identifier: Apache-2.0
"""A recording played as if it happened now: at some speed, or at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import header
from dmabuf_trace.blocks import EndBlock, EventBlock, LossBlock, NameBlock, SnapshotBlock
from dmabuf_trace.errors import InputError
from dmabuf_trace.recording import Reader
from dmabuf_trace.top.activity import Activity, Moment

PARTS: Final = 64
"""Played at once, the next moment is later by no less than such a part of the time so far."""


class Replay:
    """``interval`` (ns) lies between moments; ``speed`` inf: at once.

    ``wait`` passes so many seconds, and says whether to stop; ``is_stopped``: it did.

    Raises:
        InputError: as :class:`recording.Reader`.
    """

    def __init__(
        self, path: Path, interval: int, speed: float, wait: Callable[[float], bool]
    ) -> None:
        self._reader = Reader(path)
        told = self._reader.header
        start = header.start(told)
        if start is None:
            raise InputError(f"{path} does not say when it began")
        self._start = self._now = start
        self._interval, self._speed, self._wait = interval, speed, wait
        self._began = time.monotonic()
        self.is_stopped = False
        self._activity = Activity(start, header.missing(told))

    @property
    def cut(self) -> str:
        """Why the recording ends early; "": it does not, or was not read so far."""
        return self._reader.cut.reason if self._reader.cut else ""

    def moments(self) -> Iterator[Moment]:
        """As of the look at the start, then one an interval, then as of the end."""
        with self._reader:
            yield from self._moments()

    def _moments(self) -> Iterator[Moment]:
        for block in self._reader.blocks():
            match block:
                case EventBlock(events):
                    yield from self._play(events)
                case NameBlock(names):
                    self._activity.feed_names(names)
                case LossBlock(losses):
                    self._activity.lose(losses)
                case SnapshotBlock(when="start"):
                    self._activity.look(block)
                    yield self._activity.moment(self._now)
                case EndBlock():
                    self._now = max(self._now, block.ts)
            if self.is_stopped:
                return
        yield self._activity.moment(self._now)

    def _play(self, events: NDArray[np.void]) -> Iterator[Moment]:
        """Feed events as their time comes."""
        times = np.maximum.accumulate(events["ts"])
        done = 0
        while True:
            due = self._now + self._step()
            upto = int(np.searchsorted(times, due))
            self._activity.feed(events[done:upto])
            done = max(done, upto)
            if done == len(events):
                return
            self._now = due
            passed = (due - self._start) / 1e9 / self._speed
            if self._wait(max(self._began + passed - time.monotonic(), 0)):
                self.is_stopped = True
                return
            yield self._activity.moment(due)

    def _step(self) -> int:
        """ns of the recording until the next moment."""
        if math.isinf(self._speed):
            return max(self._interval, (self._now - self._start) // PARTS)
        return max(round(self._interval * self._speed), 1)
