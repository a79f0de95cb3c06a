# SPDX-License-Identifier: Apache-2.0
"""What is made anew though an earlier one was given back, and the time that keeping it would save.

A remap is a map of a buffer by a device, in one direction, while an earlier mapping of the same
three had been unmapped: all beyond the most that were open at once. A cached map, where the core
hands out what it has kept, is none. A buffer is surplus where one of the same exporter, size and
process had been released: a pool of the peak would have done. Groups without either are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick
from dmabuf_trace.levels import surplus
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

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
_EXPORTED_BY: Final = ["exporter", "size_bytes", "comm", "pid"]


def run(view: View, *, device: str, exporter: str) -> Answer:
    """See the module's description."""
    buffers = view.buffers
    exporters = buffers.set_index("id")["exporter"]
    mappings = view.mappings.assign(exporter=view.mappings["buffer_id"].map(exporters))
    if device:
        mappings = mappings[mappings["device"] == device]
    if exporter:
        mappings = mappings[mappings["exporter"] == exporter]
        buffers = buffers[buffers["exporter"] == exporter]
    tables = (
        Table(
            "mappings",
            "Mappings made anew",
            MAPPING_COLUMNS,
            pick(MAPPING_COLUMNS, _mappings(view, mappings)),
            view.empty(("map", "unmap"), _none(mappings, "no buffer was mapped")),
        ),
        Table(
            "buffers",
            "Buffers made anew",
            BUFFER_COLUMNS,
            pick(BUFFER_COLUMNS, _buffers(view, buffers)),
            view.empty(("export", "release"), _none(buffers, "no buffer was exported")),
        ),
    )
    return Answer(tables, tuple(_notes(mappings, buffers)))


def _none(table: pd.DataFrame, nothing: str) -> str:
    return "none" if table["begin"].notna().any() else nothing


def _mappings(view: View, mappings: pd.DataFrame) -> pd.DataFrame:
    known = mappings[mappings["buffer_id"].notna()]
    made = known[~known["cached"].fillna(False)]
    # an unmap whose map was not seen tells that there was a mapping before
    begins = made["begin"].fillna(view.start).to_numpy(np.int64)
    pools = made.groupby([*_MAPPED_BY, "buffer_id"], dropna=False, sort=False).ngroup()
    again = made.index[surplus(pools.to_numpy(), begins, made["end"])]
    seen = known[known["begin"].notna()]
    remapped = seen.index.isin(again)
    seen = seen.assign(remap=remapped, remap_ns=seen["map_ns"].where(remapped, 0))
    groups = seen.groupby(_MAPPED_BY, dropna=False).agg(
        buffers=("buffer_id", "nunique"),
        maps=("id", "size"),
        remaps=("remap", "sum"),
        cached=("cached", "sum"),
        first=("begin", "min"),
        last=("begin", "max"),
        remap_ns=("remap_ns", "sum"),
    )
    groups = groups[groups["remaps"] > 0].reset_index()
    groups["maps_per_s"] = _rate(groups, "maps")
    groups["remap_share"] = groups["remap_ns"] / (view.end - view.start)
    return groups.sort_values(["remap_ns", "remaps"], ascending=False, kind="stable")


def _buffers(view: View, buffers: pd.DataFrame) -> pd.DataFrame:
    exported = buffers[buffers["begin"].notna()]
    pools = exported.groupby(_EXPORTED_BY, dropna=False, sort=False).ngroup()
    again = surplus(pools.to_numpy(), exported["begin"].to_numpy(np.int64), exported["end"])
    exported = exported.assign(
        again=again,
        over=~exported["open"],
        life=exported["age_ns"].where(exported["end"].notna()),
        surplus_ns=exported["export_ns"].where(again, 0),
    )
    grouped = exported.groupby(_EXPORTED_BY, dropna=False)
    groups = grouped.agg(
        exported=("id", "size"),
        released=("over", "sum"),
        surplus=("again", "sum"),
        first=("begin", "min"),
        last=("begin", "max"),
        export_ns=("export_ns", "sum"),
        surplus_ns=("surplus_ns", "sum"),
    )
    groups["lifetime_p50_ns"] = grouped["life"].quantile(0.5, interpolation="lower")
    groups = groups[groups["surplus"] > 0].reset_index()
    groups["alive_max"] = groups["exported"] - groups["surplus"]
    groups["exports_per_s"] = _rate(groups, "exported")
    groups["surplus_share"] = groups["surplus_ns"] / (view.end - view.start)
    return groups.sort_values(["surplus_ns", "surplus"], ascending=False, kind="stable")


def _rate(groups: pd.DataFrame, count: str) -> pd.Series[float]:
    """Per second between the first and the last, a gap where two or fewer tell nothing."""
    taken = (groups["last"] - groups["first"]).astype("Float64")
    return ((groups[count] - 1) * 1e9 / taken).where((groups[count] > 2) & (taken > 0))


def _notes(mappings: pd.DataFrame, buffers: pd.DataFrame) -> Iterator[str]:
    unknown = int((mappings["buffer_id"].isna() & mappings["begin"].notna()).sum())
    if unknown:
        yield f"{count_text(unknown, 'map')} of unknown buffers: not judged"
    for table, what in ((mappings, "mapping"), (buffers, "buffer")):
        if ended := int(table["end_lost"].sum()):
            yield f"{count_text(ended, what)} with a lost end: taken as held to the end"


ANALYSIS = Analysis(
    name="churn",
    question="Which buffers and mappings are made anew again and again, and what would caching "
    "save?",
    needs=("buffers", "mappings"),
    relies_on=("export", "release", "attach", "detach", "map", "unmap"),
    run=run,
    params=(
        Param("device", "text", "", "only mappings of this device"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
