# SPDX-License-Identifier: Apache-2.0
"""What grows after warm-up, and what only looks like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dmabuf_trace import trace
from dmabuf_trace.analysis import records, registry
from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, START, Buffer, Build, Process, S

LEVELS = ("verdict", "warm_buffers", "end_buffers")
SLOPES = ("buffers_per_s", "buffers_per_s_low", "buffers_per_s_high", "bytes_per_s")
FLAT = (0.0, 0.0, 0.0, 0)


def second(k: Build, churn: int = 5) -> None:
    """A sawtooth: some buffers made, and all of them released half a second later."""
    made = [k.export() for _ in range(churn)]
    k.wait(500 * MS)
    for buffer in made:
        k.release(buffer)
    k.wait(500 * MS)


def test_a_leak_under_churn_grows(ask: Ask) -> None:
    k = Build()
    for _ in range(64):
        k.export(size=64 * KIB)
        second(k)

    result = ask("growth", k)

    assert rows(result, "exporters", "exporter", *LEVELS) == [("system", "grows", 23, 64)]
    assert rows(result, "exporters", *SLOPES) == [(1.0, 1.0, 1.0, 64 * KIB)]
    assert rows(result, "processes", "exporter", "comm", *LEVELS) == [
        ("system", "app", "grows", 23, 64)
    ]
    assert result.answer.notes == ()


def test_churn_alone_stands(ask: Ask) -> None:
    k = Build()
    for _ in range(64):
        second(k)

    result = ask("growth", k)

    assert rows(result, "exporters", *LEVELS) == [("stands", 0, 0)]
    assert rows(result, "exporters", *SLOPES) == [FLAT]


def test_a_cache_that_fills_and_stops_stands(ask: Ask) -> None:
    k = Build()
    for at in range(64):
        if at < 20:
            k.export()
        second(k)

    result = ask("growth", k)

    assert rows(result, "exporters", *LEVELS) == [("stands", 20, 20)]
    assert rows(result, "exporters", *SLOPES) == [FLAT]


def test_the_warm_up_can_be_longer(ask: Ask) -> None:
    k = Build()
    for at in range(64):
        if at < 55:
            k.export()
        second(k)

    assert rows(ask("growth", k), "exporters", *LEVELS) == [("grows", 23, 55)]
    assert rows(ask("growth", k, warm_up="55s"), "exporters", *LEVELS) == [("stands", 55, 55)]
    assert rows(ask("growth", k, warm_up="57s"), "exporters", *LEVELS, *SLOPES) == [
        ("too short", *[None] * 6)
    ]


def test_a_slow_leak_is_found_and_a_single_step_is_none(ask: Ask) -> None:
    leak, step = Build(), Build()
    for at in range(64):
        if at % 10 == 0:
            leak.export()
        if at in (0, 40):
            step.export()
            step.export()
        second(leak)
        second(step)

    assert rows(ask("growth", leak), "exporters", *LEVELS) == [("grows", 3, 7)]
    assert rows(ask("growth", step), "exporters", *LEVELS) == [("stands", 2, 4)]


Times = NDArray[np.float64]


def live(k: Build, begins: Times, ends: Times) -> None:
    """Buffers of a minute, made and released at these times."""
    numbers = range(len(begins))
    moments = sorted([*zip(begins, numbers, strict=True), *zip(ends, numbers, strict=True)])
    alive: dict[int, Buffer] = {}
    for at, number in moments:
        if at < 60 * S:
            k.wait(START + int(at) - k.now)
            if number in alive:
                k.release(alive[number])
            else:
                alive[number] = k.export()
    k.wait(START + 60 * S - k.now)


def noise(k: Build, seed: int, leaks: int) -> None:
    """Buffers made at random moments that live for long at random; some never end."""
    random = np.random.default_rng(seed)
    begins = random.uniform(0, 60 * S, 400)
    ends = begins + random.exponential(2 * S, 400)
    ends[np.linspace(0, 399, leaks, dtype=int)] = np.inf
    live(k, begins, ends)


@pytest.mark.parametrize("seed", range(5))
def test_noise_stands_and_a_leak_in_it_grows(ask: Ask, seed: int) -> None:
    clean, leaky = Build(), Build()
    noise(clean, seed, 0)
    noise(leaky, seed, 60)

    assert rows(ask("growth", clean), "exporters", "verdict") == [("stands",)]
    assert rows(ask("growth", leaky), "exporters", "verdict") == [("grows",)]


def held(seed: int, *others: float) -> Build:
    """Some hundred buffers at once, each held for up to 10 s, and ``others`` that never end."""
    k, random = Build(), np.random.default_rng(seed)
    begins = random.integers(0, 240, 1200) * 250.0 * MS
    ends = begins + random.integers(1, 40, 1200) * 250.0 * MS
    stay = np.array(others) * S
    live(k, np.concatenate([begins, stay]), np.concatenate([ends, stay + np.inf]))
    return k


@pytest.mark.parametrize("seed", range(3))
def test_a_small_leak_among_many_that_are_held_for_long(ask: Ask, seed: int) -> None:
    leaky = ask("growth", held(seed, *range(60)))
    (found,) = rows(leaky, "exporters", "verdict", "held_ns", "buffers_per_s")

    assert found[0] == "grows"
    assert 9 * S < found[1] < 10 * S
    assert found[2] == pytest.approx(1, abs=0.05)
    assert rows(ask("growth", held(seed)), "exporters", *LEVELS) == [("stands", 0, 0)]


def test_a_cache_that_fills_through_the_first_half_among_many_stands(ask: Ask) -> None:
    filled = held(1, *range(30))

    assert rows(ask("growth", filled), "exporters", *LEVELS) == [("stands", 21, 30)]


def test_who_grows_comes_first(ask: Ask) -> None:
    k = Build()
    camera = Process(7, "camera")
    for at in range(64):
        k.by(Process(1, "weston"))
        second(k)
        if at % 2:
            k.by(camera).export(size=8 * KIB)
        if at == 60:
            k.by(Process(9, "late")).export()

    result = ask("growth", k)

    assert rows(result, "exporters", "exporter", "verdict") == [("system", "grows")]
    assert rows(result, "processes", "comm", "verdict") == [
        ("camera", "grows"),
        ("weston", "stands"),
        ("late", "too short"),
    ]


def test_what_was_there_before_shrinks(ask: Ask) -> None:
    k = Build(lists_all=True)
    older = [k.existing() for _ in range(64)]
    k.snapshot("start")
    for buffer in older:
        k.wait(S)
        k.release(buffer)

    result = ask("growth", k)

    assert rows(result, "exporters", *LEVELS) == [("shrinks", 42, 0)]
    assert rows(result, "exporters", *SLOPES) == [(-1.0, -1.0, -1.0, -4 * KIB)]
    assert rows(result, "processes") == []
    assert result.answer.notes == ("64 buffers whose export was not seen: in no process's growth",)


def test_a_lost_release_is_no_growth(ask: Ask) -> None:
    k = Build(lists_all=True)
    for _ in range(64):
        k.vanish(k.export())
        second(k)
    k.lose("release", "ring_full", 64)

    result = ask("growth", k)

    assert rows(result, "exporters", *LEVELS) == [("stands", 0, 0)]
    assert result.answer.notes == ("64 buffers with a lost end: not judged",)
    assert result.doubts[0] == "may be wrong: 64 events lost (release 64)"


def test_not_observed_is_not_level(ask: Ask) -> None:
    k = Build(unobserved=("release",))
    k.export()
    k.wait(S)

    unseen, empty = ask("growth", k), ask("growth", Build())

    assert rows(unseen, "exporters") == rows(empty, "exporters") == []
    assert {table.empty for table in unseen.answer.tables} == {"not observed: release"}
    assert {table.empty for table in empty.answer.tables} == {"no buffer was seen"}


def test_a_window_is_cut_off_at_its_ends(tmp_path: Path) -> None:
    k = Build()
    made = []
    for _ in range(200):
        made.append(k.export())
        k.wait(MS)
    for buffer in made:
        k.release(buffer)
    opened = trace.open(k.write(tmp_path / "x.dbt"))

    def verdicts(part: trace.Trace) -> list[str]:
        return [row["verdict"] for row in records(registry()["growth"](part).answer.tables[0].rows)]

    assert verdicts(opened.window(START, START + 199 * MS)) == ["grows"]
    assert verdicts(opened.window(START + 90 * MS, START + 190 * MS)) == ["grows"]
