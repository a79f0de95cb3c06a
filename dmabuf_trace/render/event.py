# SPDX-License-Identifier: Apache-2.0
"""What an event tells, in words. Imports neither pandas nor rich."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dmabuf_trace import schema
from dmabuf_trace.errnos import error_name
from dmabuf_trace.names import Names
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, duration_text

Fields = dict[str, Any]

_POLL: Final = {0x1: "in", 0x2: "pri", 0x4: "out", 0x8: "err", 0x10: "hup"}
"""EPOLL* bits (include/uapi/linux/eventpoll.h), which are those of poll(2)."""


def kind_name(event: Fields) -> str:
    """Of its kind; the number of one that is not known."""
    return schema.KIND_NAMES.get(event["kind"], f"kind {event['kind']}")


def direction(detail: int) -> str:
    """Of a mapping, or of a driver's CPU access."""
    known = schema.DIRECTIONS
    return known[detail] if detail < len(known) else f"direction {detail}"


def _mapping(event: Fields) -> str:
    detail = event["detail"]
    parts = [direction(detail & schema.MAP_DIRECTION)]
    if entries := detail >> schema.MAP_ENTRIES_SHIFT:
        parts.append(f"{entries} {'entries' if entries > 1 else 'entry'}")
    return "  ".join(parts + ["cached"] * bool(detail & schema.MAP_CACHED))


def _by_dup2(event: Fields) -> str:
    return " by dup2" if event["aux"] & schema.FD_DUP2 else ""


def context(detail: int) -> str:
    """In which a buffer was released."""
    known = schema.CONTEXTS
    return known[detail] if detail < len(known) else f"context {detail}"


def operation(detail: int) -> str:
    """Of an exporter."""
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


def _driver(event: Fields, names: Names) -> str:
    device = names.device(event["aux"])
    return "/".join(part for part in (device.bus, device.driver) if part)


def _device(event: Fields, names: Names) -> str:
    driver = _driver(event, names)
    return f"device {names.device(event['aux']).name}" + (f" ({driver})" if driver else "")


def _vma(event: Fields, _: Names) -> str:
    pages = f" from page {event['aux']}" if event["aux"] else ""
    return f"{bytes_text(event['value'])} at {event['object']:#x}{pages}"


_DETAIL: Final[dict[str, Callable[[Fields, Names], str]]] = {
    "fd_install": lambda event, _: f"fd {event['detail']}" + _by_dup2(event),
    "release": lambda event, _: "" if not event["detail"] else f"in {context(event['detail'])}",
    "fork": lambda event, _: f"child {event['detail']}",
    "poll": lambda event, _: f"for {_polled(event['value'])}: {_polled(event['detail'])}",
    "fence_wait": lambda event, _: _fence(event),
    "operation": lambda event, _: operation(event["detail"]),
    "attach": lambda event, _: _importer(event),
    "map": lambda event, _: _mapping(event),
    "unmap": lambda event, _: _mapping(event),
    "cpu_begin": lambda event, _: _sync(event["detail"]),
    "cpu_end": lambda event, _: _sync(event["detail"]),
    "mmap": _vma,
    "mmap_importer": _vma,
    "set_name": lambda event, names: f'"{names.buffer(event["aux"])}"',
    "get": lambda event, _: f"fd {event['detail']}",
    "kernel_begin": lambda event, _: direction(event["detail"]),
    "kernel_end": lambda event, _: direction(event["detail"]),
    "export_sync_file": lambda event, _: f"{_sync(event['detail'])}  {_sync_fd(event)}",
    "import_sync_file": lambda event, _: f"{_sync(event['detail'])}  {_sync_fd(event)}",
}
TIMED: Final = frozenset(kind.name for kind in schema.KINDS if kind.timed)
"""Kinds whose calls have a length."""
_OF_DEVICES: Final = frozenset(schema.DEVICE_KINDS)


def device_name(event: Fields, names: Names) -> str | None:
    """The importer device that an event is about; None: it is about none."""
    return names.device(event["aux"]).name if kind_name(event) in _OF_DEVICES else None


def rest(event: Fields, names: Names) -> str:
    """What is left to tell beside the columns of a line: ``fd 5``, ``static  platform/vivid``."""
    kind = kind_name(event)
    parts = [_DETAIL[kind](event, names)] if kind in _DETAIL else []
    parts += [_driver(event, names)] if kind in _OF_DEVICES else []
    return "  ".join(part for part in parts if part)


def what(event: Fields, names: Names) -> str:
    """All of the kind's own fields: ``fd 5``, ``device vivid-000 ...``; safe to print."""
    kind = kind_name(event)
    parts = [_device(event, names)] if kind in _OF_DEVICES else []
    parts += [bytes_text(event["value"])] if kind == "export" else []
    parts += [_DETAIL[kind](event, names)] if kind in _DETAIL else []
    if event["ret"] < 0:
        parts.append(f"FAILED {error_name(-event['ret'])}")
    if kind in TIMED:
        parts.append(f"dur {duration_text(event['dur'])}")
    return printable("  ".join(part for part in parts if part))
