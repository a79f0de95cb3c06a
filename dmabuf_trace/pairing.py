# SPDX-License-Identifier: Apache-2.0
"""Lives of objects that have an identity, batch by batch, without a Python object per event.

Owns the open rows. Each ``feed`` puts the open rows ahead of the batch's events, sorts stably by
object, cuts where one life ends and the next begins, and splits closed rows from open ones. An
end is matched once or not at all: an orphan becomes a row without a begin. Must not know files,
names or pandas.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.brackets import Bools, Ints, Structs, first_of, new_ids, since
from dmabuf_trace.tables import (
    ATTACHMENT_DTYPE,
    BUFFER_DTYPE,
    Flag,
    among,
    empty,
    of_kinds,
    order_of,
    places,
    together,
)

_RELEASED_KEPT: Final = 1 << 16
"""Released inode numbers remembered, so that a slow snapshot can't bring a buffer back to life."""

_K: Final = schema.KIND
_MMAPS: Final = (_K["mmap"], _K["mmap_importer"])
_OF_ATTACHMENT: Final = tuple(
    _K[name] for name in ("attach", "detach", "map", "unmap", "pin", "unpin")
)

_EXPORT_FIELDS: Final = (
    ("begin", "ts"),
    ("dur", "dur"),
    ("address", "object"),
    ("size", "value"),
    ("exporter", "aux"),
    ("export_flags", "detail"),
    ("pid", "pid"),
    ("tid", "tid"),
    ("stack", "stack"),
    ("user_stack", "user_stack"),
)

_ATTACH_FIELDS: Final = (
    ("begin", "ts"),
    ("dur", "dur"),
    ("device_address", "value"),
    ("importer", "detail"),
    ("pid", "pid"),
    ("tid", "tid"),
    ("stack", "stack"),
    ("user_stack", "user_stack"),
)


def _after(mask: Bools) -> Bools:
    """Positions that follow a set one."""
    after = np.zeros(len(mask), np.bool_)
    after[1:] = mask[:-1]
    return after


class _Lives:
    """Open rows and the events of a batch, put in order by object and cut into lives.

    Open rows come first in their object's group; their ``kind`` is 0 and they are not ``done``,
    which events are whose call did not fail. After :meth:`cut`, ``rows`` holds one row per life: a
    copy of the open row that it continues, or zeros.
    """

    def __init__(self, open_rows: Structs, key: str, events: Structs, keys: NDArray[Any]) -> None:
        carried = len(open_rows)
        keys = np.concatenate([open_rows[key], keys])
        order = order_of(keys)
        self.open_rows, self.events = open_rows, events
        self.carried: Bools = order < carried
        self.source: Ints = np.where(self.carried, order, order - carried)
        self.key = keys[order]
        self.kind = np.concatenate([np.zeros(carried, np.uint16), events["kind"]])[order]
        self.done = np.concatenate([np.zeros(carried, np.bool_), events["ret"] >= 0])[order]
        self.first = first_of(self.key)

    def told(self, field: str, where: Bools | Ints) -> NDArray[Any]:
        """A field of some of the events."""
        told: NDArray[Any] = self.events[field][self.source[where]]
        return told

    def cut(self, start: Bools, last_id: int) -> None:
        """Begin a life at each ``start``; new lives get the ids after ``last_id``."""
        self.life: Ints = np.cumsum(start) - 1
        head = np.flatnonzero(start)
        self.fresh: Bools = ~self.carried[head]
        self.head = head[self.fresh]
        carried = self.source[head[~self.fresh]]
        self.rows = np.zeros(len(head), self.open_rows.dtype)
        self.rows[~self.fresh] = self.open_rows.take(carried)
        self.rows["id"][self.fresh] = new_ids(self.source[self.head], last_id)
        for stack in ("stack", "user_stack"):
            self.rows[stack][self.fresh] = schema.UNKNOWN_STACK
        self.rows["flags"][self.fresh] = Flag.BEGIN_UNSEEN
        self.rows["seen"][self.fresh] = self.told("ts", self.head)
        self.replaced: Bools = np.zeros(len(head), np.bool_)
        self.replaced[:-1] = self.key[head[1:]] == self.key[head[:-1]]

    def begin(self, begins: Bools, fields: tuple[tuple[str, str], ...]) -> None:
        """Fill the columns that the beginning event knows; at most one per life."""
        mine = self.life[begins]
        for column, field in fields:
            self.rows[column][mine] = self.told(field, begins)
        self.rows["flags"][mine] = 0

    def end(self, ends: Bools) -> tuple[Structs, Structs]:
        """Close lives at their ``ends`` or where another took their place; (closed, open) rows."""
        self.rows["end"][self.life[ends]] = self.told("ts", ends)
        lost = self.replaced & (self.rows["end"] == 0)
        self.rows["flags"][lost] |= Flag.END_LOST
        over = lost | (self.rows["end"] != 0)
        return self.rows.compress(over), self.rows.compress(~over)

    def of_events(self, column: str) -> Ints:
        """What the row of each of the events has in a column."""
        values = np.zeros(len(self.events), np.int64)
        values[self.source[~self.carried]] = self.rows[column][self.life[~self.carried]]
        return values


class Buffers:
    """Buffers by inode number. A buffer's life ends at its release, as numbers never come again.

    A second export under one number means that the release was lost; an export of a buffer that
    was so far known without one is that buffer's begin.
    """

    def __init__(self) -> None:
        self.open = empty(BUFFER_DTYPE)
        self.released = np.zeros(0, np.uint64)
        self._last_id = 0

    def feed(self, events: Structs) -> tuple[Ints, Structs]:
        touched = np.flatnonzero((events["buffer"] != 0) & ~self._late_parts(events))
        about = events.take(touched)
        lives = _Lives(self.open, "inode", about, about["buffer"])
        released = lives.kind == _K["release"]
        exported = (lives.kind == _K["export"]) & lives.done
        begun = exported.copy()
        begun[lives.carried] = self.open["begin"][lives.source[lives.carried]] != 0
        start = lives.first | _after(released)
        start |= begun & (since(begun.astype(np.int64), start) > 1)
        lives.cut(start, self._last_id)
        rows, life = lives.rows, lives.life

        rows["inode"][lives.fresh] = lives.key[lives.head]
        rows["flags"][life[~lives.carried]] &= ~Flag.LOOK_ONLY
        lives.begin(exported, _EXPORT_FIELDS)
        named = (lives.kind == _K["set_name"]) & lives.done
        rows["name"][life[named]] = lives.told("aux", named)
        installed = lives.kind == _K["fd_install"]
        mapped = of_kinds(lives.kind, _MMAPS) & lives.done
        rows["fd_installs"] += np.bincount(life[installed], minlength=len(rows)).astype(np.uint32)
        rows["mmaps"] += np.bincount(life[mapped], minlength=len(rows)).astype(np.uint32)

        self._last_id += int(lives.fresh.sum())
        closed, self.open = lives.end(released)
        self.released = np.concatenate([self.released, lives.key[released]])[-_RELEASED_KEPT:]
        ids = np.zeros(len(events), np.int64)
        ids[touched] = lives.of_events("id")
        return ids, closed

    def _late_parts(self, events: Structs) -> Bools:
        """Parts of calls that were told after their buffer's release: they begin no life again.

        Where buffers share one reservation lock, a wait for it may end after the release of the one
        that it is told of.
        """
        parts = np.flatnonzero(of_kinds(events["kind"], schema.PARTS))
        buffers = events["buffer"][parts]
        gone = among(buffers, self.released.compress(among(self.released, buffers)))
        released = np.flatnonzero(events["kind"] == _K["release"])
        inodes, first = np.unique(events["buffer"][released], return_index=True)
        if len(inodes):
            at = np.minimum(np.searchsorted(inodes, buffers), len(inodes) - 1)
            gone |= (inodes[at] == buffers) & (released[first[at]] < parts)
        late = np.zeros(len(events), np.bool_)
        late[parts[gone]] = True
        return late

    def feed_found(self, found: Structs) -> None:
        """Take buffers that exist: fill the gaps of open rows, add the others."""
        known = np.isin(found["inode"], self.open["inode"])
        mine, order = found[known], order_of(self.open["inode"])
        at = order[places(mine["inode"], self.open["inode"][order])]
        for column in ("size", "exporter", "name"):
            gaps = self.open[column][at] == 0
            self.open[column][at[gaps]] = mine[column][gaps]
        new = found[~known & ~np.isin(found["inode"], self.released)]
        new["id"] = self._last_id + 1 + np.arange(len(new))
        self._last_id += len(new)
        self.open = together([self.open, new])


class Attachments:
    """Attachments by address, each attach a new one, as the allocator hands addresses out again.

    An attach at the address of an open attachment means that its detach was lost. Any other event
    at an address without an attachment begins one whose attach was not seen.
    """

    def __init__(self) -> None:
        self.open = empty(ATTACHMENT_DTYPE)
        self._last_id = 0

    def feed(self, events: Structs, event_buffers: Ints) -> tuple[Ints, Structs]:
        """Also completes ``event_buffers`` where an event names no buffer but its attachment."""
        touched = np.flatnonzero(
            of_kinds(events["kind"], _OF_ATTACHMENT)
            & (events["object"] != 0)
            & ((events["kind"] != _K["attach"]) | (events["ret"] >= 0))
        )
        about = events.take(touched)
        lives = _Lives(self.open, "address", about, about["object"])
        attached = lives.kind == _K["attach"]
        detached = lives.kind == _K["detach"]
        lives.cut(lives.first | _after(detached) | attached, self._last_id)
        rows, fresh = lives.rows, lives.fresh

        rows["address"][fresh] = lives.key[lives.head]
        rows["device"][fresh] = lives.told("aux", lives.head)
        rows["buffer_id"][fresh] = event_buffers[touched[lives.source[lives.head]]]
        lives.begin(attached, _ATTACH_FIELDS)

        self._last_id += int(fresh.sum())
        closed, self.open = lives.end(detached)
        ids = np.zeros(len(events), np.int64)
        ids[touched] = lives.of_events("id")
        nameless = event_buffers[touched] == 0
        event_buffers[touched[nameless]] = lives.of_events("buffer_id")[nameless]
        return ids, closed
