# SPDX-License-Identifier: Apache-2.0
"""Mappings that were held for long, still or by now given back.

A static importer must give a mapping back in reasonably short time, or the exporter can't move
the buffer. V4L2 (videobuf2) and, up to 6.12, DRM imports hold theirs for as long as they hold the
buffer, by design.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick
from dmabuf_trace.units import count_text, duration_text

COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("age_ns", "duration", "held"),
    Column("state", "text", "state"),
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
    Column("importer", "text", "importer", spare=True),
    Column("size_bytes", "bytes", "size"),
    Column("exporter", "text", "exporter", spare=True),
    Column("direction", "text", "direction", spare=True),
    Column("comm", "text", "mapped by"),
    Column("pid", "id", "pid"),
    Column("begin_ns", "time", "since", spare=True),
    Column("map_ns", "duration", "map took", spare=True),
)


def run(view: View, *, min_age: int, device: str, exporter: str) -> Answer:
    """See the module's description."""
    exporters = view.buffers.set_index("id")["exporter"]
    mappings = view.mappings.assign(
        exporter=view.mappings["buffer_id"].map(exporters),
        begin_ns=view.mappings["begin"] - view.start,
    )
    held = mappings[(mappings["age_ns"] >= min_age).fillna(False)]
    if device:
        held = held[held["device"] == device]
    if exporter:
        held = held[held["exporter"] == exporter]
    held = held.sort_values(["age_ns", "id"], ascending=[False, True])
    held["state"] = held["open"].map({True: "mapped", False: "unmapped"})
    held.loc[held["outlived"], "state"] = "left behind"
    title = f"Mappings held for {duration_text(min_age)} or longer"
    table = Table("mappings", title, COLUMNS, pick(COLUMNS, held), "none")
    inodes = tuple(held["inode"].dropna().unique().tolist())
    return Answer((table,), tuple(_notes(view)), inodes)


def _notes(view: View) -> Iterator[str]:
    orphans = int(view.mappings["begin"].isna().sum())
    if orphans:
        yield (
            f"{count_text(orphans, 'unmap')} without a map in the trace: mapped before it, or the "
            "map was lost; how long they were held is not known"
        )
    ended = int(view.mappings["end_lost"].sum())
    if ended:
        yield f"{count_text(ended, 'mapping')} with a lost end: not judged"


ANALYSIS = Analysis(
    name="mappings",
    question="Which mappings are held for long, by which device?",
    needs=("buffers", "mappings"),
    relies_on=("map", "unmap", "attach", "detach"),
    run=run,
    params=(
        Param("min_age", "duration", "1s", "only mappings held at least this long, as 500ms or 2s"),
        Param("device", "text", "", "only mappings of this device"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
    report_rank=2,
)
