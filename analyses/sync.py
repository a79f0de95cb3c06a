# SPDX-License-Identifier: Apache-2.0
"""CPU access: brackets that are not as they should be, and what those that succeeded cost.

Brackets are paired per buffer and process (DMA_BUF_IOCTL_SYNC), those of drivers per buffer: one
that another process ends shows as a begin without an end and an end without a begin. Where several
overlap nothing says which end is whose: directions are compared as a set. A call that a signal
interrupted counts as tried again with any later call of its kind by that process on that buffer.
Access itself is not observable: that a buffer was mmap'ed and never bracketed is a heuristic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick
from dmabuf_trace.errnos import INTERRUPTED
from dmabuf_trace.measure import TIMES, lengths, times
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
UNBRACKETED: Final = "mmap'ed, never bracketed"
SMALLEST: Final = 4096

ENDS: Final = {"process": "cpu_end", "driver": "kernel_end"}
BEGINS: Final = {"process": "cpu_begin", "driver": "kernel_begin"}
SYNC: Final = ("cpu_begin", "cpu_end")


def run(view: View, *, min_age: int, exporter: str) -> Answer:
    """See the module's description."""
    import pandas as pd

    buffers = view.buffers.set_index("id")

    def chosen(table: pd.DataFrame) -> pd.DataFrame:
        of = {each: table["buffer_id"].map(buffers[each]) for each in ("exporter", "size_bytes")}
        known = table.assign(**of)
        return known[known["exporter"] == exporter] if exporter else known

    accesses = chosen(view.cpu_accesses).assign(
        origin=lambda table: table["buffer_id"].map(buffers["origin"]),
        released=lambda table: table["buffer_id"].map(buffers["end"]),
    )
    # a half that was not observed leaves the other half alone: no finding
    no_begin = accesses[accesses["begin"].isna() & ~accesses["by"].map(BEGINS).isin(view.missing)]
    is_new = no_begin["origin"] == "exported"
    not_open = accesses[~accesses["by"].map(ENDS).isin(view.missing)]
    failed = chosen(view.errors[view.errors["kind"].isin(SYNC)])
    parts = [
        _grouped(view, NO_BEGIN, no_begin[is_new], "end"),
        *_left_open(view, not_open[not_open["open"]], min_age),
        _grouped(view, "ends in another direction", _turned(accesses), "begin"),
        _grouped(view, "interrupted, not tried again", _not_again(accesses, failed), "ts"),
    ]
    if "cpu_begin" not in view.missing:
        mapped = chosen(view.vmas)
        mapped = mapped[mapped["shared"] & (mapped["through"] == "own")]
        tried = pd.concat([accesses["buffer_id"], failed["buffer_id"]])
        never = mapped[~mapped["buffer_id"].isin(tried)]
        parts.append(_grouped(view, UNBRACKETED, never.assign(by="process"), "begin"))
    findings = pd.concat(parts, ignore_index=True)
    brackets_seen = not {"cpu_begin", "kernel_begin"} <= view.missing.keys()
    empty = "none" if brackets_seen else "not observed"
    tables = (
        Table("findings", "Not as it should be", FINDING_COLUMNS, findings, empty),
        Table("cost", "Calls that begin and end CPU access", COST_COLUMNS, _cost(accesses), empty),
    )
    notes = tuple(_notes(findings, int((~is_new).sum())))
    return Answer(tables, notes, tuple(findings["inode"].dropna().unique().tolist()))


def _grouped(view: View, finding: str, table: pd.DataFrame, at: str) -> pd.DataFrame:
    """One row per buffer and process, or driver, most frequent first; ``at`` has its time."""
    wanted = ["buffer_id", "inode", "by", "pid", "comm", "exporter", "size_bytes", at]
    found = table.reindex(columns=[*wanted, "direction", "end_direction", "age_ns", "count"])
    found["count"] = found["count"].fillna(1).astype("Int64")
    owner = found["pid"].where(found["by"] == "process", 0)
    groups = found.sort_values(at).groupby(["buffer_id", "by", owner.rename("owner")])
    firsts = {each.name: (each.name, "first") for each in FINDING_COLUMNS if each.name in found}
    summed = {"count": ("count", "sum"), "age_ns": ("age_ns", "max"), "first_ns": (at, "first")}
    rows = groups.agg(**{**firsts, **summed}).reset_index(drop=True)
    rows = rows.assign(finding=finding, first_ns=rows["first_ns"] - view.start)
    return pick(FINDING_COLUMNS, rows.sort_values(["count", "inode"], ascending=[False, True]))


def _left_open(view: View, opened: pd.DataFrame, min_age: int) -> Iterator[pd.DataFrame]:
    is_over = opened["released"].notna()
    until = opened.assign(age_ns=opened["released"] - opened["begin"])
    yield _grouped(view, "begin without an end, buffer released", until[is_over], "begin")
    alive = opened[~is_over & (opened["age_ns"] >= min_age)]
    yield _grouped(view, "begin without an end", alive, "begin")


def _turned(accesses: pd.DataFrame) -> pd.DataFrame:
    """Brackets whose end has another direction; of those that overlap, as many as can't be told
    from a mere mix-up of their ends."""
    import pandas as pd

    begun = accesses[accesses["begin"].notna()]
    owner = begun["pid"].where(begun["by"] == "process", 0)
    keys = [begun["buffer_id"].to_numpy(np.int64), owner.to_numpy(np.int64)]
    keys.append((begun["by"] == "driver").to_numpy(np.bool_))
    order = np.lexsort((begun["id"].to_numpy(), *keys))
    begun = begun.iloc[order]
    # ends are in the order of their begins, so what overlaps anything overlaps its predecessor
    end = begun["end"].fillna(np.iinfo(np.int64).max).to_numpy(np.int64)
    fresh = np.ones(len(begun), np.bool_)
    fresh[1:] = begun["begin"].to_numpy(np.int64)[1:] >= end[:-1]
    for key in keys:
        fresh[1:] |= key[order][1:] != key[order][:-1]
    begun = begun.assign(together=np.cumsum(fresh))
    wrong = begun[begun["end_direction"].notna() & (begun["direction"] != begun["end_direction"])]
    about = begun[begun["together"].isin(wrong["together"])]
    ended = about[about["end_direction"].notna()]
    sides = [about[["together", "direction"]].assign(more=-1)]
    sides.append(pd.DataFrame({"together": ended["together"], "direction": ended["end_direction"]}))
    sides[1]["more"] = 1
    more = pd.concat(sides).groupby(["together", "direction"])["more"].sum().clip(lower=0)
    wrong = wrong.drop_duplicates("together")
    wrong = wrong.assign(count=wrong["together"].map(more.groupby(level="together").sum()))
    return wrong[wrong["count"] > 0].drop(columns="age_ns")


def _not_again(accesses: pd.DataFrame, failed: pd.DataFrame) -> pd.DataFrame:
    """SYNC calls that were interrupted, and after which none of their kind came."""
    import pandas as pd

    keys = ["buffer_id", "pid", "kind"]
    mine = accesses[accesses["by"] == "process"]
    calls = [
        mine[["buffer_id", "pid"]].assign(kind=kind, ts=mine[column])
        for kind, column in zip(SYNC, ("begin", "end"), strict=True)
    ]
    last = pd.concat([*calls, failed[[*keys, "ts"]]]).groupby(keys)["ts"].max().rename("last")
    late = failed[failed["errno"].isin(INTERRUPTED)].join(last, on=keys)
    late = late[late["ts"] == late["last"]]
    return late.assign(by="process")


def _cost(accesses: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    keys = ["exporter", "call", "direction", "size_up_to_bytes"]
    sizes = accesses["size_bytes"].fillna(0).to_numpy(np.int64)
    classes = np.array([SMALLEST << 2 * step for step in range(26)], np.int64)
    up_to = classes[np.minimum(np.searchsorted(classes, sizes), len(classes) - 1)]
    sized = accesses.assign(size_up_to_bytes=pd.Series(up_to, accesses.index, dtype="Int64"))
    sized["size_up_to_bytes"] = sized["size_up_to_bytes"].where(sized["size_bytes"].notna())
    found = []
    for call, direction in (("begin", "direction"), ("end", "end_direction")):
        calls = sized.assign(call=call, direction=sized[direction], ns=sized[f"{call}_ns"])
        rows = times(lengths(None, calls, keys, "ns"), keys)
        moved = calls[calls["ns"].notna()].groupby(keys, dropna=False)["size_bytes"]  # same order
        total = moved.sum(min_count=1).to_numpy(np.float64, na_value=np.nan)
        took = np.where(rows["total_ns"] > 0, rows["total_ns"], np.nan)
        rate = pd.Series(np.round(total * 1e9 / took))
        found.append(rows.assign(bytes_per_second=rate))
    return pick(COST_COLUMNS, pd.concat(found)).sort_values(keys, ignore_index=True)


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
    params=(
        Param("min_age", "duration", "", "only brackets left open at least this long, as 500ms"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
