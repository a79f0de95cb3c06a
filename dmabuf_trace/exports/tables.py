# SPDX-License-Identifier: Apache-2.0
"""Tables as files: their rows stretch by stretch, in memory that does not grow with the recording.

Rows come in the order in which they were settled: what is over ahead of what stays open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

import pandas as pd

from dmabuf_trace import progress
from dmabuf_trace.columns import TABLES, TEXT
from dmabuf_trace.errors import InputError
from dmabuf_trace.exports.facts import about, read
from dmabuf_trace.extent import Window
from dmabuf_trace.frames import chosen
from dmabuf_trace.trace import Trace

ALL: Final = "all"
AT_THE_END: Final = ("marks", "probed", "quality")
"""Tables that are whole in the last stretch, and of which others have a part."""

Facts = Callable[[], dict[str, Any]]
Add = Callable[[pd.DataFrame], object]
Opened = Callable[[IO[bytes], pd.DataFrame, str, Facts], AbstractContextManager[Add]]
"""Begins a file for rows such as those of a frame, of a table; within, rows are added."""


def tables_of(table: str) -> tuple[str, ...]:
    """The tables of that name.

    Raises:
        InputError: there is none.
    """
    if table == ALL:
        return tuple(TABLES)
    if table not in TABLES:
        raise InputError(f"--table: no table {table!a}", f"there are: {', '.join(TABLES)}, {ALL}")
    return (table,)


def write(
    opened: Opened, files: Mapping[str, IO[bytes]], path: Path, window: Window | None
) -> Trace:
    """Write each table to its file; the last stretch."""

    @cache
    def facts() -> dict[str, Any]:
        return about(read(path, window, lambda _: None))

    adds: dict[str, Add] = {}
    with ExitStack() as stack:

        def take(stretch: Trace) -> None:
            if any(file.isatty() for file in files.values()):
                progress.over()
            for name, file in files.items():
                frame = rows(stretch, name)
                if name not in adds:
                    adds[name] = stack.enter_context(opened(file, frame, name, facts))
                adds[name](frame)

        return read(path, window, take)


def rows(stretch: Trace, table: str) -> pd.DataFrame:
    """Those that came to be settled in a stretch, with texts that can be encoded."""
    frame: pd.DataFrame = getattr(stretch, table)
    if table in AT_THE_END and not stretch.stretch.is_last:
        frame = frame.head(0)
    texts = [name for name in frame.columns if frame[name].dtype == TEXT]
    return frame.assign(**{name: _encodable(frame[name]) for name in texts})


def _encodable(column: pd.Series[str]) -> pd.Series[str]:
    """Texts as UTF-8 has them: lone surrogates are escaped. There are few different ones."""
    places, distinct = pd.factorize(column)
    few = [text.encode("utf-8", "backslashreplace").decode() for text in distinct]
    return chosen(few, places, places >= 0)
