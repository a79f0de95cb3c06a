# SPDX-License-Identifier: Apache-2.0
"""Mappings that were held for long, still or by now given back.

A static importer must give a mapping back in reasonably short time, or the exporter can't move
the buffer. V4L2 (videobuf2) and, up to 6.12, DRM imports hold theirs for as long as they hold the
buffer, by design.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick
from dmabuf_trace.measure import joined
from dmabuf_trace.units import count_text, duration_text

if TYPE_CHECKING:
    import pandas as pd

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


@dataclass(frozen=True)
class Folded:
    """Mappings that were held for long, and how many can't be judged."""

    held: pd.DataFrame | None = None
    orphans: int = 0
    lost: int = 0


def fold(view: View, before: Folded | None, *, min_age: int, device: str, exporter: str) -> Folded:
    """Sort out what was held for long."""
    before = before or Folded()
    mappings = view.mappings
    held = mappings[(mappings["age_ns"] >= min_age).fillna(False)]
    if device:
        held = held[held["device"] == device]
    if exporter:
        held = held[held["exporter"] == exporter]
    return Folded(
        joined(before.held, held),
        before.orphans + int(mappings["begin"].isna().sum()),
        before.lost + int(mappings["end_lost"].sum()),
    )


def run(view: View, found: Folded, *, min_age: int, **_: str) -> Answer:
    """See the module's description."""
    held = joined(found.held).sort_values(["age_ns", "id"], ascending=[False, True])
    state = held["open"].map({True: "mapped", False: "unmapped"})
    state = state.mask(held["outlived"], "left behind")
    held = held.assign(begin_ns=held["begin"] - view.start, state=state)
    title = f"Mappings held for {duration_text(min_age)} or longer"
    table = Table("mappings", title, COLUMNS, pick(COLUMNS, held), "none")
    inodes = tuple(held["inode"].dropna().unique().tolist())
    return Answer((table,), tuple(_notes(found)), inodes)


def _notes(found: Folded) -> Iterator[str]:
    if found.orphans:
        yield (
            f"{count_text(found.orphans, 'unmap')} without a map in the trace: mapped before it, "
            "or the map was lost; how long they were held is not known"
        )
    if found.lost:
        yield f"{count_text(found.lost, 'mapping')} with a lost end: not judged"


ANALYSIS = Analysis(
    name="mappings",
    question="Which mappings are held for long, by which device?",
    needs=("mappings",),
    relies_on=("map", "unmap", "attach", "detach"),
    run=run,
    fold=fold,
    params=(
        Param("min_age", "duration", "1s", "only mappings held at least this long, as 500ms or 2s"),
        Param("device", "text", "", "only mappings of this device"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
    report_rank=2,
)
