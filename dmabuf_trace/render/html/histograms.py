# SPDX-License-Identifier: Apache-2.0
"""How long the maps of each device took, in pictures that need no script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from xml.etree import ElementTree as ET

from dmabuf_trace.analysis import Table, records
from dmabuf_trace.render.html.elements import element
from dmabuf_trace.units import count_text, duration_text

_WHO: Final = ("device", "driver", "bus")
_BAR: Final = 28
_HIGH: Final = 110
_BELOW: Final = 24


def histograms(classes: Table, times: Table) -> Iterator[ET.Element]:
    """A picture for each device; ``times`` has its percentiles."""
    mine: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in records(classes.rows):
        mine.setdefault(tuple(row[name] for name in _WHO), []).append(row)
    took = {row["device"]: row for row in records(times.rows)}
    for who, rows in mine.items():
        told = took.get(who[0], {})
        known = (
            f"{name} {duration_text(told[f'map_{name}_ns'])}"
            for name in ("p50", "p95", "p99", "max")
            if told.get(f"map_{name}_ns") is not None
        )
        calls = count_text(sum(row["calls"] for row in rows), "map")
        text = ", ".join((calls, *known))
        name = " ".join(filter(None, who))
        caption = element("figcaption", element("strong", name), f" {text}")
        yield element("figure", caption, _bars(rows, f"{name}: {text}"), class_="histogram")


def _bars(rows: list[dict[str, Any]], label: str) -> ET.Element:
    most = max(row["calls"] for row in rows)
    width, height = _BAR * len(rows) + 40, _HIGH + _BELOW
    parts = [element("line", x1=0, y1=_HIGH, x2=width, y2=_HIGH, class_="axis")]
    for at, row in enumerate(rows):
        tall = _HIGH * 0.94 * row["calls"] / most
        text = f"below {duration_text(row['below_ns'])}: {count_text(row['calls'], 'map')}"
        place = {"x": _BAR * at + 1, "width": _BAR - 2}
        title = element("title", text)
        if row["calls"]:
            tall = max(tall, 1.5)
            parts.append(element("rect", y=_HIGH - tall, height=tall, class_="bar", **place))
        parts.append(element("rect", title, y=0, height=_HIGH, class_="room", **place))
        if at % 2 == 0:
            mark: dict[str, Any] = {"x": _BAR * (at + 1), "y": _HIGH + 16, "class_": "tick"}
            parts.append(element("text", duration_text(row["below_ns"]), **mark))
    size: dict[str, Any] = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    return element("svg", *parts, role="img", aria_label=label, **size)
