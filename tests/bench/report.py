# SPDX-License-Identifier: Apache-2.0
"""``report --json`` on recordings of growing size, beside a plain pandas pairing of their events.

The peer is what a skilled user writes first: events in a DataFrame, begins and ends of one kind of
object put together by ``groupby().shift()``. It is told the kinds to pair and gets the events as
columns, not as a recording: no names, no losses, no check of anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from dmabuf_trace import schema
from dmabuf_trace.recording import Writer
from tests.bench.generate import Generator

SIZES: Final = (1_000_000, 10_000_000)
EVENTS_A_SECOND: Final = 2_640
"""That the generator makes."""
TIME_GOAL: Final = 5.0
GROWTH_GOAL: Final = 1.2
"""Time per event at the largest size, to that at the smallest."""

PAIRS: Final = (
    ("export", "release", "buffer"),
    ("attach", "detach", "object"),
    ("map", "unmap", "value"),
    ("fd_install", "fd_close", "object"),
)
COLUMNS: Final = ("ts", "kind", "buffer", "object", "value")


@dataclass(frozen=True, slots=True)
class Figure:
    """Of one process: wall time, peak memory."""

    seconds: float
    megabytes: float


def generate(folder: Path, events: int) -> tuple[Path, Path, int]:
    """A recording, the same events as columns, and how many there are."""
    recording, columns = folder / f"{events}.dbt", folder / f"{events}.npy"
    generator = Generator(events / EVENTS_A_SECOND)
    count, last, parts = 0, 0, []
    narrow = np.dtype([(name, schema.EVENT_DTYPE[name]) for name in COLUMNS])
    with Writer(recording) as writer:
        writer.begin({"bench": "report", "start": {"monotonic_ns": generator.start}})
        writer.write_names(generator.names())
        for part in generator.slices():
            writer.write_events(part)
            kept = np.empty(len(part), narrow)
            for name in COLUMNS:
                kept[name] = part[name]
            parts.append(kept)
            count += len(part)
            last = int(part["ts"][-1]) if len(part) else last
        writer.finish(last, "duration over")
    np.save(columns, np.concatenate(parts))
    return recording, columns, count


def plain(columns: Path) -> None:
    """The peer, in a process of its own."""
    table = pd.DataFrame(np.load(columns))
    for begin, end, key in PAIRS:
        kinds = [schema.KIND[begin], schema.KIND[end]]
        mine = table[table["kind"].isin(kinds)].sort_values("ts", kind="stable")
        grouped = mine.groupby(key)
        mine = mine.assign(next_kind=grouped["kind"].shift(-1), end=grouped["ts"].shift(-1))
        begun = mine[mine["kind"] == kinds[0]]
        ended = begun[begun["next_kind"] == kinds[1]]
        print(begin, len(begun), len(ended), (ended["end"] - ended["ts"]).mean())


def measure(command: Sequence[str]) -> Figure:
    """Run to the end."""
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"bench: {' '.join(command)} failed")
    return Figure(time.monotonic() - begin, usage.ru_maxrss / 1024)


def figures(sizes: Sequence[int], folder: Path | None) -> str:
    """The table and the goals."""
    rows, each = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            recording, columns, count = generate(Path(name), size)
            ours = measure(
                [sys.executable, "-m", "dmabuf_trace", "report", str(recording), "--json"]
            )
            peer = measure([sys.executable, "-m", "tests.bench.report", str(columns)])
        each.append(ours.seconds / count)
        rows.append(
            f"| {count:,} | {ours.seconds:.1f} s | {ours.megabytes:,.0f} MB "
            f"| {peer.seconds:.1f} s | {peer.megabytes:,.0f} MB "
            f"| {ours.seconds / peer.seconds:.1f} | {ours.megabytes / peer.megabytes:.1f} |"
        )
        ratio = ours.seconds / peer.seconds
    growth = each[-1] / each[0]
    return "\n".join(
        [
            "| events | `report --json` | peak memory | plain pairing | peak memory "
            "| time | memory |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"- time to the plain pairing's: {ratio:.1f}, goal {TIME_GOAL:.1f}: "
            f"{'met' if ratio <= TIME_GOAL else 'NOT met'}",
            f"- time an event, largest to smallest: {growth:.2f}, goal {GROWTH_GOAL:.2f}: "
            f"{'met' if growth <= GROWTH_GOAL else 'NOT met'}",
        ]
    )


if __name__ == "__main__":
    plain(Path(sys.argv[1]))
