# SPDX-License-Identifier: Apache-2.0
"""Whose floor rises: the fewest that a group had alive, in each part of the whole time.

What comes and goes leaves the floor where it is, a leak raises it. The time is kept in at most
:data:`POINTS` parts, which become twice as long whenever there are that many.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dmabuf_trace.trend import RISE_MIN, Trend

Key = tuple[int, int]
Levels = dict[Key, int]

POINTS: Final = 64
POINTS_MIN: Final = 8
SPAN_MIN: Final = 20_000_000_000
"""ns without which nothing is said: what has just begun to fill seems to grow."""
GROUPS: Final = 1024
"""So many groups are watched, those of most buffers."""


class Floors:
    """Floors by group, in bounded memory."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._floors: dict[Key, list[int]] = {}
        self._low: Levels | None = None
        self._takes, self._stride = 0, 1

    def take(self, ts: int, levels: Levels) -> None:
        """How many are alive of each group at ``ts`` (ns); who is not among them has none."""
        if self._times and ts <= self._times[-1]:
            return
        if len(levels) > GROUPS:
            levels = dict(sorted(levels.items(), key=lambda each: -each[1])[:GROUPS])
        before = levels if self._low is None else self._low
        self._low = {key: min(level, levels[key]) for key, level in before.items() if key in levels}
        self._takes += 1
        if self._takes == self._stride:
            self._close(ts, self._low)
            self._takes, self._low = 0, None

    def _close(self, ts: int, floors: Levels) -> None:
        """End a part of the time."""
        none = [0] * len(self._times)
        self._times.append(ts)
        for key in self._floors.keys() | floors.keys():
            self._floors.setdefault(key, none.copy()).append(floors.get(key, 0))
        if len(self._times) == POINTS:
            self._stride *= 2
            self._times = self._times[1::2]
            for key, kept in self._floors.items():
                self._floors[key] = [*map(min, kept[::2], kept[1::2])]
        self._floors = {key: kept for key, kept in self._floors.items() if any(kept)}

    def growing(self) -> dict[Key, Trend]:
        """Groups whose floor grows, per ns; none as long as the time was short."""
        if len(self._times) < POINTS_MIN or self._times[-1] - self._times[0] < SPAN_MIN:
            return {}
        times = np.array(self._times)
        risen = {
            key: Trend.of(times, np.array(kept))
            for key, kept in self._floors.items()
            if kept[-1] - kept[0] >= RISE_MIN
        }
        return {key: trend for key, trend in risen.items() if trend.verdict == "grows"}
