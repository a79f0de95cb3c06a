# SPDX-License-Identifier: Apache-2.0
"""One event as a JSON object. Imports neither pandas nor rich."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from dmabuf_trace import schema
from dmabuf_trace.errnos import error_name
from dmabuf_trace.lines import Fields, Seen, Stacks
from dmabuf_trace.names import Names
from dmabuf_trace.render.event import TIMED, context, direction, kind_name, operation


class Json:
    """A :class:`dmabuf_trace.render.line.Form`: an object per line, ``kind`` null where events are
    missing."""

    def head(self) -> str:
        """Nothing."""
        return ""

    def line(self, seen: Seen, names: Names, stacks: Stacks) -> str:
        """The event, and the frames of the stacks that are wanted."""
        return json.dumps(event_json(seen, names) | stacks.of(seen.event)) + "\n"

    def gap(self, count: int) -> str:
        """Says that so many events are missing here."""
        return json.dumps({"kind": None, "not_shown": count}) + "\n"


def event_json(seen: Seen, names: Names) -> dict[str, Any]:
    """The event as JSON: its fields with units in their keys, and what its ids stand for.

    ``object`` and addresses are hexadecimal texts, as 64-bit numbers don't survive every reader.
    """
    event = seen.event
    kind = kind_name(event)
    found: dict[str, Any] = {
        "ts_ns": event["ts"],
        "kind": kind,
        "buffer": event["buffer"] or None,
        "exporter": seen.exporter,
        "size_bytes": seen.size,
        "object": f"{event['object']:#x}",
        "pid": event["pid"],
        "tid": event["tid"],
        "comm": seen.comm,
        "cgroup": seen.cgroup,
        "cpu": event["cpu"],
        "ret": event["ret"],
    }
    if event["ret"] < 0:
        found["error"] = error_name(-event["ret"])
    if kind in TIMED:
        found["dur_ns"] = event["dur"]
    return found | (_OF_KIND[kind](event, names) if kind in _OF_KIND else {})


def _of_device(event: Fields, names: Names) -> dict[str, Any]:
    device = names.device(event["aux"])
    return {"device": device.name, "driver": device.driver, "bus": device.bus}


def _asked(detail: int) -> bool | None:
    """Whether the importer asks for peer-to-peer; None: not known."""
    if detail & (schema.ATTACH_P2P_ASKED | schema.ATTACH_PEER2PEER):
        return True
    known = detail & schema.ATTACH_P2P_NOT_ASKED or not detail & schema.ATTACH_DYNAMIC
    return False if known else None


def _of_attach(event: Fields, names: Names) -> dict[str, Any]:
    return {
        **_of_device(event, names),
        "device_address": f"{event['value']:#x}",
        "dynamic": bool(event["detail"] & schema.ATTACH_DYNAMIC),
        "peer2peer": bool(event["detail"] & schema.ATTACH_PEER2PEER),
        "peer2peer_asked": _asked(event["detail"]),
    }


def _of_unmap(event: Fields, names: Names) -> dict[str, Any]:
    return {
        **_of_device(event, names),
        "sgt": f"{event['value']:#x}",
        "direction": direction(event["detail"] & schema.MAP_DIRECTION),
        "cached": bool(event["detail"] & schema.MAP_CACHED),
    }


def _of_map(event: Fields, names: Names) -> dict[str, Any]:
    entries = event["detail"] >> schema.MAP_ENTRIES_SHIFT
    return {**_of_unmap(event, names), "entries": entries if event["ret"] >= 0 else None}


def _of_fd_install(event: Fields, _: Names) -> dict[str, Any]:
    table = {"table": f"{event['value']:#x}"}
    return {"fd": event["detail"], "dup2": bool(event["aux"] & schema.FD_DUP2), **table}


def _of_fence(event: Fields, _: Names) -> dict[str, Any]:
    fence = {"fence_context": event["value"], "fence_seqno": event["aux"]}
    return {**fence, "timed_out": bool(event["detail"] & schema.FENCE_TIMED_OUT)}


def _of_direction(event: Fields, _: Names) -> dict[str, Any]:
    return {"direction": direction(event["detail"])}


def _of_sync(event: Fields, _: Names) -> dict[str, Any]:
    return {"sync_flags": event["detail"]}


def _of_sync_file(event: Fields, _: Names) -> dict[str, Any]:
    return {"sync_flags": event["detail"], "sync_file_fd": event["value"]}


def _of_mmap(event: Fields, _: Names) -> dict[str, Any]:
    return {"length_bytes": event["value"], "offset_pages": event["aux"]}


_OF_KIND: Final[dict[str, Callable[[Fields, Names], dict[str, Any]]]] = {
    "export": lambda event, _: {"flags": event["detail"]},
    "fd_install": _of_fd_install,
    "attach": _of_attach,
    "detach": _of_device,
    "map": _of_map,
    "unmap": _of_unmap,
    "cpu_begin": _of_sync,
    "cpu_end": _of_sync,
    "mmap": _of_mmap,
    "mmap_importer": _of_mmap,
    "set_name": lambda event, names: {"name": names.buffer(event["aux"])},
    "release": lambda event, _: {"context": context(event["detail"]) if event["detail"] else None},
    "fd_close": lambda event, _: {"table": f"{event['value']:#x}"},
    "get": lambda event, _: {"fd": event["detail"]},
    "pin": _of_device,
    "unpin": _of_device,
    "kernel_begin": _of_direction,
    "kernel_end": _of_direction,
    "export_sync_file": _of_sync_file,
    "import_sync_file": _of_sync_file,
    "fork": lambda event, _: {"child": event["detail"], "child_table": f"{event['value']:#x}"},
    "poll": lambda event, _: {"requested": event["value"], "returned": event["detail"]},
    "fence_wait": _of_fence,
    "operation": lambda event, _: {"operation": operation(event["detail"])},
}
