# SPDX-License-Identifier: Apache-2.0
"""Packed events: the same events come back, and nothing that a file says is believed unchecked."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from dmabuf_trace import packing, schema
from dmabuf_trace.packing import COLUMNS, HEAD, MAX_EVENTS, pack, unpack
from tests.bench.generate import Generator
from tests.strategies import any_events

EVENT = schema.EVENT_DTYPE


def realistic(count: int) -> NDArray[np.void]:
    return np.concatenate(list(Generator(count / 2_000 + 2).slices()))[:count]


def same(one: NDArray[np.void], other: NDArray[np.void]) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(np.uint8, st.integers(1, 60).map(lambda rows: rows * EVENT.itemsize)))
def test_any_bytes_come_back(raw: NDArray[np.uint8]) -> None:
    events = raw.view(EVENT)
    assert same(unpack(pack(events)), events)


@settings(max_examples=100, deadline=None)
@given(any_events().filter(len))
def test_any_events_come_back(events: NDArray[np.void]) -> None:
    assert same(unpack(pack(events)), events)


@pytest.mark.parametrize("count", [1, 2, 1_000, MAX_EVENTS])
def test_realistic_events_come_back_in_order(count: int) -> None:
    events = realistic(count)
    assert len(events) == count
    assert same(unpack(pack(events)), events)


def test_it_pays_for_itself() -> None:
    events = realistic(1_000)
    assert len(pack(events)) < len(events) * 10


@pytest.mark.parametrize("count", [0, MAX_EVENTS + 1])
def test_what_is_no_block_is_not_packed(count: int) -> None:
    with pytest.raises(ValueError, match="can't be one block"):
        pack(np.zeros(count, EVENT))


def test_cut_anywhere_it_is_refused() -> None:
    payload = pack(realistic(100))
    for length in range(len(payload)):
        with pytest.raises(ValueError, match="packed block"):
            unpack(payload[:length])


def test_a_flipped_bit_gives_an_error_or_as_many_events() -> None:
    """What the CRC would find: here only that no other error and no other size can come of it."""
    events = realistic(50)
    payload = pack(events)
    for offset in range(len(payload)):
        damaged = bytearray(payload)
        damaged[offset] ^= 0x10
        try:
            found = unpack(bytes(damaged))
        except ValueError:
            continue
        assert len(found) == len(events)


def crafted(count: int, groups: int, widths: bytes, content: bytes, behind: bytes = b"") -> bytes:
    return HEAD.pack(count, groups) + widths + zlib.compress(content) + behind


NONE = bytes(COLUMNS)
FIRSTS = bytes(8 * (COLUMNS - 1 - len(packing.AS_THEY_ARE)))
"""Columns of width 0: those of differences have their first value."""


def test_the_crafted_block_is_one_of_the_right_form() -> None:
    assert same(unpack(crafted(3, 1, NONE, FIRSTS)), np.zeros(3, EVENT))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(crafted(0, 0, NONE, FIRSTS), id="no events"),
        pytest.param(crafted(3, 0, NONE, FIRSTS), id="no groups"),
        pytest.param(crafted(3, 4, NONE, FIRSTS), id="more groups than events"),
        pytest.param(crafted(MAX_EVENTS + 1, 1, NONE, FIRSTS), id="too many events"),
        pytest.param(crafted(0xFFFFFFFF, 1, NONE, FIRSTS), id="far too many events"),
        pytest.param(crafted(3, 1, b"\x09" + NONE[1:], FIRSTS + bytes(18)), id="too wide"),
        pytest.param(crafted(3, 1, NONE, FIRSTS[:-1]), id="content too short"),
        pytest.param(crafted(3, 1, NONE, FIRSTS + b"\0"), id="content too long"),
        pytest.param(crafted(3, 1, NONE, FIRSTS, b"\0"), id="something behind the stream"),
        pytest.param(crafted(3, 1, NONE, FIRSTS)[:-5], id="stream cut"),
        pytest.param(HEAD.pack(3, 1) + NONE + b"not zlib", id="no stream"),
        pytest.param(
            crafted(1, 1, b"\0\x01" + NONE[2:], FIRSTS[:8] + b"\x02" + FIRSTS[8:]),
            id="an event of a group that is not there",
        ),
        pytest.param(
            crafted(1, 1, b"\0\x01" + NONE[2:], FIRSTS[:8] + b"\x01" + FIRSTS[8:]),
            id="an event of a negative group",
        ),
    ],
)
def test_made_up_it_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="packed block"):
        unpack(payload)


@pytest.mark.parametrize("count", [1, MAX_EVENTS])
def test_a_bomb_is_not_inflated(count: int) -> None:
    bomb = crafted(count, 1, bytes([8]) * COLUMNS, bytes(512 << 20))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="of another size"):
            unpack(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_EVENTS * 8 * COLUMNS


def test_one_block_costs_bounded_memory() -> None:
    payload = pack(realistic(MAX_EVENTS))
    tracemalloc.start()
    events: NDArray[Any] = unpack(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * events.nbytes
