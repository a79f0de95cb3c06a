# SPDX-License-Identifier: Apache-2.0
"""The pandas boundary: a recording as tables with names, units and gaps.

The columns are those that :mod:`dmabuf_trace.columns` describes. A gap is NA: *not observed*, which
is neither zero nor empty. Text comes from others and may be hostile: it is escaped where it is
shown, not here. Must not know analyses, rendering or live tracing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmabuf_trace import header, lives, moments, quality, schema
from dmabuf_trace.blocks import SnapshotBlock
from dmabuf_trace.extent import Extent, Window
from dmabuf_trace.header import Probe
from dmabuf_trace.names import Names
from dmabuf_trace.reading import STRETCH_EVENTS, Read, Stretch
from dmabuf_trace.recording import Reader
from dmabuf_trace.source import Source
from dmabuf_trace.tables import Flag, Rows

Structs = NDArray[np.void]
Array = NDArray[Any]

TASK_FILTERS: Final = {"--pid", "--only-command", "--comm"}
"""Options by which an export in the trace may be left out, and its buffer watched later."""


def open(path: Path | str) -> Trace:  # noqa: A001 - dmabuf_trace.open(path), as gzip.open
    """Read a recording.

    Raises:
        InputError: the file is not a recording that this version reads. A recording that was cut
            is read up to its last whole block, see :attr:`Trace.cut`.
    """
    (whole,) = stretches(path, at_once=True)
    return whole


def about(path: Path | str, inode: int) -> Trace:
    """Read a recording, and keep only what is about buffers of an inode number.

    Raises:
        InputError: as :func:`open`.
    """
    (whole,) = stretches(path, at_once=True, inode=inode)
    return whole


def stretches(
    path: Path | str,
    window: Window | None = None,
    *,
    at_once: bool = False,
    inode: int | None = None,
) -> Iterator[Trace]:
    """Read a recording in stretches, or ``at_once``, each as a trace of its own.

    Tables have what was settled in the stretch, see :class:`reading.Stretch`: each row comes up
    once. The last one alone knows what stays open, what was lost and who held what at the end.
    ``window``, ns since the trace began: blocks of events outside are not read, so what began ahead
    of it is as what began ahead of a trace, and its last look at the holders is that at its end. A
    mark behind it tells that the file has all of it, though more may be missing, or still to be
    written. ``inode``: see :func:`about`.

    Raises:
        InputError: as :func:`open`, or the trace has nothing of that time.
    """
    with Reader(Path(path)) as reader:
        extent = Extent(reader, checked=window is None)
        whole, part = extent.whole, extent.part(window) if window else None
        read = Read(part, inode)
        made = partial(Trace, reader, read, whole=whole, part=part)
        for each in map(made, read.stretches(reader, extent, None if at_once else STRETCH_EVENTS)):
            yield each
            del each  # or it is there while the next one is read


class Trace:
    """One recording, its tables made when they are first asked for (:data:`columns.TABLES`)."""

    def __init__(
        self, reader: Reader, read: Read, stretch: Stretch, whole: Window, part: Window | None
    ) -> None:
        self.path = reader.path
        self.header = reader.header
        # a mark behind a window tells that all of it is there
        self.cut = None if read.is_marked_over else reader.cut
        self.start, self.end = part or (whole[0], max(whole))
        self.duration_ns = max(whole) - whole[0]
        self.window_ns = part and (part[0] - whole[0], min(part[1], whole[1]) - whole[0])
        self.stacks = read.stacks
        self.user_stacks = read.user_stacks.stacks
        self.builds = read.builds
        self.losses = read.losses
        self.snapshots = read.snapshots
        self.reason = read.end.reason if read.end else ""
        self.names: Names = read.lifecycle.names
        self.stretch = stretch
        self._read = read
        self._present: dict[str, pd.DataFrame] = {}
        self._going_on: dict[str, pd.DataFrame] = {}

    @property
    def raw(self) -> Structs:
        """Events in the order of the ring."""
        return self.stretch.raw

    @property
    def looks(self) -> tuple[SnapshotBlock, ...]:
        """Looks at the holders, in order."""
        return self.stretch.looks

    @property
    def rows(self) -> Rows:
        """What the tables are made of."""
        return self.stretch.rows

    @cached_property
    def _source(self) -> Source:
        return Source(
            self.stretch,
            self.stretch.rows,
            self.names,
            self.start,
            self.end,
            self.missing,
            not TASK_FILTERS.isdisjoint(self.filters),
            self._read.first_export,
            self._read.probed,
        )

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """The probes that the header lists."""
        return header.probes(self.header)

    @cached_property
    def missing(self) -> dict[str, str]:
        """Event kinds that were not observed, or not all of them, and why."""
        return header.missing(self.header)

    @cached_property
    def filters(self) -> tuple[str, ...]:
        """The options that chose what was recorded; none: everything was."""
        return header.filters(self.header)

    @cached_property
    def lost_events(self) -> int:
        """Events that are missing from the recording."""
        return schema.lost_events(self.losses)

    def window(self, start: int, end: int) -> Trace:
        """What lived or happened from ``start`` until ahead of ``end`` (ns, as in the tables).

        Ids are those of the whole trace, and so are begins and ends: what only partly lies within
        is there as a whole. Events, and what is made of single events, lie within.
        """
        part = copy.copy(self)
        for name, attribute in vars(type(self)).items():
            if isinstance(attribute, cached_property):
                part.__dict__.pop(name, None)
        part.stretch = self.stretch.window(start, end)
        part.start, part.end = max(start, self.start), min(end, self.end)
        part._present, part._going_on = {}, {}
        part.snapshots = {look.when: look for look in part.stretch.looks}
        return part

    @property
    def since(self) -> int:
        """When this stretch began."""
        return self.stretch.since or self.start

    @property
    def until(self) -> int:
        """When this stretch ended."""
        return self.end if self.stretch.is_last else self.stretch.until

    def present(self, table: str) -> pd.DataFrame:
        """As the table, with all that was there at some time in this stretch.

        The flag ``fresh`` tells what came up in it.
        """
        if table not in self._present:
            found = self._there(table)
            is_fresh = found["id"] > self.stretch.before.get(table, 0)
            self._present[table] = found.assign(fresh=is_fresh)
        return self._present[table]

    def _there(self, table: str) -> pd.DataFrame:
        found: pd.DataFrame = getattr(self, table)
        more = self._unsettled(table)
        if len(more):  # few: what is settled is not made anew
            both = pd.concat([found, self._made(table, more)], ignore_index=True)
            order = np.argsort(both["id"].to_numpy(), kind="stable")
            found = both.iloc[order].reset_index(drop=True)
        return found

    def going_on(self, table: str) -> pd.DataFrame:
        """As the table, with what is open when this stretch ends and goes on in the next."""
        if table not in self._going_on:
            rows = self._unsettled(table)
            self._going_on[table] = self._made(table, rows.compress(rows["flags"] & Flag.OPEN != 0))
        return self._going_on[table]

    def _unsettled(self, table: str) -> Structs:
        settled, there = (getattr(rows, table) for rows in (self.rows, self.stretch.present))
        rows: Structs = there.compress(~np.isin(there["id"], settled["id"]))
        return rows

    def _made(self, table: str, rows: Array) -> pd.DataFrame:
        source = replace(self._source, rows=replace(self.rows, **{table: rows}))
        found: pd.DataFrame = getattr(lives, table)(source)
        return found

    def last_calls(self, tids: Array) -> pd.Series[int]:
        """When each of these threads made a call last, but for those made on its way out."""
        return moments.last_calls(self._source, tids)

    def lives_of(self, buffer_ids: pd.Series[int]) -> pd.DataFrame:
        """``begin`` and ``end`` of the buffer of each row, of buffers of earlier stretches too."""
        return lives.of_buffers(self._source, buffer_ids)

    # tables

    @cached_property
    def buffers(self) -> pd.DataFrame:
        """One row per buffer."""
        return lives.buffers(self._source)

    @cached_property
    def attachments(self) -> pd.DataFrame:
        """One row per attachment."""
        return lives.attachments(self._source)

    @cached_property
    def mappings(self) -> pd.DataFrame:
        """One row per mapping."""
        return lives.mappings(self._source)

    @cached_property
    def pins(self) -> pd.DataFrame:
        """One row per pin of an importer."""
        return lives.pins(self._source)

    @cached_property
    def vmaps(self) -> pd.DataFrame:
        """One row per mapping into the kernel."""
        return lives.vmaps(self._source)

    @cached_property
    def cpu_accesses(self) -> pd.DataFrame:
        """One row per bracket of CPU access, of processes and of drivers."""
        return lives.cpu_accesses(self._source)

    @cached_property
    def fds(self) -> pd.DataFrame:
        """One row per fd of a buffer."""
        return lives.fds(self._source)

    @cached_property
    def vmas(self) -> pd.DataFrame:
        """One row per mmap call."""
        return moments.vmas(self._source)

    @cached_property
    def waits(self) -> pd.DataFrame:
        """One row per wait for a reservation lock or a fence."""
        return moments.waits(self._source)

    @cached_property
    def operations(self) -> pd.DataFrame:
        """One row per call of an exporter's function."""
        return moments.operations(self._source)

    @cached_property
    def moves(self) -> pd.DataFrame:
        """One row per move that importers were told of."""
        return moments.moves(self._source)

    @cached_property
    def errors(self) -> pd.DataFrame:
        """One row per call that failed, in order of time."""
        return moments.errors(self._source)

    @cached_property
    def events(self) -> pd.DataFrame:
        """One row per event, in order of time (and of the ring, where times are equal)."""
        return moments.events(self._source)

    def events_of(
        self, *kinds: str, tids: Array | None = None, inodes: Array | None = None
    ) -> pd.DataFrame:
        """As :attr:`events`, of these kinds only: made much faster where they are few.

        With ``tids``, ``inodes``: by these threads, on these buffers alone.
        """
        return moments.events(self._source, *kinds, tids=tids, inodes=inodes)

    @cached_property
    def holders(self) -> pd.DataFrame:
        """One row per fd and VMA of the snapshots."""
        return moments.holders(self._source)

    @cached_property
    def probed(self) -> pd.DataFrame:
        """One row per exporter's function that was found and probed while recording."""
        return moments.probed(self._source)

    @cached_property
    def marks(self) -> pd.DataFrame:
        """One row per moment that somebody named, as the end of each run of the command."""
        return moments.marks(self._source)

    @cached_property
    def quality(self) -> pd.DataFrame:
        """One row per reason to doubt an answer; no rows: nothing is known to be missing."""
        read = self._read
        return quality.frame(
            (
                *quality.losses(self.losses, read.seen),
                *quality.gaps(self.missing, self.cut, read.unreadable, self._no_cgroups),
                *quality.operations(read.probed),
                *quality.differences(read.differences),
                *quality.filters(self.filters, self.snapshots.get("start")),
                *quality.user_stacks(read.user_stacks),
            )
        )

    @property
    def events_read(self) -> int:
        """Events of the recording up to here."""
        return self._read.events

    @property
    def looks_between(self) -> int:
        """Looks at the holders other than at the start and at the end."""
        return self._read.looked["during"]

    @property
    def _no_cgroups(self) -> str:
        return str(self.header.get("no_cgroups") or "")
