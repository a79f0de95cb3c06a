# SPDX-License-Identifier: Apache-2.0
"""Buffers made during the trace that are alive at its end, by what keeps them alive.

The shape of a leak is the first that applies of: ``fd`` (a process has it open), ``mapping`` (its
fds are closed, a VMA remains), ``attachment`` (a device is still attached or mapped), ``in-flight``
(only an fd that was sent through a socket and not received) and ``kernel`` (nothing visible holds
it: a reference inside a driver, and where sockets could not be looked into, an fd under way in
one). Without a look at the processes at the end the shape is ``unknown``. Where devices can't tell
who holds a buffer, the stacks that took references to it may: see :mod:`dmabuf_trace.taken`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace import holders, taken
from dmabuf_trace.analysis import (
    Analysis,
    Answer,
    Column,
    Param,
    Shown,
    Table,
    View,
    frame,
    pick,
    records,
    unknown_exporter,
)
from dmabuf_trace.measure import joined
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

LEAK_COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("shape", "text", "shape"),
    Column("age_ns", "duration", "age"),
    Column("size_bytes", "bytes", "size"),
    Column("exporter", "text", "exporter"),
    Column("name", "text", "name", spare=True),
    Column("comm", "text", "exported by"),
    Column("pid", "id", "pid", spare=True),
    Column("holders", "holders", "held by"),
    Column("export_stack", "stack", "exported at"),
    Column("export_user_stack", "stack", "exported from"),
    Column("attach_stack", "stack", "attached at"),
    Column("attach_user_stack", "stack", "attached from"),
    Column("get_stacks", "stacks", "taken at"),
    Column("get_user_stacks", "stacks", "taken from"),
)
SHAPE_COLUMNS: Final = (
    Column("shape", "text", "shape"),
    Column("buffers", "count", "buffers"),
    Column("size_bytes", "bytes", "size"),
    Column("oldest_ns", "duration", "oldest"),
)
OUTLIVED_COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("what", "text", "what"),
    Column("device", "text", "device"),
    Column("driver", "text", "driver"),
    Column("begin_ns", "time", "since"),
    Column("age_ns", "duration", "age"),
    Column("comm", "text", "made by"),
    Column("pid", "id", "pid", spare=True),
)
BEFORE_COLUMNS: Final = tuple(
    column
    for column in LEAK_COLUMNS
    if column.name not in ("age_ns", "pid", "comm", "export_stack", "export_user_stack")
)


@dataclass(frozen=True)
class Folded:
    """What was left behind, where references were taken, and the exporters that have buffers."""

    outlived: pd.DataFrame | None = None
    taken: pd.DataFrame | None = None
    exporters: frozenset[str] = frozenset()


_OUTLIVED: Final = {
    "attachments": "attached, though the buffer was released",
    "mappings": "mapped, though its attachment was detached",
}


def fold(view: View, before: Folded | None, **_: Any) -> Folded:
    """Sort out what was left behind, and who took references to what is alive."""
    before = before or Folded()
    columns = [column.name for column in OUTLIVED_COLUMNS if column.name != "begin_ns"]
    found = []
    for name, what in _OUTLIVED.items():
        table: pd.DataFrame = getattr(view, name)
        found.append(table[table["outlived"]].assign(what=what)[[*columns, "begin"]])
    exporters = view.buffers["exporter"].dropna().unique().tolist()
    return Folded(
        joined(before.outlived, *found),
        taken.fold(view, before.taken),
        before.exporters | frozenset(exporters),
    )


def run(view: View, folded: Folded, *, min_age: int, exporter: str) -> Answer:
    """See the module's description."""
    alive = view.buffers[view.buffers["open"]]
    if exporter:
        alive = alive[alive["exporter"] == exporter]
    is_older = alive["origin"] == "before"
    # an export that was not seen gives no age: at least as old as what was seen first
    age = alive["age_ns"].fillna(view.end - alive["seen"])
    held_by, taken_at = holders.at_end(view), taken.by_buffer(view, joined(folded.taken))
    leaks = _rows(view, alive[~is_older & (age >= min_age)], held_by, taken_at)
    older = _rows(view, alive[is_older], held_by, taken_at)
    tables = (
        Table("shapes", "Alive at the end, by shape", SHAPE_COLUMNS, _by_shape(leaks)),
        Table("leaks", "Leaks", LEAK_COLUMNS, frame(LEAK_COLUMNS, leaks), "nothing was left alive"),
        Table(
            "outlived",
            "Left behind, against the contract",
            OUTLIVED_COLUMNS,
            _outlived(view, folded),
        ),
        Table(
            "born_before",
            "Alive, but made before the trace: not counted as leaks",
            BEFORE_COLUMNS,
            frame(BEFORE_COLUMNS, older),
        ),
    )
    notes = (
        *_notes(view, leaks),
        *_taken_notes(view, [row for row in leaks if _is_hidden(row)], taken_at),
        *unknown_exporter(exporter, folded.exporters),
    )
    return Answer(tables, notes, tuple(row["inode"] for row in leaks))


def _is_hidden(row: Row) -> bool:
    """Whether a reference that a driver took may be all that keeps the buffer alive."""
    return row["shape"] in ("kernel", "unknown")


def _rows(
    view: View,
    buffers: pd.DataFrame,
    held_by: dict[int, list[Row]],
    taken_at: dict[int, taken.Taken],
) -> list[Row]:
    """Oldest first; what has no known age is before all others."""
    rows = []
    for buffer in records(buffers):
        mine = held_by.get(buffer["id"], [])
        shape = holders.shape(view, buffer["begin"], mine)
        held_by_device = shape in ("attachment", "unknown")
        attached = {
            name: next((each[name] for each in mine if held_by_device and each.get(name)), None)
            for name in holders.STACKS
        }
        seen = [
            {key: holder[key] for key in holder if key not in holders.STACKS} for holder in mine
        ]
        row = {**buffer, "shape": shape}
        taken_by = taken_at.get(buffer["id"]) if _is_hidden(row) else None
        rows.append(
            {
                **row,
                "holders": None if shape == "unknown" and not seen else seen,
                "export_stack": view.stack(buffer["stack"]),
                "export_user_stack": view.user_stack(buffer["user_stack"]),
                "attach_stack": attached["stack"],
                "attach_user_stack": attached["user_stack"],
                "get_stacks": taken_by and _known(taken_by.stacks),
                "get_user_stacks": taken_by and _known(taken_by.user_stacks),
            }
        )
    return sorted(rows, key=lambda row: (row["age_ns"] is not None, -(row["age_ns"] or 0)))


def _known(stacks: tuple[list[str] | None, ...]) -> list[list[str] | None] | None:
    return list(stacks) if any(stacks) else None


def _by_shape(leaks: list[Row]) -> pd.DataFrame:
    rows = []
    for shape in holders.SHAPES:
        mine = [row for row in leaks if row["shape"] == shape]
        if mine:
            size = sum(row["size_bytes"] or 0 for row in mine)
            ages = [row["age_ns"] for row in mine if row["age_ns"] is not None]
            row = {"shape": shape, "buffers": len(mine), "size_bytes": size}
            rows.append({**row, "oldest_ns": max(ages, default=None)})
    return frame(SHAPE_COLUMNS, rows)


def _outlived(view: View, folded: Folded) -> pd.DataFrame:
    rows = joined(folded.outlived)
    rows = rows.assign(begin_ns=rows["begin"] - view.start).sort_values("what", kind="stable")
    return pick(OUTLIVED_COLUMNS, rows)


def _notes(view: View, leaks: list[Row]) -> Iterator[str]:
    if view.looked_at is None:
        yield "who holds what was not looked up at the end: shapes are unknown"
    elif any(row["shape"] == "unknown" for row in leaks):
        yield "buffers made after the last look at the processes have an unknown shape"
    if view.unreadable and leaks:
        processes = count_text(view.unreadable, "process", "processes")
        yield f"{processes} could not be looked into: a buffer may be held there, unseen"
    if not view.queues and any(row["shape"] == "kernel" for row in leaks):
        yield f"sockets were not looked into: what is called kernel may be {holders.UNSEEN_QUEUES}"
    if unseen := sum(row["origin"] == "lost" for row in leaks):
        yield f"{count_text(unseen, 'export')} made no event: age, exporter and stack are not known"
    if gone := sum(row["stack"] is not None and row["export_stack"] is None for row in leaks):
        yield f"{count_text(gone, 'stack')} of exports did not make it into the recording"
    if apart := sum(row["origin"] == "unwatched" for row in leaks):
        yield f"{count_text(apart, 'buffer')} exported by whom the filters leave out: age not known"
    if any(row["origin"] == "unknown" for row in leaks):
        yield "exports were not observed: buffers made before the trace can't be told apart"


def _taken_notes(view: View, leaks: list[Row], taken_at: dict[int, taken.Taken]) -> Iterator[str]:
    """What the stacks of gets can't tell."""
    if leaks and "get" in view.missing:
        yield "get was not observed: where references were taken is not known"
        return
    if never := sum(row["shape"] == "kernel" and row["id"] not in taken_at for row in leaks):
        yield (
            f"{count_text(never, 'buffer')} never taken by dma_buf_get(): the reference is the "
            "exporter's own, or was taken by get_dma_buf(), which shows nowhere"
        )
    found = [taken_at[row["id"]] for row in leaks if row["id"] in taken_at]
    if any(len(each.stacks) > 1 for each in found):
        yield "of several places that took references, which one never put its own can't be told"
    if any(each.more for each in found):
        yield f"only the latest {taken.SHOWN} places that took references to a buffer are shown"


_LIFE: Final = ("export", "release")
_ATTACHED: Final = ("attach", "detach")
_SHOWS: Final = (
    Shown("fd", _LIFE),
    Shown("mapping", _LIFE),
    Shown("attachment", (*_LIFE, *_ATTACHED)),
    Shown("in-flight", _LIFE, {"queues": "it is called kernel"}),
    Shown(
        "kernel",
        _LIFE,
        {
            **dict.fromkeys(_ATTACHED, "it may be an attached device"),
            "queues": f"it may be {holders.UNSEEN_QUEUES}",
            "complete": "found, but the kernel's own list does not confirm it",
        },
    ),
    Shown("attachment left behind", ("release", *_ATTACHED)),
    Shown("mapping left behind", ("map", "unmap", *_ATTACHED)),
    Shown("made before the trace", _LIFE, {"complete": "only what some process holds"}),
)

ANALYSIS = Analysis(
    name="leaks",
    question="Which buffers were left alive, who holds them, and who made them?",
    needs=(*holders.NEEDS, *taken.NEEDS),
    relies_on=("export", "release", "attach", "detach", "map", "unmap"),
    run=run,
    fold=fold,
    shows=_SHOWS,
    params=(
        Param("min_age", "duration", "", "only buffers at least this old, as 500ms or 2s"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
    report_rank=1,
)
