# SPDX-License-Identifier: Apache-2.0
"""Every buffer of the trace, in the order of first sight: what ``show`` can tell more about."""

from __future__ import annotations

from typing import Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick

COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("name", "text", "name"),
    Column("exporter", "text", "exporter"),
    Column("size_bytes", "bytes", "size"),
    Column("state", "text", "state"),
    Column("origin", "text", "origin", spare=True),
    Column("begin_ns", "time", "since", spare=True),
    Column("age_ns", "duration", "age"),
    Column("comm", "text", "exported by"),
    Column("pid", "id", "pid", spare=True),
    Column("fd_installs", "count", "fds", spare=True),
    Column("mmaps", "count", "mmaps", spare=True),
    Column("attachments", "count", "attachments"),
    Column("mappings", "count", "mappings"),
)


def run(view: View, *, min_age: int, exporter: str) -> Answer:
    """See the module's description."""
    buffers = view.buffers
    if exporter:
        buffers = buffers[buffers["exporter"] == exporter]
    if min_age:
        buffers = buffers[(buffers["age_ns"] >= min_age).fillna(False)]
    buffers = buffers.assign(
        state=buffers["open"].map({True: "alive", False: "released"}),
        begin_ns=buffers["begin"] - view.start,
        attachments=buffers["id"].map(view.attachments.groupby("buffer_id").size()).fillna(0),
        mappings=buffers["id"].map(view.mappings.groupby("buffer_id").size()).fillna(0),
    )
    table = Table("buffers", "Buffers", COLUMNS, pick(COLUMNS, buffers), "none")
    return Answer((table,), inodes=tuple(buffers["inode"].tolist()))


ANALYSIS = Analysis(
    name="buffers",
    question="Which buffers are in the trace?",
    needs=("buffers", "attachments", "mappings"),
    relies_on=("export", "release", "attach", "map"),
    run=run,
    params=(
        Param("min_age", "duration", "", "only buffers that lived at least this long"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
