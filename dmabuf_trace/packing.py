# SPDX-License-Identifier: Apache-2.0
"""Packs a block of events: some 6 to 10 bytes an event instead of 72, with numpy and zlib alone.

Events of one thread and one kind are much alike, and their neighbours in time are not: so rows are
brought together by (tid, kind), and each field becomes a column of differences to the row before.
What is left in a column is cut to the bytes that are in use, and laid out byte by byte: all lowest
bytes, then all second ones. zlib at its fastest level finds the rest.

A packed payload, all little-endian::

    HEAD            number of events, number of groups
    widths          a byte per column: how many bytes of its values are kept, 0 to 8
    zlib stream     the columns, one after the other

The columns are: ``ts`` in file order, as differences; for each event in file order the number of
its group; for each group its key ``tid << 16 | kind``, ascending, as differences; then every other
field in the order of the dtype, rows ordered by group and then as in the file. A column of
differences begins with its first value (8 bytes). Values are 64 bits wide, zigzag coded: 0, -1, 1,
-2 become 0, 1, 2, 3.

The size of the columns follows from the head and the widths and is bounded by ``MAX_EVENTS``, so
nothing that a file says makes the reader inflate more. Must not know files.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema

MAX_EVENTS: Final = 1 << 16
"""Events in one packed block, at most."""

HEAD: Final = struct.Struct("<II")
LEVEL: Final = 1
AS_THEY_ARE: Final = frozenset({"dur", "cpu"})
"""Fields that don't follow from the row before: differences would only double their noise."""

FIELDS: Final = tuple(
    name for name in schema.EVENT_DTYPE.names or () if name not in ("ts", "tid", "kind")
)
COLUMNS: Final = 3 + len(FIELDS)
KIND_BITS: Final = 16

Values = NDArray[np.int64]


def pack(events: NDArray[np.void]) -> bytes:
    """The payload for 1 to :data:`MAX_EVENTS` events; any values, in any order, come back."""
    if not 0 < len(events) <= MAX_EVENTS:
        raise ValueError(f"{len(events)} events can't be one block")
    keys = events["tid"].astype("<i8") << KIND_BITS | events["kind"]
    order = np.argsort(keys, kind="stable")
    groups, group_of_row = _groups(keys[order])
    group_of_event = np.empty(len(events), "<i8")
    group_of_event[order] = group_of_row
    rows = events[order]
    columns = [
        _narrow(events["ts"], as_it_is=False),
        _narrow(group_of_event, as_it_is=True),
        _narrow(groups, as_it_is=False),
        *(_narrow(rows[name], as_it_is=name in AS_THEY_ARE) for name in FIELDS),
    ]
    widths = bytes(width for width, _ in columns)
    content = b"".join(column for _, column in columns)
    return HEAD.pack(len(events), len(groups)) + widths + zlib.compress(content, LEVEL)


def _groups(keys: Values) -> tuple[Values, Values]:
    """Distinct keys of an ascending column, and for each row the number of its key."""
    begins = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    return keys[begins], np.cumsum(begins) - 1


def _narrow(values: NDArray[Any], *, as_it_is: bool) -> tuple[int, bytes]:
    """Width in bytes, and the column in planes of bytes."""
    wide = values.astype("<i8")
    first = wide[: 0 if as_it_is else 1].tobytes()
    steps = wide if as_it_is else wide[1:] - wide[:-1]
    coded = ((steps << 1) ^ (steps >> 63)).view("<u8")
    width = (int(np.bitwise_or.reduce(coded)).bit_length() + 7) // 8
    return width, first + coded.view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


def unpack(payload: bytes) -> NDArray[np.void]:
    """The events of a payload, in file order; :data:`schema.EVENT_DTYPE`.

    Raises:
        ValueError: the payload is not what :func:`pack` makes.
    """
    if len(payload) < HEAD.size + COLUMNS:
        raise ValueError("a packed block without its head")
    count, groups = HEAD.unpack_from(payload)
    widths = payload[HEAD.size : HEAD.size + COLUMNS]
    if not 0 < groups <= count <= MAX_EVENTS or max(widths) > 8:
        raise ValueError("a packed block of impossible size")
    shapes = [(count, False), (count, True), (groups, False)]
    shapes += [(count, name in AS_THEY_ARE) for name in FIELDS]
    sizes = [
        length * width if as_it_is else 8 + (length - 1) * width
        for (length, as_it_is), width in zip(shapes, widths, strict=True)
    ]
    content = np.frombuffer(_inflate(payload[HEAD.size + COLUMNS :], sum(sizes)), np.uint8)
    parts = np.split(content, np.cumsum(sizes)[:-1])
    ts, group_of_event, keys, *fields = (
        _widen(part, length, width, as_it_is)
        for part, (length, as_it_is), width in zip(parts, shapes, widths, strict=True)
    )
    if group_of_event.min() < 0 or group_of_event.max() >= groups:
        raise ValueError("a packed block with an event of no group")
    order = np.argsort(group_of_event, kind="stable")
    events = np.empty(count, schema.EVENT_DTYPE)
    events["ts"] = ts.view("<u8")
    events["tid"] = (keys >> KIND_BITS)[group_of_event]
    events["kind"] = (keys & (1 << KIND_BITS) - 1)[group_of_event]
    for name, values in zip(FIELDS, fields, strict=True):
        events[name][order] = values.astype(events.dtype[name])
    return events


def _inflate(data: bytes, size: int) -> bytes:
    """The content of a stream that has to be of ``size`` bytes; no more than that is inflated."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"a packed block that can't be inflated: {error}") from None
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ValueError("a packed block of another size than its head says")
    return content


def _widen(column: NDArray[np.uint8], length: int, width: int, as_it_is: bool) -> Values:
    """The values of a column: the inverse of :func:`_narrow`."""
    begin = 0 if as_it_is else 8
    steps = length if as_it_is else length - 1
    coded = np.zeros((steps, 8), np.uint8)
    coded[:, :width] = column[begin:].reshape(width, steps).T
    wide = coded.view("<u8").reshape(-1)
    values: Values = (wide >> np.uint64(1)).view("<i8") ^ -(wide & np.uint64(1)).view("<i8")
    if as_it_is:
        return values
    return np.cumsum(np.concatenate([column[:8].view("<i8"), values]), dtype="<i8")
