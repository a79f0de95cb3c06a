# SPDX-License-Identifier: Apache-2.0
"""Rows that the lifecycle makes of events: one numpy dtype per table, and what the flags mean.

Ids count from 1 in the order in which things are first seen, 0 means none; a time of 0 means that
it was not seen. Addresses and inode numbers are attributes. Must not know pandas.

Rows are chosen by ``take()`` and ``compress()`` and joined by :func:`together`, which copy them as
plain bytes: indexing and ``concatenate`` copy structs field by field, which takes 20 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum, IntFlag
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray


class Flag(IntFlag):
    """What is known about a row beside its columns."""

    OPEN = 1
    """Nothing ended it as far as the events go."""
    BEGIN_UNSEEN = 2
    """No event began it: it was there before tracing, or the event was lost."""
    BORN_BEFORE = 4
    """The snapshot at the start of tracing shows it."""
    END_LOST = 8
    """It is over, as its address came up again, but no event ended it."""
    OUTLIVED = 16
    """A mapping or pin that was open when its attachment was detached: nothing can end it now."""
    LOOK_ONLY = 32
    """A look showed it, and no event is about it so far."""


BUFFER_DTYPE: Final = np.dtype(
    [
        ("id", "<i8"),
        ("inode", "<u8"),
        ("address", "<u8"),
        ("begin", "<u8"),
        ("end", "<u8"),
        ("seen", "<u8"),
        ("dur", "<u8"),
        ("size", "<u8"),
        ("exporter", "<u8"),
        ("name", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("stack", "<i4"),
        ("user_stack", "<i4"),
        ("export_flags", "<u4"),
        ("fd_installs", "<u4"),
        ("mmaps", "<u4"),
        ("flags", "<i4"),
    ]
)
"""A buffer from export (``begin``) to release (``end``)."""

ATTACHMENT_DTYPE: Final = np.dtype(
    [
        ("id", "<i8"),
        ("buffer_id", "<i8"),
        ("address", "<u8"),
        ("begin", "<u8"),
        ("end", "<u8"),
        ("seen", "<u8"),
        ("dur", "<u8"),
        ("device", "<u8"),
        ("device_address", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("stack", "<i4"),
        ("user_stack", "<i4"),
        ("importer", "<u4"),
        ("flags", "<i4"),
    ]
)
"""An attachment from attach to detach; ``importer`` has the ATTACH_* bits of the event."""

MAPPING_DTYPE: Final = np.dtype(
    [
        ("id", "<i8"),
        ("buffer_id", "<i8"),
        ("attachment_id", "<i8"),
        ("sgt", "<u8"),
        ("begin", "<u8"),
        ("end", "<u8"),
        ("dur", "<u8"),
        ("device", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("detail", "<u4"),
        ("end_detail", "<u4"),
        ("flags", "<i4"),
    ]
)
"""A mapping from the return of map to the entry of unmap; ``dur`` is the map call's length.

``detail`` and ``end_detail`` are those of the events."""

PIN_DTYPE: Final = np.dtype(
    [
        ("id", "<i8"),
        ("buffer_id", "<i8"),
        ("attachment_id", "<i8"),
        ("begin", "<u8"),
        ("end", "<u8"),
        ("dur", "<u8"),
        ("device", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("flags", "<i4"),
    ]
)
"""A pin that an importer made, from the return of pin to the entry of unpin."""

VMAP_DTYPE: Final = np.dtype(
    [
        ("id", "<i8"),
        ("buffer_id", "<i8"),
        ("begin", "<u8"),
        ("end", "<u8"),
        ("dur", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("flags", "<i4"),
    ]
)
"""A kernel mapping, from the return of vmap to the entry of vunmap."""

ACCESS_DTYPE: Final = np.dtype(
    [
        ("id", "<i8"),
        ("buffer_id", "<i8"),
        ("begin", "<u8"),
        ("end", "<u8"),
        ("dur", "<u8"),
        ("end_dur", "<u8"),
        ("owner", "<u4"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("detail", "<u4"),
        ("end_detail", "<u4"),
        ("by_driver", "<u4"),
        ("flags", "<i4"),
    ]
)
"""A CPU access, from the return of its begin to that of its end, whose own lengths are ``dur`` and
``end_dur``. ``owner`` is the process of one from user space, 0 of a driver's; ``detail`` and
``end_detail`` are those of the events: sync flags, a driver's DMA direction."""


class FdOrigin(IntEnum):
    """How an fd came to be in its table."""

    UNSEEN = 0
    INSTALL = 1
    DUP2 = 2
    FORK = 3


FD_DTYPE: Final = np.dtype(
    [
        ("id", "<i8"),
        ("buffer_id", "<i8"),
        ("file", "<u8"),
        ("table", "<u8"),
        ("begin", "<u8"),
        ("end", "<u8"),
        ("dur", "<u8"),
        ("fd", "<i4"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("end_pid", "<u4"),
        ("stack", "<i4"),
        ("user_stack", "<i4"),
        ("origin", "<i4"),
        ("flags", "<i4"),
    ]
)
"""An fd from its install, or the fork that copied it, to its close. ``pid`` is who installed it or
the child, ``end_pid`` who closed it; ``fd`` -1: not known."""

ERROR_DTYPE: Final = np.dtype(
    [
        ("ts", "<u8"),
        ("dur", "<u8"),
        ("buffer_id", "<i8"),
        ("attachment_id", "<i8"),
        ("name", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("errno", "<i4"),
        ("kind", "<u2"),
        ("cpu", "<u2"),
    ]
)
"""A call that failed; ``name`` is the event's string id: exporter, device or buffer name."""


def empty(dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """No rows."""
    return np.zeros(0, dtype)


def of_kinds(kinds: NDArray[Any], wanted: Sequence[int]) -> NDArray[np.bool_]:
    """As :func:`numpy.isin`, for kinds of events."""
    table = np.zeros(1 << 16, np.bool_)
    table[list(wanted)] = True
    found: NDArray[np.bool_] = table[kinds]
    return found


def among(values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """As :func:`numpy.isin`, for many values of which few differ or are wanted: sorts no more."""
    distinct = np.unique(wanted)
    if not len(distinct):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(distinct, values), len(distinct) - 1)
    found: NDArray[np.bool_] = distinct[at] == values
    return found


def together(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The rows of one or more arrays of one dtype; of one: itself."""
    if len(parts) == 1:
        return parts[0]
    plain = np.dtype((np.void, parts[0].itemsize))
    rows = np.concatenate([part.view(plain) for part in parts])
    return rows.view(parts[0].dtype)


def without(rows: NDArray[Any], few: NDArray[np.int64]) -> NDArray[Any]:
    """The rows but those at a few places, in order: moves what lies behind the first, in place."""
    if not len(few):
        return rows
    behind = rows.view(np.dtype((np.void, rows.itemsize)))[few[0] :]
    is_kept = np.ones(len(behind), np.bool_)
    is_kept[few - few[0]] = False
    behind[: len(behind) - len(few)] = behind.compress(is_kept)
    return rows[: len(rows) - len(few)]


def order_of(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """The stable order by several integer keys, the last one foremost.

    By digits of 16 bits from the lowest on, as only those are sorted in linear time. numpy's own
    way for wider ones also dies by SIGSEGV on an emulated AVX2 (numpy 2.2, QEMU 7.2).
    """
    order = np.arange(len(keys[0]))
    for key in keys:
        rest = (key - key.min(initial=np.iinfo(key.dtype).max)).astype(np.uint64)
        while rest.any():
            order = order[np.argsort(rest.astype(np.uint16)[order], kind="stable")]
            rest >>= np.uint64(16)
    return order


def look_up(keys: NDArray[Any], sorted_ids: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """``values`` at the row whose id is the key; zeros (or "") for a key that has none."""
    return at_places(values, places(keys, sorted_ids))


def at_places(values: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
    """``values`` at these :func:`places`; zero (or "") where that is none."""
    taken: NDArray[Any] = np.append(values, np.zeros(1, values.dtype))[found]
    return taken


def places(keys: NDArray[Any], sorted_ids: NDArray[Any]) -> NDArray[Any]:
    """The row whose id is the key; -1 for a key that has none."""
    if not len(sorted_ids):
        return np.full(len(keys), -1)
    index = np.minimum(np.searchsorted(sorted_ids, keys), len(sorted_ids) - 1)
    return np.where(sorted_ids[index] == keys, index, -1)


@dataclass(frozen=True, slots=True)
class Rows:
    """What one batch of events came to.

    ``event_buffers`` and ``event_attachments`` give, for each event of the batch, the ids of the
    buffer and the attachment that it is about; 0 for none.
    """

    buffers: NDArray[np.void]
    attachments: NDArray[np.void]
    mappings: NDArray[np.void]
    pins: NDArray[np.void]
    vmaps: NDArray[np.void]
    cpu_accesses: NDArray[np.void]
    fds: NDArray[np.void]
    errors: NDArray[np.void]
    event_buffers: NDArray[np.int64]
    event_attachments: NDArray[np.int64]

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """All rows of several batches, each table in the order of its ids, errors as they came."""

        def joined(name: str) -> NDArray[Any]:
            rows = together([getattr(part, name) for part in parts])
            has_ids = "id" in (rows.dtype.names or ())
            return rows.take(order_of(rows["id"])) if has_ids else rows

        return cls(*(joined(each.name) for each in fields(cls)))

    def lives(self) -> Iterator[tuple[str, NDArray[np.void]]]:
        """The tables whose rows have ids, by name."""
        for each in fields(self):
            rows: NDArray[Any] = getattr(self, each.name)
            if "id" in (rows.dtype.names or ()):
                yield each.name, rows

    def with_events(self, of: Self, mine: NDArray[np.bool_]) -> Self:
        """The same tables, about some events of another batch."""
        return replace(
            self,
            event_buffers=of.event_buffers[mine],
            event_attachments=of.event_attachments[mine],
        )

    def with_buffers(self, more: NDArray[np.void]) -> Self:
        """With more buffers."""
        if not len(more):
            return self
        buffers = together([self.buffers, more])
        return replace(self, buffers=buffers.take(np.argsort(buffers["id"], kind="stable")))

    def about(
        self,
        buffers: NDArray[np.int64],
        attachments: NDArray[np.int64],
        events: NDArray[np.bool_],
    ) -> Self:
        """The rows of these buffers, and what goes through these attachments."""

        def of(name: str) -> NDArray[Any]:
            rows: NDArray[Any] = getattr(self, name)
            if name.startswith("event_"):
                return rows[events]
            mine = np.isin(rows["id" if name == "buffers" else "buffer_id"], buffers)
            through = "id" if name == "attachments" else "attachment_id"
            if through in (rows.dtype.names or ()):
                mine |= np.isin(rows[through], attachments)
            kept: NDArray[Any] = rows[mine]
            return kept

        return type(self)(*(of(each.name) for each in fields(self)))

    def window(self, start: int, end: int, inside: NDArray[np.bool_]) -> Self:
        """The rows that lived between two times, or happened then; ``inside`` are those events.

        One whose end is not known may have lived.
        """

        def within(name: str) -> NDArray[Any]:
            rows: NDArray[Any] = getattr(self, name)
            if name.startswith("event_"):
                return rows.compress(inside)
            if "ts" in (rows.dtype.names or ()):
                return rows.compress((rows["ts"] >= start) & (rows["ts"] < end))
            first = rows["seen"] if "seen" in (rows.dtype.names or ()) else rows["begin"]
            return rows.compress((first < end) & ((rows["end"] == 0) | (rows["end"] >= start)))

        return type(self)(*(within(each.name) for each in fields(self)))
