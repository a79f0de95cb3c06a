# SPDX-License-Identifier: Apache-2.0
"""The buffers that weigh most in a trace: those alive at its end, then by size times life.

A list of bounded length, however many buffers there were; what it leaves out it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Table, View, pick
from dmabuf_trace.levels import spans
from dmabuf_trace.measure import joined

if TYPE_CHECKING:
    import pandas as pd

MOST: Final = 400
COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("name", "text", "name"),
    Column("exporter", "text", "exporter"),
    Column("size_bytes", "bytes", "size"),
    Column("state", "text", "state"),
    Column("origin", "text", "origin"),
    Column("since_ns", "time", "from"),
    Column("until_ns", "time", "until"),
    Column("age_ns", "duration", "age"),
    Column("comm", "text", "exported by"),
    Column("pid", "id", "pid"),
)
_KINDS: Final = ("export", "release")
_KEPT: Final = [
    *(each.name for each in COLUMNS if each.name not in ("state", "since_ns", "until_ns")),
    *("open", "end_lost", "since", "until", "weight"),
]


@dataclass(frozen=True)
class Folded:
    """The heaviest so far, and how many there were."""

    rows: pd.DataFrame | None = None
    buffers: int = 0


def fold(view: View, before: Folded | None) -> Folded:
    """Keep the heaviest."""
    before = before or Folded()
    buffers = spans(view, view.buffers)
    life = (buffers["until"].fillna(view.end) - buffers["since"]).astype("float64")
    rows = buffers.assign(weight=life * buffers["size_bytes"].fillna(0).astype("float64"))
    rows = joined(before.rows, rows[_KEPT])
    rows = rows.sort_values(["open", "weight"], ascending=False, kind="stable").head(MOST)
    return Folded(rows, before.buffers + len(buffers))


def run(view: View, found: Folded) -> Answer:
    """See the module's description."""
    rows = joined(found.rows)
    rows = rows.sort_values(["open", "since", "inode"], ascending=[False, True, True])
    state = rows["open"].map({True: "alive", False: "released"})
    rows = rows.assign(
        state=state.mask(rows["end_lost"], "release lost"),
        since_ns=rows["since"] - view.start,
        until_ns=rows["until"] - view.start,
    )
    empty = view.empty(_KINDS, "no buffer was seen")
    table = Table("lifetimes", "Lifetimes", COLUMNS, pick(COLUMNS, rows), empty)
    left_out = found.buffers - len(rows)
    notes = (
        f"{len(rows):,} of {found.buffers:,} buffers shown: those alive at the end first, then by "
        "size times life",
    )
    return Answer((table,), notes if left_out else ())


LIFETIMES: Final = Analysis(
    name="lifetimes",
    question="Which buffers weighed most, from when until when?",
    needs=("buffers",),
    relies_on=_KINDS,
    run=run,
    fold=fold,
)
