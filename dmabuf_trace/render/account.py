# SPDX-License-Identifier: Apache-2.0
"""An account of a snapshot as text for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

from rich.text import Text

from dmabuf_trace import holders
from dmabuf_trace.accounting import Account, Cell, Exporter, HeldBuffer, Process
from dmabuf_trace.render.table import Grid, Part, line
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, count_text

NOT_OBSERVED: Final = "not observed"


def account_parts(account: Account, limit: int | None = None, by: str = "") -> Iterator[Part]:
    """Processes, totals, the grid; ``by`` "process", "exporter" or "buffer": that table alone, and
    totals. ``limit`` rows of each table."""
    yield line(f"source: {account.source}", "dim")
    if by in ("", "process"):
        yield from _section("Processes", account.processes, _processes, limit)
    if by == "exporter":
        yield from _section("Exporters", account.exporters, _exporters, limit)
    if by == "buffer":
        certain = account.kernel_only is not None
        yield from _section("Buffers", account.buffers, partial(_buffers, certain=certain), limit)
    yield Text()
    yield from _totals(account)
    if not by:
        yield from _section("Who holds what", account.buffers, partial(_grid, account), limit)


Row = TypeVar("Row")


def _section(
    title: str, rows: Sequence[Row], grid: Callable[[Sequence[Row]], Grid], limit: int | None
) -> Iterator[Part]:
    if rows:
        yield Text()
        yield Text(f"{title} ({len(rows):,})", "bold")
        yield grid(rows[:limit])
        yield from _more(len(rows), limit)


def _more(count: int, limit: int | None) -> Iterator[Part]:
    if limit is not None and count > limit:
        yield line(f"  and {count - limit:,} more", "dim")


def _totals(account: Account) -> Iterator[Part]:
    yield Text("Totals", "bold")
    unsized = f", and {account.unsized:,} of unknown size" if account.unsized else ""
    yield line(
        f"  held by processes  {bytes_text(account.held_bytes)} "
        f"in {count_text(account.held, 'buffer')}{unsized}"
    )
    yield _total("kernel only", account.kernel_only_bytes, account.kernel_only, _why(account))
    unseen = "sockets could not be looked into"
    yield _total("  in sockets", account.in_flight_bytes, account.in_flight, unseen)
    if account.listed:
        objects, size = account.listed
        mine = (len(account.buffers), sum(buffer.size or 0 for buffer in account.buffers))
        differs = "" if mine == account.listed else ": others than these, as they come and go"
        listed = f"{bytes_text(size)} in {count_text(objects, 'buffer')}{differs}"
        yield line(f"  by bufinfo         {listed}", "yellow" if differs else "")


def _total(what: str, size: int | None, count: int | None, why: str) -> Part:
    if size is None or count is None:
        return line(f"  {what:<18} {NOT_OBSERVED}: {why}", "yellow")
    return line(f"  {what:<18} {bytes_text(size)} in {count_text(count, 'buffer')}")


def _why(account: Account) -> str:
    if not account.complete:
        return "only buffers that a process holds are listed here (--bufinfo lists all)"
    return "not every process could be looked into"


def _size(size: int | None) -> str:
    return "-" if size is None else bytes_text(size)


def _exporters(rows: Sequence[Exporter]) -> Grid:
    titles = ["exporter", "buffers", "size", "held", "held size", "processes"]
    return Grid(
        titles,
        [title == "exporter" for title in titles],
        [False] * len(titles),
        [
            [
                printable("-" if row.name is None else row.name),
                f"{row.buffers:,}",
                bytes_text(row.size) + "+" * bool(row.unsized),
                f"{row.held:,}",
                bytes_text(row.held_bytes),
                f"{row.processes:,}",
            ]
            for row in rows
        ],
    )


def _grid(account: Account, rows: Sequence[HeldBuffer]) -> Grid:
    """Buffers by processes, the largest first: a narrow terminal leaves out the smallest."""
    who = {(process.pid, process.comm): None for process in account.processes}
    cells = [row.cells() for row in rows]
    who |= dict.fromkeys(each for found in cells for each in found)  # those that only have sockets
    has_devices = any(row.devices is not None for row in rows)
    left = ["exporter", "name", "held by", *["devices"] * has_devices]
    titles = ["buffer", "size", *left]
    certain = account.kernel_only is not None
    return Grid(
        [*titles, *(printable(f"{comm}-{pid}") for pid, comm in who)],
        [*(title in left for title in titles), *[False] * len(who)],
        [*(title == "name" for title in titles), *[True] * len(who)],
        [
            [
                str(row.inode),
                _size(row.size),
                printable(row.exporter or "-"),
                printable(row.name or "-"),
                _held_by(row, certain=certain),
                *[_devices(row)] * has_devices,
                *(_cell(found.get(each)) for each in who),
            ]
            for row, found in zip(rows, cells, strict=True)
        ],
    )


def _held_by(row: HeldBuffer, *, certain: bool) -> str:
    if row.processes:
        return count_text(row.processes, "process", "processes")
    return "a socket" if row.holders else _nobody(certain)


def _devices(row: HeldBuffer) -> str:
    return "-" if row.devices is None else printable(", ".join(row.devices)) or "none"


def _nobody(certain: bool) -> str:
    return "the kernel only" if certain else "nobody visible"


def _cell(cell: Cell | None) -> str:
    marks = zip(cell or (), ("f", "m", "q"), strict=False)
    return " ".join(f"{count}{mark}" for count, mark in marks if count)


def _processes(rows: Sequence[Process]) -> Grid:
    titles = ["process", "pid", "RSS", "PSS", "buffers", "fds", "VMAs"]
    return Grid(
        titles,
        [title == "process" for title in titles],
        [title in ("fds", "VMAs") for title in titles],
        [
            [
                printable(row.comm),
                str(row.pid),
                bytes_text(row.rss) + ("+" if row.unsized else ""),
                bytes_text(row.pss) + ("+" if row.unsized else ""),
                f"{row.buffers:,}",
                f"{row.fds:,}",
                f"{row.vmas:,}",
            ]
            for row in rows
        ],
    )


def _buffers(rows: Sequence[HeldBuffer], *, certain: bool) -> Grid:
    titles = ["buffer", "size", "exporter", "name", "refs", "held by"]
    return Grid(
        titles,
        [title in ("exporter", "name", "held by") for title in titles],
        [title in ("refs", "name") for title in titles],
        [
            [
                str(row.inode),
                _size(row.size),
                printable("-" if row.exporter is None else row.exporter),
                printable("-" if row.name is None else row.name),
                "-" if row.references is None else str(row.references),
                printable("; ".join(_holders(row)) or _nobody(certain)),
            ]
            for row in rows
        ],
    )


def _holders(row: HeldBuffer) -> Iterator[str]:
    yield from map(holders.text, row.holders)
    yield from (f"device {device} attached" for device in row.devices or ())
