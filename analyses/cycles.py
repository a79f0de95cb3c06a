# SPDX-License-Identifier: Apache-2.0
"""What grows from one run of the recorded command to the next (``record --cycles``).

The level of a run is how many of the buffers made in the trace are alive at its end. A cache that
fills once stands; what is leaked in each run grows. The first runs are warm-up, and not judged.
Slope and verdict are those of :mod:`dmabuf_trace.trend`; ``too few``: fewer than 4 runs to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame, pick
from dmabuf_trace.blocks import RUN
from dmabuf_trace.columns import TEXT
from dmabuf_trace.measure import added
from dmabuf_trace.stacks import maker
from dmabuf_trace.trend import Trend, slope_of
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Array = NDArray[Any]

RUNS_MIN: Final = 4
WARM_UP: Final = 3
"""Part of the runs that is warm-up, where nothing else is asked for."""
VERDICTS: Final = ("grows", "shrinks", "stands", "too few")

COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("comm", "text", "exported by"),
    Column("at", "text", "exported at", spare=True),
    Column("verdict", "text", "verdict"),
    Column("warm_buffers", "count", "warmed up"),
    Column("end_buffers", "count", "at the end"),
    Column("buffers_per_run", "ratio", "a run"),
    Column("buffers_per_run_low", "ratio", "low", spare=True),
    Column("buffers_per_run_high", "ratio", "high", spare=True),
    Column("bytes_per_run", "bytes", "size a run"),
)
RUN_COLUMNS: Final = (
    Column("run", "count", "run"),
    Column("end_ns", "time", "ended"),
    Column("status", "id", "status"),
    Column("buffers", "count", "alive"),
    Column("size_bytes", "bytes", "size"),
)
_BY: Final = ["exporter", "comm", "stack"]
_SUMS: Final = {"buffers": "sum", "size_bytes": "sum"}


@dataclass(frozen=True)
class Folded:
    """Lives by who made them: ``first`` and ``after``, the runs at whose ends they were alive.

    Those that were alive at none are left out.
    """

    lives: pd.DataFrame
    lost: int


def _runs(view: View) -> pd.DataFrame:
    marks = view.marks
    return marks[(marks["label"] == RUN) & (marks["ts"] >= view.start) & (marks["ts"] <= view.end)]


def fold(view: View, before: Folded | None, **_: Any) -> Folded:
    """Count the lives that are over, in the last stretch all."""
    ends = _runs(view)["ts"].to_numpy(np.int64)
    made = view.buffers[view.buffers["begin"].notna()]
    known = made[~made["end_lost"]]
    until = known["end"].fillna(np.iinfo(np.int64).max).to_numpy(np.int64)
    lives = known[_BY].assign(
        first=np.searchsorted(ends, known["begin"].to_numpy(np.int64), side="right"),
        after=np.where(known["open"], -1, np.searchsorted(ends, until)),
        buffers=1,
        size_bytes=known["size_bytes"].fillna(0),
    )
    lasting = lives[(lives["after"] < 0) | (lives["first"] < lives["after"])]
    return Folded(
        added(before.lives if before else None, lasting, [*_BY, "first", "after"], **_SUMS),
        int(made["end_lost"].sum()) + (before.lost if before else 0),
    )


def run(view: View, folded: Folded, *, warm_up: int) -> Answer:
    """See the module's description."""
    runs = _runs(view)
    warm = warm_up or -(-len(runs) // WARM_UP)
    lives = folded.lives.assign(after=folded.lives["after"].replace(-1, len(runs)))
    ids = lives["stack"].dropna().unique().tolist()
    at = {key: maker(view.stack(key)) for key in ids}
    lives["at"] = lives["stack"].map(at).astype(TEXT).fillna("")
    rows = []
    if len(runs):
        keys = ["exporter", "comm", "at"]
        for group, mine in lives.groupby(keys, dropna=False):
            who = dict(zip(keys, group if isinstance(group, tuple) else (group,), strict=True))
            rows.append({**who, **_judged(mine, len(runs), warm)})
    rows.sort(key=lambda row: (VERDICTS.index(row["verdict"]), -row.get("buffers_per_run", 0.0)))
    counts = _levels(lives, len(runs))
    table = runs.assign(
        run=np.arange(1, len(runs) + 1),
        end_ns=runs["ts"] - view.start,
        **{name: counts[name] for name in _SUMS},
    )
    title = f"Growth per run, after {count_text(warm, 'run')} of warm-up"
    empty = "nothing was alive at the end of a run" if len(runs) else "the command was run once"
    return Answer(
        (
            Table("growth", title, COLUMNS, frame(COLUMNS, rows), empty),
            Table("runs", "Runs", RUN_COLUMNS, pick(RUN_COLUMNS, table)),
        ),
        tuple(_notes(folded)),
    )


def _levels(lives: pd.DataFrame, runs: int) -> dict[str, Array]:
    """Buffers and bytes that were alive at the end of each run."""
    ends = np.arange(runs)
    first, after = (lives[name].to_numpy(np.int64)[:, None] for name in ("first", "after"))
    alive = (first <= ends) & (ends < after)
    return {name: lives[name].to_numpy(np.int64) @ alive for name in _SUMS}


def _judged(lives: pd.DataFrame, runs: int, warm: int) -> Row:
    if runs - warm < RUNS_MIN:
        return {"verdict": "too few"}
    levels = {name: level[warm:] for name, level in _levels(lives, runs).items()}
    alive, places = levels["buffers"], np.arange(warm, runs)
    trend = Trend.of(places, alive)
    return {
        "verdict": trend.verdict,
        "warm_buffers": int(alive[0]),
        "end_buffers": int(alive[-1]),
        "buffers_per_run": trend.slope,
        "buffers_per_run_low": trend.low,
        "buffers_per_run_high": trend.high,
        "bytes_per_run": round(slope_of(places, levels["size_bytes"])[0]),
    }


def _notes(folded: Folded) -> Iterator[str]:
    if folded.lost:
        yield f"{count_text(folded.lost, 'buffer')} with a lost end: not judged"


ANALYSIS = Analysis(
    name="cycles",
    question="What grows from one run of the command to the next?",
    needs=("buffers", "marks"),
    relies_on=("export", "release"),
    run=run,
    fold=fold,
    params=(Param("warm_up", "count", "", "runs that are not judged; without it a third"),),
)
