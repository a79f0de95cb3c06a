# SPDX-License-Identifier: Apache-2.0
"""Things made in advance come in order, no more of them than asked for, and so does what fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

import pytest

from dmabuf_trace.ahead import ahead

TOLD: Final[ContextVar[str]] = ContextVar("told")


class Made:
    """Numbers, and how far they were made; ``until`` waits for that."""

    def __init__(self, count: int) -> None:
        self._made = 0
        self._count = count
        self._step = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        for number in range(1, self._count + 1):
            with self._step:
                self._made = number
                self._step.notify_all()
            yield number

    def until(self, number: int) -> int:
        with self._step:
            self._step.wait_for(lambda: self._made >= number)
            return self._made


@pytest.mark.parametrize("count", [0, 1, 2, 100])
@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_all_come_in_order(length: int, count: int) -> None:
    assert list(ahead(iter(Made(length)), count)) == list(range(1, length + 1))


def test_they_are_made_while_one_is_used_and_no_more_than_asked_for() -> None:
    made = Made(100)
    items = ahead(iter(made), 3)
    assert next(items) == 1
    assert made.until(4) == 4
    assert next(items) == 2
    assert made.until(5) == 5
    items.close()


def test_what_fails_does_so_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("the third")

    items = ahead(failing(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(items)
    assert list(items) == []


def test_who_listens_here_listens_there() -> None:
    def told() -> Iterator[str]:
        yield TOLD.get()

    token = TOLD.set("here")
    try:
        assert list(ahead(told(), 1)) == ["here"]
    finally:
        TOLD.reset(token)


def test_no_thread_is_left_of_one_that_nobody_reads_to_its_end() -> None:
    before = threading.active_count()
    items = ahead(iter(Made(1000)), 5)
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before
