# SPDX-License-Identifier: Apache-2.0
"""The soak's judge, and a few of its runs in a guest: nothing missed, no false alarm."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import soak
from tests.bench.planted import LEAKS, UNDONE, WORKLOADS, Planted
from tests.build import Build

RUNS = 4
PLANTED = Planted("fd", 41)


def clean(k: Build) -> None:
    k.release(k.export())


def leak(k: Build) -> None:
    k.export(fd=3)
    clean(k)


def leak_another(k: Build) -> None:
    clean(k)
    k.export(fd=3)


def leak_both(k: Build) -> None:
    k.export(fd=3)
    k.export(fd=4)


def lose(k: Build) -> None:
    clean(k)
    k.lose("release", "ring_full", 1)


@pytest.mark.parametrize(
    ("work", "with_nothing", "with_one_planted"),
    [
        (clean, "clean", "missed"),
        (leak, "more", "found"),
        (leak_another, "more", "more"),
        (leak_both, "more", "more"),
        (lose, "inconclusive", "inconclusive"),
    ],
)
def test_what_a_run_comes_to(
    tmp_path: Path, work: Callable[[Build], None], with_nothing: str, with_one_planted: str
) -> None:
    """Buffer 41 is the planted one."""
    windows = {}
    for number, what in enumerate((*WORKLOADS.values(), PLANTED.shape, UNDONE)):
        k = Build()
        since = k.now
        work(k)
        k.snapshot("during")
        k.wait(1)
        k.write(tmp_path / f"{number}.dbt")
        windows[str(number)] = {f"0000 {what}": (since, k.now, PLANTED.inode)}
    (tmp_path / "windows.json").write_text(json.dumps(windows))

    assert [(row, found) for row, found, _ in soak.judged(tmp_path)] == [
        ("the kernel's own tests", with_nothing),
        ("V4L2 streaming", with_nothing),
        ("planted: fd", with_one_planted),
    ]


def test_the_table_counts_and_names_what_went_wrong() -> None:
    text = soak.table(iter([("planted: fd", "found", "run 1"), ("planted: fd", "missed", "run 2")]))

    assert "| planted: fd | 2 | 0 | 1 | 1 | 0 | 0 |" in text
    assert "| planted: kernel | 0 | 0 | 0 | 0 | 0 | 0 |" in text
    assert text.splitlines()[-1] == "- planted: fd, run 2: missed"


@pytest.mark.guest
def test_no_false_alarm_and_no_leak_missed(tmp_path: Path) -> None:
    text = soak.figures("6.12", RUNS, soak.new_seed(), tmp_path)

    cells = re.findall(r"^\| ([^|]+) \| ([0-9 |]+) \|$", text, re.MULTILINE)
    rows = {name: [int(number) for number in numbers.split(" | ")] for name, numbers in cells}
    assert rows.pop("the kernel's own tests") == [RUNS, RUNS, 0, 0, 0, 0], text
    assert rows.pop("V4L2 streaming") == [RUNS, RUNS, 0, 0, 0, 0], text
    assert set(rows) == {f"planted: {shape}" for shape in LEAKS}
    assert [sum(column) for column in zip(*rows.values(), strict=True)] == [RUNS, 0, RUNS, 0, 0, 0]
