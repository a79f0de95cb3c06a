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
    of_kinds,
    order_of,
    together,
)

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Structs = NDArray[np.void]
Fields = tuple[tuple[str, str], ...]
Columns = dict[str, NDArray[Any]]

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
_ACCESS_BEGINS: Final = (_K["cpu_begin"], _K["kernel_begin"])
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
    ids[order_of(sources)] = last_id + 1 + np.arange(len(sources))
    return ids


class Brackets:
    """Open rows of one table, found again by ``keys``.

    ``fields`` are columns with the event field that they come from, ``end_fields`` those that the
    end fills. What comes from the same field as one of these is of the begin alone.
    """

    def __init__(
        self,
        dtype: np.dtype[np.void],
        keys: tuple[str, ...],
        fields: Fields,
        end_fields: Fields = (),
    ) -> None:
        self.open = empty(dtype)
        self._keys = keys
        self._key_fields = [each for each in fields if each[0] in keys]
        self._fields = [each for each in fields if each[0] not in keys]
        self._end_fields = (("end", "ts"), *end_fields)
        of_ends = {"dur", *(field for _, field in self._end_fields)}
        self._of_begins = [column for column, field in fields if field in of_ends]
        self._last_id = 0

    def _pair(self, events: Structs, mine: Ints, ups: Bools, told: Columns) -> Structs:
        """Match the ends among ``mine`` of the events; all rows, the carried ones too, by id.

        ``told`` are columns of ``mine`` that are not fields.
        """
        if not len(mine):
            return self.open
        carried = len(self.open)
        told = told | {column: events[field][mine] for column, field in self._key_fields}
        keys = [np.concatenate([self.open[key], told[key]]) for key in self._keys]
        begins, ends, orphans = _matched(keys, np.concatenate([np.ones(carried, np.bool_), ups]))
        kept = np.ones(carried + len(mine), np.bool_)
        kept[ends] = False
        row = np.cumsum(kept) - 1
        rows = self._with_new(events, mine, np.flatnonzero(kept[carried:]), told)
        for column in self._of_begins:
            rows[column][row[orphans]] = 0
        rows["flags"][row[orphans]] = Flag.BEGIN_UNSEEN
        ended = row[np.concatenate([begins, orphans])]
        by = mine[np.concatenate([ends, orphans]) - carried]
        for column, field in self._end_fields:
            rows[column][ended] = events[field][by]
        return rows

    def _with_new(self, events: Structs, mine: Ints, fresh: Ints, told: Columns) -> Structs:
        """The open rows and behind them one for each of the ``fresh`` ones among ``mine``."""
        rows = together([self.open, np.zeros(len(fresh), self.open.dtype)])
        new = rows[len(self.open) :]
        new["id"] = self._last_id + 1 + np.arange(len(new))
        self._last_id += len(new)
        for column, field in self._fields:
            new[column] = events[field][mine[fresh]]
        for column, values in told.items():
            new[column] = values[fresh]
        return rows

    def _close(self, events: Structs, mine: Ints, ups: Bools, told: Columns) -> Structs:
        """Match the ends among ``mine`` and carry what has none; the rows that are over."""
        rows = self._pair(events, mine, ups, told)
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
        super().__init__(dtype, keys, fields, end_fields)
        self._begin, self._end = (_K[kind] for kind in kinds)

    def feed(self, events: Structs, buffers: Ints, attachments: Ints, ended: Structs) -> Structs:
        """``ended`` are the attachments that this batch closed: what is open closes with them."""
        begins = (events["kind"] == self._begin) & (events["ret"] >= 0)
        mine = np.flatnonzero((begins | (events["kind"] == self._end)) & (attachments != 0))
        told = {"buffer_id": buffers[mine], "attachment_id": attachments[mine]}
        rows = self._pair(events, mine, begins[mine], told)
        over = rows["end"] != 0
        left = np.flatnonzero(~over)
        left = left[np.isin(rows["attachment_id"][left], ended["id"])]
        detach_lost = ended["id"][ended["flags"] & Flag.END_LOST != 0]
        lost = np.isin(rows["attachment_id"][left], detach_lost)
        rows["flags"][left] |= np.where(lost, Flag.END_LOST, Flag.OUTLIVED | Flag.OPEN)
        over[left] = True
        return self._settle(rows, over)


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
        super().__init__(VMAP_DTYPE, ("buffer_id",), CALLER)

    def feed(self, events: Structs, buffers: Ints) -> Structs:
        vmaps = (events["kind"] == _K["vmap"]) & (events["ret"] >= 0)
        mine = np.flatnonzero((vmaps | (events["kind"] == _K["vunmap"])) & (buffers != 0))
        return self._close(events, mine, vmaps[mine], {"buffer_id": buffers[mine]})


class Accesses(Brackets):
    """CPU accesses: those of user space by buffer and process, those of drivers by buffer."""

    def __init__(self) -> None:
        ends = (("end_dur", "dur"), ("end_detail", "detail"))
        super().__init__(ACCESS_DTYPE, ("owner", "by_driver", "buffer_id"), _ACCESS_FIELDS, ends)

    def feed(self, events: Structs, buffers: Ints) -> Structs:
        done = (events["ret"] >= 0) & (buffers != 0)
        mine = np.flatnonzero(done & of_kinds(events["kind"], (*_ACCESS_BEGINS, *_ACCESS_ENDS)))
        kind = events["kind"][mine]
        by_driver = of_kinds(kind, _BY_DRIVERS)
        owner = np.where(by_driver, 0, events["pid"][mine])
        told = {"buffer_id": buffers[mine], "by_driver": by_driver, "owner": owner}
        return self._close(events, mine, of_kinds(kind, _ACCESS_BEGINS), told)


def _matched(keys: list[NDArray[Any]], up: Bools) -> tuple[Ints, Ints, Ints]:
    """Positions of begins, those of the ends that they have, and of ends without a begin."""
    order = order_of(*keys)
    up = up[order]
    start = np.zeros(len(order), np.bool_)
    for key in keys:
        start |= first_of(key[order])
    orphan = _orphans(up, start)
    down = ~up & ~orphan
    return order[_match(up, down, start)], order[down], order[orphan]


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
