# SPDX-License-Identifier: Apache-2.0
"""One event as one line, or as one JSON object. Imports neither pandas nor rich."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from dmabuf_trace import schema
from dmabuf_trace.errnos import error_name
from dmabuf_trace.names import Names
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, duration_text

Event = np.void | dict[str, Any]
Fields = dict[str, Any]

_POLL: Final = {0x1: "in", 0x2: "pri", 0x4: "out", 0x8: "err", 0x10: "hup"}
"""EPOLL* bits (include/uapi/linux/eventpoll.h), which are those of poll(2)."""


def _fields(event: Event) -> Fields:
    if isinstance(event, dict):
        return event
    return dict(zip(event.dtype.names or (), event.item(), strict=True))


def _kind(event: Fields) -> str:
    return schema.KIND_NAMES.get(event["kind"], f"kind {event['kind']}")


def _direction(detail: int) -> str:
    known = schema.DIRECTIONS
    return known[detail] if detail < len(known) else f"direction {detail}"


def _mapping(event: Fields) -> str:
    detail = event["detail"]
    parts = [_direction(detail & schema.MAP_DIRECTION)]
    if entries := detail >> schema.MAP_ENTRIES_SHIFT:
        parts.append(f"{entries} {'entries' if entries > 1 else 'entry'}")
    return "  ".join(parts + ["cached"] * bool(detail & schema.MAP_CACHED))


def _by_dup2(event: Fields) -> str:
    return " by dup2" if event["aux"] & schema.FD_DUP2 else ""


def _context(detail: int) -> str:
    known = schema.CONTEXTS
    return known[detail] if detail < len(known) else f"context {detail}"


def _operation(detail: int) -> str:
    known = schema.OPERATIONS
    return known[detail - 1] if 0 < detail <= len(known) else f"operation {detail}"


def _polled(events: int) -> str:
    names = [name for bit, name in _POLL.items() if events & bit]
    rest = events & ~sum(_POLL)
    return "+".join([*names, *([f"{rest:#x}"] if rest else [])]) or "nothing"


def _fence(event: Fields) -> str:
    over = "  timed out" if event["detail"] & schema.FENCE_TIMED_OUT else ""
    return f"fence {event['value']}:{event['aux']}{over}"


def _importer(event: Fields) -> str:
    detail = event["detail"]
    importer = "dynamic" if detail & schema.ATTACH_DYNAMIC else "static"
    if detail & schema.ATTACH_PEER2PEER:
        return importer + " p2p"
    refused = detail & schema.ATTACH_P2P_ASKED and not event["ret"]
    return importer + " p2p refused" if refused else importer


def _sync(detail: int) -> str:
    parts = (("read", schema.SYNC_READ), ("write", schema.SYNC_WRITE))
    return "+".join(name for name, bit in parts if detail & bit) or f"flags {detail}"


def _sync_fd(event: Fields) -> str:
    return f"sync_file fd {event['value']}"


def _device(event: Fields, names: Names) -> str:
    device = names.device(event["aux"])
    of = "/".join(part for part in (device.bus, device.driver) if part)
    return f"device {device.name}" + (f" ({of})" if of else "")


def _vma(event: Fields, _: Names) -> str:
    pages = f" from page {event['aux']}" if event["aux"] else ""
    return f"{bytes_text(event['value'])} at {event['object']:#x}{pages}"


_DETAIL: Final[dict[str, Callable[[Fields, Names], str]]] = {
    "export": lambda event, _: bytes_text(event["value"]),
    "fd_install": lambda event, _: f"fd {event['detail']}" + _by_dup2(event),
    "release": lambda event, _: "" if not event["detail"] else f"in {_context(event['detail'])}",
    "fork": lambda event, _: f"child {event['detail']}",
    "poll": lambda event, _: f"for {_polled(event['value'])}: {_polled(event['detail'])}",
    "fence_wait": lambda event, _: _fence(event),
    "operation": lambda event, _: _operation(event["detail"]),
    "attach": lambda event, names: f"{_device(event, names)}  {_importer(event)}",
    "detach": _device,
    "map": lambda event, names: f"{_device(event, names)}  {_mapping(event)}",
    "unmap": lambda event, names: f"{_device(event, names)}  {_mapping(event)}",
    "cpu_begin": lambda event, _: _sync(event["detail"]),
    "cpu_end": lambda event, _: _sync(event["detail"]),
    "mmap": _vma,
    "mmap_importer": _vma,
    "set_name": lambda event, names: f'"{names.buffer(event["aux"])}"',
    "get": lambda event, _: f"fd {event['detail']}",
    "pin": _device,
    "unpin": _device,
    "kernel_begin": lambda event, _: _direction(event["detail"]),
    "kernel_end": lambda event, _: _direction(event["detail"]),
    "export_sync_file": lambda event, _: f"{_sync(event['detail'])}  {_sync_fd(event)}",
    "import_sync_file": lambda event, _: f"{_sync(event['detail'])}  {_sync_fd(event)}",
}
_TIMED: Final = frozenset(kind.name for kind in schema.KINDS if kind.timed)
_STACKED: Final = frozenset(kind.name for kind in schema.KINDS if kind.stack)
_WIDTH: Final = max(len(kind.name) for kind in schema.KINDS)


def _exporter(event: Fields, names: Names) -> str:
    if _kind(event) == "export":
        return names.exporter(event["aux"])
    return names.exporter_of(event["buffer"])


def what(event: Event, names: Names) -> str:
    """The part of the line that tells the kind's own fields: ``fd 5``, ``device vivid-000 ...``."""
    fields = _fields(event)
    kind = _kind(fields)
    parts = [_DETAIL[kind](fields, names)] if kind in _DETAIL else []
    if fields["ret"] < 0:
        parts.append(f"FAILED {error_name(-fields['ret'])}")
    if kind in _TIMED:
        parts.append(f"dur {duration_text(fields['dur'])}")
    return printable("  ".join(parts))


def format_event(event: Event, names: Names, *, origin: int = 0) -> str:
    """One line without a newline; times are seconds since ``origin`` (ns, CLOCK_MONOTONIC)."""
    fields = _fields(event)
    ts = fields["ts"] - origin
    who = f"{names.comm(fields['tid'], fields['ts'])}-{fields['pid']}"
    of_none = "" if _kind(fields) == "fork" else f"buffer - {_exporter(fields, names)}"
    buffer = fields["buffer"]
    about = f"buffer {buffer} {_exporter(fields, names)}" if buffer else of_none
    seconds = f"{ts // 10**9:>6}.{ts % 10**9 // 1000:06}"
    head = f"{seconds}  {printable(who):<20}  {_kind(fields):<{_WIDTH}}"
    return "  ".join(part for part in (head, printable(about), what(fields, names)) if part)


def event_json(event: Event, names: Names) -> dict[str, Any]:
    """The event as JSON: its fields with units in their keys, and what its ids stand for.

    ``object`` and addresses are hexadecimal texts, as 64-bit numbers don't survive every reader.
    """
    fields = _fields(event)
    kind = _kind(fields)
    found: dict[str, Any] = {
        "ts_ns": fields["ts"],
        "kind": kind,
        "buffer": fields["buffer"] or None,
        "exporter": _exporter(fields, names) if fields["buffer"] or kind == "export" else None,
        "object": f"{fields['object']:#x}",
        "pid": fields["pid"],
        "tid": fields["tid"],
        "comm": names.comm(fields["tid"], fields["ts"]),
        "cgroup": names.cgroup(fields["tid"], fields["ts"]),
        "cpu": fields["cpu"],
        "ret": fields["ret"],
    }
    if fields["ret"] < 0:
        found["error"] = error_name(-fields["ret"])
    if kind in _TIMED:
        found["dur_ns"] = fields["dur"]
    if kind in _STACKED:
        found["stack"] = _stack(fields)
    return found | (_JSON[kind](fields, names) if kind in _JSON else {})


def _stack(event: Fields) -> int | None:
    return event["stack"] if event["stack"] != schema.UNKNOWN_STACK else None


def _json_device(event: Fields, names: Names) -> dict[str, Any]:
    device = names.device(event["aux"])
    return {"device": device.name, "driver": device.driver, "bus": device.bus}


def _asked(detail: int) -> bool | None:
    """Whether the importer asks for peer-to-peer; None: not known."""
    if detail & (schema.ATTACH_P2P_ASKED | schema.ATTACH_PEER2PEER):
        return True
    known = detail & schema.ATTACH_P2P_NOT_ASKED or not detail & schema.ATTACH_DYNAMIC
    return False if known else None


def _json_attach(event: Fields, names: Names) -> dict[str, Any]:
    return {
        **_json_device(event, names),
        "device_address": f"{event['value']:#x}",
        "dynamic": bool(event["detail"] & schema.ATTACH_DYNAMIC),
        "peer2peer": bool(event["detail"] & schema.ATTACH_PEER2PEER),
        "peer2peer_asked": _asked(event["detail"]),
    }


def _json_unmap(event: Fields, names: Names) -> dict[str, Any]:
    return {
        **_json_device(event, names),
        "sgt": f"{event['value']:#x}",
        "direction": _direction(event["detail"] & schema.MAP_DIRECTION),
        "cached": bool(event["detail"] & schema.MAP_CACHED),
    }


def _json_map(event: Fields, names: Names) -> dict[str, Any]:
    entries = event["detail"] >> schema.MAP_ENTRIES_SHIFT
    return {**_json_unmap(event, names), "entries": entries if event["ret"] >= 0 else None}


def _json_fd_install(event: Fields, _: Names) -> dict[str, Any]:
    table = {"table": f"{event['value']:#x}"}
    return {"fd": event["detail"], "dup2": bool(event["aux"] & schema.FD_DUP2), **table}


def _json_fence(event: Fields, _: Names) -> dict[str, Any]:
    fence = {"fence_context": event["value"], "fence_seqno": event["aux"]}
    return {**fence, "timed_out": bool(event["detail"] & schema.FENCE_TIMED_OUT)}


def _json_direction(event: Fields, _: Names) -> dict[str, Any]:
    return {"direction": _direction(event["detail"])}


def _json_sync(event: Fields, _: Names) -> dict[str, Any]:
    return {"sync_flags": event["detail"]}


def _json_sync_file(event: Fields, _: Names) -> dict[str, Any]:
    return {"sync_flags": event["detail"], "sync_file_fd": event["value"]}


def _json_mmap(event: Fields, _: Names) -> dict[str, Any]:
    return {"length_bytes": event["value"], "offset_pages": event["aux"]}


_JSON: Final[dict[str, Callable[[Fields, Names], dict[str, Any]]]] = {
    "export": lambda event, _: {"size_bytes": event["value"], "flags": event["detail"]},
    "fd_install": _json_fd_install,
    "attach": _json_attach,
    "detach": _json_device,
    "map": _json_map,
    "unmap": _json_unmap,
    "cpu_begin": _json_sync,
    "cpu_end": _json_sync,
    "mmap": _json_mmap,
    "mmap_importer": _json_mmap,
    "set_name": lambda event, names: {"name": names.buffer(event["aux"])},
    "release": lambda event, _: {"context": _context(event["detail"]) if event["detail"] else None},
    "fd_close": lambda event, _: {"table": f"{event['value']:#x}"},
    "get": lambda event, _: {"fd": event["detail"]},
    "pin": _json_device,
    "unpin": _json_device,
    "kernel_begin": _json_direction,
    "kernel_end": _json_direction,
    "export_sync_file": _json_sync_file,
    "import_sync_file": _json_sync_file,
    "fork": lambda event, _: {"child": event["detail"], "child_table": f"{event['value']:#x}"},
    "poll": lambda event, _: {"requested": event["value"], "returned": event["detail"]},
    "fence_wait": _json_fence,
    "operation": lambda event, _: {"operation": _operation(event["detail"])},
}
