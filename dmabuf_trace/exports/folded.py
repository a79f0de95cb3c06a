# SPDX-License-Identifier: Apache-2.0
"""Folded stacks, for flame graphs: ``frame;frame;frame N`` a line, outermost frame first.

The first frames are the thread's name and the exporter; then the user stack and the kernel stack,
as far as they were recorded. A map ends in its device.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

import pandas as pd

from dmabuf_trace.analysis import records
from dmabuf_trace.errors import InputError
from dmabuf_trace.exports.calls import calls
from dmabuf_trace.exports.facts import read
from dmabuf_trace.extent import Window
from dmabuf_trace.measure import added, joined
from dmabuf_trace.names import UNKNOWN
from dmabuf_trace.render.text import printable
from dmabuf_trace.trace import Trace
from dmabuf_trace.units import count_text

NO_STACK: Final = "(no stack)"
NO_NAME: Final = "(no name)"
UNSEEN: Final = "(export not seen)"
_OFFSET: Final = re.compile(r"\+0x[0-9a-f]+(/0x[0-9a-f]+)?")

_BY: Final = ["comm", "exporter", "user_stack", "stack", "device"]


def _made(stretch: Trace) -> pd.DataFrame:
    buffers = stretch.buffers
    return buffers[buffers["begin"].notna()]


def _alive(stretch: Trace) -> pd.DataFrame:
    buffers = stretch.buffers
    return buffers[buffers["open"]]


def _leaked(stretch: Trace) -> pd.DataFrame:
    buffers = _alive(stretch)
    return buffers[buffers["origin"] != "before"]


def _maps(stretch: Trace) -> pd.DataFrame:
    """Map calls, failed ones too."""
    return calls(stretch, "map")


WEIGHTS: Final[Mapping[str, tuple[Callable[[Trace], pd.DataFrame], str]]] = {
    "leaked-bytes": (_leaked, "size_bytes"),
    "live-bytes": (_alive, "size_bytes"),
    "allocated-bytes": (_made, "size_bytes"),
    "map-time": (_maps, "call_ns"),
}
"""What a line counts: the rows, and their column. Leaked: made in the trace, alive at its end."""


def weight(by: str) -> tuple[Callable[[Trace], pd.DataFrame], str]:
    """See :data:`WEIGHTS`.

    Raises:
        InputError: there is none of that name.
    """
    if by not in WEIGHTS:
        raise InputError(f"--by: no weight {by!a}", f"there are: {', '.join(WEIGHTS)}")
    return WEIGHTS[by]


def write(
    file: IO[bytes], path: Path, window: Window | None, by: str
) -> tuple[Trace, tuple[str, ...]]:
    """Write the lines; the last stretch, and what they lack."""
    rows_of, column = weight(by)
    sums: pd.DataFrame | None = None
    unsized = 0

    def take(stretch: Trace) -> None:
        nonlocal sums, unsized
        rows = rows_of(stretch)
        unsized += int(rows[column].isna().sum())
        rows = rows.assign(device=rows.get("device", ""), weight=rows[column])
        sums = added(sums, rows, _BY, weight="sum")

    last = read(path, window, take)
    lines = Counter[str]()
    for row in records(joined(sums)):
        lines[_line(last, *(row[name] for name in _BY))] += row["weight"] or 0
    for line, total in sorted(lines.items()):
        if total > 0:
            file.write(f"{line} {total}\n".encode())
    sizeless = f"{count_text(unsized, 'buffer')} of unknown size: not in the lines"
    return last, (sizeless,) if unsized else ()


def _line(
    trace: Trace, comm: str | None, exporter: str | None, user: int, kernel: int, device: str
) -> str:
    stacks = (trace.user_stacks.get(user, ()), trace.stacks.get(kernel, ()))
    frames = [_function(frame) for stack in stacks for frame in reversed(stack)]
    root = (UNSEEN if comm is None else comm or NO_NAME, exporter or UNKNOWN)
    names = (*root, *(frames or [NO_STACK]), *([device] if device else []))
    line = ";".join(printable(name).replace(";", "\\x3b") for name in names)
    return f"\\x23{line[1:]}" if line.startswith("#") else line  # no comment


def _function(frame: str) -> str:
    """A frame without its offset, unless that is all there is to tell it from others."""
    return frame if frame.startswith(("/", "[", "0x")) else _OFFSET.sub("", frame, count=1)
