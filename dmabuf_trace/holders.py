# SPDX-License-Identifier: Apache-2.0
"""Who holds a buffer at the end of a trace: processes by fd or VMA, attachments, sockets."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Final

from dmabuf_trace.analysis import View, records
from dmabuf_trace.units import bytes_text

Row = dict[str, Any]

NEEDS: Final = ("attachments", "mappings", "holders")
"""Tables that :func:`at_end` needs."""

STACKS: Final = ("stack", "user_stack")
"""Keys of a holder that tell its stacks."""

_SHAPE_OF: Final = {
    "fd": "fd",
    "mapping": "mapping",
    "attachment": "device",
    "in-flight": "in-flight",
}
MAX_FDS: Final = 8
"""fds of one process that are named."""

SHAPES: Final = (*_SHAPE_OF, "kernel", "unknown")

UNSEEN_QUEUES: Final = "an fd under way in a socket"
"""What may hold a buffer of shape ``kernel`` too, where sockets were not looked into."""


def at_end(view: View) -> dict[int, list[Row]]:
    """By buffer id: processes by fd, by VMA, devices, then sockets, each as a JSON-able dict.

    ``{"kind": "fd", pid, comm, fds}``, ``{"kind": "mapping", pid, comm, start, length_bytes}``,
    ``{"kind": "device", device, driver, bus, mappings, stack, user_stack}``: count of mappings
    open, stacks of the attach. ``{"kind": "in-flight", pid, comm, socket, sender_pid,
    sender_comm}``: who has the socket open, its inode number, who sent; None where not known.
    """
    found: dict[int, list[Row]] = defaultdict(list)
    known = view.holders[(view.holders["when"] == "end") & view.holders["buffer_id"].notna()]
    by_process: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    extents, queued = [], []
    for row in records(known):
        process = (row["buffer_id"], row["pid"], row["comm"])
        if row["socket"] is not None:
            queued.append(row)
        elif row["fd"] is None:
            extents.append((*process, row["start"], row["length_bytes"]))
        else:
            by_process[process].append(row["fd"])
    for (buffer_id, pid, comm), fds in sorted(by_process.items()):
        found[buffer_id].append({"kind": "fd", "pid": pid, "comm": comm, "fds": sorted(fds)})
    for buffer_id, pid, comm, start, length in sorted(extents):
        extent = {"start": start, "length_bytes": length}
        found[buffer_id].append({"kind": "mapping", "pid": pid, "comm": comm, **extent})
    mapped = Counter(view.mappings[view.mappings["open"]]["attachment_id"].tolist())
    for row in records(view.attachments[view.attachments["open"]]):
        device = {key: row[key] for key in ("device", "driver", "bus")}
        device |= {"mappings": mapped[row["id"]], "stack": view.stack(row["stack"])}
        device["user_stack"] = view.user_stack(row["user_stack"])
        found[row["buffer_id"]].append({"kind": "device", **device})
    for row in queued:
        keys = ("pid", "comm", "socket", "sender_pid", "sender_comm")
        found[row["buffer_id"]].append({"kind": "in-flight", **{key: row[key] for key in keys}})
    return found


def shape(view: View, begin: int | None, holders: list[Row]) -> str:
    """Why a buffer is alive: the first shape that applies, ``unknown`` if nobody could look."""
    looked_at = view.looked_at
    if looked_at is None or (begin is not None and begin > looked_at):
        return "unknown"
    kinds = {holder["kind"] for holder in holders}
    return next((shape for shape, kind in _SHAPE_OF.items() if kind in kinds), "kernel")


def _process(holder: Row) -> str:
    return f"{holder['comm']}-{holder['pid']}"


def _sent(holder: Row) -> str:
    if holder["sender_pid"] is None:
        return ""
    pid, comm = holder["sender_pid"], holder["sender_comm"]
    return f", sent by {comm}-{pid}" if comm else f", sent by pid {pid}"


def text(holder: Row) -> str:
    """``app-100 fd 3,4``, ``app-100 VMA 4 KiB``, ``device vivid-000 mapped``, ``queue of socket 9
    (app-100), sent by cam-200``."""
    match holder["kind"]:
        case "fd":
            fds = holder["fds"]
            more = f",... ({len(fds)} fds)" if len(fds) > MAX_FDS else ""
            return f"{_process(holder)} fd {','.join(map(str, fds[:MAX_FDS]))}{more}"
        case "mapping":
            return f"{_process(holder)} VMA {bytes_text(holder['length_bytes'])}"
        case "in-flight":
            return f"queue of socket {holder['socket']} ({_process(holder)}){_sent(holder)}"
        case _:
            count = holder["mappings"]
            state = "attached" if not count else "mapped" if count == 1 else f"mapped {count} times"
            return f"device {holder['device']} {state}"
