# SPDX-License-Identifier: Apache-2.0
"""Tables as CSV and as JSON lines.

CSV: texts are quoted, all else is not, so that a gap (nothing) is not an empty text (``""``).
What a terminal or a spreadsheet would act on is escaped in texts, as ``\\x1b``. JSON lines: an
object a line, gaps are null, texts exact, nothing but ASCII.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

import pandas as pd
from pandas.api.types import is_bool_dtype

from dmabuf_trace.columns import TEXT
from dmabuf_trace.render.text import printable

if TYPE_CHECKING:
    from dmabuf_trace.exports.tables import Add, Facts

ROWS: Final = 1 << 15
"""Put into text at once."""

_TRUTHS: Final = {False: "false", True: "true"}
_FORMULA: Final = ("=", "+", "-", "@")
"""With these a spreadsheet begins to compute."""


Line = Callable[[tuple[str, ...]], str]


@contextmanager
def csv(file: IO[bytes], first: pd.DataFrame, _table: str, _facts: Facts) -> Iterator[Add]:
    """A line of names, then one per row."""

    def line(cells: tuple[str, ...]) -> str:
        return ",".join(cells) + "\n"

    file.write(line(tuple(first.columns)).encode())
    yield lambda frame: _write(file, frame, _quoted, "", line)


@contextmanager
def jsonl(file: IO[bytes], first: pd.DataFrame, _table: str, _facts: Facts) -> Iterator[Add]:
    """An object per row."""
    template = "{" + ", ".join(f"{json.dumps(name)}: %s" for name in first.columns) + "}\n"
    yield lambda frame: _write(file, frame, json.dumps, "null", template.__mod__)


def _write(
    file: IO[bytes], frame: pd.DataFrame, text: Callable[[str], str], gap: str, line: Line
) -> None:
    """A line per row; its cells are as ``text`` and ``gap`` write them."""
    for start in range(0, len(frame), ROWS):
        part = frame.iloc[start : start + ROWS]
        cells = [_cells(part[name], text, gap) for name in part.columns]
        file.write("".join(map(line, zip(*cells, strict=True))).encode())


def _cells(column: pd.Series[Any], text: Callable[[str], str], gap: str) -> list[str]:
    """Each value in words; a text is put into them once."""
    if column.dtype == TEXT:
        places, distinct = pd.factorize(column)
        known = [*map(text, distinct), gap]
        return [known[place] for place in places.tolist()]
    plain = _TRUTHS.__getitem__ if is_bool_dtype(column.dtype) else str
    return [gap if value is pd.NA else plain(value) for value in column.tolist()]


def _quoted(text: str) -> str:
    safe = printable(text)
    if safe.startswith(_FORMULA):
        safe = f"\\x{ord(safe[0]):02x}{safe[1:]}"
    return '"' + safe.replace('"', '""') + '"'
