# SPDX-License-Identifier: Apache-2.0
"""An account of a snapshot as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from dmabuf_trace import holders
from dmabuf_trace.accounting import Account, HeldBuffer, Process
from dmabuf_trace.render.table import Grid, Part, line
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, count_text

NOT_OBSERVED: Final = "not observed"


def account_parts(account: Account, limit: int | None = None) -> Iterator[Part]:
    """Processes, totals, buffers; ``limit`` rows of each table."""
    yield line(f"source: {account.source}", "dim")
    if account.processes:
        yield Text()
        yield Text(f"Processes ({len(account.processes):,})", "bold")
        yield _processes(account.processes[:limit])
        yield from _more(len(account.processes), limit)
    yield Text()
    yield from _totals(account)
    if account.buffers:
        yield Text()
        yield Text(f"Buffers ({len(account.buffers):,})", "bold")
        yield _buffers(account.buffers[:limit], certain=account.kernel_only is not None)
        yield from _more(len(account.buffers), limit)


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


def _processes(rows: tuple[Process, ...]) -> Grid:
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


def _buffers(rows: tuple[HeldBuffer, ...], *, certain: bool) -> Grid:
    titles = ["buffer", "size", "exporter", "name", "refs", "held by"]
    nobody = "the kernel only" if certain else "nobody visible"
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
                printable("; ".join(map(holders.text, row.holders)) or nobody),
            ]
            for row in rows
        ],
    )
