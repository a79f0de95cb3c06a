# SPDX-License-Identifier: Apache-2.0
"""Whether live buffers become more and more, after warm-up: a leak's slope, not its size.

The time from the first buffer to the end of the trace is cut into up to 64 parts, of whole cells of
which the trace has 512. Judged at the end of each part is how many buffers were alive all through
it, so that what comes and goes within a part does not count. Where buffers lived longer than that
and then ended, it is those that were alive for longer than they: a leak is what outlives the rest.
Lives beyond a quarter of the time after warm-up are left out of this, as they would hide a leak.

The slope, its interval and the verdict are those of :mod:`dmabuf_trace.trend`.
``too short``: fewer than 8 parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame
from dmabuf_trace.levels import spans
from dmabuf_trace.measure import added
from dmabuf_trace.trend import Trend, slope_of
from dmabuf_trace.units import count_text, duration_text

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Array = NDArray[Any]

CELLS: Final = 512
PARTS: Final = 64
PARTS_MIN: Final = 8
LONGEST: Final = 4
"""Part of the time after warm-up beyond which a life is left out."""
VERDICTS: Final = ("grows", "shrinks", "stands", "too short")

EXPORTER_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("verdict", "text", "verdict"),
    Column("warm_buffers", "count", "warmed up"),
    Column("end_buffers", "count", "at the end"),
    Column("held_ns", "duration", "held for", spare=True),
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
_BY: Final = ["exporter", "comm"]
_SUMS: Final = {"buffers": "sum", "size_bytes": "sum"}


@dataclass(frozen=True)
class Folded:
    """Lives by exporter and process: from and to which edges of cells how many were alive.

    Those that were alive at less than two are left out; ``first``: when a group's first began.
    """

    lives: pd.DataFrame
    first: pd.DataFrame
    counts: Counter[str]


def _edges(view: View) -> Array:
    """Of the cells, the last of which has the end of the trace; none is shorter than 1 ns."""
    length = max(view.end + 1 - view.start, CELLS)
    return view.start + length * np.arange(CELLS + 1) // CELLS


def fold(view: View, before: Folded | None, **_: int) -> Folded:
    """Count the lives that are over, in the last stretch all."""
    if before and view.buffers.empty:
        return before
    buffers = spans(view, view.buffers)
    counts = Counter(
        ended=int(buffers["end_lost"].sum()),
        unsized=int(buffers["size_bytes"].isna().sum()),
        older=int((buffers["comm"].isna() & ~buffers["end_lost"]).sum()),
    )
    judged = buffers[~buffers["end_lost"]]
    if not view.missing.keys().isdisjoint(_KINDS):
        judged = judged.head(0)
    edges = _edges(view)
    until = judged["until"].fillna(edges[-1]).to_numpy(np.int64)
    lives = judged[[*_BY, "since"]].assign(
        size_bytes=judged["size_bytes"].fillna(0),
        begin=np.searchsorted(edges, judged["since"].to_numpy(np.int64)),
        end=np.searchsorted(edges, until, side="right") - 1,
        buffers=1,
    )
    long = lives[lives["begin"] < lives["end"]]
    return Folded(
        added(before.lives if before else None, long, [*_BY, "begin", "end"], **_SUMS),
        added(before.first if before else None, lives, _BY, since="min"),
        counts + before.counts if before else counts,
    )


def run(view: View, folded: Folded, *, warm_up: int) -> Answer:
    """See the module's description."""
    after = duration_text(warm_up) if warm_up else "the first third"

    def table(name: str, whose: str, columns: tuple[Column, ...], by: list[str]) -> Table:
        rows = frame(columns, _rows(view, folded, by, warm_up))
        title = f"Growth per {whose} after {after}: buffers that stay, slope with 95 % interval"
        return Table(name, title, columns, rows, view.empty(_KINDS, "no buffer was seen"))

    tables = (
        table("exporters", "exporter", EXPORTER_COLUMNS, _BY[:1]),
        table("processes", "exporting process", PROCESS_COLUMNS, _BY),
    )
    return Answer(tables, tuple(_notes(folded.counts)))


def _rows(view: View, folded: Folded, by: list[str], warm_up: int) -> list[Row]:
    first = folded.first.dropna(subset=by).groupby(by)["since"].min()
    if first.empty:
        return []
    lives = dict(iter(folded.lives.groupby(by)))
    edges = _edges(view)
    start = int(np.searchsorted(edges, first.min(), side="right")) - 1
    parts = np.unique(np.linspace(start, CELLS, PARTS + 1, dtype=np.int64))
    rows = []
    for key, since in first.items():
        names = key if isinstance(key, tuple) else (key,)
        warm = since + (warm_up or (view.end - since) // 3)
        mine = lives.get(names, folded.lives.head(0))
        rows.append({**dict(zip(by, names, strict=True)), **_judge(mine, edges, parts, warm)})
    return sorted(
        rows, key=lambda row: (VERDICTS.index(row["verdict"]), -row.get("buffers_per_s", 0))
    )


def _judge(lives: pd.DataFrame, edges: Array, parts: Array, warm: int) -> Row:
    begins, ends = (lives[name].to_numpy(np.int64) for name in ("begin", "end"))
    longest = (CELLS - int(np.searchsorted(edges, warm))) // LONGEST
    ages = (ends - begins)[(begins > 0) & (ends < CELLS)]
    age = int(ages.max(initial=0, where=ages <= longest)) + 1
    to = parts[1:]
    since = np.minimum(parts[:-1], to - age)
    used = (since >= 0) & (edges[since] >= warm)
    if used.sum() < PARTS_MIN:
        return {"verdict": "too short"}
    since, to = since[used], to[used]
    stayed = (begins[:, None] <= since) & (ends[:, None] >= to)
    alive, size = (lives[name].to_numpy(np.int64) @ stayed for name in _SUMS)
    seconds = (edges[to] - edges[to][0]) / 1e9
    trend = Trend.of(seconds, alive)
    return {
        "verdict": trend.verdict,
        "warm_buffers": int(alive[0]),
        "end_buffers": int(alive[-1]),
        "held_ns": int((edges[to] - edges[since]).max()),
        "buffers_per_s": trend.slope,
        "buffers_per_s_low": trend.low,
        "buffers_per_s_high": trend.high,
        "bytes_per_s": round(slope_of(seconds, size)[0]),
    }


def _notes(counts: Counter[str]) -> Iterator[str]:
    if ended := counts["ended"]:
        yield f"{count_text(ended, 'buffer')} with a lost end: not judged"
    if unsized := counts["unsized"]:
        yield f"{count_text(unsized, 'buffer')} of unknown size: not in sizes"
    if older := counts["older"]:
        yield f"{count_text(older, 'buffer')} whose export was not seen: in no process's growth"


ANALYSIS = Analysis(
    name="growth",
    question="Does anything grow, after warm-up, per second?",
    needs=("buffers",),
    relies_on=_KINDS,
    run=run,
    fold=fold,
    params=(Param("warm_up", "duration", "", "not judged, as 10s; without it the first third"),),
)
