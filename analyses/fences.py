# SPDX-License-Identifier: Apache-2.0
"""Waits for fences of buffers, and fences that were not seen to signal.

Times are those of all waits, however they ended: signalled, timed out, failed. A share of wall time
is over 100 % where several threads waited at once. Fences of one context signal in the order of
their numbers: one that timed out is taken as signalled by a later wait for it, or for a higher
number of its context, that succeeded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick
from dmabuf_trace.measure import TIMES, lengths, times

if TYPE_CHECKING:
    import pandas as pd

LONGEST: Final = 20

WAIT_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("device", "text", "device"),
    Column("call", "text", "within"),
    Column("fence_context", "id", "context"),
    Column("count", "count", "waits"),
    *TIMES,
    Column("wall_share", "share", "of wall time"),
    Column("timed_out", "count", "timed out"),
    Column("failed", "count", "failed"),
)
LONGEST_COLUMNS: Final = (
    Column("wait_ns", "duration", "waited"),
    Column("inode", "id", "buffer"),
    Column("fence_context", "id", "context"),
    Column("fence_seqno", "id", "seqno"),
    Column("result", "text", "result"),
    Column("comm", "text", "by"),
    Column("pid", "id", "pid"),
    Column("device", "text", "device"),
    Column("call", "text", "within"),
    Column("exporter", "text", "exporter", spare=True),
    Column("begin_ns", "time", "since", spare=True),
)
UNSIGNALLED_COLUMNS: Final = (
    Column("fence_context", "id", "context"),
    Column("fence_seqno", "id", "seqno"),
    Column("timed_out", "count", "timed out"),
    Column("total_ns", "duration", "waited in total"),
    Column("inode", "id", "last buffer"),
    Column("exporter", "text", "exporter"),
    Column("comm", "text", "last by"),
    Column("pid", "id", "pid", spare=True),
    Column("first_ns", "time", "first", spare=True),
    Column("last_ns", "time", "last", spare=True),
)
FILE_COLUMNS: Final = (
    Column("comm", "text", "process"),
    Column("pid", "id", "pid"),
    Column("exports", "count", "exports"),
    Column("exports_failed", "count", "failed"),
    Column("imports", "count", "imports"),
    Column("imports_failed", "count", "failed"),
)
_SYNC_FILES: Final = {"export_sync_file": "exports", "import_sync_file": "imports"}


def run(view: View, *, device: str, exporter: str) -> Answer:
    """See the module's description."""
    waits = view.waits[view.waits["kind"] == "fence"]
    calls = view.events[view.events["kind"].isin(list(_SYNC_FILES))]
    if exporter:
        of = calls["buffer_id"].map(view.buffers.set_index("id")["exporter"])
        waits, calls = waits[waits["exporter"] == exporter], calls[of == exporter]
    if device:
        waits = waits[waits["device"] == device]
    end = waits["begin"] + waits["wait_ns"]
    waits = waits.assign(begin_ns=waits["begin"] - view.start, end_ns=end - view.start)
    unsignalled = _unsignalled(waits)
    files = _sync_files(view, calls)

    def of_fences(name: str, title: str, columns: tuple[Column, ...], rows: pd.DataFrame) -> Table:
        return Table(name, title, columns, pick(columns, rows), view.empty(("fence_wait",), "none"))

    longest = waits.nlargest(LONGEST, "wait_ns").assign(result=_results)
    never = "Timed out, and not seen to signal"
    tables = (
        of_fences("waits", "Waits for fences", WAIT_COLUMNS, _grouped(view, waits)),
        of_fences("longest", "Longest waits", LONGEST_COLUMNS, longest),
        of_fences("unsignalled", never, UNSIGNALLED_COLUMNS, unsignalled),
        Table(
            "sync_files",
            "sync_file calls",
            FILE_COLUMNS,
            files,
            view.empty(tuple(_SYNC_FILES), "none"),
        ),
    )
    notes = tuple(_notes(view, bool(len(unsignalled)), bool(len(files))))
    return Answer(tables, notes, tuple(unsignalled["inode"].dropna().unique().tolist()))


def _grouped(view: View, waits: pd.DataFrame) -> pd.DataFrame:
    """One row per exporter, device, call and context, the most time first."""
    import pandas as pd

    keys = ["exporter", "device", "call", "fence_context"]
    found = times(lengths(None, waits, keys, "wait_ns"), keys)
    ended = waits[keys].assign(timed_out=waits["timed_out"], failed=waits["error"].notna())
    counts = ended.groupby(keys, dropna=False)[["timed_out", "failed"]].sum()
    found[["timed_out", "failed"]] = counts.to_numpy(np.int64)  # groups in the same order
    wall = view.end - view.start
    found["wall_share"] = found["total_ns"] / wall if wall else pd.NA
    return found.sort_values("total_ns", ascending=False, kind="stable")


def _results(waits: pd.DataFrame) -> pd.Series[str]:
    ended = waits["timed_out"].map({True: "timed out", False: "signalled"})
    return waits["error"].fillna(ended.astype("string"))


def _unsignalled(waits: pd.DataFrame) -> pd.DataFrame:
    """One row per fence that timed out and was not seen to signal, the longest waited for first."""
    signalled = waits[~waits["timed_out"] & waits["error"].isna()]
    reached = signalled.groupby("fence_context")["fence_seqno"].max()
    timed_out = waits[waits["timed_out"]]
    reached_then = timed_out["fence_context"].map(reached)
    never = timed_out[reached_then.isna() | (timed_out["fence_seqno"] > reached_then)]
    fences = never.groupby(["fence_context", "fence_seqno"])
    lasts = {name: (name, "last") for name in ("inode", "exporter", "comm", "pid")}
    rows = fences.agg(
        timed_out=("wait_ns", "size"),
        total_ns=("wait_ns", "sum"),
        **lasts,
        first_ns=("begin_ns", "min"),
        last_ns=("end_ns", "max"),
    )
    return rows.sort_values("total_ns", ascending=False, kind="stable").reset_index()


def _sync_files(view: View, calls: pd.DataFrame) -> pd.DataFrame:
    """One row per process, most calls first."""
    import pandas as pd

    failed = calls["ret"] < 0
    counted = {}
    for kind, column in _SYNC_FILES.items():
        unseen = kind in view.missing
        for name, of in ((column, ~failed), (f"{column}_failed", failed)):
            made = ((calls["kind"] == kind) & of).astype("Int64")
            counted[name] = pd.Series(pd.NA, calls.index, dtype="Int64") if unseen else made
    calls = calls[["pid", "comm"]].assign(**counted, calls=1)
    callers = calls.groupby("pid")
    rows = callers[[*counted, "calls"]].sum(min_count=1)
    rows = rows.assign(comm=callers["comm"].first()).reset_index()
    return pick(FILE_COLUMNS, rows.sort_values(["calls", "pid"], ascending=[False, True]))


def _notes(view: View, is_unsignalled: bool, has_files: bool) -> Iterator[str]:
    if "fence_wait" not in view.missing:
        yield (
            "a wait is seen when it ends, within dma_resv_wait_timeout(): not observed are waits "
            "under way at the end, other ways to wait, and fences that nobody waited for"
        )
    if is_unsignalled:
        yield (
            "not seen to signal: a fence that has signalled makes no wait, so it may have done so "
            "since"
        )
    if has_files:
        yield "fds of sync_files are none of a dma-buf: whether they were closed is not observed"


ANALYSIS = Analysis(
    name="fences",
    question="Which fences were waited for, by whom, and which never signalled?",
    needs=("buffers", "waits", "events"),
    relies_on=("fence_wait", "export_sync_file", "import_sync_file"),
    run=run,
    params=(
        Param("device", "text", "", "only waits within calls of this device"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
