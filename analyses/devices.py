# SPDX-License-Identifier: Apache-2.0
"""What each importer device and each exporter did, and what it cost.

Times are those of calls that succeeded, percentiles are observed values (nearest rank). Bytes
mapped count a buffer's size once per map, so a buffer mapped every frame counts every frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


def _times(who: str, call: str) -> tuple[Column, ...]:
    times = (
        Column(f"{call}_{name}_ns", "duration", name)
        for name in ("total", "p50", "p95", "p99", "max")
    )
    return (Column(who, "text", who), *times)


DEVICE_COLUMNS: Final = (
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
    Column("attaches", "count", "attaches"),
    Column("attaches_failed", "count", "failed"),
    Column("attachments_open", "count", "open"),
    Column("maps", "count", "maps"),
    Column("maps_failed", "count", "failed"),
    Column("mappings_open", "count", "open"),
    Column("mapped_bytes", "bytes", "mapped"),
)
ATTACH_COLUMNS: Final = _times("device", "attach")
MAP_COLUMNS: Final = _times("device", "map")
EXPORT_COLUMNS: Final = _times("exporter", "export")
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
    devices = list(_devices(view, device))
    exporters = list(_exporters(view, exporter))

    def counts(name: str, title: str, columns: tuple[Column, ...], rows: list[Row]) -> Table:
        return Table(name, title, columns, frame(columns, rows), "none")

    def times(call: str, columns: tuple[Column, ...], rows: list[Row]) -> Table:
        called = [row for row in rows if f"{call}_total_ns" in row]
        return Table(call, f"Time in {call}", columns, frame(columns, called))

    tables = (
        counts("devices", "Importer devices", DEVICE_COLUMNS, devices),
        times("attach", ATTACH_COLUMNS, devices),
        times("map", MAP_COLUMNS, devices),
        counts("exporters", "Exporters", EXPORTER_COLUMNS, exporters),
        times("export", EXPORT_COLUMNS, exporters),
    )
    return Answer(tables, tuple(_notes(view)))


def _spent(call: str, ns: pd.Series[int]) -> Row:
    """Total and nearest-rank percentiles; gaps where there was no call."""
    taken = ns.dropna().to_numpy(np.int64)
    if not len(taken):
        return {}
    p50, p95, p99 = np.percentile(taken, (50, 95, 99), method="inverted_cdf").tolist()
    row = {"total": int(taken.sum()), "p50": p50, "p95": p95, "p99": p99, "max": int(np.max(taken))}
    return {f"{call}_{name}_ns": value for name, value in row.items()}


def _devices(view: View, only: str) -> Iterator[Row]:
    identity = ["device", "driver", "bus"]
    failed = view.errors[view.errors["device"].notna()]
    known = [table[identity] for table in (view.attachments, view.mappings, failed)]
    for key in sorted(
        {tuple(row) for table in known for row in table.drop_duplicates().to_numpy()}
    ):
        if only and key[0] != only:
            continue

        def mine(table: pd.DataFrame, key: tuple[str, ...] = key) -> pd.DataFrame:
            return table[(table[identity] == list(key)).all(axis=1)]

        attachments, mappings, errors = mine(view.attachments), mine(view.mappings), mine(failed)
        mapped = mappings[mappings["begin"].notna()]
        yield {
            **dict(zip(identity, key, strict=True)),
            "attaches": int(attachments["begin"].notna().sum()),
            "attaches_failed": int((errors["kind"] == "attach").sum()),
            "attachments_open": int(attachments["open"].sum()),
            "maps": len(mapped),
            "maps_failed": int((errors["kind"] == "map").sum()),
            "mappings_open": int(mappings["open"].sum()),
            "mapped_bytes": int(mapped["size_bytes"].sum()),
            **_spent("attach", attachments["attach_ns"]),
            **_spent("map", mappings["map_ns"]),
        }


def _exporters(view: View, only: str) -> Iterator[Row]:
    failed = view.errors[view.errors["kind"] == "export"]
    for name in sorted({*view.buffers["exporter"].dropna(), *failed["exporter"].dropna()}):
        if only and name != only:
            continue
        buffers = view.buffers[view.buffers["exporter"] == name]
        exported = buffers[buffers["origin"] == "exported"]
        alive = buffers[buffers["open"]]
        yield {
            "exporter": name,
            "buffers": len(exported),
            "exported_bytes": int(exported["size_bytes"].sum()),
            "exports_failed": int((failed["exporter"] == name).sum()),
            "alive": len(alive),
            "alive_bytes": int(alive["size_bytes"].sum()),
            "peak_bytes": _peak(buffers, view.start),
            "fd_installs": buffers["fd_installs"].sum(min_count=1),
            "mmaps": buffers["mmaps"].sum(min_count=1),
            **_spent("export", buffers["export_ns"]),
        }


def _peak(buffers: pd.DataFrame, start: int) -> int:
    """Most bytes alive at once; a buffer whose end is not known counts to the end."""
    begins = buffers["begin"].fillna(start).to_numpy(np.int64)
    sizes = buffers["size_bytes"].fillna(0).to_numpy(np.int64)
    is_over = buffers["end"].notna().to_numpy()
    ends = buffers["end"].fillna(0).to_numpy(np.int64)[is_over]
    times = np.concatenate([begins, ends])
    changes = np.concatenate([sizes, -sizes[is_over]])
    alive = np.cumsum(changes[np.argsort(times, kind="stable")])
    return int(alive.max(initial=0))


def _notes(view: View) -> Iterator[str]:
    unsized = int(view.mappings["size_bytes"].isna().sum())
    if unsized:
        yield f"{count_text(unsized, 'mapping')} of buffers of unknown size: not in bytes mapped"


ANALYSIS = Analysis(
    name="devices",
    question="What did each device and each exporter do, and how long did it take?",
    needs=("buffers", "attachments", "mappings", "errors"),
    relies_on=("export", "release", "attach", "detach", "map", "unmap"),
    run=run,
    params=(
        Param("device", "text", "", "only this device"),
        Param("exporter", "text", "", "only this exporter"),
    ),
    report_rank=3,
)
