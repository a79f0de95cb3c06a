# SPDX-License-Identifier: Apache-2.0
"""What happened in the last seconds: vectors added up by key, and forgotten when they are old."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Sums = dict[int, Array]

SPAN_NS: Final = 10_000_000_000
"""How long something counts as recent."""
PER_OCTAVE: Final = 8
BUCKETS: Final = 40 * PER_OCTAVE
"""Of lengths of time, up to 18 minutes; a bucket is 9 % wide, what is longer is in the last one."""


class Recent:
    """Vectors of ``width`` numbers by key, over the last :data:`SPAN_NS`.

    ``since`` is when the oldest interval that counts began, ns.
    """

    def __init__(self, width: int, start: int) -> None:
        self.since = start
        self._width = width
        self._now: Sums = {}
        self._steps: deque[tuple[int, Sums]] = deque()
        self._sums: Sums = {}

    def add(self, keys: Array, slots: Array) -> None:
        """Count one in a slot of each key's vector."""
        distinct, index = np.unique(keys, return_inverse=True)
        size = len(distinct) * self._width
        counts = np.bincount(index * self._width + slots, minlength=size)
        rows = counts.reshape(len(distinct), self._width)
        for key, row in zip(distinct.tolist(), rows, strict=True):
            self._now[key] = self._now.get(key, 0) + row

    def step(self, ts: int) -> Sums:
        """End an interval at ``ts`` (ns); the sums of those that are recent, of keys that have any.

        What is returned is not changed any more.
        """
        for key, row in self._now.items():
            self._sums[key] = self._sums.get(key, 0) + row
        self._steps.append((ts, self._now))
        self._now = {}
        while self._steps[0][0] <= ts - SPAN_NS:
            self.since, old = self._steps.popleft()
            for key, row in old.items():
                self._sums[key] = self._sums[key] - row
                if not self._sums[key].any():
                    del self._sums[key]
        return dict(self._sums)


def bucket_of(ns: Array) -> NDArray[np.int64]:
    """The bucket of each length of time."""
    octaves = np.log2(np.maximum(ns, 1).astype(np.float64))
    return np.minimum((octaves * PER_OCTAVE).astype(np.int64), BUCKETS - 1)


def percentile(counts: Array | None, percent: int) -> int:
    """ns below or at which so many of the calls were, by nearest rank and to 5 %; -1: no calls."""
    total = 0 if counts is None else int(counts.sum())
    if counts is None or not total:
        return -1
    rank = -(-total * percent // 100)
    bucket = int(np.searchsorted(np.cumsum(counts), rank))
    return round(2 ** ((bucket + 0.5) / PER_OCTAVE))
