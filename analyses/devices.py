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
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace import latency
from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, pick
from dmabuf_trace.levels import peak_bytes
from dmabuf_trace.measure import TIMES
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


def run(view: View, *, device: str, exporter: str) -> Answer:
    """See the module's description."""
    failed = view.errors[view.errors["device"].notna()]
    devices = _devices(view, failed)
    exporters = _exporters(view)
    errors = failed.groupby([*IDENTITY, "kind", "error"])["call_ns"].agg(["size", "sum"])
    errors = errors.set_axis(["calls", "total_ns"], axis="columns").reset_index()
    histogram = latency.classes(view.mappings, IDENTITY, "map_ns")
    known = _known_exporters(view)
    since = _probed_since(view)
    calls = {
        call: _calls(view, call, rows, failed, since)
        for call, rows in (("attach", view.attachments), ("map", view.mappings))
    }

    def table(name: str, title: str, columns: tuple[Column, ...], rows: pd.DataFrame) -> Table:
        only = exporter if columns[0].name == "exporter" else device
        mine = rows[rows[columns[0].name] == only] if only else rows
        empty = "none" if name in ("devices", "exporters") else ""
        return Table(name, title, columns, pick(columns, mine), empty)

    def times(call: str, rows: pd.DataFrame, who: str) -> Table:
        called = rows[rows[f"{call}_total_ns"].notna()]
        return table(call, f"Time in {call}", _times(who, call), called)

    def split(call: str) -> Table:
        rows = _split(view, call, calls[call], known, since)
        return table(f"{call}_parts", f"Where {call} spent it", _split_columns(call), rows)

    tables = (
        table("devices", "Importer devices", DEVICE_COLUMNS, devices),
        times("attach", devices, "device"),
        split("attach"),
        times("map", devices, "device"),
        split("map"),
        table("map_histogram", "Maps by their time", CLASS_COLUMNS, histogram),
        table("device_errors", "Failed calls of devices", ERROR_COLUMNS, errors),
        table("exporters", "Exporters", EXPORTER_COLUMNS, exporters),
        times("export", exporters, "exporter"),
    )
    return Answer(tables, tuple(_notes(view, calls, known)))


def _shared(view: View, rows: pd.DataFrame, *calls: str) -> pd.DataFrame:
    """With the share of the traced wall time that each of the calls took."""
    wall = float(view.end - view.start) or np.nan
    shares = {f"{call}_share": rows[f"{call}_total_ns"].astype("Float64") / wall for call in calls}
    return rows.assign(**shares).reset_index()


def _counted(columns: dict[str, pd.Series[int]]) -> pd.DataFrame:
    """Counts of groups side by side; a group that a count does not have has none."""
    import pandas as pd

    return pd.DataFrame(columns).fillna(0).astype("int64")


def _devices(view: View, failed: pd.DataFrame) -> pd.DataFrame:
    attachments = view.attachments.groupby(IDENTITY)
    mappings = view.mappings.groupby(IDENTITY)
    mapped = view.mappings[view.mappings["begin"].notna()].groupby(IDENTITY)
    refused, unmapped = (failed[failed["kind"] == kind].groupby(IDENTITY) for kind in PARTS)
    counts = _counted(
        {
            "attaches": attachments["begin"].count(),
            "attaches_failed": refused.size(),
            "attachments_open": attachments["open"].sum(),
            "maps": mapped.size(),
            "maps_failed": unmapped.size(),
            "mappings_open": mappings["open"].sum(),
            "mapped_bytes": mapped["size_bytes"].sum(),
        }
    )
    spent = (
        latency.spent(view.attachments, IDENTITY, "attach_ns", "attach"),
        latency.spent(view.mappings, IDENTITY, "map_ns", "map"),
    )
    return _shared(view, counts.join(list(spent)), "attach", "map")


def _exporters(view: View) -> pd.DataFrame:
    failed = view.errors[view.errors["kind"] == "export"]
    buffers = view.buffers.groupby("exporter")
    exported = view.buffers[view.buffers["origin"] == "exported"].groupby("exporter")
    alive = view.buffers[view.buffers["open"]].groupby("exporter")
    counts = _counted(
        {
            "seen": buffers.size(),
            "buffers": exported.size(),
            "exported_bytes": exported["size_bytes"].sum(),
            "exports_failed": failed.groupby("exporter").size(),
            "alive": alive.size(),
            "alive_bytes": alive["size_bytes"].sum(),
        }
    )
    counts["peak_bytes"] = 0
    for name, mine in buffers[["begin", "end", "size_bytes"]]:
        counts.loc[name, "peak_bytes"] = peak_bytes(mine, view.start)
    uses = buffers[["fd_installs", "mmaps"]].sum(min_count=1)
    rows = counts.join(uses).join(latency.spent(view.buffers, ["exporter"], "export_ns", "export"))
    return _shared(view, rows, "export")


def _split(
    view: View, call: str, calls: pd.DataFrame, known: set[str], since: dict[str, int]
) -> pd.DataFrame:
    """The parts of one kind of call, per device."""
    import pandas as pd

    calls = calls[calls["is_split"]]
    waits, operations = (
        table[_is_after(since, table["exporter"], table["begin"])]
        for table in (view.waits, view.operations)
    )
    rows = calls.groupby(IDENTITY)["call_ns"].agg(["size", "sum"])
    rows = rows.set_axis(["calls", "total_ns"], axis="columns").astype("Int64")
    found = latency.split(calls, waits, operations, IDENTITY, call)
    inside = found["inside"].reindex(rows.index, fill_value=0)
    is_known = calls["exporter"].isin(known)
    all_known = is_known.groupby([calls[each] for each in IDENTITY]).all().reindex(rows.index)
    unprobed = set(view.probed.loc[view.probed["reason"] != "", "operation"])
    for name in PARTS[call]:
        if name == "rest":
            part = rows["total_ns"] - inside
        else:
            part = found.get(name, inside[:0]).reindex(rows.index).astype("Int64")
            if name in WAITS:
                part = part.fillna(pd.NA if name in view.missing else 0)
            elif name.removesuffix("_operation") not in unprobed:
                part = part.mask(part.isna() & all_known, 0)
        rows[f"{name}_ns"] = part
        rows[f"{name}_share"] = part.astype("Float64") / rows["total_ns"].replace(0, pd.NA)
    return rows.reset_index()


def _calls(
    view: View, call: str, calls: pd.DataFrame, failed: pd.DataFrame, since: dict[str, int]
) -> pd.DataFrame:
    """All calls of one kind, failed ones too; those that ``is_split``."""
    import pandas as pd

    column = f"{call}_ns"
    exporters = view.buffers.set_index("id")["exporter"]
    calls = calls.assign(exporter=calls["buffer_id"].map(exporters))
    done = calls.loc[calls[column].notna(), [*IDENTITY, "exporter", "tid", "begin", column]]
    of_kind = failed["kind"] == call
    failures = failed.loc[of_kind, [*IDENTITY, "exporter", "tid", "ts", "call_ns"]]
    columns = [*IDENTITY, "exporter", "tid", "end", "call_ns"]
    both = pd.concat([each.set_axis(columns, axis="columns") for each in (done, failures)])
    both = both.astype(dict.fromkeys(columns[-3:], "int64"))
    is_split = _is_after(since, both["exporter"], both["end"] - both["call_ns"])
    return both.assign(is_split=is_split)


def _probed_since(view: View) -> dict[str, int]:
    """By exporter, from when on its functions were probed.

    Which module an exporter is in is not recorded: it is taken for the one that was probed last
    ahead of the exporter's first call that was seen.
    """
    probed = view.probed[view.probed["reason"] == ""].sort_values("ts")
    times = probed["ts"].to_numpy(np.int64)
    modules = probed["symbol"].str.split(":").str[0].to_numpy(object)
    since = {}
    for exporter, first in view.operations.groupby("exporter")["begin"].min().items():
        if before := int(np.searchsorted(times, int(first), side="right")):
            since[str(exporter)] = int(times[modules == modules[before - 1]].max())
    return since


def _is_after(
    since: dict[str, int], exporters: pd.Series[str], begins: pd.Series[int]
) -> pd.Series[bool]:
    """What began since the functions of its exporter were probed, or has none that were."""
    return begins >= exporters.map(since).fillna(0).astype("int64")


def _known_exporters(view: View) -> set[str]:
    """Those of which some function was seen: their others that exist were probed with it."""
    return set(view.operations["exporter"].dropna().unique())


def _notes(view: View, calls: dict[str, pd.DataFrame], known: set[str]) -> Iterator[str]:
    unsized = int(view.mappings["size_bytes"].isna().sum())
    if unsized:
        yield f"{count_text(unsized, 'mapping')} of buffers of unknown size: not in bytes mapped"
    for kind in (*WAITS, "operation"):
        if kind in view.missing:
            reason = view.missing[kind] or "no reason given"
            yield f"{kind} was not observed ({reason}): its time is in the rest"
    for call, made in calls.items():
        if early := int((~made["is_split"]).sum()):
            what = count_text(early, f"{call} call")
            yield f"{what} ahead of the probes on the exporter's functions: not split"
    if "operation" not in view.missing and len(view.attachments):
        used = view.buffers["id"].isin(view.attachments["buffer_id"])
        unseen = set(view.buffers.loc[used, "exporter"].dropna()) - known
        if unseen:
            of = ", ".join(sorted(unseen))
            yield f"no function of these exporters was observed, its time is in the rest: {of}"


ANALYSIS = Analysis(
    name="devices",
    question="What did each device and each exporter do, and how long did it take?",
    needs=("buffers", "attachments", "mappings", "errors", "waits", "operations", "probed"),
    relies_on=("export", "release", "attach", "detach", "map", "unmap"),
    run=run,
    params=(
        Param("device", "text", "", "only this device"),
        Param("exporter", "text", "", "only this exporter"),
    ),
    report_rank=3,
)
