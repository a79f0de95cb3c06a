# SPDX-License-Identifier: Apache-2.0
"""Start to attached, and peak memory: ``record`` by each loader.

``python -m tests.bench start`` boots a guest and runs this file in it; standard library only.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds from process start to attached, and peak resident memory of the process."""

    seconds: float
    peak_mb: float


def measure(command: list[str], stamp: Path) -> Run:
    """Run a command that leaves the time at which it was attached in ``stamp``."""
    stamp.unlink(missing_ok=True)
    began = time.time_ns()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{command[0]} failed: {os.waitstatus_to_exitcode(status)}")
    return Run((int(stamp.read_text()) - began) / 1e9, usage.ru_maxrss / 1024)


def median(runs: Sequence[Run]) -> Run:
    """Medians of both figures."""
    return Run(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.peak_mb for run in runs),
    )


def main() -> None:
    """Interleave the rounds, print the medians as JSON."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stamp = directory / "stamp"
        recorder = ["dmabuf-trace", "record", "--force", "-o", str(directory / "x.dbt")]
        # the command is the first thing that runs once all is attached
        stamped = ["sh", "-c", f"date +%s%N >{stamp}"]
        commands = {name: [*recorder, "--loader", name, "--", *stamped] for name in ("core", "bcc")}
        runs: dict[str, list[Run]] = {tool: [] for tool in commands}
        for _ in range(ROUNDS):
            for tool, command in commands.items():
                runs[tool].append(measure(command, stamp))
    json.dump({tool: asdict(median(done)) for tool, done in runs.items()}, sys.stdout)


if __name__ == "__main__":
    main()
