# SPDX-License-Identifier: Apache-2.0
"""CPU access: brackets that are not as they should be, and what those that succeeded cost.

Brackets are paired per buffer and process (DMA_BUF_IOCTL_SYNC), those of drivers per buffer: one
that another process ends shows as a begin without an end and an end without a begin. Where several
overlap nothing says which end is whose: directions are compared as a set. A call that a signal
interrupted counts as tried again with any later call of its kind by that process on that buffer.
Access itself is not observable: that a buffer was mmap'ed and never bracketed is a heuristic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmabuf_trace import overlaps
from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Shown, Table, View, pick
from dmabuf_trace.columns import TEXT
from dmabuf_trace.errnos import INTERRUPTED
from dmabuf_trace.measure import TIMES, added, joined, lengths, times
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

FINDING_COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("finding", "text", "finding"),
    Column("count", "count", "times"),
    Column("age_ns", "duration", "open for"),
    Column("by", "text", "by"),
    Column("comm", "text", "comm"),
    Column("pid", "id", "pid", spare=True),
    Column("exporter", "text", "exporter"),
    Column("direction", "text", "begun as", spare=True),
    Column("end_direction", "text", "ended as", spare=True),
    Column("size_bytes", "bytes", "size", spare=True),
    Column("first_ns", "time", "first", spare=True),
)
COST_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("call", "text", "call"),
    Column("direction", "text", "direction"),
    Column("size_up_to_bytes", "bytes", "size up to"),
    Column("count", "count", "calls"),
    *TIMES,
    Column("bytes_per_second", "bytes", "per second"),
)
NO_BEGIN: Final = "end without a begin"
RELEASED: Final = "begin without an end, buffer released"
OPEN: Final = "begin without an end"
TURNED: Final = "ends in another direction"
NOT_AGAIN: Final = "interrupted, not tried again"
UNBRACKETED: Final = "mmap'ed, never bracketed"
FINDINGS: Final = (NO_BEGIN, RELEASED, OPEN, TURNED, NOT_AGAIN, UNBRACKETED)
SMALLEST: Final = 4096

ENDS: Final = {"process": "cpu_end", "driver": "kernel_end"}
BEGINS: Final = {"process": "cpu_begin", "driver": "kernel_begin"}
SYNC: Final = ("cpu_begin", "cpu_end")
_CALLS: Final = {"begin": "direction", "end": "end_direction"}


_BY: Final = ["finding", "buffer_id", "by", "owner"]
_PARTS: Final = (
    *FINDING_COLUMNS,
    Column("buffer_id", "id", ""),
    Column("owner", "id", ""),
    Column("origin", "text", ""),
)
_WAYS: Final = {
    **dict.fromkeys((column.name for column in _PARTS if column.name not in _BY), "first"),
    "count": "sum",
    "age_ns": "max",
}
_KIND: Final = ["exporter", "direction", "end_direction", "size_up_to_bytes"]


@dataclass(frozen=True)
class Folded:
    """``done`` are findings on buffers that are gone, the rest is about those that are there:
    findings, brackets ``turned`` that overlap with an open one, calls that were ``interrupted`` and
    not made again, who has them ``mapped``, ids of those that somebody ``tried`` to bracket, and of
    open brackets when their buffers were ``released``. ``older``: how many ends are not judged.
    ``lengths`` of calls and bytes ``moved`` are those of ``kinds``.
    """

    done: tuple[pd.DataFrame, ...] = ()
    found: pd.DataFrame | None = None
    turned: pd.DataFrame | None = None
    interrupted: pd.DataFrame | None = None
    mapped: pd.DataFrame | None = None
    tried: pd.Series[int] | None = None
    released: pd.Series[int] | None = None
    older: int = 0
    kinds: pd.DataFrame | None = None
    lengths: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    moved: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def fold(view: View, before: Folded | None, *, min_age: int, exporter: str) -> Folded:
    """Settle what can be told of brackets up to here."""
    before = before or Folded()

    def chosen(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["exporter"] == exporter] if exporter else table

    accesses, opened = chosen(view.cpu_accesses), chosen(view.going_on("cpu_accesses"))
    errors = chosen(view.errors)
    failed = errors[errors["kind"].isin(SYNC) & errors["buffer_id"].notna()]
    over = view.buffers[["id", "end", "origin", "size_bytes"]].set_index("id")
    released = _chained(before.released, over["end"])
    tried = _chained(before.tried, *(each["buffer_id"] for each in (accesses, opened, failed)))
    tried = tried.drop_duplicates()
    # a half that was not observed leaves the other half alone: no finding
    no_begin = accesses[accesses["begin"].isna()]
    no_begin = no_begin[~no_begin["by"].map(BEGINS).isin(view.missing)]
    no_end = accesses[accesses["open"]]
    no_end = no_end[~no_end["by"].map(ENDS).isin(view.missing)]
    turned, growing = overlaps.turned(before.turned, accesses, opened)
    interrupted = _not_again(before.interrupted, accesses, opened, failed)
    late = interrupted[interrupted["buffer_id"].isin(over.index)]
    sizes = late["buffer_id"].map(over["size_bytes"])
    mapped = _unbracketed(view, before.mapped, chosen(view.vmas), tried)
    never = mapped[mapped["buffer_id"].isin(over.index)]
    found = _grouped(
        view,
        joined(before.found, never),
        _part(NO_BEGIN, no_begin, "end"),
        *_left_open(no_end, released, min_age),
        _part(TURNED, turned.drop(columns="age_ns", errors="ignore"), "begin"),
        _part(NOT_AGAIN, late.assign(by="process", size_bytes=sizes), "ts"),
    )
    known = found["buffer_id"].map(over["origin"]).astype(TEXT)
    found = found.assign(origin=found["origin"].fillna(known))
    is_done = found["buffer_id"].isin(over.index) & ~found["buffer_id"].isin(opened["buffer_id"])
    is_done |= view.is_last
    is_older = (found["finding"] == NO_BEGIN) & (found["origin"] != "exported")
    kinds, calls = _kinds(before.kinds, accesses)
    return Folded(
        (*before.done, found[is_done & ~is_older]),
        found[~is_done],
        growing,
        interrupted.drop(index=late.index),
        mapped.drop(index=never.index),
        tried[~tried.isin(over.index)],
        released[released.index.isin(opened["buffer_id"])],
        before.older + int(found.loc[is_done & is_older, "count"].sum()),
        kinds,
        {call: lengths(before.lengths.get(call), calls, ["kind"], f"{call}_ns") for call in _CALLS},
        {call: _moved(before.moved.get(call), calls, call) for call in _CALLS},
    )


def run(view: View, folded: Folded, **_: Any) -> Answer:
    """See the module's description."""
    found = joined(*folded.done)
    rank = found["finding"].map({finding: rank for rank, finding in enumerate(FINDINGS)})
    order = ["rank", "count", "inode", *_BY]
    found = found.assign(rank=rank)
    found = found.sort_values(order, ascending=[name != "count" for name in order])
    findings = pick(FINDING_COLUMNS, found)
    brackets_seen = not {"cpu_begin", "kernel_begin"} <= view.missing.keys()
    empty = "none" if brackets_seen else "not observed"
    costs = _costs(folded)
    tables = (
        Table("findings", "Not as it should be", FINDING_COLUMNS, findings, empty),
        Table("cost", "Calls that begin and end CPU access", COST_COLUMNS, costs, empty),
    )
    notes = tuple(_notes(findings, folded.older))
    return Answer(tables, notes, tuple(findings["inode"].dropna().unique().tolist()))


def _chained(*parts: pd.Series[int] | None) -> pd.Series[int]:
    import pandas as pd

    return pd.concat([part for part in parts if part is not None])


def _part(finding: str, table: pd.DataFrame, at: str) -> pd.DataFrame:
    """Rows of a finding, ``at`` having their time."""
    return table.assign(finding=finding, at=table[at])


def _grouped(view: View, before: pd.DataFrame | None, *parts: pd.DataFrame) -> pd.DataFrame:
    """One row per finding, buffer and process, or driver."""
    new = joined(*parts)
    if new.empty and before is not None:
        return before
    new = new.reindex(columns=[*(column.name for column in _PARTS), "at"])
    owner = new["pid"].where(new["by"] == "process", 0)
    new = new.assign(owner=owner, first_ns=new["at"] - view.start, count=new["count"].fillna(1))
    rows = joined(before, pick(_PARTS, new)).sort_values("first_ns", kind="stable")
    return added(None, rows, _BY, **_WAYS)


def _left_open(
    opened: pd.DataFrame, released: pd.Series[int], min_age: int
) -> Iterator[pd.DataFrame]:
    end = opened["buffer_id"].map(released)
    until = opened.assign(age_ns=end - opened["begin"])
    yield _part(RELEASED, until[end.notna()], "begin")
    yield _part(OPEN, opened[end.isna() & (opened["age_ns"] >= min_age)], "begin")


def _not_again(
    before: pd.DataFrame | None,
    accesses: pd.DataFrame,
    opened: pd.DataFrame,
    failed: pd.DataFrame,
) -> pd.DataFrame:
    """SYNC calls that were interrupted, and after which none of their kind came."""
    late = joined(before, failed[failed["errno"].isin(INTERRUPTED)])
    if late.empty:
        return late
    keys = ["buffer_id", "pid", "kind"]
    calls = [late[[*keys, "ts"]], failed[[*keys, "ts"]]]
    for table in (accesses, opened):
        mine = table[table["buffer_id"].isin(late["buffer_id"])]
        mine = mine[mine["by"] == "process"]
        for kind, at in zip(SYNC, ("begin", "end"), strict=True):
            calls.append(mine[["buffer_id", "pid"]].assign(kind=kind, ts=mine[at]))
    last = joined(*calls).groupby(keys)["ts"].max().rename("last")
    late = late.join(last, on=keys)
    return late[late["ts"] == late["last"]].drop(columns="last")


def _unbracketed(
    view: View, before: pd.DataFrame | None, vmas: pd.DataFrame, tried: pd.Series[int]
) -> pd.DataFrame:
    """Who has mapped buffers that nobody tried to bracket."""
    mine = vmas["shared"] & ~vmas["buffer_id"].isin(tried) & vmas["buffer_id"].notna()
    mine &= (vmas["through"] == "own") & ("cpu_begin" not in view.missing)
    rows = _part(UNBRACKETED, vmas[mine].assign(by="process"), "begin")
    kept = before if before is None else before[~before["buffer_id"].isin(tried)]
    return _grouped(view, kept, rows)


def _kinds(
    before: pd.DataFrame | None, accesses: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What calls are told apart by, and the calls with the number of that."""
    import pandas as pd

    known = accesses["size_bytes"].notna()
    sizes = accesses["size_bytes"].fillna(0).to_numpy(np.int64)
    classes = np.array([SMALLEST << 2 * step for step in range(26)], np.int64)
    up_to = classes[np.minimum(np.searchsorted(classes, sizes), len(classes) - 1)]
    sized = pd.Series(up_to, accesses.index, dtype="Int64").where(known)
    groups = accesses.assign(size_up_to_bytes=sized).groupby(_KIND, dropna=False, sort=False)
    mine = groups.head(1)[_KIND]
    kinds = joined(before, mine).drop_duplicates(ignore_index=True)
    number = mine.merge(kinds.reset_index(names="kind"), how="left")["kind"].to_numpy(np.int64)
    names = ["size_bytes", *(f"{call}_ns" for call in _CALLS)]
    return kinds, accesses[names].assign(kind=number[groups.ngroup().to_numpy(np.int64)])


def _moved(before: pd.DataFrame | None, calls: pd.DataFrame, call: str) -> pd.DataFrame:
    """Bytes that calls were about."""
    return added(before, calls[calls[f"{call}_ns"].notna()], ["kind"], size_bytes="sum")


def _costs(folded: Folded) -> pd.DataFrame:
    import pandas as pd

    found = []
    keys = ["exporter", "direction", "size_up_to_bytes"]
    for call, direction in _CALLS.items():
        kinds = joined(folded.kinds)
        kinds = kinds.assign(direction=kinds[direction])[keys]
        ns, moved = (each[call].join(kinds, on="kind") for each in (folded.lengths, folded.moved))
        rows = times(added(None, ns, [*keys, "ns"], count="sum", total_ns="sum"), keys)
        sizes = added(None, moved, keys, size_bytes="sum")["size_bytes"]  # groups in the same order
        took = np.where(rows["total_ns"] > 0, rows["total_ns"], np.nan)
        rate = np.round(sizes.to_numpy(np.float64, na_value=np.nan) * 1e9 / took)
        found.append(rows.assign(call=call, bytes_per_second=rate))
    order = [column.name for column in COST_COLUMNS[:4]]
    return pick(COST_COLUMNS, pd.concat(found)).sort_values(order, ignore_index=True)


def _notes(findings: pd.DataFrame, older: int) -> Iterator[str]:
    if older:
        yield (
            f"{count_text(older, 'end')} without a begin, on buffers that may be older than the "
            "trace: not judged"
        )
    if (findings["finding"] == UNBRACKETED).any():
        yield (
            f"{UNBRACKETED}: a heuristic, as access itself is not observed, nor whether a bracket "
            "before the trace covers it"
        )


ANALYSIS = Analysis(
    name="sync",
    question="Is CPU access bracketed as it should be, and what does it cost?",
    needs=("buffers", "cpu_accesses", "vmas", "errors"),
    relies_on=("cpu_begin", "cpu_end", "kernel_begin", "kernel_end", "mmap", "release"),
    run=run,
    fold=fold,
    shows=(
        Shown("brackets of processes", ("cpu_begin", "cpu_end")),
        Shown("brackets of drivers", ("kernel_begin", "kernel_end")),
        Shown(UNBRACKETED, ("cpu_begin", "mmap")),
    ),
    params=(
        Param("min_age", "duration", "", "only brackets left open at least this long, as 500ms"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
