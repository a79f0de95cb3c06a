# SPDX-License-Identifier: Apache-2.0
"""Whether a level rises, and how fast: Theil-Sen's slope, the median of those between all pairs.

Its 95 % interval is from the variance of Kendall's tau (ties taken into account), widened where
neighbours resemble each other. Must not know what is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Z: Final = 1.959964
"""Of 95 %, both sides."""
RISE_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class Trend:
    """The slope per unit of place, its interval, and what it comes to.

    ``grows``: the interval is above 0, the level rose by 2 or more, and the later half of it still
    does. ``shrinks``: the same downwards. ``stands``: neither, as a cache that has filled.
    """

    slope: float
    low: float
    high: float
    verdict: str

    @classmethod
    def of(cls, places: Array, levels: Array) -> Trend:
        """Of levels at ascending places."""
        slope, low, high = slope_of(places, levels)
        half = len(levels) // 2
        later = slope_of(places[half:], levels[half:])[0]
        rise = int(levels[-1] - levels[0])
        if low > 0 and later > 0 and rise >= RISE_MIN:
            verdict = "grows"
        elif high < 0 and later < 0 and rise <= -RISE_MIN:
            verdict = "shrinks"
        else:
            verdict = "stands"
        return cls(slope, low, high, verdict)


def slope_of(places: Array, levels: Array) -> tuple[float, float, float]:
    """The slope, and its interval."""
    earlier, later = np.triu_indices(len(places), 1)
    slopes = np.sort((levels[later] - levels[earlier]) / (places[later] - places[earlier]))
    slope = float(np.median(slopes))
    half = Z * _kendall_sigma(levels) * _resemblance(levels - slope * (places - places[0]))
    last = len(slopes) - 1
    low = max(round((last + 1 - half) / 2) - 1, 0)
    high = min(round((last + 1 + half) / 2), last)
    return slope, min(float(slopes[low]), slope), max(float(slopes[high]), slope)


def _kendall_sigma(levels: Array) -> float:
    """Standard deviation of Kendall's score without a trend; equal levels make it smaller."""
    ties = np.unique(levels, return_counts=True)[1]

    def pairs(count: Any) -> Any:
        return count * (count - 1) * (2 * count + 5)

    return math.sqrt((pairs(len(levels)) - int(pairs(ties).sum())) / 18)


def _resemblance(rest: Array) -> float:
    """How much wider the interval is, as each of ``rest`` resembles the one before it.

    What is within one of the line is the rounding of a count, and does not matter.
    """
    rest = rest - np.median(rest)
    rest = np.where(np.abs(rest) < 1, 0, rest)
    power = float(rest @ rest)
    likeness = float(rest[1:] @ rest[:-1]) / power if power else 0.0
    likeness = min(max(likeness, 0.0), 0.95)
    return math.sqrt((1 + likeness) / (1 - likeness))
