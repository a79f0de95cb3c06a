# SPDX-License-Identifier: Apache-2.0
"""Waits for fences of buffers, and fences that were not seen to signal.

Times are those of all waits, however they ended: signalled, timed out, failed. A share of wall time
is over 100 % where several threads waited at once. Fences of one context signal in the order of
their numbers: one that timed out is taken as signalled by a later wait for it, or for a higher
number of its context, that succeeded. A process that exports sync_files and never closes them has
as many of their fds in use as it made exports. What processes hold of sync_files is from the looks
at both ends, and of all processes, whatever the filters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Shown, Table, View, frame, pick
from dmabuf_trace.columns import TEXT
from dmabuf_trace.measure import TIMES, added, joined, lengths, times

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
    Column("fds_in_use", "count", "fds in use"),
)
HELD_COLUMNS: Final = (
    Column("comm", "text", "process"),
    Column("pid", "id", "pid"),
    Column("at_start", "count", "at the start"),
    Column("at_end", "count", "at the end"),
    Column("grown", "count", "grown"),
)
_SYNC_FILES: Final = {
    "export_sync_file": ("exports", "exports_failed", "fds_in_use"),
    "import_sync_file": ("imports", "imports_failed"),
}
"""Columns that calls are told by: those that succeeded, those that failed."""


_KEYS: Final = ["exporter", "device", "call", "fence_context"]
_FENCE: Final = ["fence_context", "fence_seqno"]


@dataclass(frozen=True)
class Folded:
    """``timed_out`` are fences not seen to signal since; ``signalled`` waits are those of the last
    stretch, as a wait may come up a stretch late. ``fds`` has the numbers of exported sync_files.
    """

    lengths: pd.DataFrame | None = None
    ended: pd.DataFrame | None = None
    longest: pd.DataFrame | None = None
    timed_out: pd.DataFrame | None = None
    signalled: pd.DataFrame | None = None
    callers: pd.DataFrame | None = None
    fds: pd.DataFrame | None = None


def fold(view: View, before: Folded | None, *, device: str, exporter: str) -> Folded:
    """Add up waits and calls, and settle which fences signalled after all."""
    before = before or Folded()
    waits = view.waits[view.waits["kind"] == "fence"]
    begin = waits["begin"] - view.start
    waits = waits.assign(begin_ns=begin, end_ns=begin + waits["wait_ns"])
    is_over = ~waits["timed_out"] & waits["error"].isna()
    signalled = waits.loc[is_over, [*_FENCE, "end_ns"]]
    if exporter:
        waits = waits[waits["exporter"] == exporter]
    if device:
        waits = waits[waits["device"] == device]
    ended = waits[_KEYS].assign(timed_out=waits["timed_out"], failed=waits["error"].notna())
    calls = view.events_of(*_SYNC_FILES)
    if exporter:
        of = view.present("buffers").set_index("id")["exporter"]
        calls = calls[calls["buffer_id"].map(of) == exporter]
    return Folded(
        lengths(before.lengths, waits, _KEYS, "wait_ns"),
        added(before.ended, ended, _KEYS, timed_out="sum", failed="sum"),
        joined(before.longest, _longest(waits)).nlargest(LONGEST, "wait_ns"),
        _not_reached(before, waits[waits["timed_out"]], signalled),
        signalled,
        _called(before.callers, calls),
        _numbers(before.fds, calls),
    )


def run(view: View, found: Folded, **_: str) -> Answer:
    """See the module's description."""
    unsignalled = joined(found.timed_out).sort_values("total_ns", ascending=False, kind="stable")
    files = _sync_files(view, found)

    def of_fences(name: str, title: str, columns: tuple[Column, ...], rows: pd.DataFrame) -> Table:
        return Table(name, title, columns, pick(columns, rows), view.empty(("fence_wait",), "none"))

    never = "Timed out, and not seen to signal"
    tables = (
        of_fences("waits", "Waits for fences", WAIT_COLUMNS, _grouped(view, found)),
        of_fences("longest", "Longest waits", LONGEST_COLUMNS, joined(found.longest)),
        of_fences("unsignalled", never, UNSIGNALLED_COLUMNS, unsignalled),
        Table(
            "sync_files",
            "sync_file calls",
            FILE_COLUMNS,
            files,
            view.empty(tuple(_SYNC_FILES), "none"),
        ),
        _held(view),
    )
    notes = tuple(_notes(view, bool(len(unsignalled)), files))
    return Answer(tables, notes, tuple(unsignalled["inode"].dropna().unique().tolist()))


def _grouped(view: View, found: Folded) -> pd.DataFrame:
    """One row per exporter, device, call and context, the most time first."""
    import pandas as pd

    rows = times(joined(found.lengths), _KEYS)
    counts = joined(found.ended)[["timed_out", "failed"]]
    rows[["timed_out", "failed"]] = counts.to_numpy(np.int64)  # groups in the same order
    wall = view.end - view.start
    rows["wall_share"] = rows["total_ns"] / wall if wall else pd.NA
    return rows.sort_values("total_ns", ascending=False, kind="stable")


def _longest(waits: pd.DataFrame) -> pd.DataFrame:
    longest = waits.nlargest(LONGEST, "wait_ns")
    ended = longest["timed_out"].map({True: "timed out", False: "signalled"})
    longest = longest.assign(result=longest["error"].fillna(ended.astype(TEXT)))
    return longest[[column.name for column in LONGEST_COLUMNS]]


def _not_reached(before: Folded, timed_out: pd.DataFrame, signalled: pd.DataFrame) -> pd.DataFrame:
    """One row per fence that timed out, and that no later wait shows to have signalled."""
    ended = timed_out["end_ns"]
    rows = timed_out.assign(timed_out=1, total_ns=timed_out["wait_ns"], last_ns=ended)
    kept = [column.name for column in UNSIGNALLED_COLUMNS if column.name != "first_ns"]
    rows = _unreached(rows[kept].assign(first_ns=rows["begin_ns"]), before.signalled)
    rows = _unreached(joined(before.timed_out, rows), signalled)
    lasts = dict.fromkeys(("inode", "exporter", "comm", "pid"), "last")
    sums = dict.fromkeys(("timed_out", "total_ns"), "sum")
    rows = rows.sort_values("last_ns", kind="stable")
    return added(None, rows, _FENCE, **sums, **lasts, first_ns="min", last_ns="max")


def _unreached(timed_out: pd.DataFrame, signalled: pd.DataFrame | None) -> pd.DataFrame:
    """Without what was waited for again later, itself or a higher number, with success."""
    import pandas as pd

    if signalled is None or timed_out.empty:
        return timed_out
    of = signalled[signalled["fence_context"].isin(timed_out["fence_context"])]
    of = of.astype("int64").sort_values("end_ns", ascending=False, kind="stable")
    reached = of.groupby("fence_context")["fence_seqno"].cummax()
    asked = timed_out[[*_FENCE, "last_ns"]].astype("int64")
    late = pd.merge_asof(
        asked.reset_index(names="at").sort_values("last_ns", kind="stable"),
        of[["fence_context", "end_ns"]].assign(reached=reached)[::-1],
        left_on="last_ns",
        right_on="end_ns",
        by="fence_context",
        direction="forward",
    )
    over = late.loc[late["reached"] >= late["fence_seqno"], "at"]
    return timed_out[~timed_out.index.isin(over)]


def _called(before: pd.DataFrame | None, calls: pd.DataFrame) -> pd.DataFrame:
    """Calls by process."""
    failed = (calls["ret"] < 0).to_numpy(np.bool_)
    counts = {}
    for kind, columns in _SYNC_FILES.items():
        mine = (calls["kind"] == kind).to_numpy(np.bool_)
        for column, of in zip(columns, (~failed, failed), strict=False):
            counts[column] = (mine & of).astype(np.int64)
    rows = calls[["pid", "comm"]].assign(**counts, calls=1)
    return added(before, rows, ["pid"], comm="first", **dict.fromkeys([*counts, "calls"], "sum"))


def _numbers(before: pd.DataFrame | None, calls: pd.DataFrame) -> pd.DataFrame:
    """When each process last exported a sync_file by each number of an fd."""
    exported = calls[(calls["kind"] == "export_sync_file") & (calls["ret"] >= 0)]
    rows = exported[["pid", "ts"]].assign(fd=exported["value"].astype("int64"))
    return added(before, rows, ["pid", "fd"], ts="max")


def _sync_files(view: View, found: Folded) -> pd.DataFrame:
    """One row per process, most calls first."""
    import pandas as pd

    rows, fds = joined(found.callers), joined(found.fds)
    newest = fds.sort_values("ts", kind="stable").groupby("pid")["fd"].last()
    in_use = fds[fds["fd"] <= fds["pid"].map(newest)].groupby("pid").size()
    rows["fds_in_use"] = rows["pid"].map(in_use).fillna(0)
    for kind, columns in _SYNC_FILES.items():
        if kind in view.missing:
            rows[[*columns]] = pd.NA
    return pick(FILE_COLUMNS, rows.sort_values(["calls", "pid"], ascending=[False, True]))


def _held(view: View) -> Table:
    """Open sync_files of each process at both ends of the trace, who has more than before first."""
    start, end = view.sync_files("start"), view.sync_files("end")
    before, after = (
        {(each.pid, each.comm): each.count for each in look or ()} for look in (start, end)
    )
    counts = [
        (process, None if start is None else before.get(process, 0), after.get(process, 0))
        for process in (before | after if end is not None else ())
    ]
    counts.sort(key=lambda row: ((row[1] or 0) - row[2], -row[2], row[0]))
    rows = [
        {
            "pid": pid,
            "comm": comm,
            "at_start": at_start,
            "at_end": at_end,
            "grown": None if at_start is None else at_end - at_start,
        }
        for (pid, comm), at_start, at_end in counts
    ]
    empty = "none" if end is not None else "not looked up at the end"
    return Table("held", "sync_files held", HELD_COLUMNS, frame(HELD_COLUMNS, rows), empty)


def _notes(view: View, is_unsignalled: bool, files: pd.DataFrame) -> Iterator[str]:
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
    if len(files):
        yield "fds of sync_files are none of a dma-buf: whether they were closed is not observed"
    if (files["fds_in_use"] > 0).any():
        yield (
            "fds in use: numbers given to exported sync_files that were taken at the last export, "
            "as the lowest free one is given out; some may be of other files by now"
        )


ANALYSIS = Analysis(
    name="fences",
    question="Which fences were waited for, by whom, and which never signalled?",
    needs=("buffers", "waits", "events"),
    relies_on=("fence_wait", "export_sync_file", "import_sync_file"),
    run=run,
    fold=fold,
    shows=(
        Shown("waits", ("fence_wait",)),
        Shown("sync_file calls", ("export_sync_file", "import_sync_file")),
    ),
    params=(
        Param("device", "text", "", "only waits within calls of this device"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
