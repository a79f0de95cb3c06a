# SPDX-License-Identifier: Apache-2.0
"""Tables of a result -> aligned columns, for a terminal or at full width for anything else.

All foreign text is escaped here and markup is never parsed. Gaps are ``-``, neither zero nor
empty. On a terminal, spare columns are left out until the rest fits, which is said; what still does
not fit is folded, never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TextIO

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dmabuf_trace.analysis import Table, records
from dmabuf_trace.render.cells import LEFT, Row, cell, columns, stacks
from dmabuf_trace.render.text import printable
from dmabuf_trace.render.words import stack_text

GAP: Final = 2
LISTED: Final = 8
"""Titles that are named of columns left out."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells, already safe to print."""

    titles: list[str]
    to_left: list[bool]
    spare: list[bool]
    rows: list[list[str]]

    def _widths(self) -> list[int]:
        lines = [self.titles, *self.rows]
        return [max(cell_len(line[at]) for line in lines) for at in range(len(self.titles))]

    def plain(self) -> str:
        """Every cell at its full width."""
        widths = self._widths()
        return "\n".join(
            "  ".join(map(_padded, line, widths, self.to_left)).rstrip()
            for line in [self.titles, *self.rows]
        )

    def fitted(self, width: int) -> tuple[Grid, list[str]]:
        """Without as many spare columns as it takes, and the titles of those left out."""
        kept = list(range(len(self.titles)))
        spare = [at for at in kept if self.spare[at]]
        widths = self._widths()
        left_out: list[str] = []
        while spare and sum(widths[at] + GAP for at in kept) - GAP > width:
            kept.remove(spare[-1])
            left_out.insert(0, self.titles[spare.pop()])

        def pick(cells: list[Any]) -> list[Any]:
            return [cells[at] for at in kept]

        rows = [pick(row) for row in self.rows]
        return Grid(pick(self.titles), pick(self.to_left), pick(self.spare), rows), left_out

    def folded(self) -> rich.table.Table:
        """Cells folded to the width of a terminal."""
        padding = (0, GAP, 0, 0)
        table = rich.table.Table(box=None, pad_edge=False, padding=padding, header_style="dim")
        for title, to_left in zip(self.titles, self.to_left, strict=True):
            table.add_column(Text(title), justify="left" if to_left else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def _padded(text: str, width: int, to_left: bool) -> str:
    space = " " * (width - cell_len(text))
    return text + space if to_left else space + text


Part = Text | Grid


def write(parts: Iterable[Part], stream: TextIO) -> None:
    """Coloured and folded for a terminal, plain for anything else."""
    if not stream.isatty():
        for part in parts:
            stream.write((part.plain() if isinstance(part, Grid) else part.plain) + "\n")
        return
    console = Console(file=stream, highlight=False, emoji=False, markup=False)
    for part in parts:
        if isinstance(part, Grid):
            fitted, left_out = part.fitted(console.width)
            console.print(fitted.folded())
            if left_out:
                hidden = f"  (too narrow for: {_listed(left_out)}; --json has all)"
                console.print(Text(hidden, "dim"), soft_wrap=True)
        else:
            console.print(part, soft_wrap=True)


def _listed(titles: list[str]) -> str:
    more = f" and {len(titles) - LISTED:,} more" if len(titles) > LISTED else ""
    return ", ".join(titles[:LISTED]) + more


def line(text: str, style: str = "") -> Text:
    """One line of text that may hold foreign names."""
    return Text(printable(text), style=style)


def grid(table: Table, rows: list[Row]) -> Grid:
    """Some rows of a table, without its stacks."""
    shown = columns(table)
    return Grid(
        [column.title for column in shown],
        [column.kind in LEFT for column in shown],
        [column.spare for column in shown],
        [[printable(cell(column, row[column.name])) for column in shown] for row in rows],
    )


def _stacks(table: Table, rows: list[Row]) -> Iterator[Text]:
    """Each distinct stack once, with the buffers that share it."""
    for each in stacks(table, rows):
        inodes = ", ".join(map(str, each.inodes))
        yield line(f"  {inodes} {each.title}: {stack_text(each.frames)}", "dim")


def section(table: Table, limit: int | None = None) -> Iterator[Part]:
    """A table with its title and stacks, ``limit`` rows of it; nothing if that is its wish."""
    count = len(table.rows)
    if not count and not table.empty:
        return
    yield Text()
    if not count:
        yield Text.assemble((f"{table.title}: ", "bold"), table.empty)
        return
    rows = records(table.rows if limit is None else table.rows.head(limit))
    yield Text(f"{table.title} ({count:,})", "bold")
    yield grid(table, rows)
    yield from _stacks(table, rows)
    if count > len(rows):
        yield line(f"  and {count - len(rows):,} more", "dim")
