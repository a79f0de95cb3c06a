# SPDX-License-Identifier: Apache-2.0
"""Calls that failed, grouped by what failed, how, where, and for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Table, View, pick
from dmabuf_trace.measure import added

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = (
    Column("kind", "text", "call"),
    Column("error", "text", "error"),
    Column("calls", "count", "calls"),
    Column("device", "text", "device"),
    Column("exporter", "text", "exporter"),
    Column("comm", "text", "by"),
    Column("pid", "id", "pid", spare=True),
    Column("first_ns", "time", "first", spare=True),
    Column("last_ns", "time", "last", spare=True),
    Column("inode", "id", "last buffer"),
)
_BY: Final = ["kind", "error", "device", "exporter", "comm", "pid"]


def fold(view: View, before: pd.DataFrame | None) -> pd.DataFrame:
    """Failed calls by group."""
    since = view.errors["ts"] - view.start
    rows = view.errors.assign(first_ns=since, last_ns=since, calls=1)
    return added(before, rows, _BY, calls="sum", first_ns="min", last_ns="max", inode="last")


def run(_: View, failed: pd.DataFrame) -> Answer:
    """See the module's description."""
    rows = failed.sort_values("calls", ascending=False, kind="stable")
    table = Table("errors", "Failed calls", COLUMNS, pick(COLUMNS, rows), "no call failed")
    return Answer((table,))


ANALYSIS = Analysis(
    name="errors",
    question="Which calls failed, with which error, for whom?",
    needs=("errors",),
    relies_on=(
        "export",
        "attach",
        "map",
        "cpu_begin",
        "cpu_end",
        "mmap",
        "mmap_importer",
        "set_name",
    ),
    run=run,
    fold=fold,
    report_rank=4,
)
