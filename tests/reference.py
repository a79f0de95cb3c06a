# SPDX-License-Identifier: Apache-2.0
"""Pairing, one event at a time with dicts and lists: slow, obvious, and the fast one's judge."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema, tables
from dmabuf_trace.tables import FdOrigin, Flag

Row = dict[str, Any]


def _row(dtype: np.dtype[np.void], **values: Any) -> Row:
    row: Row = dict.fromkeys(dtype.names or (), 0)
    if "stack" in row:
        row["stack"] = row["user_stack"] = schema.UNKNOWN_STACK
    return {**row, **values}


class _Reference:
    def __init__(self) -> None:
        self.buffers: list[Row] = []
        self.attachments: list[Row] = []
        self.mappings: list[Row] = []
        self.pins: list[Row] = []
        self.vmaps: list[Row] = []
        self.cpu_accesses: list[Row] = []
        self.fds: list[Row] = []
        self.errors: list[Row] = []
        self.event_buffers: list[int] = []
        self.event_attachments: list[int] = []

    def _live(self, rows: list[Row], **keys: int) -> Row | None:
        for row in rows:
            over = row["end"] or row["flags"] & (Flag.END_LOST | Flag.OUTLIVED)
            if not over and all(row[key] == value for key, value in keys.items()):
                return row
        return None

    def _add(self, rows: list[Row], row: Row) -> Row:
        row["id"] = len(rows) + 1
        rows.append(row)
        return row

    def feed(self, event: Row) -> None:
        released = any(row["end"] and row["inode"] == event["buffer"] for row in self.buffers)
        late_part = released and event["kind"] in schema.PARTS
        buffer = self._buffer(event) if event["buffer"] and not late_part else None
        attachment = self._attachment(event, buffer)
        buffer_id = buffer["id"] if buffer else attachment["buffer_id"] if attachment else 0
        attachment_id = attachment["id"] if attachment else 0
        self.event_buffers.append(buffer_id)
        self.event_attachments.append(attachment_id)
        if attachment:
            self._mapping(event, buffer_id, attachment)
            self._pin(event, buffer_id, attachment)
        if buffer_id:
            self._vmap(event, buffer_id)
            self._access(event, buffer_id)
            self._fd(event, buffer_id)
        if schema.KIND_NAMES[event["kind"]] == "fork":
            self._fork(event)
        if event["ret"] < 0 and event["kind"] not in schema.PARTS:
            named = schema.KIND_NAMES[event["kind"]] in ("export", "attach", "map", "set_name")
            same = {key: event[key] for key in ("ts", "dur", "pid", "tid", "kind", "cpu")}
            self.errors.append(
                _row(
                    tables.ERROR_DTYPE,
                    **same,
                    errno=-event["ret"],
                    name=event["aux"] if named else 0,
                    buffer_id=buffer_id,
                    attachment_id=attachment_id,
                )
            )

    def _buffer(self, event: Row) -> Row:
        kind, ok = schema.KIND_NAMES[event["kind"]], event["ret"] >= 0
        row = self._live(self.buffers, inode=event["buffer"])
        if row and row["begin"] and kind == "export" and ok:
            row["flags"] |= Flag.END_LOST
            row = None
        if row is None:
            new = _row(
                tables.BUFFER_DTYPE,
                inode=event["buffer"],
                seen=event["ts"],
                flags=Flag.BEGIN_UNSEEN,
            )
            row = self._add(self.buffers, new)
        if kind == "export" and ok:
            row.update(begin=event["ts"], dur=event["dur"], address=event["object"], flags=0)
            row.update(size=event["value"], exporter=event["aux"], export_flags=event["detail"])
            row.update(
                pid=event["pid"],
                tid=event["tid"],
                stack=event["stack"],
                user_stack=event["user_stack"],
            )
        if kind == "fd_install":
            row["fd_installs"] += 1
        if kind in ("mmap", "mmap_importer") and ok:
            row["mmaps"] += 1
        if kind == "set_name" and ok:
            row["name"] = event["aux"]
        if kind == "release":
            row["end"] = event["ts"]
        return row

    def _attachment(self, event: Row, buffer: Row | None) -> Row | None:
        kind = schema.KIND_NAMES[event["kind"]]
        of_attachment = ("attach", "detach", "map", "unmap", "pin", "unpin")
        if kind not in of_attachment or not event["object"]:
            return None
        if kind == "attach" and event["ret"] < 0:
            return None
        row = self._live(self.attachments, address=event["object"])
        if kind == "attach" and row:
            row["flags"] |= Flag.END_LOST
            for held in self._open_through(row):
                held["flags"] |= Flag.END_LOST
            row = None
        if row is None:
            new = _row(
                tables.ATTACHMENT_DTYPE,
                address=event["object"],
                seen=event["ts"],
                device=event["aux"],
                buffer_id=buffer["id"] if buffer else 0,
                flags=Flag.BEGIN_UNSEEN,
            )
            row = self._add(self.attachments, new)
        if kind == "attach":
            row.update(begin=event["ts"], dur=event["dur"], device_address=event["value"])
            row.update(importer=event["detail"], pid=event["pid"], tid=event["tid"])
            row.update(stack=event["stack"], user_stack=event["user_stack"], flags=0)
        if kind == "detach":
            row["end"] = event["ts"]
            for held in self._open_through(row):
                held["flags"] |= Flag.OUTLIVED | Flag.OPEN
        return row

    def _open_through(self, attachment: Row) -> list[Row]:
        of_attachments = self.mappings + self.pins
        mine = [row for row in of_attachments if row["attachment_id"] == attachment["id"]]
        return [row for row in mine if not row["end"]]

    def _mapping(self, event: Row, buffer_id: int, attachment: Row) -> None:
        kind = schema.KIND_NAMES[event["kind"]]
        new = _row(
            tables.MAPPING_DTYPE,
            buffer_id=buffer_id,
            attachment_id=attachment["id"],
            sgt=event["value"],
            device=event["aux"],
            pid=event["pid"],
            tid=event["tid"],
            detail=event["detail"],
        )
        if kind == "map" and event["ret"] >= 0:
            new.update(begin=event["ts"], dur=event["dur"])
            self._add(self.mappings, new)
        if kind == "unmap":
            row = self._live(self.mappings, attachment_id=attachment["id"], sgt=event["value"])
            if row:
                row.update(end=event["ts"], end_detail=event["detail"])
            else:
                new.update(end=event["ts"], detail=0, end_detail=event["detail"])
                new["flags"] = Flag.BEGIN_UNSEEN
                self._add(self.mappings, new)

    def _end(self, rows: list[Row], new: Row, **keys: int) -> None:
        """End the first open row of those keys, or add one that has no begin."""
        if row := self._live(rows, **keys):
            row.update({key: new[key] for key in new if key.startswith("end")})
        else:
            self._add(rows, {**new, "flags": Flag.BEGIN_UNSEEN})

    def _pin(self, event: Row, buffer_id: int, attachment: Row) -> None:
        kind, through = schema.KIND_NAMES[event["kind"]], attachment["id"]
        ids = {"buffer_id": buffer_id, "attachment_id": through, "device": event["aux"]}
        new = _row(tables.PIN_DTYPE, **ids, pid=event["pid"], tid=event["tid"])
        if kind == "pin" and event["ret"] >= 0:
            self._add(self.pins, {**new, "begin": event["ts"], "dur": event["dur"]})
        if kind == "unpin":
            self._end(self.pins, {**new, "end": event["ts"]}, attachment_id=through)

    def _vmap(self, event: Row, buffer_id: int) -> None:
        kind = schema.KIND_NAMES[event["kind"]]
        of = {"buffer_id": buffer_id, "pid": event["pid"], "tid": event["tid"]}
        new = _row(tables.VMAP_DTYPE, **of)
        if kind == "vmap" and event["ret"] >= 0:
            self._add(self.vmaps, {**new, "begin": event["ts"], "dur": event["dur"]})
        if kind == "vunmap":
            self._end(self.vmaps, {**new, "end": event["ts"]}, buffer_id=buffer_id)

    def _access(self, event: Row, buffer_id: int) -> None:
        kind, rows = schema.KIND_NAMES[event["kind"]], self.cpu_accesses
        if event["ret"] < 0:
            return
        by_driver = int(kind.startswith("kernel"))
        whose = {"buffer_id": buffer_id, "by_driver": by_driver}
        whose["owner"] = 0 if by_driver else event["pid"]
        new = _row(tables.ACCESS_DTYPE, **whose, pid=event["pid"], tid=event["tid"])
        if kind in ("cpu_begin", "kernel_begin"):
            new.update(begin=event["ts"], dur=event["dur"], detail=event["detail"])
            self._add(rows, new)
        if kind in ("cpu_end", "kernel_end"):
            new.update(end=event["ts"], end_dur=event["dur"], end_detail=event["detail"])
            self._end(rows, new, **whose)

    def _fd(self, event: Row, buffer_id: int) -> None:
        kind = schema.KIND_NAMES[event["kind"]]
        of = {"buffer_id": buffer_id, "file": event["object"], "table": event["value"]}
        who = {key: event[key] for key in ("pid", "tid", "stack", "user_stack")}
        new = _row(tables.FD_DTYPE, **{**of, **who})
        if kind == "fd_install":
            origin = FdOrigin.DUP2 if event["aux"] == schema.FD_DUP2 else FdOrigin.INSTALL
            new.update(begin=event["ts"], dur=event["dur"], fd=event["detail"], origin=int(origin))
            self._add(self.fds, new)
        if kind == "fd_close":
            stacks = dict.fromkeys(("stack", "user_stack"), schema.UNKNOWN_STACK)
            new.update(stacks, end=event["ts"], end_pid=event["pid"], fd=-1, pid=0)
            self._end(self.fds, new, file=event["object"], table=event["value"])

    def _fork(self, event: Row) -> None:
        for row in [row for row in self.fds if row["table"] == event["object"] and not row["end"]]:
            child = dict.fromkeys(("pid", "tid"), event["detail"])
            stacks = dict.fromkeys(("stack", "user_stack"), schema.UNKNOWN_STACK)
            new = {**row, **child, **stacks, "table": event["value"], "begin": event["ts"]}
            self._add(self.fds, {**new, "origin": int(FdOrigin.FORK)})


def reference(events: NDArray[np.void]) -> dict[str, list[Any]]:
    """The tables of a trace, each row a dict."""
    state = _Reference()
    for event in events:
        state.feed(dict(zip(events.dtype.names or (), event.item(), strict=True)))
    lives = (state.buffers, state.attachments, state.mappings)
    for rows in (*lives, state.pins, state.vmaps, state.cpu_accesses, state.fds):
        for row in rows:
            if not row["end"] and not row["flags"] & Flag.END_LOST:
                row["flags"] |= Flag.OPEN
    return {
        name: getattr(state, name)
        for name in (
            *("buffers", "attachments", "mappings", "errors"),
            *("pins", "vmaps", "cpu_accesses", "fds"),
            *("event_buffers", "event_attachments"),
        )
    }
