# SPDX-License-Identifier: Apache-2.0
"""What the page's script draws over time, as plain data: the level of bytes, and lifetimes.

Texts are as people read them: the script formats no sizes and knows no names.
"""

from __future__ import annotations

import json
from typing import Any, Final

from dmabuf_trace.analysis import records
from dmabuf_trace.page import Page
from dmabuf_trace.render.html.elements import Clock
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, count_text, duration_text

_MARKS: Final = 4
"""On the axis of bytes, at most."""
_ESCAPES: Final = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&"})


def data(page: Page, clock: Clock) -> str:
    """JSON that is safe within a script element, in ASCII."""
    recording = page.report.recording
    first, last = recording.window_ns or (0, recording.duration_ns)
    levels = _levels(page)
    document = {
        "duration": last - first,
        "began_ms": clock.began_ns and clock.began_ns // 10**6,
        "levels": levels,
        "marks": _marks(max((level[2] for level in levels), default=0)),
        "lives": [_life(row) for row in records(page.lifetimes.answer.tables[0].rows)],
    }
    return json.dumps(document, separators=(",", ":")).translate(_ESCAPES)


def _levels(page: Page) -> list[list[Any]]:
    """Time, bytes, the most of them until the next, and what to say there."""
    return [
        [
            *(row[name] for name in ("time_ns", "size_bytes", "peak_bytes")),
            f"{count_text(row['buffers'], 'buffer')}, {bytes_text(row['size_bytes'])} "
            f"(most until the next: {bytes_text(row['peak_bytes'])})",
        ]
        for row in records(page.table("footprint", "timeline").rows)
    ]


def _marks(most: int) -> list[list[Any]]:
    """Round sizes up to the most: bytes and text."""
    step = 1
    while step * _MARKS < most:
        step *= 2
    return [[size, bytes_text(size)] for size in range(0, most + 1, step)] if most else []


def _life(row: dict[str, Any]) -> dict[str, Any]:
    size = "size unknown" if row["size_bytes"] is None else bytes_text(row["size_bytes"])
    name = f' "{row["name"]}"' if row["name"] else ""
    what = f"{row['inode']}{name} {row['exporter'] or 'unknown exporter'} {size}"
    by = f", exported by {row['comm']}-{row['pid']}" if row["comm"] else ""
    age = "" if row["age_ns"] is None else f", {duration_text(row['age_ns'])} old"
    origin = "" if row["origin"] == "exported" else f", origin: {row['origin']}"
    is_older = row["state"] == "alive" and row["origin"] != "exported"
    return {
        "inode": row["inode"],
        "label": printable(what),
        "text": printable(f"buffer {what}{by}{age}: {row['state']}{origin}"),
        "kind": "older" if is_older else row["state"].replace(" ", "-"),
        "from": row["since_ns"],
        "to": row["until_ns"],
    }
