# SPDX-License-Identifier: Apache-2.0
"""Pairing: events become buffers, attachments, mappings and errors.

Owns identity: every buffer, attachment and mapping gets one id here. :meth:`Lifecycle.feed` takes
events in ring order, in batches of any size; the same code serves a live batch and a block of a
file, and what is still open is all that it keeps. Must not know pandas or terminals.

Order: the ring hands out records in the order in which they were reserved. An object's end is
recorded at the entry of the ending call, its begin at the return of the beginning one, and an
address is used again only between the two, so ring order is the causal order of the events of one
object. Pairing relies on that order alone; ``ts``, stamped just before on some processor, is an
attribute and may be off by microseconds between processors without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import SnapshotBlock
from dmabuf_trace.brackets import Accesses, Mappings, Pins, Vmaps
from dmabuf_trace.fds import Fds
from dmabuf_trace.names import Names
from dmabuf_trace.pairing import Attachments, Buffers
from dmabuf_trace.tables import BUFFER_DTYPE, ERROR_DTYPE, Flag, Rows, empty

Structs = NDArray[np.void]

_NAMING: Final = tuple(schema.KIND[name] for name in ("export", "attach", "map", "set_name"))
"""Kinds whose ``aux`` is a string id when they fail."""


class Lifecycle:
    """Pairs one trace; ``names`` resolves the string ids in its rows."""

    def __init__(self) -> None:
        self.names = Names()
        self._buffers = Buffers()
        self._attachments = Attachments()
        self._mappings = Mappings()
        self._pins = Pins()
        self._vmaps = Vmaps()
        self._accesses = Accesses()
        self._fds = Fds()
        self._unwatched = empty(BUFFER_DTYPE)

    def feed(self, events: Structs) -> Rows:
        """Take a batch of events in ring order; return the rows that it closed.

        ``events`` has :data:`schema.EVENT_DTYPE`. A row is returned once, when nothing can change
        it any more.
        """
        self._watch(events)
        event_buffers, buffers = self._buffers.feed(events)
        event_attachments, attachments = self._attachments.feed(events, event_buffers)
        of_attachments = (events, event_buffers, event_attachments, attachments)
        return Rows(
            buffers,
            attachments,
            self._mappings.feed(*of_attachments),
            self._pins.feed(*of_attachments),
            self._vmaps.feed(events, event_buffers),
            self._accesses.feed(events, event_buffers),
            self._fds.feed(events, event_buffers),
            _errors(events, event_buffers, event_attachments),
            event_buffers,
            event_attachments,
        )

    def feed_names(self, names: Structs) -> None:
        """Take a batch of names; ``names`` has :data:`schema.NAME_DTYPE`."""
        self.names.feed(names)

    def feed_snapshot(self, snapshot: SnapshotBlock) -> None:
        """Take the buffers that a look showed: they fill gaps, or begin rows of their own.

        One that is not watched begins a row with its first event.
        """
        found = self._found(snapshot)
        watched = np.array([buffer.watched for buffer in snapshot.buffers], np.bool_)
        self._buffers.feed_found(found[watched])
        self._unwatched = np.concatenate([self._unwatched, found[~watched]])

    def feed_known(self, snapshot: SnapshotBlock) -> None:
        """Take the buffers of a look ahead of a window: each begins a row with its first event."""
        found = self._found(snapshot)
        found["flags"] |= Flag.BORN_BEFORE
        self._unwatched = found

    def _found(self, snapshot: SnapshotBlock) -> Structs:
        """Rows without a begin, of the buffers that a look showed."""
        buffers = snapshot.buffers
        found = np.zeros(len(buffers), BUFFER_DTYPE)
        names = self.names
        exporters = _each_once(names.intern_exporter, (buffer.exporter for buffer in buffers))
        texts = _each_once(names.intern_buffer, (buffer.name for buffer in buffers))
        found["inode"] = [buffer.buffer for buffer in buffers]
        found["size"] = [buffer.size for buffer in buffers]
        found["exporter"] = [exporters[buffer.exporter] for buffer in buffers]
        found["name"] = [texts[buffer.name] for buffer in buffers]
        found["seen"] = snapshot.ts
        found["stack"] = found["user_stack"] = schema.UNKNOWN_STACK
        found["flags"] = Flag.BEGIN_UNSEEN | Flag.LOOK_ONLY
        if snapshot.when == "start":
            found["flags"] |= Flag.BORN_BEFORE
        return found

    def _watch(self, events: Structs) -> None:
        """Add the buffers that filters left aside until now, and that these events are about."""
        if len(self._unwatched):
            now = np.isin(self._unwatched["inode"], events["buffer"])
            self._buffers.feed_found(self._unwatched[now])
            self._unwatched = self._unwatched[~now]

    def known(self) -> NDArray[np.uint64]:
        """Inode numbers that events told of: those that are open, or released not long ago."""
        opened = self._buffers.open
        told = opened["inode"][opened["flags"] & Flag.LOOK_ONLY == 0]
        return np.concatenate([told, self._buffers.released])

    @property
    def open_buffers(self) -> Structs:
        """Rows of the buffers that are open now; not to be changed."""
        return self._buffers.open

    def finish(self) -> Rows:
        """The rows that are open now; may be asked for at any time and changes nothing."""
        none = np.zeros(0, np.int64)
        return Rows(
            _opened(self._buffers.open),
            _opened(self._attachments.open),
            _opened(self._mappings.open),
            _opened(self._pins.open),
            _opened(self._vmaps.open),
            _opened(self._accesses.open),
            _opened(self._fds.open),
            empty(ERROR_DTYPE),
            none,
            none,
        )


def _each_once(make: Callable[[str], int], texts: Iterable[str]) -> dict[str, int]:
    """What is made of each different text."""
    return {text: make(text) for text in dict.fromkeys(texts)}


def _opened(rows: Structs) -> Structs:
    rows = rows.copy()
    rows["flags"] |= Flag.OPEN
    return rows


def _errors(
    events: Structs, event_buffers: NDArray[np.int64], event_attachments: NDArray[np.int64]
) -> Structs:
    failed = np.flatnonzero(events["ret"] < 0)
    failed = failed[~np.isin(events["kind"][failed], schema.PARTS)]
    rows = np.zeros(len(failed), ERROR_DTYPE)
    for column in ("ts", "dur", "pid", "tid", "kind", "cpu"):
        rows[column] = events[column][failed]
    rows["errno"] = -events["ret"][failed]
    named = np.isin(events["kind"][failed], _NAMING)
    rows["name"] = np.where(named, events["aux"][failed], 0)
    rows["buffer_id"] = event_buffers[failed]
    rows["attachment_id"] = event_attachments[failed]
    return rows
