# SPDX-License-Identifier: Apache-2.0
"""Lines for a reader that is slow, stuck or gone: nobody waits, nothing is left out unsaid."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest

from dmabuf_trace.errors import OutputError
from dmabuf_trace.printer import Printer

MOST = 1000
PIECE = 100
LINE = "x" * 90
NEVER: Callable[[float], bool] = lambda _: False  # noqa: E731


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    reader, writer = os.pipe()
    with os.fdopen(reader) as out, os.fdopen(writer, "w", encoding="utf-8") as into:
        yield out, into


def texts(piece: range) -> Iterator[str]:
    return (f"{number:06} {LINE}\n" for number in piece)


def gap(count: int) -> str:
    return f"{count} not shown\n"


def started(into: TextIO) -> Printer[range]:
    return Printer(into, texts, gap, MOST)


def put(printer: Printer[range], count: int, start: int = 0) -> None:
    for at in range(start, count, PIECE):
        printer.put(range(at, at + PIECE))


def test_all_is_written_in_order_for_a_reader_that_keeps_up(pipe: tuple[TextIO, TextIO]) -> None:
    out, into = pipe
    printer = started(into)
    put(printer, 5 * PIECE)  # fits the pipe

    printer.finish(NEVER)
    into.close()

    assert [int(line[:6]) for line in out] == list(range(5 * PIECE))
    assert (printer.shown, printer.not_shown) == (5 * PIECE, 0)


def test_what_a_slow_reader_misses_is_the_oldest_and_is_counted_in_its_place(
    pipe: tuple[TextIO, TextIO],
) -> None:
    out, into = pipe
    printer = started(into)
    count = 100 * MOST
    printer.put(range(PIECE))
    while printer.shown < PIECE:
        os.sched_yield()
    put(printer, count, PIECE)  # nobody reads meanwhile, and nobody waits
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(out))
    reader.start()

    printer.finish(NEVER)
    into.close()
    reader.join()

    numbers = [int(line[:6]) for line in lines if LINE in line]
    gaps = [int(line.split()[0]) for line in lines if LINE not in line]
    assert numbers == sorted(set(numbers))
    assert numbers[-MOST:] == list(range(count - MOST, count))
    assert len(numbers) + sum(gaps) == count
    assert (printer.shown, printer.not_shown) == (len(numbers), sum(gaps))
    for at, line in enumerate(lines):
        if LINE not in line:
            before, after = lines[at - 1][:6], lines[at + 1][:6]
            assert int(before) + 1 + int(line.split()[0]) == int(after)


def test_a_stuck_reader_is_given_up_and_the_rest_counted(pipe: tuple[TextIO, TextIO]) -> None:
    out, into = pipe
    printer = started(into)
    put(printer, MOST)

    printer.finish(lambda seconds: printer.shown > 0 and seconds > 0)

    assert 0 < printer.shown < MOST
    assert printer.not_shown == MOST - printer.shown
    out.close()  # or the thread would write into what comes to be of the file descriptor


def test_a_reader_that_is_gone_is_noticed_without_a_line_to_write(
    pipe: tuple[TextIO, TextIO],
) -> None:
    out, into = pipe
    printer = started(into)
    printer.check()
    out.close()

    with pytest.raises(BrokenPipeError):
        printer.check()
    printer.finish(NEVER)


def test_a_reader_that_goes_away_under_a_line_ends_it(pipe: tuple[TextIO, TextIO]) -> None:
    out, into = pipe
    printer = started(into)
    put(printer, MOST)
    out.close()

    with pytest.raises(BrokenPipeError):
        printer.finish(NEVER)


def test_a_failure_in_making_a_line_is_raised_in_who_puts(pipe: tuple[TextIO, TextIO]) -> None:
    _, into = pipe
    printer: Printer[range] = Printer(into, lambda piece: iter([1 // len(piece)]), gap, MOST)  # type: ignore[list-item]
    printer.put(range(0))

    with pytest.raises(ZeroDivisionError):
        printer.finish(NEVER)


def test_a_full_disk_is_one_clear_line() -> None:
    with open("/dev/full", "w", encoding="utf-8") as into:  # noqa: PTH123
        printer = started(into)
        put(printer, PIECE)

        with pytest.raises(OutputError, match="can't write to stdout: No space left on device"):
            printer.finish(NEVER)
