# SPDX-License-Identifier: Apache-2.0
"""Which events are packed, and which are written as they are: decided by the events' own clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.gather import BURST_EVENTS, BURST_NS, PACKED_EVENTS, WAIT_NS, Gatherer, Piece
from dmabuf_trace.packing import MAX_EVENTS, unpack

START = 1_000_000_000


def batch(count: int, begin: int, apart: int) -> NDArray[np.void]:
    events = np.zeros(count, schema.EVENT_DTYPE)
    events["ts"] = begin + apart * np.arange(count)
    events["tid"] = np.arange(count) % 7
    return events


def events_of(piece: Piece) -> NDArray[np.void]:
    if piece.packed:
        return unpack(bytes(piece.payload))
    return np.frombuffer(piece.payload, schema.EVENT_DTYPE)


def told(pieces: list[Piece]) -> list[tuple[bool, int]]:
    """Of each piece: whether it is packed, and its number of events."""
    return [(piece.packed, len(events_of(piece))) for piece in pieces]


def test_events_wait_for_others_and_not_for_long() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(10, START, 100)))) == []
    assert told(list(gatherer.add(batch(20, START + 20_000_000, 100)))) == []
    assert told(list(gatherer.due(START + WAIT_NS - 1))) == []
    assert told(list(gatherer.due(START + WAIT_NS))) == [(True, 30)]
    assert told(list(gatherer.due(START + 9 * WAIT_NS))) == []


def test_the_wait_ends_with_an_event_that_is_late_enough() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(2, START, WAIT_NS)))) == [(True, 2)]


def test_what_waits_can_be_had() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(5, START, 1)))) == []
    assert told(list(gatherer.rest())) == [(True, 5)]
    assert told(list(gatherer.rest())) == []


def test_a_burst_is_not_packed_and_overtakes_nothing() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(10, START, 100)))) == []
    burst = batch(BURST_EVENTS, START + 1_000, BURST_NS // 2)
    assert told(list(gatherer.add(burst))) == [(True, 10), (False, BURST_EVENTS)]


def test_a_burst_goes_on_with_small_batches_and_ends_with_a_pause() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(1, START, 0)))) == []
    began = START + BURST_EVENTS
    assert told(list(gatherer.add(batch(BURST_EVENTS, START + 1, 1)))) == [
        (True, 1),
        (False, BURST_EVENTS),
    ]
    assert told(list(gatherer.add(batch(3, began + 1, 1)))) == [(False, 3)]
    assert told(list(gatherer.add(batch(3, began + 10 * BURST_NS, 1)))) == []
    assert told(list(gatherer.add(batch(3, began + 10 * BURST_NS + 3, 1)))) == []


def test_a_few_quick_events_are_no_burst() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(BURST_EVENTS - 1, START, 1)))) == []


def test_many_events_after_a_long_while_are_no_burst() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(1, START, 0)))) == []
    crowd = batch(BURST_EVENTS, START + BURST_EVENTS * BURST_NS, 1)
    assert told(list(gatherer.add(crowd))) == []


def test_a_large_burst_comes_in_pieces_of_bounded_size() -> None:
    gatherer = Gatherer()
    assert told(list(gatherer.add(batch(1, START, 0)))) == []
    pieces = list(gatherer.add(batch(MAX_EVENTS + 1, START, 1)))
    assert told(pieces) == [(True, 1), (False, MAX_EVENTS), (False, 1)]


def test_what_is_packed_together_is_bounded() -> None:
    gatherer = Gatherer()
    pieces = list(gatherer.add(batch(PACKED_EVENTS + 1, START, BURST_NS)))
    assert told(pieces) == [(True, PACKED_EVENTS), (True, 1)]


def test_no_events_are_no_piece() -> None:
    gatherer = Gatherer()
    assert list(gatherer.add(batch(0, START, 0))) == []
    assert list(gatherer.rest()) == []


BATCHES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 3, BURST_EVENTS, BURST_EVENTS + 5]),
        st.integers(-100, 2 * WAIT_NS),
        st.sampled_from([0, 1, BURST_NS, 1_000_000]),
    ),
    max_size=8,
)


@settings(max_examples=50, deadline=None)
@given(BATCHES)
def test_every_event_comes_out_once_in_order(drawn: list[tuple[int, int, int]]) -> None:
    gatherer = Gatherer()
    pieces: list[Piece] = []
    given_in = []
    now = START
    for count, later, apart in drawn:
        now += later
        given_in.append(batch(count, now, apart))
        pieces += gatherer.add(given_in[-1])
    pieces += gatherer.rest()
    found = [events_of(piece) for piece in pieces]
    assert b"".join(part.tobytes() for part in found) == b"".join(
        part.tobytes() for part in given_in
    )


@pytest.mark.parametrize("strided", [False, True])
def test_a_part_of_a_larger_record_is_taken_as_well(strided: bool) -> None:
    events = batch(2 * BURST_EVENTS, START, 1)
    burst = events[::2] if strided else events[:BURST_EVENTS]
    gatherer = Gatherer()
    assert list(gatherer.add(batch(1, START, 0))) == []
    _, piece = gatherer.add(burst)
    assert events_of(piece).tobytes() == burst.tobytes()
