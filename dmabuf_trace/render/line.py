# SPDX-License-Identifier: Apache-2.0
"""One event as one line, or as one JSON object. Imports neither pandas nor rich."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from dmabuf_trace import schema
from dmabuf_trace.names import Names
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, duration_text

Event = np.void | dict[str, Any]
Fields = dict[str, Any]


def _fields(event: Event) -> Fields:
    if isinstance(event, dict):
        return event
    return dict(zip(event.dtype.names or (), event.item(), strict=True))


def _error(ret: int) -> str:
    return errno.errorcode.get(-ret, str(-ret))


def _kind(event: Fields) -> str:
    return schema.KIND_NAMES.get(event["kind"], f"kind {event['kind']}")


def _direction(detail: int) -> str:
    known = schema.DIRECTIONS
    return known[detail] if detail < len(known) else f"direction {detail}"


def _importer(detail: int) -> str:
    importer = "dynamic" if detail & schema.ATTACH_DYNAMIC else "static"
    return importer + " p2p" if detail & schema.ATTACH_PEER2PEER else importer


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
    "fd_install": lambda event, _: f"fd {event['detail']}",
    "attach": lambda event, names: f"{_device(event, names)}  {_importer(event['detail'])}",
    "detach": _device,
    "map": lambda event, names: f"{_device(event, names)}  {_direction(event['detail'])}",
    "unmap": lambda event, names: f"{_device(event, names)}  {_direction(event['detail'])}",
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
        parts.append(f"FAILED {_error(fields['ret'])}")
    if kind in _TIMED:
        parts.append(f"dur {duration_text(fields['dur'])}")
    return printable("  ".join(parts))


def format_event(event: Event, names: Names, *, origin: int = 0) -> str:
    """One line without a newline; times are seconds since ``origin`` (ns, CLOCK_MONOTONIC)."""
    fields = _fields(event)
    ts = fields["ts"] - origin
    who = f"{names.comm(fields['tid'], fields['ts'])}-{fields['pid']}"
    about = f"buffer {fields['buffer'] or '-'} {_exporter(fields, names)}"
    seconds = f"{ts // 10**9:>6}.{ts % 10**9 // 1000:06}"
    head = f"{seconds}  {printable(who):<20}  {_kind(fields):<{_WIDTH}}"
    return f"{head}  {printable(about)}  {what(fields, names)}".rstrip()


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
        "cpu": fields["cpu"],
        "ret": fields["ret"],
    }
    if fields["ret"] < 0:
        found["error"] = _error(fields["ret"])
    if kind in _TIMED:
        found["dur_ns"] = fields["dur"]
    return found | _json_detail(kind, fields, names)


def _json_detail(kind: str, event: Fields, names: Names) -> dict[str, Any]:
    detail = event["detail"]
    match kind:
        case "export":
            return {"size_bytes": event["value"], "flags": detail, "stack": _stack(event)}
        case "fd_install" | "get":
            return {"fd": detail}
        case "attach":
            device = {**_json_device(event, names), "device_address": f"{event['value']:#x}"}
            bits = {
                "dynamic": bool(detail & schema.ATTACH_DYNAMIC),
                "peer2peer": bool(detail & schema.ATTACH_PEER2PEER),
            }
            return {**device, **bits, "stack": _stack(event)}
        case "detach" | "pin" | "unpin":
            return _json_device(event, names)
        case "kernel_begin" | "kernel_end":
            return {"direction": _direction(detail)}
        case "export_sync_file" | "import_sync_file":
            return {"sync_flags": detail, "sync_file_fd": event["value"]}
        case "map" | "unmap":
            sgt = {"sgt": f"{event['value']:#x}", "direction": _direction(detail)}
            return {**_json_device(event, names), **sgt}
        case "cpu_begin" | "cpu_end":
            return {"sync_flags": detail}
        case "mmap" | "mmap_importer":
            return {"length_bytes": event["value"], "offset_pages": event["aux"]}
        case "set_name":
            return {"name": names.buffer(event["aux"])}
        case _:
            return {}


def _json_device(event: Fields, names: Names) -> dict[str, Any]:
    device = names.device(event["aux"])
    return {"device": device.name, "driver": device.driver, "bus": device.bus}


def _stack(event: Fields) -> int | None:
    return event["stack"] if event["stack"] != schema.UNKNOWN_STACK else None
