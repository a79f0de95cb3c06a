# SPDX-License-Identifier: Apache-2.0
"""Begins and ends that only a count keeps apart: mappings, pins, vmaps, CPU accesses.

Several of one key may be open at once, and nothing says which of them an end means: the n-th end is
taken for that of the n-th begin. An end that finds none open is a row without a begin. Must not
know files, names or pandas.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.tables import (
    ACCESS_DTYPE,
    MAPPING_DTYPE,
    PIN_DTYPE,
    VMAP_DTYPE,
    Flag,
    empty,
    order_of,
    together,
)

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Structs = NDArray[np.void]
Fields = tuple[tuple[str, str], ...]

_K: Final = schema.KIND
CALLER: Final[Fields] = (("begin", "ts"), ("dur", "dur"), ("pid", "pid"), ("tid", "tid"))
_MAP_FIELDS: Final[Fields] = (
    *CALLER,
    ("sgt", "value"),
    ("device", "aux"),
    ("detail", "detail"),
)
_PIN_FIELDS: Final[Fields] = (*CALLER, ("device", "aux"))
_ACCESS_FIELDS: Final[Fields] = (*CALLER, ("detail", "detail"))
_ACCESS_ENDS: Final = (_K["cpu_end"], _K["kernel_end"])
_BY_DRIVERS: Final = (_K["kernel_begin"], _K["kernel_end"])


def first_of(key: NDArray[Any]) -> Bools:
    """Where a run of equal keys begins."""
    first = np.ones(len(key), np.bool_)
    first[1:] = key[1:] != key[:-1]
    return first


def since(counts: Ints, start: Bools) -> Ints:
    """Running sum of ``counts`` that begins anew at each ``start`` (which must include 0)."""
    total = np.cumsum(counts)
    base = (total - counts)[start]
    return np.asarray(total - base[np.cumsum(start) - 1])


def new_ids(sources: Ints, last_id: int) -> Ints:
    """Ids after ``last_id``, in the order of the events that first showed the rows."""
    ids = np.empty(len(sources), np.int64)
    ids[np.argsort(sources)] = last_id + 1 + np.arange(len(sources))
    return ids


class Brackets:
    """Open rows of one table, found again by ``keys``.

    ``end_fields`` are columns that the end fills, with the column of a row made of its event that
    they come from.
    """

    def __init__(self, dtype: np.dtype[np.void], keys: tuple[str, ...], end_fields: Fields) -> None:
        self.open = empty(dtype)
        self._keys = keys
        self._end_fields = (("end", "begin"), *end_fields)
        self._last_id = 0

    def _made(self, events: Structs, fields: Fields) -> Structs:
        """A row per event, begin or end."""
        rows = np.zeros(len(events), self.open.dtype)
        for column, field in fields:
            rows[column] = events[field]
        return rows

    def _pair(self, new: Structs, ups: Bools) -> Structs:
        """Match the ends among new rows; all rows, the carried ones too, by id."""
        rows = together([self.open, new])
        order = order_of(*(rows[key] for key in self._keys))
        rows = rows.take(order)
        up = np.concatenate([np.ones(len(self.open), np.bool_), ups])[order]
        start = np.zeros(len(rows), np.bool_)
        for key in self._keys:
            start |= first_of(rows[key])
        orphan = _orphans(up, start)
        down = ~up & ~orphan
        matched = _match(up, down, start)
        for column, source in self._end_fields:
            rows[column][matched] = rows[source][down]
            rows[column][orphan] = rows[source][orphan]
        for column in {source for _, source in self._end_fields} | {"begin", "dur"}:
            rows[column][orphan] = 0
        rows["flags"][orphan] = Flag.BEGIN_UNSEEN
        fresh = (rows["id"] == 0) & ~down
        rows["id"][fresh] = new_ids(order[fresh], self._last_id)
        self._last_id += int(fresh.sum())
        rows = rows.compress(~down)
        return rows.take(order_of(rows["id"]))

    def _close(self, new: Structs, ups: Bools) -> Structs:
        """Match the ends among new rows and carry what has none; the rows that are over."""
        rows = self._pair(new, ups)
        return self._settle(rows, rows["end"] != 0)

    def _settle(self, rows: Structs, over: Bools) -> Structs:
        """Carry what is open; the rows that are over."""
        self.open = rows.compress(~over)
        return rows.compress(over)


class _ThroughAttachments(Brackets):
    """What importers do through an attachment, and what ends with it."""

    def __init__(
        self,
        dtype: np.dtype[np.void],
        keys: tuple[str, ...],
        kinds: tuple[str, str],
        fields: Fields,
        end_fields: Fields = (),
    ) -> None:
        super().__init__(dtype, keys, end_fields)
        self._begin, self._end = (_K[kind] for kind in kinds)
        self._fields = fields

    def feed(self, events: Structs, buffers: Ints, attachments: Ints, ended: Structs) -> Structs:
        """``ended`` are the attachments that this batch closed: what is open closes with them."""
        begins = (events["kind"] == self._begin) & (events["ret"] >= 0)
        touched = np.flatnonzero((begins | (events["kind"] == self._end)) & (attachments != 0))
        new = self._made(events.take(touched), self._fields)
        new["buffer_id"], new["attachment_id"] = buffers[touched], attachments[touched]
        rows = self._pair(new, begins[touched])
        is_open = rows["end"] == 0
        lost = ended["id"][ended["flags"] & Flag.END_LOST != 0]
        with_lost = is_open & np.isin(rows["attachment_id"], lost)
        outlived = is_open & np.isin(rows["attachment_id"], ended["id"]) & ~with_lost
        rows["flags"][with_lost] |= Flag.END_LOST
        rows["flags"][outlived] |= Flag.OUTLIVED | Flag.OPEN
        return self._settle(rows, ~is_open | with_lost | outlived)


class Mappings(_ThroughAttachments):
    """Mappings by attachment and sg_table.

    An exporter may hand the same sg_table out again while it is mapped (cached, up to 6.15), so
    mappings of one key are counted.
    """

    def __init__(self) -> None:
        ends = (("end_detail", "detail"),)
        keys = ("sgt", "attachment_id")
        super().__init__(MAPPING_DTYPE, keys, ("map", "unmap"), _MAP_FIELDS, ends)


class Pins(_ThroughAttachments):
    """Pins that importers made, by attachment; those of one attachment are counted."""

    def __init__(self) -> None:
        super().__init__(PIN_DTYPE, ("attachment_id",), ("pin", "unpin"), _PIN_FIELDS)


class Vmaps(Brackets):
    """Kernel mappings, by buffer: the core counts them."""

    def __init__(self) -> None:
        super().__init__(VMAP_DTYPE, ("buffer_id",), ())

    def feed(self, events: Structs, buffers: Ints) -> Structs:
        vmaps = (events["kind"] == _K["vmap"]) & (events["ret"] >= 0)
        touched = np.flatnonzero((vmaps | (events["kind"] == _K["vunmap"])) & (buffers != 0))
        new = self._made(events.take(touched), CALLER)
        new["buffer_id"] = buffers[touched]
        return self._close(new, vmaps[touched])


class Accesses(Brackets):
    """CPU accesses: those of user space by buffer and process, those of drivers by buffer."""

    def __init__(self) -> None:
        ends = (("end_dur", "dur"), ("end_detail", "detail"))
        super().__init__(ACCESS_DTYPE, ("owner", "by_driver", "buffer_id"), ends)

    def feed(self, events: Structs, buffers: Ints) -> Structs:
        kind, done = events["kind"], (events["ret"] >= 0) & (buffers != 0)
        begins = np.isin(kind, (_K["cpu_begin"], _K["kernel_begin"]))
        touched = np.flatnonzero(done & (begins | np.isin(kind, _ACCESS_ENDS)))
        about = events.take(touched)
        new = self._made(about, _ACCESS_FIELDS)
        new["buffer_id"] = buffers[touched]
        new["by_driver"] = np.isin(about["kind"], _BY_DRIVERS)
        new["owner"] = np.where(new["by_driver"], 0, about["pid"])
        return self._close(new, begins[touched])


def _orphans(up: Bools, start: Bools) -> Bools:
    """Downs that find a count of 0: those at which the running sum reaches a new low below 0."""
    sums = since(np.where(up, 1, -1), start)
    group = np.cumsum(start)
    shift = group * (2 * len(up) + 2)  # keeps the groups apart in one running minimum
    low = np.minimum.accumulate(np.minimum(sums - shift, -shift)) + shift
    before = np.zeros(len(up), np.int64)
    before[1:] = low[:-1]
    before[start] = 0
    return np.asarray(~up & (sums < before))


def _match(up: Bools, down: Bools, start: Bools) -> Ints:
    """For each down, in order, the position of the up that it ends: the n-th for the n-th."""
    ups = np.cumsum(up)
    before: Ints = (ups - up)[start]  # ups in earlier groups
    rank = since(down.astype(np.int64), start) - 1
    nth = before[np.cumsum(start) - 1] + rank
    matched: Ints = np.flatnonzero(up)[nth[down]]
    return matched
