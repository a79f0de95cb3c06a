# SPDX-License-Identifier: Apache-2.0
"""Values of a table as text, the same in every output for people. Nothing here is escaped yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from dmabuf_trace import holders
from dmabuf_trace.analysis import Column, Table
from dmabuf_trace.units import bytes_text, duration_text, rate_text, ratio_text

Row = dict[str, Any]

OF_STACKS: Final = ("stack", "stacks")
LEFT: Final = ("text", "holders", "flag")
"""Kinds of columns that are set from the left."""


def cell(column: Column, value: Any) -> str:
    """A value; a gap is ``-``, neither zero nor empty."""
    if value is None:
        return "-"
    match column.kind:
        case "holders":
            return "; ".join(map(holders.text, value)) or "nobody visible"
        case "bytes":
            return bytes_text(value)
        case "duration":
            return duration_text(value)
        case "time":
            return f"+{value / 1e9:.6f}s"
        case "share":
            return f"{value:.2%}"
        case "rate":
            return rate_text(value)
        case "ratio":
            return ratio_text(value)
        case "count":
            return f"{value:,}"
        case "flag":
            return "yes" if value else "no"
        case _:
            return str(value)


def columns(table: Table) -> list[Column]:
    """Those of a table but its stacks."""
    return [column for column in table.columns if column.kind not in OF_STACKS]


@dataclass(frozen=True, slots=True)
class SharedStack:
    """A stack, innermost first, and the buffers that share it."""

    title: str
    frames: tuple[str, ...]
    inodes: tuple[int, ...]


def stacks(table: Table, rows: list[Row]) -> Iterator[SharedStack]:
    """Each distinct stack of a column once."""
    for column in table.columns:
        if column.kind in OF_STACKS:
            shared: dict[tuple[str, ...], list[int]] = {}
            for row in rows:
                value = row[column.name] or []
                for frames in value if column.kind == "stacks" else [value]:
                    if frames:
                        shared.setdefault(tuple(frames), []).append(row["inode"])
            for frames, inodes in shared.items():
                yield SharedStack(column.title, frames, tuple(inodes))
