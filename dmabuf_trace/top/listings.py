# SPDX-License-Identifier: Apache-2.0
"""The tables of a moment: per exporter, process and device; buffers, mappings, what grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Column
from dmabuf_trace.names import UNKNOWN
from dmabuf_trace.tables import look_up, order_of
from dmabuf_trace.top.activity import CALLS, FAILED, THREAD_BITS, Moment
from dmabuf_trace.top.listing import UNSEEN, Cells, Listing, Texts
from dmabuf_trace.top.recent import Sums, percentile

Array = NDArray[Any]

LONGEST: Final = 100
"""So many of the mappings are listed, those that are held for longest."""

_ALIVE: Final = (
    Column("buffers", "count", "buffers"),
    Column("size_bytes", "bytes", "bytes"),
)
_RATES: Final = (
    *(Column(f"{call}_per_s", "rate", call) for call in CALLS),
    Column("failed_per_s", "rate", "failed", spare=True),
)
_LENGTHS: Final = tuple(
    Column(f"map_p{percent}_ns", "duration", f"map p{percent}", spare=percent == 50)
    for percent in (50, 99)
)
_UNSIZED: Final = Column("unsized", "count", "no size", spare=True)


def _listing(
    name: str,
    title: str,
    columns: tuple[Column, ...],
    cells: Cells,
    keys: Array,
    order: str,
) -> Listing:
    """Of all rows; without a column on buffers of unknown size where there are none."""
    unsized = cells["unsized"]
    if not isinstance(unsized, Texts) and not unsized.any():
        columns = tuple(column for column in columns if column is not _UNSIZED)
    return Listing(name, title, columns, cells, keys, order, len(keys))


def _sums(keys: Array, of: Array, values: Array | None = None) -> Array:
    """For each of the sorted ``keys``, how many rows are ``of`` it, or the sum of their values."""
    place = np.minimum(np.searchsorted(keys, of), max(len(keys) - 1, 0))
    mine = keys[place] == of if len(keys) else np.zeros(len(of), np.bool_)
    found = np.zeros(len(keys), np.int64)
    np.add.at(found, place[mine], 1 if values is None else values[mine].astype(np.int64))
    return found


def _union(*keys: Array) -> Array:
    return np.unique(np.concatenate([each.astype(np.uint64) for each in keys]))


def _keys(sums: Sums) -> Array:
    return np.fromiter(sums, np.uint64, len(sums))


def _rates(moment: Moment, group: str, keys: Array, of: Array) -> dict[str, Array]:
    """Columns of rates; ``of`` is the key that each key of the sums counts for."""
    sums = moment.rates[group]
    counts = np.array(list(sums.values()), np.int64).reshape(-1, FAILED + 1)
    found = {}
    for at, column in enumerate(_RATES):
        missing = column.name.removesuffix("_per_s") in moment.missing
        rate = _sums(keys, of, counts[:, at]) / moment.seconds
        found[column.name] = np.full(len(keys), float(UNSEEN)) if missing else rate
    return found


def _lengths(lengths: Sums, keys: Array) -> dict[str, Array]:
    rows = [lengths.get(key) for key in keys.tolist()]
    return {
        f"map_p{percent}_ns": np.array([percentile(row, percent) for row in rows], np.int64)
        for percent in (50, 99)
    }


def _observed(moment: Moment, values: Array, *kinds: str) -> Array:
    """Counts, unless one of the kinds of event that they are of is not observed."""
    return values if moment.missing.keys().isdisjoint(kinds) else np.full(len(values), UNSEEN)


def _of_buffers(moment: Moment, ids: Array, column: str) -> Array:
    """A column of the open buffers with these ids."""
    buffers = moment.rows.buffers
    order = order_of(buffers["id"])
    return look_up(ids, buffers["id"][order], buffers[column][order])


def _alive(keys: Array, of: Array, sizes: Array) -> dict[str, Array]:
    unsized = _sums(keys, of[sizes == 0])
    return {"buffers": _sums(keys, of), "size_bytes": _sums(keys, of, sizes), "unsized": unsized}


def process(moment: Moment, pid: int, tid: int) -> str:
    """A process, by what its first thread is called, else by the thread that was seen."""
    if not pid:
        return UNKNOWN
    comm = moment.names.comm(pid, moment.ts)
    return f"{moment.names.comm(tid, moment.ts) if comm == UNKNOWN else comm}-{pid}"


def _processes(moment: Moment, rows: Array) -> Texts:
    threads = rows["pid"].astype(np.uint64) << THREAD_BITS | rows["tid"]
    return Texts.of(threads, lambda key: process(moment, key >> 32, key & 0xFFFFFFFF))


def exporters(moment: Moment) -> Listing:
    """Per exporter."""
    buffers = moment.rows.buffers
    keys = _union(buffers["exporter"], of := _keys(moment.rates["exporters"]))
    attached = _of_buffers(moment, moment.rows.attachments["buffer_id"], "exporter")
    mapped = _of_buffers(moment, moment.rows.mappings["buffer_id"], "exporter")
    cells: Cells = {
        "exporter": Texts.of(keys, moment.names.exporter),
        **_alive(keys, buffers["exporter"], buffers["size"]),
        "attachments": _observed(moment, _sums(keys, attached), "attach", "detach"),
        "mappings": _observed(moment, _sums(keys, mapped), "map", "unmap"),
        **_rates(moment, "exporters", keys, of),
        **_lengths(moment.lengths["exporters"], keys),
    }
    columns = (
        Column("exporter", "text", "exporter"),
        *_ALIVE,
        *_RATES[:-1],
        _LENGTHS[1],
        Column("attachments", "count", "attached", spare=True),
        Column("mappings", "count", "mapped", spare=True),
        _LENGTHS[0],
        *(_RATES[-1], _UNSIZED),
    )
    return _listing("exporters", "Exporters", columns, cells, keys, "size_bytes")


def processes(moment: Moment) -> Listing:
    """Per process that exported what is alive, or makes calls, or has fds open."""
    buffers, threads = moment.rows.buffers, _keys(moment.rates["processes"])
    of = threads >> THREAD_BITS
    fds = np.array(list((moment.fds or {}).items()), np.uint64).reshape(-1, 2)
    keys = _union(buffers["pid"], of, fds[:, 0])
    tids = np.concatenate([threads & np.uint64(0xFFFFFFFF), buffers["tid"], keys])
    pids = np.concatenate([of, buffers["pid"], keys])
    first = np.unique(pids, return_index=True)[1]
    known = zip(keys.tolist(), tids[first].tolist(), strict=True)
    held = _sums(keys, fds[:, 0], fds[:, 1])
    cells: Cells = {
        "process": _each([process(moment, pid, tid) for pid, tid in known]),
        **_alive(keys, buffers["pid"], buffers["size"]),
        "fds": held if moment.fds is not None else np.full(len(keys), UNSEEN),
        **_rates(moment, "processes", keys, of),
    }
    columns = (
        Column("process", "text", "process"),
        *_ALIVE,
        Column("fds", "count", "fds"),
        *(*_RATES, _UNSIZED),
    )
    return _listing("processes", "Processes", columns, cells, keys, "size_bytes")


def devices(moment: Moment) -> Listing:
    """Per importer device."""
    attachments, mappings = moment.rows.attachments, moment.rows.mappings
    of = _keys(moment.rates["devices"])
    keys = _union(attachments["device"], mappings["device"], of)
    place = np.searchsorted(keys, attachments["device"])
    once = np.unique(place << 40 | attachments["buffer_id"])
    alive = _alive(keys, keys[once >> 40], _of_buffers(moment, once & (1 << 40) - 1, "size"))
    cells: Cells = {
        "device": Texts.of(keys, lambda key: moment.names.device(key).name),
        "driver": Texts.of(keys, lambda key: moment.names.device(key).driver),
        **{name: _observed(moment, each, "attach", "detach") for name, each in alive.items()},
        "mappings": _observed(moment, _sums(keys, mappings["device"]), "map", "unmap"),
        **_rates(moment, "devices", keys, of),
        **_lengths(moment.lengths["devices"], keys),
    }
    columns = (
        Column("device", "text", "device"),
        *_ALIVE,
        Column("mappings", "count", "mapped"),
        *(*_RATES[1:3], _LENGTHS[1]),
        Column("driver", "text", "driver", spare=True),
        *(_LENGTHS[0], _RATES[-1], _UNSIZED),
    )
    return _listing("devices", "Devices", columns, cells, keys, "size_bytes")


def _each(texts: list[str]) -> Texts:
    """A text a row."""
    return Texts(np.arange(len(texts)), texts)


def _attached(moment: Moment, ids: Array) -> Texts:
    """For each buffer the devices that are attached."""
    rows = moment.rows.attachments
    found: dict[int, str] = {}
    names = Texts.of(rows["device"], lambda key: moment.names.device(key).name)
    for buffer, name in zip(
        rows["buffer_id"].tolist(), names.at(np.arange(len(rows))), strict=True
    ):
        found[buffer] = f"{found[buffer]}, {name}" if buffer in found else name
    return _each([found.get(buffer, "") for buffer in ids.tolist()])


def buffers(moment: Moment) -> Listing:
    """Every buffer that is alive; keys are its ids."""
    rows = moment.rows
    found = rows.buffers
    ids, back = np.unique(found["id"], return_inverse=True)

    def count(of: Array, *kinds: str) -> Array:
        return _observed(moment, _sums(ids, of)[back], *kinds)

    begun = found["begin"] != 0
    age = np.maximum(moment.ts - found["begin"].astype(np.int64), 0)
    known = begun | (found["size"] != 0)
    cells: Cells = {
        "inode": found["inode"].astype(np.int64),
        "exporter": Texts.of(found["exporter"], moment.names.exporter),
        "name": Texts.of(found["name"], moment.names.buffer),
        "size_bytes": np.where(known, found["size"].astype(np.int64), UNSEEN),
        "age_ns": np.where(begun, age, UNSEEN),
        "process": _processes(moment, found),
        "attachments": count(rows.attachments["buffer_id"], "attach", "detach"),
        "mappings": count(rows.mappings["buffer_id"], "map", "unmap"),
        "fds": count(rows.fds["buffer_id"], "fd_install", "fd_close", "fork"),
        "devices": _attached(moment, found["id"]),
    }
    columns = (
        Column("inode", "id", "buffer"),
        Column("exporter", "text", "exporter"),
        Column("size_bytes", "bytes", "bytes"),
        Column("age_ns", "duration", "age"),
        Column("process", "text", "process"),
        Column("attachments", "count", "attached"),
        Column("mappings", "count", "mapped"),
        Column("name", "text", "name", spare=True),
        Column("devices", "text", "devices", spare=True),
        Column("fds", "count", "new fds", spare=True),
    )
    return Listing("buffers", "Buffers", columns, cells, found["id"], "size_bytes", len(found))


def mappings(moment: Moment) -> Listing:
    """The mappings that are held for longest; keys are ids of their buffers."""
    rows = moment.rows.mappings
    begin = np.where(rows["begin"] != 0, rows["begin"], moment.start)
    oldest = np.argsort(begin, kind="stable")[:LONGEST]
    mine = rows.take(oldest)
    of = mine["buffer_id"]
    cells: Cells = {
        "inode": _of_buffers(moment, of, "inode").astype(np.int64),
        "held_ns": np.maximum(moment.ts - begin[oldest].astype(np.int64), 0),
        "device": Texts.of(mine["device"], lambda key: moment.names.device(key).name),
        "size_bytes": _of_buffers(moment, of, "size").astype(np.int64),
        "exporter": Texts.of(_of_buffers(moment, of, "exporter"), moment.names.exporter),
        "process": _processes(moment, mine),
    }
    columns = (
        Column("held_ns", "duration", "held for"),
        Column("inode", "id", "buffer"),
        Column("size_bytes", "bytes", "bytes"),
        Column("device", "text", "device"),
        Column("exporter", "text", "exporter"),
        Column("process", "text", "mapped by"),
    )
    return Listing("mappings", "Longest-held mappings", columns, cells, of, "held_ns", len(rows))


def growing(moment: Moment) -> Listing:
    """Exporters and processes whose buffers become more and more; keys are places."""
    found = moment.rows.buffers
    keys = list(moment.growing)
    trends = list(moment.growing.values())
    masks = [(found["exporter"] == exporter) & (found["pid"] == pid) for exporter, pid in keys]
    oldest = [found["begin"][mask & (found["begin"] != 0)] for mask in masks]
    ages = [moment.ts - int(begins.min()) if len(begins) else UNSEEN for begins in oldest]
    tids = [found["tid"][mask][:1].tolist() or [pid] for (_, pid), mask in zip(keys, masks)]  # noqa: B905
    who = [process(moment, pid, tid[0]) for (_, pid), tid in zip(keys, tids, strict=True)]
    cells: Cells = {
        "exporter": _each([moment.names.exporter(key) for key, _ in keys]),
        "process": _each(who),
        "buffers": np.array([int(mask.sum()) for mask in masks], np.int64),
        "size_bytes": np.array([int(found["size"][mask].sum()) for mask in masks], np.int64),
        "slope_per_s": np.array([trend.slope * 1e9 for trend in trends], np.float64),
        "oldest_ns": np.array(ages, np.int64),
    }
    columns = (
        Column("slope_per_s", "rate", "grows by"),
        *_ALIVE,
        Column("oldest_ns", "duration", "oldest"),
        Column("exporter", "text", "exporter"),
        Column("process", "text", "exported by"),
    )
    places = np.arange(len(keys))
    title = "Suspected leaks, growing"
    return Listing("growing", title, columns, cells, places, "slope_per_s", len(keys))


LISTINGS: Final[dict[str, Callable[[Moment], Listing]]] = {
    "exporters": exporters,
    "processes": processes,
    "devices": devices,
    "buffers": buffers,
    "mappings": mappings,
    "growing": growing,
}
