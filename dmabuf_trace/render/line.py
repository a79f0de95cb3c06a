# SPDX-License-Identifier: Apache-2.0
"""One event as one line of aligned columns, its stacks indented below.

Imports neither pandas nor rich (which is asked for the width of what is not ASCII).

A column is as wide as usual texts need and grows with the longest so far: all that follows is
aligned again. On a terminal, names and what has no column of its own are cut so that a line is one;
nothing is cut elsewhere.
"""

from __future__ import annotations

import os
from typing import Final, Protocol, TextIO

from dmabuf_trace import schema
from dmabuf_trace.errnos import error_name
from dmabuf_trace.lines import Fields, Frames, Seen, Stacks
from dmabuf_trace.names import Names
from dmabuf_trace.render.event import TIMED, device_name, kind_name, rest
from dmabuf_trace.render.jsonl import Json
from dmabuf_trace.render.text import cells, cut, printable
from dmabuf_trace.units import bytes_text, count_text, duration_text

GAP: Final = "  "
NONE: Final = "-"
LEAST: Final = 8
"""Cells that are left of each name on the narrowest terminal."""
DETAILS: Final = 24
"""Cells that are left for what has no column of its own."""

_COLUMNS: Final = {
    "time": 14,
    "cpu": 3,
    "process": 20,
    "event": max(len(kind.name) for kind in schema.KINDS),
    "buffer": 6,
    "exporter": 12,
    "device": 12,
    "size": 8,
    "dur": 7,
    "result": 6,
}
"""Titles, and cells that usual texts need."""
_TO_RIGHT: Final = ("time", "cpu", "buffer", "size", "dur")
_NAMES: Final = ("process", "exporter", "device")
_LABELS: Final = {"stack": "at", "user_stack": "from"}
_INDENT: Final = " " * (_COLUMNS["time"] + len(GAP))
_RETURNING: Final = frozenset(kind.name for kind in schema.KINDS if kind.ret)


class Form(Protocol):
    """How lines are written."""

    def head(self) -> str:
        """What comes ahead of the first."""

    def line(self, seen: Seen, names: Names, stacks: Stacks) -> str:
        """An event, and the frames of the stacks that are wanted of it, with a newline."""

    def gap(self, count: int) -> str:
        """Says that so many events are missing here."""


def form_for(stream: TextIO, *, as_json: bool, origin: int = 0) -> Form:
    """JSON, or aligned lines: as wide as the terminal, if it is one."""
    if as_json:
        return Json()
    width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    return Aligned(width or None, origin)


class Aligned:
    """Makes lines; ``width`` is a terminal's, None: it is none.

    Times are seconds since ``origin`` (ns, CLOCK_MONOTONIC).
    """

    def __init__(self, width: int | None = None, origin: int = 0) -> None:
        self._origin = origin
        self._widths = dict(_COLUMNS)
        self._width = width
        self._most: int | None = None
        if width is not None:
            others = sum(_COLUMNS[title] for title in _COLUMNS if title not in _NAMES)
            left = width - others - len(GAP) * len(_COLUMNS) - DETAILS
            self._most = max(left // len(_NAMES), LEAST)
            for title in _NAMES:
                self._widths[title] = min(self._widths[title], self._most)

    def head(self) -> str:
        """The titles."""
        return self._row({title: title for title in _COLUMNS}, "")

    def line(self, seen: Seen, names: Names, stacks: Stacks) -> str:
        """The event, and below it a line for each frame."""
        line = self._row(self._cells(seen, names), printable(rest(seen.event, names)))
        return line + "".join(_frames(*stack) for stack in stacks.of(seen.event).items())

    def gap(self, count: int) -> str:
        """A line among the others."""
        return f"{_INDENT}{count_text(count, 'event')} not shown: the reader is too slow\n"

    def _cells(self, seen: Seen, names: Names) -> dict[str, str]:
        event = seen.event
        kind = kind_name(event)
        return {
            "time": f"{(event['ts'] - self._origin) / 1e9:.6f}",
            "cpu": str(event["cpu"]),
            "process": self._name(f"{seen.comm}-{event['pid']}"),
            "event": kind,
            "buffer": str(event["buffer"] or NONE),
            "exporter": self._name(seen.exporter),
            "device": self._name(device_name(event, names)),
            "size": NONE if seen.size is None else bytes_text(seen.size),
            "dur": duration_text(event["dur"]) if kind in TIMED else NONE,
            "result": _result(event, kind),
        }

    def _name(self, text: str | None) -> str:
        if text is None:
            return NONE
        return printable(text) if self._most is None else cut(printable(text), self._most)

    def _row(self, texts: dict[str, str], details: str) -> str:
        parts = []
        for title, text in texts.items():
            width = cells(text)
            self._widths[title] = max(self._widths[title], width)
            space = " " * (self._widths[title] - width)
            parts.append(space + text if title in _TO_RIGHT else text + space)
        room = self._width - cells(GAP.join([*parts, ""])) if self._width else 0
        details = cut(details, room) if room >= LEAST else details
        return GAP.join([*parts, details]).rstrip() + "\n"


def _result(event: Fields, kind: str) -> str:
    if event["ret"] < 0:
        return error_name(-event["ret"])
    return "ok" if kind in _RETURNING else NONE


def _frames(name: str, frames: Frames) -> str:
    labels = (_LABELS[name], *[""] * len(frames or ()))
    return "".join(
        f"{_INDENT}{label:<4} {printable(frame)}\n"
        for label, frame in zip(labels, frames or (), strict=False)
    )
