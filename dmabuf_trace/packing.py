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
PLAIN: Final = (False, True, False, *(name in AS_THEY_ARE for name in FIELDS))
"""Of each column, whether it has its values and not differences."""

COLUMNS: Final = len(PLAIN)
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
    rows = events.take(order)
    parts = (events["ts"], group_of_event, groups, *(rows[name] for name in FIELDS))
    columns = [_narrow(part, as_it_is=plain) for part, plain in zip(parts, PLAIN, strict=True)]
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
    lengths = (count, count, groups, *(count for _ in FIELDS))
    sizes = [
        length * width if as_it_is else 8 + (length - 1) * width
        for length, width, as_it_is in zip(lengths, widths, PLAIN, strict=True)
    ]
    content = np.frombuffer(_inflate(payload[HEAD.size + COLUMNS :], sum(sizes)), np.uint8)
    parts = np.split(content, np.cumsum(sizes)[:-1])
    columns = list(zip(parts, widths, PLAIN, strict=True))
    (keys,) = _widen(columns[2:3], groups)
    ts, group_of_event, *fields = _widen(columns[:2] + columns[3:], count)
    if group_of_event.min() < 0 or group_of_event.max() >= groups:
        raise ValueError("a packed block with an event of no group")
    rows = np.empty(count, schema.EVENT_DTYPE)
    for name, values in zip(FIELDS, fields, strict=True):
        rows[name] = values
    row_of_event = np.empty(count, np.int64)
    row_of_event[np.argsort(group_of_event.astype(np.uint16), kind="stable")] = np.arange(count)
    events = rows.take(row_of_event)
    events["ts"] = ts
    events["tid"] = (keys >> KIND_BITS)[group_of_event]
    events["kind"] = (keys & (1 << KIND_BITS) - 1)[group_of_event]
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


def _widen(columns: list[tuple[NDArray[np.uint8], int, bool]], length: int) -> Values:
    """The values of columns of one length, a row each: the inverse of :func:`_narrow`."""
    planes = np.zeros((len(columns), length, 8), np.uint8)
    for row, (column, width, as_it_is) in zip(planes, columns, strict=True):
        begin = 0 if as_it_is else 1
        for place, plane in enumerate(column[8 * begin :].reshape(width, length - begin)):
            row[begin:, place] = plane
    coded = planes.view("<u8")[..., 0]
    signs = -(coded & np.uint64(1))
    coded >>= np.uint64(1)
    coded ^= signs
    values: Values = coded.view("<i8")
    for row, (column, _, as_it_is) in zip(values, columns, strict=True):
        if not as_it_is:
            row[:1] = column[:8].view("<i8")
            np.cumsum(row, out=row)
    return values
