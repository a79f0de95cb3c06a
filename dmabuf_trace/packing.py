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
KEYS: Final = 2
"""The column of keys, one per group; all others have a value per event."""
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


def events_in(payload: bytes) -> int:
    """As how many events a payload counts that was not looked into."""
    return max(int.from_bytes(payload[:4], "little"), len(payload) // schema.EVENT_DTYPE.itemsize)


def unpack(*payloads: bytes) -> NDArray[np.void]:
    """The events of payloads, one after the other, in file order; :data:`schema.EVENT_DTYPE`.

    Many small ones at once take a fraction of the time.

    Raises:
        ValueError: a payload is not what :func:`pack` makes.
    """
    heads = np.array([_head(payload) for payload in payloads])
    counts, groups, widths = heads[:, 0], heads[:, 1], heads[:, 2:]
    lengths = np.repeat(counts[:, None], COLUMNS, axis=1)
    lengths[:, KEYS] = groups
    sizes = np.where(PLAIN, widths * lengths, 8 + widths * (lengths - 1))
    contents = [
        _inflate(payload[HEAD.size + COLUMNS :], size)
        for payload, size in zip(payloads, sizes.sum(axis=1).tolist(), strict=True)
    ]
    begins = np.cumsum(sizes, axis=1) - sizes
    ts, group_of_event, keys, *fields = (
        _widen(contents, *(each[:, column] for each in (begins, lengths, widths)), as_it_is=plain)
        for column, plain in enumerate(PLAIN)
    )
    if group_of_event.min() < 0 or (group_of_event >= np.repeat(groups, counts)).any():
        raise ValueError("a packed block with an event of no group")
    group_of_event += np.repeat(np.cumsum(groups) - groups, counts)
    rows = np.empty(len(ts), schema.EVENT_DTYPE)
    for name, values in zip(FIELDS, fields, strict=True):
        rows[name] = values
    few_bits = group_of_event.astype(np.min_scalar_type(groups.sum()))  # 16 sort in linear time
    row_of_event = np.empty(len(ts), np.int64)
    row_of_event[np.argsort(few_bits, kind="stable")] = np.arange(len(ts))
    events = rows.take(row_of_event)
    events["ts"] = ts
    events["tid"] = (keys >> KIND_BITS)[group_of_event]
    events["kind"] = (keys & (1 << KIND_BITS) - 1)[group_of_event]
    return events


def _head(payload: bytes) -> tuple[int, ...]:
    """Number of events, number of groups, and the widths of the columns."""
    if len(payload) < HEAD.size + COLUMNS:
        raise ValueError("a packed block without its head")
    count, groups = HEAD.unpack_from(payload)
    widths = payload[HEAD.size : HEAD.size + COLUMNS]
    if not 0 < groups <= count <= MAX_EVENTS or max(widths) > 8:
        raise ValueError("a packed block of impossible size")
    return count, groups, *widths


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


def _widen(
    contents: list[bytes], begins: Values, lengths: Values, widths: Values, *, as_it_is: bool
) -> Values:
    """The values of a column of some blocks, where it begins in each: undoes :func:`_narrow`."""
    steps = lengths if as_it_is else lengths - 1
    planes = begins if as_it_is else begins + 7  # a byte more is read, where the first value goes
    wide = np.zeros((lengths.sum(), 8), np.uint8)
    for place in range(widths.max()):
        at = planes + place * steps
        parts = zip(
            *(contents, at.tolist(), (at + lengths).tolist(), (place < widths).tolist()),
            strict=True,
        )
        plane = [
            content[begin:end] if is_there else bytes(end - begin)
            for content, begin, end, is_there in parts
        ]
        wide[:, place] = np.frombuffer(b"".join(plane), np.uint8)
    coded = wide.view("<u8")[:, 0]
    signs = -(coded & np.uint64(1))
    coded >>= np.uint64(1)
    coded ^= signs
    values: Values = coded.view("<i8")
    if not as_it_is:
        starts = np.cumsum(lengths) - lengths
        firsts = [
            content[at : at + 8] for content, at in zip(contents, begins.tolist(), strict=True)
        ]
        first = np.frombuffer(b"".join(firsts), "<i8")
        values[starts] = 0
        ahead = first + np.add.reduceat(values, starts)
        values[starts] = first - np.append(0, ahead[:-1])
        np.cumsum(values, out=values)
    return values
