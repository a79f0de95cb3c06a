# SPDX-License-Identifier: Apache-2.0
"""The memory that buffers kept alive: its high-water mark and what that was made of, and its end.

A buffer counts from its export to its release, one from before from the start of the trace, though
it or its size may come to light later. By device it counts in full for each device attached at that
moment. The processes at the end follow Android's rules, as ``snapshot`` does
(:mod:`dmabuf_trace.accounting`): RSS is a held buffer in full, once per process; PSS its size
divided by the processes that hold it; kernel-only is what no process holds, of the buffers that the
trace knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame, pick
from dmabuf_trace.errors import InputError
from dmabuf_trace.levels import Course, spans
from dmabuf_trace.measure import joined
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
Row = dict[str, Any]

MOST_POINTS: Final = 10_000
"""Of the timeline; what :class:`levels.Course` takes grows with them."""

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
_OF_ALIVE: Final = ["id", "begin", "exporter", "comm", "pid", "cgroup", "size_bytes"]


@dataclass(frozen=True)
class Folded:
    """The level so far, and what it was made of where it was highest.

    ``alive``: the buffers of that moment, ``attached``: with which devices. ``left``: attachments
    with a lost end, which are taken as there from then on. ``loose``: by id, the size with which a
    buffer whose export was not seen is counted so far. ``held``, ``known``: at the time
    ``looked_at``, who held what, and the buffers. ``counts``: of all buffers.
    """

    course: Course
    alive: pd.DataFrame
    attached: pd.DataFrame
    left: pd.DataFrame
    loose: pd.Series[int]
    looked_at: int | None
    held: pd.DataFrame
    known: pd.DataFrame
    counts: Counter[str]


def fold(view: View, before: Folded | None, *, points: int) -> Folded:
    """Follow the level, and see what it is made of where it is higher than before."""
    is_observed = view.missing.keys().isdisjoint(_KINDS)
    everything = view.present("buffers")
    present = spans(view, everything if is_observed else everything.head(0))
    loose = present[present["begin"].isna()]
    since = view.since if before else view.start - 1
    if before:
        course = before.course.late(*_late(loose, before.loose, since), since)
    else:
        if not 1 <= points <= MOST_POINTS:
            raise InputError(f"--points: {points} is not 1 to {MOST_POINTS:,}")
        moments = np.linspace(view.start, view.end, points + 1, dtype=np.int64)[:-1]
        course = Course.at(np.unique(moments))
    peak = course.peak
    course = course.take(present, since, view.until)
    ended = view.attachments
    left = joined(before.left if before else None, ended[ended["end_lost"]])
    left = left[left["buffer_id"].isin(present["id"])]
    if before and course.peak == peak:
        now = loose[_is_alive(loose["since"], loose["until"], peak)]
        alive = joined(before.alive[~before.alive["id"].isin(now["id"])], now[_OF_ALIVE])
        pairs = joined(before.attached, _attached(view, ended, alive, peak)).drop_duplicates()
    else:
        now = present[_is_alive(present["since"], present["until"], course.peak)]
        alive = now[_OF_ALIVE]
        there = joined(left, view.present("attachments"))
        pairs = _attached(view, there, alive, course.peak)
    held, known = _looked(view, everything, present, before)
    return Folded(
        course,
        alive,
        pairs,
        left,
        loose.set_index("id")["size_bytes"],
        view.looked_at,
        held,
        known,
        _counts(view, before) if is_observed else Counter(),
    )


def _is_alive(since: pd.Series[int], until: pd.Series[int], moment: int) -> pd.Series[bool]:
    return (since <= moment) & ~(until < moment).fillna(False)


def _late(loose: pd.DataFrame, counted: pd.Series[int], since: int) -> tuple[Array, Array]:
    """Since when there was more than was counted: how many buffers and bytes."""
    earlier = loose[loose["since"] <= since]
    sizes = earlier["size_bytes"].fillna(0).to_numpy(np.int64)
    before = earlier["id"].map(counted).fillna(0).to_numpy(np.int64)
    changes = np.stack([~earlier["id"].isin(counted.index), sizes - before], axis=1)
    is_more = changes.any(axis=1)
    return earlier["since"].to_numpy(np.int64)[is_more], changes[is_more]


def _attached(
    view: View, attachments: pd.DataFrame, alive: pd.DataFrame, moment: int
) -> pd.DataFrame:
    """A row for each device and each buffer that it is attached to."""
    is_there = _is_alive(attachments["begin"].fillna(view.start), attachments["end"], moment)
    is_there &= attachments["buffer_id"].isin(alive["id"])
    return attachments.loc[is_there, ["buffer_id", "device", "driver", "bus"]].drop_duplicates()


def _looked(
    view: View, everything: pd.DataFrame, present: pd.DataFrame, before: Folded | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Who holds what at the end, with sizes; the buffers then, but those that turn out as gone."""
    if before and before.looked_at == view.looked_at:
        held, known = before.held, before.known
    else:
        sizes = everything.set_index("id")["size_bytes"]
        held = view.holders[view.holders["when"] == "end"]
        held = held.assign(size_bytes=held["buffer_id"].map(sizes))
        known = present.head(0)
        if view.looked_at is not None:
            known = present[_is_alive(present["since"], present["until"], view.looked_at)]
    gone = present.loc[present["end_lost"], "id"]
    return held, known.loc[~known["id"].isin(gone), ["id", "inode", "size_bytes"]]


def _counts(view: View, before: Folded | None) -> Counter[str]:
    """Of buffers that are over, in the last stretch of all."""
    buffers = spans(view, view.buffers)
    older, left = buffers["origin"] == "before", buffers["until"].isna()
    late = buffers["since"] > (view.end if view.looked_at is None else view.looked_at)
    counts = Counter(
        buffers=len(buffers),
        start=int(older.sum()),
        start_bytes=int(buffers["size_bytes"][older].sum()),
        end=int(left.sum()),
        end_bytes=int(buffers["size_bytes"][left].sum()),
        unsized=int(buffers["size_bytes"].isna().sum()),
        ended=int(buffers["end_lost"].sum()),
        late=int(late.sum()),
    )
    return counts + before.counts if before else counts


def run(view: View, folded: Folded, **_: int) -> Answer:
    """See the module's description."""
    alive = folded.alive
    total = int(alive["size_bytes"].sum())
    sizes = alive[["id", "size_bytes"]]
    attached = folded.attached.merge(sizes, left_on="buffer_id", right_on="id")
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
            frame(LEVEL_COLUMNS, list(_levels(view, folded))),
            view.empty(_KINDS, "no buffer was seen"),
        ),
        part("exporters", "exporter", EXPORTER_COLUMNS, alive),
        part("processes", "exporting process", PROCESS_COLUMNS, alive),
        part("devices", "attached device", DEVICE_COLUMNS, attached, no_device),
        part("cgroups", "cgroup of the exporting process", CGROUP_COLUMNS, alive),
        Table("timeline", "Timeline", TIMELINE_COLUMNS, _timeline(view, folded)),
        Table("held", "Held at the end", HELD_COLUMNS, _held(view, folded)),
        Table("holders", "Processes at the end", HOLDER_COLUMNS, _holders(folded.held)),
    )
    return Answer(tables, tuple(_notes(view, folded)))


def _levels(view: View, folded: Folded) -> Iterator[Row]:
    counts, alive, peak = folded.counts, folded.alive, folded.course.peak
    for moment, time, buffers, size in (
        ("start", view.start, counts["start"], counts["start_bytes"]),
        ("high-water mark", peak, len(alive), int(alive["size_bytes"].sum())),
        ("end", view.end, counts["end"], counts["end_bytes"]),
    ):
        if counts["buffers"]:
            row = {"moment": moment, "time_ns": time - view.start}
            yield {**row, "buffers": buffers, "size_bytes": size}


def _part(columns: tuple[Column, ...], table: pd.DataFrame, total: int) -> pd.DataFrame:
    """Groups by all but the last three columns, the largest first."""
    by = [column.name for column in columns[: -len(_SHARED)]]
    rows = table.groupby(by, dropna=False).agg(
        buffers=("id", "size"), size_bytes=("size_bytes", "sum")
    )
    rows = rows.sort_values(["size_bytes", "buffers"], ascending=False, kind="stable")
    share = rows["size_bytes"] / total if total else None
    return pick(columns, rows.assign(share=share).reset_index())


def _timeline(view: View, folded: Folded) -> pd.DataFrame:
    """Evenly spaced moments, but those at which all is as before."""
    import pandas as pd

    if not folded.counts["buffers"]:
        return frame(TIMELINE_COLUMNS, [])
    course = folded.course
    levels = {"buffers": course.levels[:, 0], "size_bytes": course.levels[:, 1]}
    rows = pd.DataFrame({**levels, "peak_bytes": course.tops})
    changed = rows.ne(rows.shift()).any(axis=1)
    return pick(TIMELINE_COLUMNS, rows.assign(time_ns=course.moments - view.start)[changed])


def _holders(held: pd.DataFrame) -> pd.DataFrame:
    who = ["comm", "pid"]
    pairs = held.drop_duplicates(["inode", *who])
    sharers = pairs.groupby("inode")["pid"].transform("size")
    shares = pairs.assign(pss_bytes=pairs["size_bytes"] // sharers)
    rows = shares.groupby(who).agg(
        rss_bytes=("size_bytes", "sum"), pss_bytes=("pss_bytes", "sum"), buffers=("inode", "size")
    )
    counts = held.groupby(who).agg(fds=("fd", "count"), vmas=("start", "count"))
    rows = rows.join(counts).reset_index()
    return pick(HOLDER_COLUMNS, rows.sort_values(["rss_bytes", "pid"], ascending=[False, True]))


def _held(view: View, folded: Folded) -> pd.DataFrame:
    rows: list[Row] = []
    if view.looked_at is not None:
        held = folded.held.drop_duplicates("inode")
        size = int(held["size_bytes"].sum())
        rows.append({"held": "processes", "buffers": len(held), "size_bytes": size})
        kernel: Row = {"held": "kernel only"}
        if view.missing.keys().isdisjoint(_KINDS) and not view.unreadable:
            unheld = folded.known[~folded.known["inode"].isin(held["inode"])]
            size = int(unheld["size_bytes"].sum())
            kernel |= {"buffers": len(unheld), "size_bytes": size}
        rows.append(kernel)
    return frame(HELD_COLUMNS, rows)


def _notes(view: View, folded: Folded) -> Iterator[str]:
    counts = folded.counts
    if unseen := int(folded.alive["begin"].isna().sum()):
        yield (
            f"{count_text(unseen, 'buffer')} at the high-water mark whose export was not seen: "
            "process and cgroup are not known"
        )
    if unsized := counts["unsized"]:
        yield f"{count_text(unsized, 'buffer')} of unknown size: counted, but not in sizes"
    if ended := counts["ended"]:
        yield f"{count_text(ended, 'buffer')} with a lost end: taken as alive to the end"
    if view.looked_at is None:
        yield "who holds what was not looked up at the end: RSS, PSS, kernel-only are not known"
    elif late := counts["late"]:
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
    fold=fold,
    params=(Param("points", "count", "40", "rows of the timeline, at most"),),
)
