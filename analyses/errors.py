# SPDX-License-Identifier: Apache-2.0
"""Calls that failed, grouped by what failed, how, where, and for whom."""

from __future__ import annotations

from typing import Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Table, View, frame

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


def run(view: View) -> Answer:
    """See the module's description."""
    rows = []
    for key, group in view.errors.groupby(_BY, dropna=False, sort=True):
        first, last = group["ts"].iloc[0] - view.start, group["ts"].iloc[-1] - view.start
        times = {"first_ns": int(first), "last_ns": int(last), "calls": len(group)}
        rows.append({**dict(zip(_BY, key, strict=True)), **times, "inode": group["inode"].iloc[-1]})
    rows.sort(key=lambda row: -row["calls"])
    table = Table("errors", "Failed calls", COLUMNS, frame(COLUMNS, rows), "no call failed")
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
    report_rank=4,
)
