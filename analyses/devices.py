# SPDX-License-Identifier: Apache-2.0
"""What each importer device and each exporter did, and what it cost.

Times are those of calls that succeeded, percentiles are observed values (nearest rank). Bytes
mapped count a buffer's size once per map, so a buffer mapped every frame counts every frame. A
share of wall time is more than 100 % where several threads are in such calls at once.

The split of attach and map has all calls, failed ones too. A wait within an exporter's function
counts as a wait only. The lock wait of a map lies ahead of it where its _unlocked variant takes the
lock: all other parts and the rest make up the call. An exporter's functions are observed from the
moment on when they were probed, soon after its first buffer is seen: calls ahead of that are not
split. An exporter of which no call was ever seen is not observed. What is not observed is in the
rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace import latency
from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Shown, Table, View, pick
from dmabuf_trace.latency import Called
from dmabuf_trace.levels import peaks
from dmabuf_trace.measure import TIMES, added, joined, numbered
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

IDENTITY: Final = ["device", "driver", "bus"]
_WHO: Final = (
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
)


def _times(who: str, call: str) -> tuple[Column, ...]:
    times = (replace(column, name=f"{call}_{column.name}") for column in TIMES)
    share = Column(f"{call}_share", "share", "of wall time", spare=True)
    return (Column(who, "text", who), *times, share)


WAITS: Final = {"lock_wait": "lock wait", "fence_wait": "fence wait"}
PARTS: Final = {
    "attach": {
        **WAITS,
        "attach_operation": "exporter's attach",
        "pin_operation": "exporter's pin",
        "map_operation": "exporter's map",
        "rest": "rest",
    },
    "map": {
        **WAITS,
        "pin_operation": "exporter's pin",
        "map_operation": "exporter's map",
        "rest": "rest",
    },
}
"""Titles of the parts of a call."""


def _split_columns(call: str) -> tuple[Column, ...]:
    times = (Column(f"{name}_ns", "duration", title) for name, title in PARTS[call].items())
    shares = (
        Column(f"{name}_share", "share", f"{title} share", spare=True)
        for name, title in PARTS[call].items()
    )
    calls = (Column("calls", "count", "calls"), Column("total_ns", "duration", "total"))
    return (*_WHO, *calls, *times, *shares)


DEVICE_COLUMNS: Final = (
    *_WHO,
    Column("attaches", "count", "attaches"),
    Column("attaches_failed", "count", "failed"),
    Column("attachments_open", "count", "open"),
    Column("maps", "count", "maps"),
    Column("maps_failed", "count", "failed"),
    Column("mappings_open", "count", "open"),
    Column("mapped_bytes", "bytes", "mapped"),
)
ERROR_COLUMNS: Final = (
    *_WHO,
    Column("kind", "text", "call"),
    Column("error", "text", "error"),
    Column("calls", "count", "calls"),
    Column("total_ns", "duration", "total"),
)
CLASS_COLUMNS: Final = (
    *_WHO,
    Column("below_ns", "duration", "below"),
    Column("calls", "count", "maps"),
    Column("bar", "text", ""),
)
EXPORTER_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("buffers", "count", "buffers"),
    Column("exported_bytes", "bytes", "exported"),
    Column("exports_failed", "count", "failed", spare=True),
    Column("alive", "count", "alive"),
    Column("alive_bytes", "bytes", "alive size"),
    Column("peak_bytes", "bytes", "peak"),
    Column("fd_installs", "count", "fds"),
    Column("mmaps", "count", "mmaps"),
)


@dataclass(frozen=True)
class Folded:
    """Calls of each kind, most bytes at once and bytes alive by exporter, and failed calls.

    ``buffers`` are counts by the groups of the export calls, ``operated`` is when the first call
    of an exporter's function began, ``unsized`` are mappings of buffers of unknown size.
    """

    calls: dict[str, Called] = field(
        default_factory=lambda: {call: Called() for call in (*PARTS, "export")}
    )
    buffers: pd.DataFrame | None = None
    peaks: pd.DataFrame | None = None
    errors: pd.DataFrame | None = None
    operated: pd.DataFrame | None = None
    unsized: int = 0


def fold(view: View, before: Folded | None, **_: str) -> Folded:
    """Add up calls and buffers."""
    before = before or Folded()
    operations = view.operations[["exporter", "begin"]].dropna()
    failed = view.errors[view.errors["device"].notna()]
    failed = failed.assign(calls=1, total_ns=failed["call_ns"])
    export, buffers, peaks = _fold_buffers(view, before)
    return Folded(
        {**{call: _fold_calls(view, before, call) for call in PARTS}, "export": export},
        buffers,
        peaks,
        added(before.errors, failed, [*IDENTITY, "kind", "error"], calls="sum", total_ns="sum"),
        added(before.operated, operations, ["exporter"], begin="min"),
        before.unsized + int(view.mappings["size_bytes"].isna().sum()),
    )


def _fold_calls(view: View, before: Folded, call: str) -> Called:
    """Attaches or maps, and their parts."""
    by = [*IDENTITY, "exporter"]
    rows = view.attachments if call == "attach" else view.mappings
    failed = view.errors[view.errors["kind"] == call]
    probed = np.sort(view.probed.loc[view.probed["reason"] == "", "ts"].to_numpy(np.int64))
    found = before.calls[call].with_calls(rows, failed, by, f"{call}_ns", probed)
    parts = latency.parts(view.waits, view.operations, call)
    if found.parts is not None and parts.empty:
        return found
    return found.with_parts(parts, by, probed)


def _fold_buffers(view: View, before: Folded) -> tuple[Called, pd.DataFrame, pd.DataFrame]:
    """Exports, and what there is of the buffers beside."""
    failed = view.errors[(view.errors["kind"] == "export") & view.errors["exporter"].notna()]
    none = np.zeros(0, np.int64)
    buffers, by = view.buffers, ["exporter"]
    export = before.calls["export"].with_calls(buffers, failed, by, "export_ns", none)
    present = view.present("buffers")
    groups, mine = numbered(export.groups, present, by)
    _, settled = numbered(groups, buffers, by)
    rows = buffers.assign(group=settled, alive_bytes=buffers["size_bytes"].where(buffers["open"]))
    uses = dict.fromkeys(("alive_bytes", "fd_installs", "mmaps"), "sum")
    return (
        replace(export, groups=groups),
        added(before.buffers, rows, ["group"], **uses),
        peaks(before.peaks, present.assign(group=mine), ["group"], view),
    )


def run(view: View, found: Folded, *, device: str, exporter: str) -> Answer:
    """See the module's description."""
    devices = _devices(view, found)
    exporters = _exporters(view, found)
    histogram = found.calls["map"].classes(IDENTITY)
    since = _probed_since(view, found)

    def table(name: str, title: str, columns: tuple[Column, ...], rows: pd.DataFrame) -> Table:
        only = exporter if columns[0].name == "exporter" else device
        mine = rows[rows[columns[0].name] == only] if only else rows
        empty = "none" if name in ("devices", "exporters") else ""
        return Table(name, title, columns, pick(columns, mine), empty)

    def times(call: str, rows: pd.DataFrame, who: str) -> Table:
        called = rows[rows[f"{call}_total_ns"].notna()]
        return table(call, f"Time in {call}", _times(who, call), called)

    def split(call: str) -> Table:
        rows = _split(view, call, found, since)
        return table(f"{call}_parts", f"Where {call} spent it", _split_columns(call), rows)

    tables = (
        table("devices", "Importer devices", DEVICE_COLUMNS, devices),
        times("attach", devices, "device"),
        split("attach"),
        times("map", devices, "device"),
        split("map"),
        table("map_histogram", "Maps by their time", CLASS_COLUMNS, histogram),
        table("device_errors", "Failed calls of devices", ERROR_COLUMNS, joined(found.errors)),
        table("exporters", "Exporters", EXPORTER_COLUMNS, exporters),
        times("export", exporters, "exporter"),
    )
    return Answer(tables, tuple(_notes(view, found, since)))


def _shared(view: View, rows: pd.DataFrame, *calls: str) -> pd.DataFrame:
    """With the share of the traced wall time that each of the calls took."""
    wall = float(view.end - view.start) or np.nan
    shares = {f"{call}_share": rows[f"{call}_total_ns"].astype("Float64") / wall for call in calls}
    return rows.assign(**shares).reset_index()


def _devices(view: View, found: Folded) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, pd.Series[int]] = {}
    for call, whole in (("attach", "attachments"), ("map", "mappings")):
        called = found.calls[call]
        groups = called.named(joined(called.counts)).groupby(IDENTITY)
        plural = "attaches" if call == "attach" else "maps"
        names = {"made": plural, "failed": f"{plural}_failed", "open": f"{whole}_open"}
        columns |= {name: groups[column].sum() for column, name in names.items()}
    columns["mapped_bytes"] = groups["size_bytes"].sum()
    counts = pd.DataFrame(columns).fillna(0).astype("int64")
    for call in PARTS:
        counts = counts.join(found.calls[call].spent(IDENTITY, call))
    return _shared(view, counts, *PARTS)


def _exporters(view: View, found: Folded) -> pd.DataFrame:
    export = found.calls["export"]
    names = {
        "made": "buffers",
        "size_bytes": "exported_bytes",
        "failed": "exports_failed",
        "open": "alive",
    }
    rows = export.named(joined(export.counts).rename(columns=names))
    for more in (found.buffers, found.peaks):
        rows = rows.join(joined(more).set_index("group"), on="group")
    rows = rows.fillna({"alive_bytes": 0, "peak_bytes": 0}).set_index("exporter").sort_index()
    return _shared(view, rows.join(export.spent(["exporter"], "export")), "export")


def _is_split(called: Called, rows: pd.DataFrame, since: dict[str, int]) -> pd.DataFrame:
    """Rows with their groups; what began since the functions of its exporter were probed."""
    rows = called.named(rows)
    probed = rows["exporter"].map(since).fillna(0).astype("int64")
    return rows.assign(is_split=rows["probed"] >= probed)


def _split(view: View, call: str, found: Folded, since: dict[str, int]) -> pd.DataFrame:
    """The parts of one kind of call, per device."""
    import pandas as pd

    called = found.calls[call]
    calls, parts = (
        _is_split(called, joined(rows), since) for rows in (called.counts, called.parts)
    )
    calls = calls.assign(calls=calls["made"] + calls["failed"])
    calls = calls.assign(is_known=calls["exporter"].isin(_known_exporters(found)))
    by_device = calls[calls["is_split"] & (calls["calls"] > 0)].groupby(IDENTITY)
    rows = by_device[["calls", "call_ns"]].sum().astype("Int64")
    rows = rows.rename(columns={"call_ns": "total_ns"})
    all_known = by_device["is_known"].all()
    parts = parts[parts["is_split"]]
    inside = parts.groupby(IDENTITY)["inside_ns"].sum().reindex(rows.index, fill_value=0)
    unprobed = set(view.probed.loc[view.probed["reason"] != "", "operation"])
    for name in PARTS[call]:
        if name == "rest":
            part = rows["total_ns"] - inside
        else:
            mine = parts[parts["part"] == name.rpartition("_")[0]].groupby(IDENTITY)["ns"].sum()
            part = mine.reindex(rows.index).astype("Int64")
            if name in WAITS:
                part = part.fillna(pd.NA if name in view.missing else 0)
            elif name.removesuffix("_operation") not in unprobed:
                part = part.mask(part.isna() & all_known, 0)
        rows[f"{name}_ns"] = part
        rows[f"{name}_share"] = part.astype("Float64") / rows["total_ns"].replace(0, pd.NA)
    return rows.reset_index()


def _probed_since(view: View, found: Folded) -> dict[str, int]:
    """By exporter, from when on its functions were probed.

    Which module an exporter is in is not recorded: it is taken for the one that was probed last
    ahead of the exporter's first call that was seen.
    """
    probed = view.probed[view.probed["reason"] == ""].sort_values("ts")
    times = probed["ts"].to_numpy(np.int64)
    modules = probed["symbol"].str.split(":").str[0].to_numpy(object)
    since = {}
    for exporter, first in joined(found.operated).itertuples(index=False):
        if before := int(np.searchsorted(times, int(first), side="right")):
            since[str(exporter)] = int(times[modules == modules[before - 1]].max())
    return since


def _known_exporters(found: Folded) -> set[str]:
    """Those of which some function was seen: their others that exist were probed with it."""
    return set(joined(found.operated)["exporter"])


def _notes(view: View, found: Folded, since: dict[str, int]) -> Iterator[str]:
    if found.unsized:
        mappings = count_text(found.unsized, "mapping")
        yield f"{mappings} of buffers of unknown size: not in bytes mapped"
    for kind in (*WAITS, "operation"):
        if kind in view.missing:
            reason = view.missing[kind] or "no reason given"
            yield f"{kind} was not observed ({reason}): its time is in the rest"
    for call in PARTS:
        called = found.calls[call]
        calls = _is_split(called, joined(called.counts), since)
        if early := int((calls["made"] + calls["failed"])[~calls["is_split"]].sum()):
            what = count_text(early, f"{call} call")
            yield f"{what} ahead of the probes on the exporter's functions: not split"
    if "operation" not in view.missing:
        attach = found.calls["attach"]
        counts = attach.named(joined(attach.counts))
        used = set(counts.loc[counts["seen"] > 0, "exporter"].dropna())
        if unseen := used - _known_exporters(found):
            of = ", ".join(sorted(unseen))
            yield f"no function of these exporters was observed, its time is in the rest: {of}"


ANALYSIS = Analysis(
    name="devices",
    question="What did each device and each exporter do, and how long did it take?",
    needs=("buffers", "attachments", "mappings", "errors", "waits", "operations", "probed"),
    relies_on=("export", "release", "attach", "detach", "map", "unmap"),
    shows=(
        *(Shown(f"time of {call}", (call,)) for call in ("export", *PARTS)),
        *(Shown(f"{title} of a call", (kind,)) for kind, title in WAITS.items()),
        Shown("exporter's part of a call", ("operation",)),
    ),
    run=run,
    fold=fold,
    params=(
        Param("device", "text", "", "only this device"),
        Param("exporter", "text", "", "only this exporter"),
    ),
    report_rank=3,
)
