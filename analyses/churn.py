# SPDX-License-Identifier: Apache-2.0
"""What is made anew though an earlier one was given back, and the time that keeping it would save.

A remap is a map of a buffer by a device, in one direction, while an earlier mapping of the same
three had been unmapped: all beyond the most that were open at once. A cached map, where the core
hands out what it has kept, is none. A buffer is surplus where one of the same exporter, size and
process had been released: a pool of the peak would have done. Groups without either are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Shown, Table, View, pick
from dmabuf_trace.brackets import first_of, since
from dmabuf_trace.measure import added, joined, lengths, numbered, times
from dmabuf_trace.tables import order_of
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]

MAPPING_COLUMNS: Final = (
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
    Column("exporter", "text", "exporter"),
    Column("direction", "text", "direction", spare=True),
    Column("importer", "text", "importer", spare=True),
    Column("buffers", "count", "buffers"),
    Column("maps", "count", "maps"),
    Column("remaps", "count", "remaps"),
    Column("cached", "count", "cached", spare=True),
    Column("maps_per_s", "rate", "rate"),
    Column("remap_ns", "duration", "in remaps"),
    Column("remap_share", "share", "of the trace"),
)
BUFFER_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("size_bytes", "bytes", "size"),
    Column("comm", "text", "exported by"),
    Column("pid", "id", "pid", spare=True),
    Column("exported", "count", "exported"),
    Column("released", "count", "released", spare=True),
    Column("alive_max", "count", "most alive"),
    Column("surplus", "count", "surplus"),
    Column("exports_per_s", "rate", "rate"),
    Column("lifetime_p50_ns", "duration", "median life", spare=True),
    Column("export_ns", "duration", "in exports", spare=True),
    Column("surplus_ns", "duration", "in surplus"),
    Column("surplus_share", "share", "of the trace", spare=True),
)
_MAPPED_BY: Final = ["device", "driver", "bus", "exporter", "direction", "importer"]
_MAPPED: Final = ["buffer_id", "begin", "end", "fresh", "cached", "map_ns"]
_EXPORTED_BY: Final = ["exporter", "size_bytes", "comm", "pid"]
_EXPORTED: Final = ["id", "begin", "end", "open", "age_ns", "fresh", "export_ns"]


@dataclass(frozen=True)
class Made:
    """What was made, by ``group``: a place in ``groups``.

    ``pools`` have how many of a kind are alive (``level``), the most that were at once (``peak``),
    and whether one was seen to begin (``used``). ``lives`` are lengths of what ended.
    """

    groups: pd.DataFrame | None = None
    counts: pd.DataFrame | None = None
    pools: pd.DataFrame | None = None
    lives: pd.DataFrame | None = None
    begun: bool = False
    ends_lost: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class Folded:
    """Mappings and buffers that were made."""

    mappings: Made = field(default_factory=Made)
    buffers: Made = field(default_factory=Made)


def fold(view: View, before: Folded | None, *, device: str, exporter: str) -> Folded:
    """Count what is made, and what of it anew."""
    before = before or Folded()
    mappings, buffers, present = view.present("mappings"), view.buffers, view.present("buffers")
    if device:
        mappings = mappings[mappings["device"] == device]
    if exporter:
        mappings, buffers, present = (
            rows[rows["exporter"] == exporter] for rows in (mappings, buffers, present)
        )
    return Folded(
        _fold_mappings(before.mappings, mappings, view.buffers["id"]),
        _fold_buffers(before.buffers, present, buffers),
    )


def _fold_mappings(before: Made, mappings: pd.DataFrame, over: pd.Series[int]) -> Made:
    """Mappings that were there, and the buffers that are ``over``."""
    is_known = mappings["buffer_id"].notna()
    known = mappings.loc[is_known, [*_MAPPED_BY, *_MAPPED]]
    groups, mine = numbered(before.groups, known, _MAPPED_BY)
    # a cached map makes none
    kept = known["cached"].fillna(False).to_numpy(np.bool_)
    rows, pools = _judged(before, known[_MAPPED].assign(group=mine), ["group", "buffer_id"], ~kept)
    rows = rows.assign(maps=1, remap_ns=rows["map_ns"].where(rows["again"], 0))
    sums = dict.fromkeys(("buffers", "maps", "again", "cached", "remap_ns"), "sum")
    begins = mappings["begin"].notna()
    return Made(
        groups,
        added(before.counts, rows, ["group"], **sums, first="min", last="max"),
        pools[~pools["buffer_id"].isin(over)].reset_index(drop=True),
        begun=before.begun or bool(begins.any()),
        ends_lost=before.ends_lost + int(mappings["end_lost"].sum()),
        unknown=before.unknown + int((~is_known & begins & mappings["fresh"]).sum()),
    )


def _fold_buffers(before: Made, present: pd.DataFrame, settled: pd.DataFrame) -> Made:
    """Buffers that were there, and those of them that are settled."""
    exported = present[present["begin"].notna()]
    groups, mine = numbered(before.groups, exported, _EXPORTED_BY)
    every = np.ones(len(exported), np.bool_)
    exported = exported[_EXPORTED].assign(group=mine)
    over = exported[exported["id"].isin(settled["id"])]
    rows, pools = _judged(before, exported, ["group"], every)
    rows = rows.assign(exported=1, surplus_ns=rows["export_ns"].where(rows["again"], 0))
    sums = dict.fromkeys(("exported", "released", "again", "export_ns", "surplus_ns"), "sum")
    over = over.assign(**dict.fromkeys(sums, 0), first=over["begin"], last=over["begin"])
    over["released"] = ~over["open"]
    columns = ["group", *sums, "first", "last"]
    ended = over[over["end"].notna()]
    return Made(
        groups,
        added(
            before.counts,
            joined(rows.assign(released=False)[columns], over[columns]),
            ["group"],
            **sums,
            first="min",
            last="max",
        ),
        pools,
        lengths(before.lives, ended, ["group"], "age_ns"),
        begun=before.begun or len(exported) > 0,
        ends_lost=before.ends_lost + int(settled["end_lost"].sum()),
    )


def _judged(
    before: Made, lives: pd.DataFrame, keys: list[str], counted: Array
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lives that began in the stretch, and the pools then.

    One began ``again`` where an earlier one of its pool was over and free: a pool that keeps what
    is over has to make as many as were alive at once. A life without a known end is taken as not
    over, one that began unseen as there from the start. What is not ``counted`` begins only.
    ``buffers`` is 1 at the first of its pool.
    """
    known = None if before.pools is None else before.pools[keys]
    pools, mine = numbered(known, lives, keys)
    levels = np.zeros((3, len(pools)), np.int64)
    if before.pools is not None:
        levels[:, : len(before.pools)] = before.pools[["level", "peak", "used"]].to_numpy().T
    level, peak, used = levels
    fresh, begun = lives["fresh"].to_numpy(), lives["begin"].notna().to_numpy()
    unseen = np.bincount(mine[fresh & ~begun & counted], minlength=len(pools))
    level += unseen
    peak += unseen
    begins = np.flatnonzero(fresh & begun & counted)
    again = np.zeros(len(lives), np.bool_)
    again[begins] = _again(level, peak, mine, lives, begins, counted)
    seen = fresh & begun
    rows = lives[seen].assign(again=again[seen], pool=mine[seen])
    rows = rows.assign(buffers=~rows["pool"].duplicated() & (used[rows["pool"]] == 0))
    used[rows["pool"]] = 1
    return (
        rows.assign(first=rows["begin"], last=rows["begin"]),
        pools.assign(level=level, peak=peak, used=used),
    )


def _again(
    level: Array, peak: Array, mine: Array, lives: pd.DataFrame, begins: Array, counted: Array
) -> Array:
    """Of each begin, whether its pool has room; moves each pool's ``level`` and ``peak`` on."""
    ends = np.flatnonzero(lives["end"].notna().to_numpy() & counted)
    if not len(begins) + len(ends):
        return np.zeros(0, np.bool_)
    times = np.concatenate(
        [
            lives["begin"].to_numpy(np.int64, na_value=0)[begins],
            lives["end"].to_numpy(np.int64, na_value=0)[ends],
        ]
    )
    of = np.concatenate([mine[begins], mine[ends]])
    order = order_of(times, of)  # begins ahead of ends
    of, is_begin = of[order], order < len(begins)
    start = first_of(of)
    now = level[of] + since(np.where(is_begin, 1, -1), start)
    most = np.where(start, np.maximum(now, peak[of]), now)
    apart = of * (most.max() - most.min() + 1)
    most = np.maximum.accumulate(most + apart) - apart
    earlier = np.where(start, peak[of], np.append(0, most[:-1]))
    last = np.append(start[1:], True)
    level[of[last]], peak[of[last]] = now[last], most[last]
    found = np.empty(len(order), np.bool_)
    found[order] = now <= earlier
    return found[: len(begins)]


def run(view: View, found: Folded, **_: str) -> Answer:
    """See the module's description."""
    tables = (
        Table(
            "mappings",
            "Mappings made anew",
            MAPPING_COLUMNS,
            pick(MAPPING_COLUMNS, _mappings(view, found.mappings)),
            view.empty(
                ("map", "unmap"), "none" if found.mappings.begun else "no buffer was mapped"
            ),
        ),
        Table(
            "buffers",
            "Buffers made anew",
            BUFFER_COLUMNS,
            pick(BUFFER_COLUMNS, _buffers(view, found.buffers)),
            view.empty(
                ("export", "release"), "none" if found.buffers.begun else "no buffer was exported"
            ),
        ),
    )
    return Answer(tables, tuple(_notes(found)))


def _named(made: Made, by: list[str]) -> pd.DataFrame:
    """Groups in which something was made anew, in the order of their names."""
    rows = joined(made.counts)
    rows = rows[(rows["again"] > 0).fillna(False)].join(joined(made.groups), on="group")
    return rows.sort_values(by, kind="stable")


def _mappings(view: View, made: Made) -> pd.DataFrame:
    groups = _named(made, _MAPPED_BY).rename(columns={"again": "remaps"})
    groups["maps_per_s"] = _rate(groups, "maps")
    groups["remap_share"] = groups["remap_ns"] / (view.end - view.start)
    return groups.sort_values(["remap_ns", "remaps"], ascending=False, kind="stable")


def _buffers(view: View, made: Made) -> pd.DataFrame:
    groups = _named(made, _EXPORTED_BY).rename(columns={"again": "surplus"})
    lives = times(joined(made.lives), ["group"]).set_index("group")["p50_ns"]
    groups["lifetime_p50_ns"] = groups["group"].map(lives)
    groups["alive_max"] = groups["exported"] - groups["surplus"]
    groups["exports_per_s"] = _rate(groups, "exported")
    groups["surplus_share"] = groups["surplus_ns"] / (view.end - view.start)
    return groups.sort_values(["surplus_ns", "surplus"], ascending=False, kind="stable")


def _rate(groups: pd.DataFrame, count: str) -> pd.Series[float]:
    """Per second between the first and the last, a gap where two or fewer tell nothing."""
    taken = (groups["last"] - groups["first"]).astype("Float64")
    return ((groups[count] - 1) * 1e9 / taken).where((groups[count] > 2) & (taken > 0))


def _notes(found: Folded) -> Iterator[str]:
    if unknown := found.mappings.unknown:
        yield f"{count_text(unknown, 'map')} of unknown buffers: not judged"
    for made, what in ((found.mappings, "mapping"), (found.buffers, "buffer")):
        if made.ends_lost:
            yield f"{count_text(made.ends_lost, what)} with a lost end: taken as held to the end"


ANALYSIS = Analysis(
    name="churn",
    question="Which buffers and mappings are made anew again and again, and what would caching "
    "save?",
    needs=("buffers", "mappings"),
    relies_on=("export", "release", "attach", "detach", "map", "unmap"),
    run=run,
    fold=fold,
    shows=(
        Shown("mappings made anew", ("map", "unmap")),
        Shown("buffers made anew", ("export", "release")),
    ),
    params=(
        Param("device", "text", "", "only mappings of this device"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
