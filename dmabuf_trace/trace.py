# SPDX-License-Identifier: Apache-2.0
"""The pandas boundary: a recording as tables with names, units and gaps.

Makes the columns that analyses and people see, as :mod:`dmabuf_trace.columns` describes them. A gap
is NA: *not observed*, which is neither zero nor empty. Text comes from others and may be hostile:
it is escaped where it is shown, not here. Must not know analyses, rendering or live tracing.
"""

from __future__ import annotations

import errno as errno_names
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmabuf_trace import quality, schema
from dmabuf_trace.blocks import Holder
from dmabuf_trace.columns import TABLES
from dmabuf_trace.frames import gaps, look_up, signed, strings, texts
from dmabuf_trace.framing import Cut
from dmabuf_trace.names import Device, Names
from dmabuf_trace.reading import Read
from dmabuf_trace.reconcile import compare, settle
from dmabuf_trace.recording import Reader
from dmabuf_trace.tables import Flag, Rows

Structs = NDArray[np.void]
Array = NDArray[Any]

TASK_FILTERS: Final = {"--pid", "--only-command", "--comm"}
"""Options by which an export in the trace may be left out, and its buffer watched later."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of the recording: what it feeds and whether it was attached."""

    kind: str
    symbol: str
    attached: bool
    reason: str
    without: str


def open(path: Path | str) -> Trace:  # noqa: A001 - dmabuf_trace.open(path), as gzip.open
    """Read a recording.

    Raises:
        InputError: the file is not a recording that this version reads. A recording that was cut
            is read up to its last whole block, see :attr:`Trace.cut`.
    """
    with Reader(Path(path)) as reader:
        read = Read()
        read.take(reader)
        return Trace(Path(path), reader.header, read, reader.cut)


class Trace:
    """One recording, its tables made when they are first asked for (:data:`columns.TABLES`)."""

    def __init__(self, path: Path, header: dict[str, Any], read: Read, cut: Cut | None) -> None:
        self.path = path
        self.header = header
        self.cut = cut
        self.stacks = read.stacks
        self.user_stacks = read.user_stacks.stacks
        self._user_stacks = read.user_stacks
        self.losses = read.losses
        self.snapshots = read.snapshots
        self.probed = tuple(read.probed)
        self.looks = tuple(read.looks)
        self.reason = read.end.reason if read.end else ""
        self.names: Names = read.lifecycle.names
        self.raw: Structs = np.concatenate(read.events)
        self.rows = Rows.join(read.rows)
        self._end_ts = read.end.ts if read.end else 0
        self._differences = compare(self.rows.buffers, self.raw, self.snapshots)
        settle(self.rows.buffers, self._differences)

    @cached_property
    def start(self) -> int:
        """When tracing began: the header's time, else the earliest that is known."""
        start = _dig(self.header, "start", "monotonic_ns")
        return start if isinstance(start, int) else min(self._times(), default=0)

    @cached_property
    def end(self) -> int:
        """When tracing ended; of a cut recording, the latest time in it."""
        return max([self.start, *self._times()])

    def _times(self) -> Iterator[int]:
        if len(self.raw):
            yield int(self.raw["ts"].min())
            yield int(self.raw["ts"].max())
        yield from (snapshot.ts for snapshot in self.looks)
        if self._end_ts:
            yield self._end_ts

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """The probes that the header lists."""
        listed = self.header.get("probes")
        rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
        return tuple(
            Probe(
                kind=str(row.get("kind", "")),
                symbol=str(row.get("symbol", "")),
                attached=bool(row.get("attached", True)),
                reason=str(row.get("reason", "")),
                without=str(row.get("without", "")),
            )
            for row in rows
        )

    @cached_property
    def missing(self) -> dict[str, str]:
        """Event kinds that were not observed, or not all of them, and why."""
        return {probe.kind: probe.reason for probe in self.probes if not probe.attached}

    @cached_property
    def filters(self) -> tuple[str, ...]:
        """The options that chose what was recorded; none: everything was."""
        options = self.header.get("filters")
        return tuple(map(str, options)) if isinstance(options, list) else ()

    @cached_property
    def lost_events(self) -> int:
        """Events that are missing from the recording."""
        return schema.lost_events(self.losses)

    # tables

    @cached_property
    def buffers(self) -> pd.DataFrame:
        """One row per buffer."""
        rows = self.rows.buffers
        begun = rows["begin"] != 0
        known = begun | (rows["size"] != 0)
        return pd.DataFrame(
            {
                "id": rows["id"],
                "inode": signed(rows["inode"]),
                "exporter": texts(rows["exporter"], self.names.exporter),
                "name": texts(rows["name"], self.names.buffer),
                "size_bytes": gaps(rows["size"], known),
                **self._life(rows),
                "origin": strings(self._origins(rows)),
                **_flags(rows, open=Flag.OPEN, end_lost=Flag.END_LOST),
                "export_ns": gaps(rows["dur"], begun),
                **self._caller(rows, begun, "begin"),
                **_stacks(rows),
                "fd_installs": self._observed(rows["fd_installs"], "fd_install"),
                "mmaps": self._observed(rows["mmaps"], "mmap", "mmap_importer"),
                "address": rows["address"],
            },
            columns=list(TABLES["buffers"]),
        )

    def _origins(self, rows: Structs) -> Array:
        begun = rows["begin"] != 0
        born_before = rows["flags"] & Flag.BORN_BEFORE != 0
        first = rows["inode"][begun].min(initial=np.iinfo(np.uint64).max)
        unseen = "unknown" if "export" in self.missing else "before"
        by_task = not TASK_FILTERS.isdisjoint(self.filters)
        lost = np.where(rows["inode"] > first, "unwatched" if by_task else "lost", unseen)
        return np.where(begun, "exported", np.where(born_before, "before", lost))

    @cached_property
    def attachments(self) -> pd.DataFrame:
        """One row per attachment."""
        rows = self.rows.attachments
        begun = rows["begin"] != 0
        released = look_up(rows["buffer_id"], self.rows.buffers["id"], self.rows.buffers["end"])
        is_open = rows["flags"] & Flag.OPEN != 0
        late = (released != 0) & (is_open | (rows["end"] > released))
        return pd.DataFrame(
            {
                "id": rows["id"],
                **self._buffer(rows),
                **self._device(rows["device"]),
                "importer": strings(_importers(rows), begun),
                **self._life(rows),
                **_flags(rows, open=Flag.OPEN, end_lost=Flag.END_LOST),
                "outlived": late,
                "attach_ns": gaps(rows["dur"], begun),
                **self._caller(rows, begun, "begin"),
                **_stacks(rows),
                "address": rows["address"],
                "device_address": rows["device_address"],
            },
            columns=list(TABLES["attachments"]),
        )

    @cached_property
    def mappings(self) -> pd.DataFrame:
        """One row per mapping."""
        rows = self.rows.mappings
        begun = rows["begin"] != 0
        of = self.rows.attachments
        importers = look_up(rows["attachment_id"], of["id"], _importers(of))
        attach_seen = look_up(rows["attachment_id"], of["id"], of["begin"]) != 0
        sizes = look_up(rows["buffer_id"], self.rows.buffers["id"], self.rows.buffers["size"])
        times = np.where(begun, rows["begin"], rows["end"])
        directions = np.array(schema.DIRECTIONS, object)
        return pd.DataFrame(
            {
                "id": rows["id"],
                "attachment_id": rows["attachment_id"],
                **self._buffer(rows),
                "size_bytes": gaps(sizes, sizes != 0),
                **self._device(rows["device"]),
                "importer": strings(importers, attach_seen),
                "direction": strings(directions[rows["detail"] & schema.MAP_DIRECTION]),
                "entries": gaps(rows["detail"] >> schema.MAP_ENTRIES_SHIFT, begun),
                "cached": _truths(rows["detail"] & schema.MAP_CACHED != 0, begun),
                **self._life(rows),
                **_flags(rows, open=Flag.OPEN, end_lost=Flag.END_LOST, outlived=Flag.OUTLIVED),
                "map_ns": gaps(rows["dur"], begun),
                **self._thread(rows, times),
                "sgt": rows["sgt"],
            },
            columns=list(TABLES["mappings"]),
        )

    @cached_property
    def errors(self) -> pd.DataFrame:
        """One row per call that failed, in order of time."""
        rows = self.rows.errors
        rows = rows[np.argsort(rows["ts"], kind="stable")]
        kinds = _kinds(rows["kind"])
        has_device = np.isin(kinds, ("attach", "map"))
        at_export = kinds == "export"
        of = self.rows.buffers
        exporters = np.where(
            at_export, rows["name"], look_up(rows["buffer_id"], of["id"], of["exporter"])
        )
        devices = {
            key: strings(text.to_numpy(object), has_device)
            for key, text in self._device(rows["name"]).items()
        }
        named = [errno_names.errorcode.get(code, str(code)) for code in rows["errno"].tolist()]
        return pd.DataFrame(
            {
                "ts": signed(rows["ts"]),
                "kind": strings(kinds),
                **self._buffer(rows),
                "attachment_id": gaps(rows["attachment_id"], rows["attachment_id"] != 0),
                **devices,
                "exporter": texts(exporters, self.names.exporter).mask(exporters == 0),
                "errno": rows["errno"].astype(np.int64),
                "error": strings(np.array(named, object)),
                "call_ns": signed(rows["dur"]),
                **self._thread(rows, rows["ts"]),
                "cpu": rows["cpu"].astype(np.int64),
            },
            columns=list(TABLES["errors"]),
        )

    @cached_property
    def events(self) -> pd.DataFrame:
        """One row per event, in order of time (and of the ring, where times are equal)."""
        order = np.argsort(self.raw["ts"], kind="stable")
        rows = self.raw[order]
        buffer_ids = self.rows.event_buffers[order]
        attachment_ids = self.rows.event_attachments[order]
        kinds = _kinds(rows["kind"])
        timed = np.isin(kinds, [kind.name for kind in schema.KINDS if kind.timed])
        return pd.DataFrame(
            {
                "ts": signed(rows["ts"]),
                "kind": strings(kinds),
                "buffer_id": gaps(buffer_ids, buffer_ids != 0),
                "attachment_id": gaps(attachment_ids, attachment_ids != 0),
                "inode": signed(rows["buffer"]),
                **{column: rows[column] for column in ("object", "value", "aux")},
                **{column: rows[column].astype(np.int64) for column in ("detail", "ret")},
                "call_ns": gaps(rows["dur"], timed),
                **self._thread(rows, rows["ts"]),
                **_stacks(rows),
                "cpu": rows["cpu"].astype(np.int64),
            },
            columns=list(TABLES["events"]),
        )

    @cached_property
    def holders(self) -> pd.DataFrame:
        """One row per fd and VMA of the snapshots."""
        rows = [
            (snapshot.when, snapshot.ts, holder)
            for snapshot in self.looks
            for holder in snapshot.holders
        ]
        found: list[Holder] = [holder for _, _, holder in rows]
        is_fd = np.array([holder.fd >= 0 for holder in found], np.bool_)
        inodes = np.array([holder.buffer for holder in found], np.uint64)
        order = np.argsort(self.rows.buffers["inode"], kind="stable")
        of = self.rows.buffers[order]
        buffer_ids = look_up(inodes, of["inode"], of["id"])
        return pd.DataFrame(
            {
                "when": strings(np.array([when for when, _, _ in rows], object)),
                "ts": np.array([ts for _, ts, _ in rows], np.int64),
                "buffer_id": gaps(buffer_ids, buffer_ids != 0),
                "inode": signed(inodes),
                "pid": np.array([holder.pid for holder in found], np.int64),
                "comm": strings(np.array([holder.comm for holder in found], object)),
                "fd": gaps(np.array([holder.fd for holder in found], np.int64), is_fd),
                "start": gaps(np.array([holder.start for holder in found], np.int64), ~is_fd),
                "length_bytes": gaps(
                    np.array([holder.length for holder in found], np.int64), ~is_fd
                ),
            },
            columns=list(TABLES["holders"]),
        )

    @cached_property
    def operations(self) -> pd.DataFrame:
        """One row per exporter's function that was found and probed while recording."""
        rows = [(row.ts, row.operation, row.symbol, row.reason) for row in self.probed]
        frame = pd.DataFrame(rows, columns=list(TABLES["operations"]))
        texts = dict.fromkeys(("operation", "symbol", "reason"), "string")
        return frame.astype({"ts": "int64", **texts})

    @cached_property
    def quality(self) -> pd.DataFrame:
        """One row per reason to doubt an answer; no rows: nothing is known to be missing."""
        seen = np.bincount(self.raw["kind"], minlength=schema.KIND_SLOTS)
        return quality.frame(
            (
                *quality.losses(self.losses, seen),
                *quality.gaps(self.missing, self.cut, self.looks, self._no_cgroups),
                *quality.operations(self.probed),
                *quality.differences(self._differences),
                *quality.filters(self.filters, self.snapshots.get("start")),
                *quality.user_stacks(self._user_stacks),
            )
        )

    @property
    def _no_cgroups(self) -> str:
        return str(self.header.get("no_cgroups") or "")

    # groups of columns that tables share

    def _life(self, rows: Structs) -> dict[str, Any]:
        begun, ended = rows["begin"] != 0, rows["end"] != 0
        is_open = rows["flags"] & Flag.OPEN != 0
        until = np.where(ended, signed(rows["end"]), self.end)
        ages = np.maximum(until - signed(rows["begin"]), 0)
        seen = {"seen": signed(rows["seen"])} if "seen" in (rows.dtype.names or ()) else {}
        return {
            "begin": gaps(rows["begin"], begun),
            "end": gaps(rows["end"], ended),
            **seen,
            "age_ns": gaps(ages, begun & (ended | is_open)),
        }

    def _caller(self, rows: Structs, known: Array, time: str) -> dict[str, Any]:
        return {
            "pid": gaps(rows["pid"], known),
            "tid": gaps(rows["tid"], known),
            "comm": strings(self.names.comms(rows["tid"], rows[time]), known),
            "cgroup": self._cgroup(rows, rows[time], known),
        }

    def _thread(self, rows: Structs, times: Array) -> dict[str, Any]:
        return {
            "pid": rows["pid"].astype(np.int64),
            "tid": rows["tid"].astype(np.int64),
            "comm": strings(self.names.comms(rows["tid"], times)),
            "cgroup": self._cgroup(rows, times, np.ones(len(rows), np.bool_)),
        }

    def _cgroup(self, rows: Structs, times: Array, known: Array) -> pd.Series[str]:
        paths = self.names.cgroups(rows["tid"], times)
        return strings(paths, known & np.array([path is not None for path in paths], np.bool_))

    def _buffer(self, rows: Structs) -> dict[str, Any]:
        of = self.rows.buffers
        inodes = look_up(rows["buffer_id"], of["id"], of["inode"])
        return {
            "buffer_id": gaps(rows["buffer_id"], rows["buffer_id"] != 0),
            "inode": gaps(inodes, inodes != 0),
        }

    def _device(self, keys: Array) -> dict[str, pd.Series[str]]:
        def part(name: str) -> pd.Series[str]:
            def text(key: int) -> str:
                device: Device = self.names.device(key)
                return str(getattr(device, name))

            return texts(keys, text)

        return {"device": part("name"), "driver": part("driver"), "bus": part("bus")}

    def _observed(self, counts: Array, *kinds: str) -> pd.Series[int]:
        return gaps(counts, np.full(len(counts), self.missing.keys().isdisjoint(kinds)))


def _dig(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _flags(rows: Structs, **flags: Flag) -> dict[str, Array]:
    return {name: rows["flags"] & flag != 0 for name, flag in flags.items()}


def _stacks(rows: Structs) -> dict[str, Any]:
    return {name: gaps(rows[name], rows[name] >= 0) for name in ("stack", "user_stack")}


def _kinds(ids: Array) -> Array:
    distinct, index = np.unique(ids, return_inverse=True)
    known = [schema.KIND_NAMES.get(kind, f"kind {kind}") for kind in distinct.tolist()]
    return np.array(known, object)[index]


def _truths(values: Array, known: Array) -> pd.Series[bool]:
    return pd.Series(values, dtype="boolean").mask(~known)


def _importers(rows: Structs) -> Array:
    return np.where(rows["importer"] & schema.ATTACH_DYNAMIC, "dynamic", "static")
