# SPDX-License-Identifier: Apache-2.0
"""Whether live buffers become more and more, after warm-up: a leak's slope, not its size.

The time from the first buffer to the end of the trace is cut into 64 parts, and the least that was
alive in each is judged, so that what comes and goes within a part does not count. The slope is
Theil-Sen's, the median of those between all pairs of parts, its 95 % interval from the variance of
Kendall's tau (ties taken into account), widened where neighbouring parts resemble each other, as
levels of long-lived buffers do.

``grows``: the interval is above 0, and the level rose by 2 buffers or more. ``shrinks``: the same
downwards. ``stands``: neither, as a cache that has filled. ``too short``: fewer than 8 parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame
from dmabuf_trace.levels import spans, steps
from dmabuf_trace.units import count_text, duration_text

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Array = NDArray[Any]

PARTS: Final = 64
PARTS_MIN: Final = 8
RISE_MIN: Final = 2
Z: Final = 1.959964
"""Of 95 %, both sides."""
VERDICTS: Final = ("grows", "shrinks", "stands", "too short")

EXPORTER_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("verdict", "text", "verdict"),
    Column("warm_buffers", "count", "warmed up"),
    Column("end_buffers", "count", "at the end"),
    Column("buffers_per_s", "rate", "slope"),
    Column("buffers_per_s_low", "rate", "low", spare=True),
    Column("buffers_per_s_high", "rate", "high", spare=True),
    Column("bytes_per_s", "bytes", "size/s", spare=True),
)
PROCESS_COLUMNS: Final = (
    *EXPORTER_COLUMNS[:1],
    Column("comm", "text", "exported by"),
    *EXPORTER_COLUMNS[1:],
)
_KINDS: Final = ("export", "release")


def run(view: View, *, warm_up: int) -> Answer:
    """See the module's description."""
    buffers = spans(view)
    judged = buffers[~buffers["end_lost"]]
    if not view.missing.keys().isdisjoint(_KINDS):
        judged = judged.head(0)
    after = duration_text(warm_up) if warm_up else "the first third"

    def table(name: str, whose: str, columns: tuple[Column, ...], by: list[str]) -> Table:
        rows = frame(columns, list(_rows(view, judged, by, warm_up)))
        title = f"Growth per {whose} after {after}: least alive, slope with 95 % interval"
        return Table(name, title, columns, rows, view.empty(_KINDS, "no buffer was seen"))

    tables = (
        table("exporters", "exporter", EXPORTER_COLUMNS, ["exporter"]),
        table("processes", "exporting process", PROCESS_COLUMNS, ["exporter", "comm"]),
    )
    return Answer(tables, tuple(_notes(buffers)))


def _rows(view: View, buffers: pd.DataFrame, by: list[str], warm_up: int) -> list[Row]:
    known = buffers[buffers[by].notna().all(axis=1)]
    if known.empty:
        return []
    first = int(known["since"].min())
    moments = np.unique(np.linspace(first, view.end, PARTS + 1, dtype=np.int64)[:-1])
    rows = [
        {**dict(zip(by, key, strict=True)), **_judge(group, moments, view.end, warm_up)}
        for key, group in known.groupby(by)
    ]
    return sorted(
        rows, key=lambda row: (VERDICTS.index(row["verdict"]), -row.get("buffers_per_s", 0))
    )


def _judge(buffers: pd.DataFrame, moments: Array, end: int, warm_up: int) -> Row:
    first = int(buffers["since"].min())
    warm = first + (warm_up or (end - first) // 3)
    used = moments >= warm
    if used.sum() < PARTS_MIN:
        return {"verdict": "too short"}
    times, levels = steps(buffers)
    parts = np.searchsorted(times, moments, side="right")
    alive, size = np.minimum.reduceat(levels, parts)[used].T
    slope, low, high = _slope(moments[used], alive)
    rise = int(alive[-1] - alive[0])
    if low > 0 and rise >= RISE_MIN:
        verdict = "grows"
    elif high < 0 and rise <= -RISE_MIN:
        verdict = "shrinks"
    else:
        verdict = "stands"
    return {
        "verdict": verdict,
        "warm_buffers": int(alive[0]),
        "end_buffers": int(alive[-1]),
        "buffers_per_s": slope,
        "buffers_per_s_low": low,
        "buffers_per_s_high": high,
        "bytes_per_s": round(_slope(moments[used], size)[0]),
    }


def _slope(times: Array, values: Array) -> tuple[float, float, float]:
    """Theil-Sen slope per second, and its interval."""
    earlier, later = np.triu_indices(len(times), 1)
    seconds = (times - times[0]) / 1e9
    slopes = np.sort((values[later] - values[earlier]) / (seconds[later] - seconds[earlier]))
    slope = float(np.median(slopes))
    half = Z * _kendall_sigma(values) * _resemblance(values - slope * seconds)
    last = len(slopes) - 1
    low = max(round((last + 1 - half) / 2) - 1, 0)
    high = min(round((last + 1 + half) / 2), last)
    return slope, min(float(slopes[low]), slope), max(float(slopes[high]), slope)


def _kendall_sigma(values: Array) -> float:
    """Standard deviation of Kendall's score without a trend; equal values make it smaller."""
    ties = np.unique(values, return_counts=True)[1]

    def pairs(count: Any) -> Any:
        return count * (count - 1) * (2 * count + 5)

    return math.sqrt((pairs(len(values)) - int(pairs(ties).sum())) / 18)


def _resemblance(rest: Array) -> float:
    """How much wider the interval is, as each of ``rest`` resembles the one before it.

    What is within a buffer of the line is the rounding of a count, and does not matter.
    """
    rest = rest - np.median(rest)
    rest = np.where(np.abs(rest) < 1, 0, rest)
    power = float(rest @ rest)
    likeness = float(rest[1:] @ rest[:-1]) / power if power else 0.0
    likeness = min(max(likeness, 0.0), 0.95)
    return math.sqrt((1 + likeness) / (1 - likeness))


def _notes(buffers: pd.DataFrame) -> Iterator[str]:
    if ended := int(buffers["end_lost"].sum()):
        yield f"{count_text(ended, 'buffer')} with a lost end: not judged"
    if unsized := int(buffers["size_bytes"].isna().sum()):
        yield f"{count_text(unsized, 'buffer')} of unknown size: not in sizes"
    if older := int((buffers["comm"].isna() & ~buffers["end_lost"]).sum()):
        yield f"{count_text(older, 'buffer')} whose export was not seen: in no process's growth"


ANALYSIS = Analysis(
    name="growth",
    question="Does anything grow, after warm-up, per second?",
    needs=("buffers",),
    relies_on=_KINDS,
    run=run,
    params=(Param("warm_up", "duration", "", "not judged, as 10s; without it the first third"),),
)
