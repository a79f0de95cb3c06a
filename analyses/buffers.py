# SPDX-License-Identifier: Apache-2.0
"""Every buffer of the trace, in the order of first sight: what ``show`` can tell more about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick
from dmabuf_trace.measure import joined

if TYPE_CHECKING:
    import pandas as pd

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


_COUNTED: Final = ("attachments", "mappings")
_KEPT: Final = [
    *("id", "begin", "open"),
    *(each.name for each in COLUMNS if each.name not in ("state", "begin_ns")),
]


@dataclass(frozen=True)
class Folded:
    """Rows by stretch, and how many attachments and mappings buffers had that are none yet."""

    rows: tuple[pd.DataFrame, ...] = ()
    counts: pd.DataFrame | None = None


def fold(view: View, before: Folded | None, *, min_age: int, exporter: str) -> Folded:
    """Take the buffers that are over, with what was counted up to here."""
    import pandas as pd

    before = before or Folded()
    now = [getattr(view, name)["buffer_id"].value_counts().rename(name) for name in _COUNTED]
    counts = pd.concat(now, axis=1).fillna(0)
    if before.counts is not None:
        counts = counts.add(before.counts, fill_value=0)
    buffers = view.buffers
    left = counts[~counts.index.isin(buffers["id"])]
    if exporter:
        buffers = buffers[buffers["exporter"] == exporter]
    if min_age:
        buffers = buffers[(buffers["age_ns"] >= min_age).fillna(False)]
    rows = _more(buffers.assign(**dict.fromkeys(_COUNTED, 0)), counts)
    return Folded((*before.rows, rows[_KEPT]), left)


def _more(rows: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """With these attachments and mappings too."""
    more = {name: rows["id"].map(counts[name]).fillna(0).astype("int64") for name in _COUNTED}
    return rows.assign(**{name: rows[name] + more[name] for name in _COUNTED})


def run(view: View, found: Folded, **_: Any) -> Answer:
    """See the module's description."""
    rows = joined(*found.rows).sort_values("id")
    if found.counts is not None:
        rows = _more(rows, found.counts)  # what outlived its buffer
    rows = rows.assign(
        state=rows["open"].map({True: "alive", False: "released"}),
        begin_ns=rows["begin"] - view.start,
    )
    table = Table("buffers", "Buffers", COLUMNS, pick(COLUMNS, rows), "none")
    return Answer((table,), inodes=tuple(rows["inode"].tolist()))


ANALYSIS = Analysis(
    name="buffers",
    question="Which buffers are in the trace?",
    needs=("buffers", "attachments", "mappings"),
    relies_on=("export", "release", "attach", "map"),
    run=run,
    fold=fold,
    is_list=True,
    params=(
        Param("min_age", "duration", "", "only buffers that lived at least this long"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
