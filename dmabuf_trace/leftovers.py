# SPDX-License-Identifier: Apache-2.0
"""What this process and its children leave behind, span by span, from a recorder beside them.

Must not know pytest. Importing this loads numpy; pandas comes with the first question that needs
rows.
"""

from __future__ import annotations

import gc
import io
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.errors import InputError
from dmabuf_trace.limits import Limit
from dmabuf_trace.remote import RemoteRecorder
from dmabuf_trace.tail import Tail

if TYPE_CHECKING:
    from dmabuf_trace.analysis import Table
    from dmabuf_trace.trace import Trace

PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.33)
"""Seconds between asking once more: the kernel defers some releases."""

Structs = NDArray[np.void]
Row = dict[str, Any]


@dataclass(slots=True)
class Span:
    """A time from ``since`` on (ns, CLOCK_MONOTONIC); what was made in those ``apart`` is none of
    it. ``lost`` events were so ahead of it."""

    since: int
    lost: int
    apart: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Left:
    """What a span left by ``until``; of the events in it ``lost`` are missing.

    ``table`` has a row for each buffer that counts, as of the analysis ``leaks``; None: so few that
    nobody looked. ``notes`` say what could not be seen.
    """

    until: int
    lost: int
    table: Table | None = None
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Of the buffers that count, bytes."""
        return [] if self.table is None else self.table.rows["size_bytes"].fillna(0).tolist()

    @property
    def rows(self) -> list[Row]:
        """The buffers that count, as plain values."""
        from dmabuf_trace.analysis import records

        return [] if self.table is None else records(self.table.rows)

    @property
    def text(self) -> str:
        """The same for people, with holders, stacks and notes."""
        from dmabuf_trace.render.table import line, section, write

        stream = io.StringIO()
        if self.table is not None:
            write((*section(self.table), *map(line, self.notes)), stream)
        return stream.getvalue().strip("\n")


class Leftovers:
    """Records into ``path`` what this process and its children do, until :meth:`close`.

    Raises:
        RecorderError: that can't be recorded; so does every method once it ends.
    """

    def __init__(self, path: Path, options: Sequence[str] = ()) -> None:
        self._recorder = RemoteRecorder(path, ["--pid", str(os.getpid()), *options])
        self._tail = Tail(path)
        self._tail.advance()
        self.path = path

    @property
    def exports(self) -> int:
        """Buffers exported so far."""
        return self._tail.exports

    @property
    def lost(self) -> int:
        """Events lost so far."""
        return schema.lost_events(self._tail.losses)

    def begin(self) -> Span:
        """A span from now on."""
        return Span(time.monotonic_ns(), self.lost)

    def left(self, span: Span, label: str, limit: Limit) -> Left:
        """What is left of a span, asked for at most a second if it is more than ``limit``.

        Objects of this process that nothing refers to are collected first.
        """
        until = self._ask(label)
        found = self._still_there(span)
        for pause in PAUSES:
            if limit.allows(len(found), int(found["size"].sum())):
                return Left(until, self.lost - span.lost)
            gc.collect()
            time.sleep(pause)
            until = self._ask(label)
            found = self._still_there(span)
        lost = self.lost - span.lost
        if not len(found):
            return Left(until, lost)
        return Left(until, lost, *self._judged(span, until, found, limit))

    def window(self, span: Span, label: str) -> Trace:
        """A span up to now, as a trace."""
        until = self._ask(label)
        self._recorder.write_stacks()
        return self._read(span, until)

    def close(self) -> None:
        """End the recording; afterwards the file is whole."""
        try:
            self._recorder.close()
        finally:
            with suppress(InputError):
                self._tail.advance()
            self._tail.close()

    def _ask(self, label: str) -> int:
        until = self._recorder.mark(label)
        self._tail.advance()
        return until

    def _still_there(self, span: Span) -> Structs:
        found = self._tail.exported_since(span.since)
        begun = found["begin"].astype(np.int64)
        mine = np.ones(len(found), np.bool_)
        for since, until in span.apart:
            mine &= (begun < since) | (begun > until)
        return found.compress(mine)

    def _read(self, span: Span, until: int) -> Trace:
        from dmabuf_trace.trace import stretches

        start = self._tail.start
        (part,) = stretches(self.path, (span.since - start, until - start), at_once=True)
        return part

    def _judged(
        self, span: Span, until: int, found: Structs, limit: Limit
    ) -> tuple[Table, tuple[str, ...]]:
        """Of what was found, a table of the buffers that count, and notes."""
        from dmabuf_trace.analysis import records, registry

        self._recorder.write_stacks()
        result = registry()["leaks"](self._read(span, until))
        table = next(table for table in result.answer.tables if table.name == "leaks")
        rows = table.rows[table.rows["inode"].isin(found["inode"].tolist())]
        counts = [limit.concerns(row["shape"], row["exporter"]) for row in records(rows)]
        notes = (*result.answer.notes, *result.doubts)
        return replace(table, rows=rows[counts].reset_index(drop=True)), notes
