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
from tests.bench.planted import LEAKS, WORKLOADS, Planted, recording
from tests.vm import LabError, Machine, run_guest

Outcome = Literal["clean", "found", "missed", "more", "inconclusive"]
"""``found``: the planted leak and nothing else; ``missed``: not that leak; ``more``: something that
is none, beside it or alone."""

OUTCOMES: Final[tuple[Outcome, ...]] = ("clean", "found", "missed", "more", "inconclusive")
SECONDS_PER_RUN: Final = 300
"""Three recordings; a quarter of a minute each on an idle host."""

NAMES: Final = {"selftests": "the kernel's own tests", "stream": "V4L2 streaming"}


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


def judged(folder: Path, runs: int) -> Iterator[tuple[str, Outcome, Path]]:
    """Each recording: its row in the table, and what came of it."""
    rules = check.policy()
    for run in range(runs):
        for workload in WORKLOADS:
            file = folder / recording(workload, run)
            planted = None
            if workload not in NAMES:
                planted = Planted(**json.loads(file.with_suffix(".json").read_text()))
            row = f"planted: {planted.shape}" if planted else NAMES[workload]
            yield row, outcome(check.read(file, rules), planted), file


def table(rows: Iterator[tuple[str, Outcome, Path]], kept: bool) -> str:
    """Counts by workload, and the recordings of those that are not as they should be."""
    counts: dict[str, Counter[Outcome]] = {name: Counter() for name in NAMES.values()}
    counts |= {f"planted: {shape}": Counter() for shape in LEAKS}
    notes = []
    for row, found, file in rows:
        counts[row][found] += 1
        if found not in ("clean", "found"):
            notes.append(f"- {row}, {file if kept else file.name}: {found}")
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
        text = table(judged(to, runs), folder is not None)
    return f"Kernel {kernel}, {runs} runs of each, seed {seed}:\n\n{text}"
