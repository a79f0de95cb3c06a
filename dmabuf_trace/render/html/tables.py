# SPDX-License-Identifier: Apache-2.0
"""Tables of a result, to be sorted and filtered by the page's script, readable without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from xml.etree import ElementTree as ET

from dmabuf_trace.analysis import Column, Table, records
from dmabuf_trace.render import cells
from dmabuf_trace.render.cells import Row
from dmabuf_trace.render.html.elements import Clock, element, folded
from dmabuf_trace.render.words import stack_text
from dmabuf_trace.units import count_text

MOST: Final = 200
"""Rows of a table."""
_STACKS: Final = 20
_INODES: Final = 20

_EXACT: Final = {"bytes": "bytes", "duration": "ns"}
_AS_TEXT: Final = (*cells.LEFT, *cells.OF_STACKS)


def table_parts(table: Table, clock: Clock, most: int = MOST) -> Iterator[ET.Element]:
    """A table with its title and stacks; nothing if that is its wish."""
    count = len(table.rows)
    if not count:
        if table.empty:
            yield element("p", element("strong", f"{table.title}: "), table.empty)
        return
    rows = records(table.rows.head(most))
    of = f"{count:,}" if len(rows) == count else f"{len(rows):,} of {count:,} shown"
    title = f"{table.title} ({of})"
    yield plain(title, cells.columns(table), rows, clock, id=f"table-{table.name}")
    if len(rows) < count:
        yield element("p", f"{title}: the first ones; report --all --json has all", class_="cut")
    if stacks := list(cells.stacks(table, rows)):
        yield _stacks(stacks)


def plain(
    title: str, columns: list[Column], rows: list[Row], clock: Clock, **attributes: str
) -> ET.Element:
    """A table of these rows."""
    head = (
        element("th", column.title, scope="col", class_=_side(column), data_kind=_sorted(column))
        for column in columns
    )
    body = (
        element("tr", *(_cell(column, row[column.name], clock) for column in columns))
        for row in rows
    )
    shown = element(
        "table",
        element("caption", title),
        element("thead", element("tr", *head)),
        element("tbody", *body),
        **attributes,
    )
    # what scrolls sideways must be within reach of a keyboard
    return element("div", shown, class_="scroll", tabindex=0, role="region", aria_label=title)


def _side(column: Column) -> str:
    return "left" if column.kind in cells.LEFT else "right"


def _sorted(column: Column) -> str:
    return "text" if column.kind in _AS_TEXT else "number"


def _cell(column: Column, value: Any, clock: Clock) -> ET.Element:
    """A number has its exact value beside what people read."""
    shown = cells.cell(column, value)
    if value is None:
        return element("td", shown, class_=f"gap {_side(column)}")
    if column.kind in _AS_TEXT:
        return element("td", shown)
    found = element("td", shown, class_="right", data_value=value)
    if column.kind in _EXACT:
        found.set("title", f"{value:,} {_EXACT[column.kind]}")
    elif column.kind == "time":
        found.set("title", clock.at(value))
    return found


def _stacks(stacks: list[cells.SharedStack]) -> ET.Element:
    """Each distinct stack once, with the buffers that share it."""
    shown = stacks[:_STACKS]
    items = [
        element(
            "li",
            f"{_inodes(each.inodes)} {each.title}: ",
            element("code", stack_text(each.frames)),
        )
        for each in shown
    ]
    more = len(stacks) - len(shown)
    count = count_text(len(stacks), "stack")
    title = f"{count}, {len(shown)} shown" if more else count
    return folded(title, element("ul", *items, class_="stacks"))


def _inodes(inodes: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, inodes[:_INODES]))
    more = len(inodes) - _INODES
    return f"{shown} and {more:,} more:" if more > 0 else f"{shown}:"
