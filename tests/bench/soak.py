# SPDX-License-Identifier: Apache-2.0
"""Soak: many recordings in a row, judged by ``check``: no false alarm, and no leak missed."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

from dmabuf_trace import check
from dmabuf_trace.findings import Verdict
from dmabuf_trace.recording import Reader
from tests.bench.planted import LEAKS, UNDONE, WORKLOADS, Planted
from tests.vm import LabError, Machine, run_guest

Outcome = Literal["clean", "found", "missed", "more", "inconclusive"]
"""``found``: the planted leak and nothing else; ``missed``: not that leak; ``more``: something that
is none, beside it or alone."""

OUTCOMES: Final[tuple[Outcome, ...]] = ("clean", "found", "missed", "more", "inconclusive")
SECONDS_PER_RUN: Final = 300
"""A tenth of it on an idle host."""


def new_seed() -> int:
    """Any."""
    return secrets.randbits(32)


def outcome(verdict: Verdict, planted: Planted | None) -> Outcome:
    """What a verdict is worth, known what was planted."""
    leaks = [(each.rule, each.inodes) for each in verdict.findings if each.certain]
    expected = [(f"leaks.{planted.shape}", (planted.inode,))] if planted else []
    if any(each not in expected for each in leaks):
        return "more"
    if verdict.outcome == "inconclusive":
        return "inconclusive"
    if not planted:
        return "clean"
    return "found" if leaks == expected else "missed"


def judged(folder: Path) -> Iterator[tuple[str, Outcome, str]]:
    """Each window: its row in the table, what came of it, and where it is."""
    rules = check.policy()
    recordings = json.loads((folder / "windows.json").read_text())
    for name, windows in recordings.items():
        file = folder / f"{name}.dbt"
        with Reader(file) as reader:
            began = reader.header["start"]["monotonic_ns"]
        for label, (start, until, inode) in windows.items():
            run, _, what = label.partition(" ")
            if what == UNDONE:
                continue
            planted = Planted(what, inode) if what in LEAKS else None
            verdict = check.read(file, rules, window=(start - began, until - began))
            row = f"planted: {what}" if planted else what
            yield row, outcome(verdict, planted), f"run {run} in {file.name}"


def table(rows: Iterator[tuple[str, Outcome, str]]) -> str:
    """Counts by workload, and where those are that are not as they should be."""
    counts: dict[str, Counter[Outcome]] = {what: Counter() for what in WORKLOADS.values()}
    counts |= {f"planted: {shape}": Counter() for shape in LEAKS}
    notes = []
    for row, found, where in rows:
        counts[row][found] += 1
        if found not in ("clean", "found"):
            notes.append(f"- {row}, {where}: {found}")
    lines = ["| workload | runs | clean | found | missed | false alarm | inconclusive |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row, count in counts.items():
        cells = [row, count.total(), *(count[each] for each in OUTCOMES)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def figures(kernel: str, runs: int, seed: int, folder: Path | None = None) -> str:
    """Record in a guest, judge here; ``folder`` keeps the recordings."""
    sys.stderr.write(f"bench: seed {seed}\n")  # a guest that fails prints no table
    with ExitStack() as stack:
        to = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        to.mkdir(parents=True, exist_ok=True)
        done = run_guest(
            kernel,
            ["python3", "-m", "tests.bench.planted", "record", str(runs), str(seed), "/out"],
            timeout=runs * SECONDS_PER_RUN,
            machine=Machine(memory="2G"),
            shares={"/out": to},
            module=True,
            selftests=True,
        )
        if done.returncode:
            raise LabError(f"the guest's part ended with {done.returncode}\n{done.stderr}")
        text = table(judged(to))
    return f"Kernel {kernel}, {runs} runs of each, seed {seed}:\n\n{text}"
