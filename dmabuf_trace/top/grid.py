# SPDX-License-Identifier: Apache-2.0
"""Rows of a listing as lines of exactly so many columns and so many rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dmabuf_trace.analysis import Column
from dmabuf_trace.render.cells import LEFT, cell
from dmabuf_trace.render.table import GAP
from dmabuf_trace.render.text import printable
from dmabuf_trace.top.listing import Row

NARROWEST: Final = 8
"""Cells of a text that is cut short."""
_STEADY: Final = {"rate": 9, "duration": 7, "bytes": 9, "count": 6}
"""Least cells of a kind: columns must not move with every value."""


class Lines(list[Text]):
    """Lines that rich prints below each other."""

    def __rich_console__(self, *_: object) -> Iterator[Text]:
        yield from self


def sparkline(levels: Sequence[float], width: int, *, is_plain: bool) -> str:
    """The last levels, from 0 to the highest of them."""
    marks = " .:-=+*#" if is_plain else " ▁▂▃▄▅▆▇█"
    shown = [*levels][-width:]
    top = max(shown, default=0) or 1
    steps = (min(-int(-level * (len(marks) - 1) // top), len(marks) - 1) for level in shown)
    return "".join(marks[step] for step in steps).rjust(width)


def cut(text: str, width: int, *, is_plain: bool) -> str:
    """A text in exactly so many cells; one that is too long ends with a sign of that."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + ("~" if is_plain else "…")


def fitted(line: Text, width: int) -> Text:
    """A line in exactly so many cells."""
    line = line.copy()
    line.truncate(width, overflow="crop", pad=True)
    return line


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(_STEADY.get(column.kind, 0), *(cell_len(row[at]) for row in cells))
        for at, column in enumerate(columns)
    ]


def table(
    columns: Sequence[Column],
    rows: Sequence[Row],
    width: int,
    *,
    sorted_by: str = "",
    ascending: bool = False,
    chosen: int = -1,
    is_plain: bool = False,
) -> list[Text]:
    """A head and a line a row, in so many cells each.

    Spare columns are left out, the last first, until the rest fits; then texts are cut short.
    """
    sign = ("^" if ascending else "v") if is_plain else ("▲" if ascending else "▼")
    titles = [column.title + sign * (column.name == sorted_by) for column in columns]
    cells = [titles, *([printable(cell(each, row[each.name])) for each in columns] for row in rows)]
    widths = _widths(columns, cells)
    kept = list(range(len(columns)))

    def excess() -> int:
        return sum(widths[at] + GAP for at in kept) - GAP - width

    for at in reversed([at for at in kept if columns[at].spare]):
        if excess() > 0:
            kept.remove(at)
    for at in sorted(kept, key=lambda at: -widths[at]):
        if columns[at].kind == "text" and excess() > 0:
            widths[at] = max(widths[at] - excess(), min(NARROWEST, widths[at]))

    def line(row: Sequence[str], style: str) -> Text:
        shown = (
            cut(row[at], widths[at], is_plain=is_plain)
            if columns[at].kind in LEFT
            else row[at].rjust(widths[at])
            for at in kept
        )
        return fitted(Text((" " * GAP).join(shown), style), width)

    styles = ["dim", *("reverse" if at == chosen else "" for at in range(len(rows)))]
    return [line(row, style) for row, style in zip(cells, styles, strict=True)]


def beside(*columns: Iterable[Text]) -> list[Text]:
    """Lines next to each other."""
    return [Text.assemble(*line) for line in zip(*columns, strict=True)]


def filled(lines: list[Text], width: int, height: int) -> list[Text]:
    """Exactly so many lines, each in so many cells."""
    empty = [Text(" " * width) for _ in range(height - len(lines))]
    return [*(fitted(line, width) for line in lines[:height]), *empty]
