# SPDX-License-Identifier: Apache-2.0
"""The memory that buffers kept alive: its high-water mark and what that was made of, and its end.

A buffer counts from its export to its release, one from before from the start of the trace. By
device it counts in full for each device attached at that moment. The processes at the end follow
Android's rules, as ``snapshot`` does (:mod:`dmabuf_trace.accounting`): RSS is a held buffer in
full, once per process; PSS its size divided by the processes that hold it; kernel-only is what no
process holds, of the buffers that the trace knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Table, View, frame, pick
from dmabuf_trace.levels import spans, steps
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Row = dict[str, Any]

POINTS: Final = 40
"""Rows of the timeline, at most."""

_ALIVE: Final = (Column("buffers", "count", "buffers"), Column("size_bytes", "bytes", "size"))
LEVEL_COLUMNS: Final = (
    Column("moment", "text", "when"),
    Column("time_ns", "time", "time"),
    *_ALIVE,
)
_SHARED: Final = (*_ALIVE, Column("share", "share", "share"))
EXPORTER_COLUMNS: Final = (Column("exporter", "text", "exporter"), *_SHARED)
PROCESS_COLUMNS: Final = (
    Column("comm", "text", "exported by"),
    Column("pid", "id", "pid"),
    *_SHARED,
)
DEVICE_COLUMNS: Final = (
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
    *_SHARED,
)
CGROUP_COLUMNS: Final = (Column("cgroup", "text", "cgroup"), *_SHARED)
TIMELINE_COLUMNS: Final = (
    Column("time_ns", "time", "time"),
    *_ALIVE,
    Column("peak_bytes", "bytes", "most until the next"),
)
HELD_COLUMNS: Final = (Column("held", "text", "held by"), *_ALIVE)
HOLDER_COLUMNS: Final = (
    Column("comm", "text", "process"),
    Column("pid", "id", "pid"),
    Column("rss_bytes", "bytes", "RSS"),
    Column("pss_bytes", "bytes", "PSS"),
    Column("buffers", "count", "buffers"),
    Column("fds", "count", "fds", spare=True),
    Column("vmas", "count", "VMAs", spare=True),
)
_KINDS: Final = ("export", "release")


def run(view: View) -> Answer:
    """See the module's description."""
    is_observed = view.missing.keys().isdisjoint(_KINDS)
    buffers = spans(view, view.buffers)
    buffers = buffers if is_observed else buffers.head(0)
    times, levels = steps(buffers)
    peak = int(times[max(int(levels[:, 1].argmax()) - 1, 0)]) if len(times) else view.start
    alive = buffers[_is_alive(buffers["since"], buffers["until"], peak)]
    total = int(alive["size_bytes"].sum())
    attached = _attached(view, alive, peak)
    no_device = view.empty(("attach", "detach"), "none") if len(alive) else ""

    def part(
        name: str, whose: str, columns: tuple[Column, ...], of: pd.DataFrame, empty: str = ""
    ) -> Table:
        title = f"At the high-water mark, by {whose}"
        return Table(f"peak_{name}", title, columns, _part(columns, of, total), empty)

    tables = (
        Table(
            "levels",
            "Alive",
            LEVEL_COLUMNS,
            frame(LEVEL_COLUMNS, list(_levels(view, buffers, alive, peak))),
            view.empty(_KINDS, "no buffer was seen"),
        ),
        part("exporters", "exporter", EXPORTER_COLUMNS, alive),
        part("processes", "exporting process", PROCESS_COLUMNS, alive),
        part("devices", "attached device", DEVICE_COLUMNS, attached, no_device),
        part("cgroups", "cgroup of the exporting process", CGROUP_COLUMNS, alive),
        Table("timeline", "Timeline", TIMELINE_COLUMNS, _timeline(view, times, levels)),
        Table("held", "Held at the end", HELD_COLUMNS, _held(view, buffers, is_observed)),
        Table("holders", "Processes at the end", HOLDER_COLUMNS, _holders(view)),
    )
    return Answer(tables, tuple(_notes(view, buffers, alive)))


def _is_alive(since: pd.Series[int], until: pd.Series[int], moment: int) -> pd.Series[bool]:
    return (since <= moment) & ~(until < moment).fillna(False)


def _levels(view: View, buffers: pd.DataFrame, alive: pd.DataFrame, peak: int) -> Iterator[Row]:
    before = buffers[buffers["origin"] == "before"]
    left = buffers[buffers["until"].isna()]
    for moment, time, table in (
        ("start", view.start, before),
        ("high-water mark", peak, alive),
        ("end", view.end, left),
    ):
        if len(buffers):
            size = table["size_bytes"].sum()
            row = {"moment": moment, "time_ns": time - view.start}
            yield {**row, "buffers": len(table), "size_bytes": int(size)}


def _attached(view: View, alive: pd.DataFrame, moment: int) -> pd.DataFrame:
    """A row for each device and each buffer that it is attached to."""
    attachments = view.attachments
    is_there = _is_alive(attachments["begin"].fillna(view.start), attachments["end"], moment)
    pairs = attachments.loc[is_there, ["buffer_id", "device", "driver", "bus"]].drop_duplicates()
    return pairs.merge(alive[["id", "size_bytes"]], left_on="buffer_id", right_on="id")


def _part(columns: tuple[Column, ...], table: pd.DataFrame, total: int) -> pd.DataFrame:
    """Groups by all but the last three columns, the largest first."""
    by = [column.name for column in columns[: -len(_SHARED)]]
    rows = table.groupby(by, dropna=False).agg(
        buffers=("id", "size"), size_bytes=("size_bytes", "sum")
    )
    rows = rows.sort_values(["size_bytes", "buffers"], ascending=False, kind="stable")
    share = rows["size_bytes"] / total if total else None
    return pick(columns, rows.assign(share=share).reset_index())


def _timeline(view: View, times: NDArray[np.int64], levels: NDArray[np.int64]) -> pd.DataFrame:
    """Evenly spaced moments, but those at which all is as before."""
    import pandas as pd

    if not len(times):
        return frame(TIMELINE_COLUMNS, [])
    moments = np.unique(np.linspace(view.start, view.end, POINTS + 1, dtype=np.int64)[:-1])
    at = np.searchsorted(times, moments, side="right")
    peaks = np.maximum.reduceat(levels[:, 1], at)
    peaks[:-1] = np.maximum(peaks[:-1], levels[at[1:], 1])
    rows = pd.DataFrame(
        {"buffers": levels[at, 0], "size_bytes": levels[at, 1], "peak_bytes": peaks}
    )
    changed = rows.ne(rows.shift()).any(axis=1)
    return pick(TIMELINE_COLUMNS, rows.assign(time_ns=moments - view.start)[changed])


def _at_end(view: View) -> pd.DataFrame:
    """Fds and VMAs at the end, with the size of their buffer."""
    held = view.holders[view.holders["when"] == "end"]
    sizes = view.buffers.set_index("id")["size_bytes"]
    return held.assign(size_bytes=held["buffer_id"].map(sizes))


def _holders(view: View) -> pd.DataFrame:
    held, who = _at_end(view), ["comm", "pid"]
    pairs = held.drop_duplicates(["inode", *who])
    sharers = pairs.groupby("inode")["pid"].transform("size")
    shares = pairs.assign(pss_bytes=pairs["size_bytes"] // sharers)
    rows = shares.groupby(who).agg(
        rss_bytes=("size_bytes", "sum"), pss_bytes=("pss_bytes", "sum"), buffers=("inode", "size")
    )
    counts = held.groupby(who).agg(fds=("fd", "count"), vmas=("start", "count"))
    rows = rows.join(counts).reset_index()
    return pick(HOLDER_COLUMNS, rows.sort_values(["rss_bytes", "pid"], ascending=[False, True]))


def _held(view: View, buffers: pd.DataFrame, is_observed: bool) -> pd.DataFrame:
    rows: list[Row] = []
    if view.looked_at is not None:
        held = _at_end(view).drop_duplicates("inode")
        size = int(held["size_bytes"].sum())
        rows.append({"held": "processes", "buffers": len(held), "size_bytes": size})
        kernel: Row = {"held": "kernel only"}
        if is_observed and not view.unreadable:
            known = buffers[~buffers["end_lost"]]
            known = known[_is_alive(known["since"], known["until"], view.looked_at)]
            unheld = known[~known["inode"].isin(held["inode"])]
            size = int(unheld["size_bytes"].sum())
            kernel |= {"buffers": len(unheld), "size_bytes": size}
        rows.append(kernel)
    return frame(HELD_COLUMNS, rows)


def _notes(view: View, buffers: pd.DataFrame, alive: pd.DataFrame) -> Iterator[str]:
    if unseen := int(alive["begin"].isna().sum()):
        yield (
            f"{count_text(unseen, 'buffer')} at the high-water mark whose export was not seen: "
            "process and cgroup are not known"
        )
    if unsized := int(buffers["size_bytes"].isna().sum()):
        yield f"{count_text(unsized, 'buffer')} of unknown size: counted, but not in sizes"
    if ended := int(buffers["end_lost"].sum()):
        yield f"{count_text(ended, 'buffer')} with a lost end: taken as alive to the end"
    if view.looked_at is None:
        yield "who holds what was not looked up at the end: RSS, PSS, kernel-only are not known"
    elif late := int((buffers["since"] > view.looked_at).sum()):
        yield f"{count_text(late, 'buffer')} made after the last look at the processes"
    if view.unreadable:
        processes = count_text(view.unreadable, "process", "processes")
        yield f"{processes} could not be looked into: kernel-only is not known"


ANALYSIS = Analysis(
    name="footprint",
    question="How much memory was alive, when, and what made it?",
    needs=("buffers", "attachments", "holders"),
    relies_on=(*_KINDS, "attach", "detach"),
    run=run,
)
