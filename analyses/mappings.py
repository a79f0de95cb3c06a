# SPDX-License-Identifier: Apache-2.0
"""Mappings that were held for long, still or by now given back.

A static importer must give a mapping back in reasonably short time, or the exporter can't move the
buffer: ``too long``. V4L2 (videobuf2) and, up to 6.12, DRM imports hold theirs for as long as they
hold the buffer, ``by design``; the stack of the attach tells, else the driver. A ``dynamic``
importer may hold one, as it is told of a move and has to unmap then (``contract`` judges that).
``moves`` counts what it was told while it was held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Shown, Table, View, pick
from dmabuf_trace.measure import joined
from dmabuf_trace.rules.held import by_design
from dmabuf_trace.units import count_text, duration_text

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("age_ns", "duration", "held"),
    Column("state", "text", "state"),
    Column("verdict", "text", "verdict"),
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
    Column("moves", "count", "moves", spare=True),
)
UNMOVABLE_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("verdict", "text", "verdict"),
    Column("buffers", "count", "buffers"),
    Column("size_bytes", "bytes", "size"),
    Column("longest_ns", "duration", "longest"),
)
VERDICTS: Final = ("too long", "unknown", "by design", "dynamic")
"""The importer of ``unknown`` was not seen to attach."""


@dataclass(frozen=True)
class Folded:
    """Mappings that were held for long, and how many can't be judged.

    ``told``: of those that go on, by id, the moves so far.
    """

    held: pd.DataFrame | None = None
    told: pd.DataFrame | None = None
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
    of = view.present("attachments").set_index("id")
    stacks = of["stack"].reindex(held["attachment_id"]).set_axis(held.index)
    told = _told(view, before.told, held)
    held = held.assign(stack=stacks, moves=held["id"].map(told).fillna(0))
    going_on = _told(view, before.told, view.going_on("mappings")) if len(view.moves) else None
    return Folded(
        joined(before.held, held),
        before.told if going_on is None else going_on.rename("moves").reset_index(),
        before.orphans + int(mappings["begin"].isna().sum()),
        before.lost + int(mappings["end_lost"].sum()),
    )


def _told(view: View, before: pd.DataFrame | None, mappings: pd.DataFrame) -> pd.Series[int]:
    """By id, how many moves there were up to here in the life of mappings; those with some."""

    moves = view.moves[["buffer_id", "ts"]].dropna()
    lives = mappings[["id", "buffer_id", "begin", "end"]].merge(moves, on="buffer_id")
    lives = lives[(lives["begin"] <= lives["ts"]) & ~(lives["end"] < lives["ts"]).fillna(False)]
    counts = lives.groupby("id").size()
    if before is None:
        return counts
    known = before[before["id"].isin(mappings["id"])].set_index("id")["moves"]
    found: pd.Series[int] = counts.add(known, fill_value=0).astype("int64")
    return found


def run(view: View, found: Folded, *, min_age: int, **_: str) -> Answer:
    """See the module's description."""
    held = joined(found.held)
    state = held["open"].map({True: "mapped", False: "unmapped"})
    static = (held["importer"] == "static").fillna(False)
    verdict = held["importer"].mask(static, "too long").fillna("unknown")
    verdict = verdict.mask(static & by_design(view, held), "by design")
    held = held.assign(
        begin_ns=held["begin"] - view.start,
        state=state.mask(held["outlived"], "left behind"),
        verdict=verdict,
        rank=verdict.map(VERDICTS.index),
    ).sort_values(["rank", "age_ns", "id"], ascending=[True, False, True])
    title = f"Mappings held for {duration_text(min_age)} or longer"
    unmovable = "What exporters could not move meanwhile"
    tables = (
        Table("mappings", title, COLUMNS, pick(COLUMNS, held), "none"),
        Table("unmovable", unmovable, UNMOVABLE_COLUMNS, _unmovable(held)),
    )
    return Answer(tables, tuple(_notes(found)), tuple(held["inode"].dropna().unique().tolist()))


def _unmovable(held: pd.DataFrame) -> pd.DataFrame:
    """Buffers that static importers had mapped for long, each once."""
    static = held[held["verdict"].isin(["too long", "by design"])]
    keys = ["exporter", "verdict"]
    buffers = static.drop_duplicates([*keys, "buffer_id"]).groupby(keys, dropna=False)
    rows = buffers.agg(buffers=("buffer_id", "size"), size_bytes=("size_bytes", "sum"))
    longest = static.groupby(keys, dropna=False)["age_ns"].max()
    rows = rows.assign(longest_ns=longest).sort_values("size_bytes", ascending=False, kind="stable")
    return pick(UNMOVABLE_COLUMNS, rows.reset_index())


def _notes(found: Folded) -> Iterator[str]:
    if found.orphans:
        yield (
            f"{count_text(found.orphans, 'unmap')} without a map in the trace: mapped before it, "
            "or the map was lost; how long they were held is not known"
        )
    if found.lost:
        yield f"{count_text(found.lost, 'mapping')} with a lost end: not judged"


_KINDS: Final = ("map", "unmap", "attach", "detach")

ANALYSIS = Analysis(
    name="mappings",
    question="Which mappings are held for long, by which device?",
    needs=("attachments", "mappings", "moves"),
    relies_on=_KINDS,
    run=run,
    fold=fold,
    shows=(Shown("held for long", _KINDS),),
    params=(
        Param("min_age", "duration", "1s", "only mappings held at least this long, as 500ms or 2s"),
        Param("device", "text", "", "only mappings of this device"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
    report_rank=2,
)
