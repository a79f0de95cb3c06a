# SPDX-License-Identifier: Apache-2.0
"""What grows from run to run, and what stands."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dmabuf_trace.errors import InputError
from tests.analyses.conftest import Ask, rows
from tests.build import KIB, Build, Process, S

HEAP, CAM = ("dma_buf_export+0x1", "heap_ioctl+0x2"), ("dma_buf_export+0x1", "cam_start+0x3")


def runs(left: Sequence[int], stack: tuple[str, ...] = HEAP) -> Build:
    """Runs that leave so many buffers each, beside one that they give back."""
    k = Build()
    for count in left:
        for _ in range(count):
            k.export(4 * KIB, stack=stack)
        k.release(k.export(stack=stack))
        k.wait(S)
        k.mark("run")
    return k


def test_a_buffer_a_run(ask: Ask) -> None:
    result = ask("cycles", runs([1] * 9))

    columns = ("exporter", "comm", "at", "verdict", "warm_buffers", "end_buffers")
    assert rows(result, "growth", *columns) == [("system", "app", "heap_ioctl", "grows", 4, 9)]
    (slope,) = rows(result, "growth", "buffers_per_run", "buffers_per_run_low", "bytes_per_run")
    assert slope == (1.0, 1.0, 4 * KIB)
    levels = rows(result, "runs", "run", "end_ns", "buffers", "size_bytes")
    assert levels[:2] == [(1, S, 1, 4 * KIB), (2, 2 * S, 2, 8 * KIB)]


@pytest.mark.parametrize(
    ("left", "verdict"),
    [
        ([3, 0, 0, 0, 0, 0, 0, 0, 0], "stands"),
        ([1, 1, 1, 0, 0, 0, 0, 0, 0], "stands"),
        ([1, 1, 1, 0, 1, 0, 0, 0, 0], "stands"),
        ([1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0], "grows"),
        ([5, 1, 1, 1, 1, 1], "grows"),
        ([1, 1, 1, 1], "too few"),
    ],
)
def test_verdicts(ask: Ask, left: Sequence[int], verdict: str) -> None:
    assert rows(ask("cycles", runs(left)), "growth", "verdict") == [(verdict,)]


def test_a_cache_that_is_renewed_in_every_run_stands(ask: Ask) -> None:
    k = Build()
    kept = k.export()
    for _ in range(9):
        fresh = k.export()
        k.release(kept)
        kept = fresh
        k.wait(S)
        k.mark("run")

    assert rows(ask("cycles", k), "growth", "verdict", "end_buffers") == [("stands", 1)]


def test_what_ends_shrinks(ask: Ask) -> None:
    k = Build()
    kept = [k.export() for _ in range(9)]
    for buffer in kept:
        k.wait(S)
        k.mark("run")
        k.release(buffer)

    assert rows(ask("cycles", k), "growth", "verdict") == [("shrinks",)]


def test_makers_are_judged_apart(ask: Ask) -> None:
    k = Build()
    for run in range(9):
        if not run:
            k.by(Process(200, "cam")).export(stack=CAM)
        k.by(Process(100, "app")).export(stack=HEAP)
        k.wait(S)
        k.mark("run")

    assert rows(ask("cycles", k), "growth", "comm", "at", "verdict") == [
        ("app", "heap_ioctl", "grows"),
        ("cam", "cam_start", "stands"),
    ]


def test_warm_up_as_asked_for(ask: Ask) -> None:
    k = runs([1, 1, 1, 1, 1, 0, 0, 0, 0])

    assert rows(ask("cycles", k, warm_up="1"), "growth", "verdict") == [("stands",)]
    assert rows(ask("cycles", k, warm_up="5"), "growth", "warm_buffers") == [(5,)]
    assert rows(ask("cycles", k, warm_up="6"), "growth", "verdict") == [("too few",)]
    with pytest.raises(InputError, match="--warm-up: 'x' is no whole number"):
        ask("cycles", k, warm_up="x")


def test_a_command_that_was_run_once(ask: Ask) -> None:
    k = Build()
    k.export()
    result = ask("cycles", k)

    assert rows(result, "growth", "verdict") == []
    growth, _ = result.answer.tables
    assert growth.empty == "the command was run once"


def test_other_marks_are_no_runs(ask: Ask) -> None:
    k = runs([1] * 9)
    k.mark("test_decode")

    assert len(rows(ask("cycles", k), "runs", "run")) == 9


def test_lost_ends_are_not_judged(ask: Ask) -> None:
    k = Build(lists_all=True)
    k.snapshot("start")
    for _ in range(9):
        k.vanish(k.export())
        k.wait(S)
        k.mark("run")
    result = ask("cycles", k)

    assert rows(result, "growth", "verdict") == []
    assert result.answer.notes == ("9 buffers with a lost end: not judged",)
