# SPDX-License-Identifier: Apache-2.0
"""``report --all --json`` on recordings of growing size, beside what people write instead.

The one peer is a plain pandas pairing (:mod:`tests.bench.plain`), on columns; the other, on the
smallest size, scripts over a trace in text (:mod:`tests.bench.questions`). Each runs in a process
of its own. What would need more memory than there is, judged by the size before, is not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.questions import QUESTIONS

REPORT: Final = (sys.executable, "-m", "dmabuf_trace", "report", "--all", "--json")
PLAIN: Final = (sys.executable, "-m", "tests.bench.plain")
SCRIPT: Final = (sys.executable, "-m", "tests.bench.questions")
GENERATE: Final = (sys.executable, "-m", "tests.bench.recorded")

SIZES: Final = (1_000_000, 10_000_000)
ALL_SIZES: Final = (*SIZES, 100_000_000)
TIME_SIZE: Final = SIZES[-1]
RUNS: Final = 3
"""Of both in turn, up to that size: one run differs from the next by more than a tenth."""
TIME_GOAL: Final = 5.0
"""Time to the plain pairing's, at that size."""
GROWTH_GOAL: Final = 1.2
"""Time per event to that at the size before."""
MEMORY_SIZE: Final = ALL_SIZES[-1]
MEMORY_GOAL: Final = 2_000.0
"""MB at that size."""
MEMORY_GROWTH_GOAL: Final = 1.5
"""Peak memory there to that at the size before."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Of one process: wall time, peak memory; without a time: the memory that it would need."""

    seconds: float | None
    megabytes: float

    def cells(self) -> str:
        """Two cells of a table."""
        if self.seconds is None:
            return f"not run | would need {self.megabytes / 1_000:,.0f} GB"
        return f"{self.seconds:.1f} s | {self.megabytes:,.0f} MB"


@dataclass(frozen=True, slots=True)
class Row:
    """A recording of ``events``, and what it took to ask it; ``scripts``: by question."""

    events: int
    generated: Figure
    ours: Figure
    plain: Figure
    scripts: dict[str, Figure]

    @property
    def seconds_an_event(self) -> float | None:
        return None if self.ours.seconds is None else self.ours.seconds / self.events


def measure(command: Sequence[str]) -> tuple[Figure, str]:
    """Run to the end; what it took, and what it printed where that is little."""
    with tempfile.TemporaryFile() as output:
        begin = time.monotonic()
        with subprocess.Popen(command, stdout=output) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        figure = Figure(time.monotonic() - begin, usage.ru_maxrss / 1024)
        if process.returncode:
            sys.exit(f"bench: {' '.join(command)} failed")
        output.seek(0)
        return figure, output.read(100).decode(errors="replace")


def available() -> float:
    """MB of memory that processes can have."""
    found = re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) / 1024 if found else 0.0


def measured(command: Sequence[str], need: float) -> Figure:
    """Run it where ``need`` MB are to be had."""
    return Figure(None, need) if need > available() else measure(command)[0]


def middle(figures: Sequence[Figure]) -> Figure:
    """The one with the median time, of an odd number."""
    return sorted(figures, key=lambda each: each.seconds or 0.0)[len(figures) // 2]


def rows(sizes: Sequence[int], folder: Path | None) -> Iterator[Row]:
    """Generate and ask, size by size."""
    last: Row | None = None
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            recording, columns, text = (
                str(Path(name) / file) for file in ("made.dbt", "made.raw", "made.txt")
            )
            texts = [] if last else [text]
            made, count = measure([*GENERATE, str(size), recording, columns, *texts])
            events = int(count)
            each = (last.ours.megabytes, last.plain.megabytes) if last else (0.0, 0.0)
            needs = [need * events / (last.events if last else 1) for need in each]
            commands = ([*REPORT, recording], [*PLAIN, columns])
            runs = [
                [measured(*each) for each in zip(commands, needs, strict=True)]
                for _ in range(RUNS if size <= TIME_SIZE else 1)
            ]
            ours, peer = (middle(figures) for figures in zip(*runs, strict=True))
            last = Row(
                events,
                made,
                ours,
                peer,
                {ask: measure([*SCRIPT, ask, text])[0] for ask in QUESTIONS if texts},
            )
        yield last


def _table(measurements: Sequence[Row]) -> Iterator[str]:
    yield (
        "| events | generated in | `report --all --json` | peak memory | plain pairing "
        "| peak memory | time | memory |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for row in measurements:
        ours, peer = row.ours, row.plain
        ratios = " | "
        if ours.seconds is not None and peer.seconds is not None:
            ratios = f"{ours.seconds / peer.seconds:.1f} | {ours.megabytes / peer.megabytes:.1f}"
        yield (
            f"| {row.events:,} | {row.generated.seconds:.0f} s | {ours.cells()} | {peer.cells()} "
            f"| {ratios} |"
        )


def _scripts(row: Row) -> Iterator[str]:
    """Their times: each question reads the text anew."""
    yield f"Text, {row.events:,} lines, and a script of some 20 lines per question:"
    yield ""
    yield "| question | time | us an event |"
    yield "|---|---|---|"
    for ask, figure in row.scripts.items():
        if figure.seconds is not None:
            each = figure.seconds / row.events * 1e6
            yield f"| {ask.replace('_', ' ')} | {figure.seconds:.1f} s | {each:.1f} |"
    if row.ours.seconds is not None:
        each = row.ours.seconds / row.events * 1e6
        yield f"| all of `report --all --json` | {row.ours.seconds:.1f} s | {each:.1f} |"


def _goal(what: str, value: float | None, goal: float, digits: int = 1) -> str:
    if value is None:
        return f"- {what}: goal {goal:,.{digits}f}: not run, NOT met"
    met = "met" if value <= goal else "NOT met"
    return f"- {what}: {value:,.{digits}f}, goal {goal:,.{digits}f}: {met}"


def _goals(sizes: Sequence[int], measurements: Sequence[Row]) -> Iterator[str]:
    for size, row, before in zip(sizes, measurements, (None, *measurements), strict=False):
        if size == TIME_SIZE:
            ours, peer = row.ours.seconds, row.plain.seconds
            ratio = ours / peer if ours and peer else None
            yield _goal(f"time to the plain pairing's, {size:,} events", ratio, TIME_GOAL)
        if before is not None:
            now, then = row.seconds_an_event, before.seconds_an_event
            growth = now / then if now and then else None
            what = f"time an event, {row.events:,} events to {before.events:,}"
            yield _goal(what, growth, GROWTH_GOAL, 2)
        if size == MEMORY_SIZE:
            peak = row.ours.megabytes if row.ours.seconds else None
            yield _goal(f"peak memory in MB, {size:,} events", peak, MEMORY_GOAL, 0)
            if before is not None:
                growth = peak / before.ours.megabytes if peak else None
                what = f"peak memory, {row.events:,} events to {before.events:,}"
                yield _goal(what, growth, MEMORY_GROWTH_GOAL, 2)


def figures(sizes: Sequence[int], folder: Path | None) -> str:
    """The tables and the goals."""
    measurements = list(rows(sizes, folder))
    return "\n".join(
        [
            *_table(measurements),
            "",
            *_goals(sizes, measurements),
            "",
            *_scripts(measurements[0]),
        ]
    )
