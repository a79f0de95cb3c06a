# SPDX-License-Identifier: Apache-2.0
"""No loss at a steady rate: what ``record`` itself takes, and whether it keeps up.

Another process sends events at the given rate into the ring of the real programs; this one runs the
recorder's own loop, snapshots and end included. Runs on this machine: it needs no kprobes.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmabuf_trace import recorder, schema
from dmabuf_trace.capture import DEFAULT_RING_BYTES, Capture, CaptureOptions
from tests.bench.feed import Feed, feeding

MEMORY: Final = Path("/dev/shm")  # noqa: S108
KEEP_SIZE_PUNCH_HOLE: Final = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """Events a second, and the ring that they are recorded with."""

    rate: int
    ring_bytes: int


PACES: Final = (Pace(1_000_000, DEFAULT_RING_BYTES), Pace(3_000_000, 64 << 20))


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of a pace: events, processor time and wall time in seconds."""

    recorded: int
    lost: int
    sent: int
    processor: float
    seconds: float


def _forget(path: Path) -> int:
    """Give back what is written to ``path``, from a process of its own: minutes are gigabytes."""
    child = os.fork()
    if child:
        return child
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    libc = ctypes.CDLL(None)
    length = ctypes.c_int64
    fd = os.open(path, os.O_RDWR)
    while True:
        libc.fallocate(fd, KEEP_SIZE_PUNCH_HOLE, length(0), length(os.fstat(fd).st_size))
        time.sleep(0.2)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(pace: Pace, seconds: float, folder: Path | None) -> Kept:
    """Record at a pace, to ``folder``; without one to memory that is given back.

    Sender and recorder go ahead of others: what else this machine does is not the question.
    """
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with tempfile.TemporaryDirectory(dir=folder or MEMORY) as name:
        output = Path(name) / "paced.dbt"
        feed = Feed(pace.ring_bytes)
        children: list[int] = []
        began: list[float] = []

        def attached(_: Capture) -> None:
            if not folder:
                children.append(_forget(output))
            began.extend((_processor_seconds(), time.monotonic()))
            feed.pace(pace.rate)

        capture = CaptureOptions(ring_bytes=pace.ring_bytes)
        with feeding(feed):
            options = recorder.RecordOptions(output, duration=seconds, capture=capture)
            outcome = recorder.record(options, attached)
        used, took = _processor_seconds() - began[0], time.monotonic() - began[1]
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return Kept(outcome.events, schema.lost_events(outcome.losses), feed.sent, used, took)


def figures(seconds: float, folder: Path | None) -> str:
    """The table."""
    lines = [
        f"{seconds:.0f} seconds each, recorded to {'a disk' if folder else 'memory'}, sender and "
        "recorder ahead of other processes (SCHED_FIFO):",
        "",
        "| events a second | ring | sent | lost | share of a processor |",
        "|---|---|---|---|---|",
    ]
    for pace in PACES:
        kept = measure(pace, seconds, folder)
        if kept.recorded + kept.lost != kept.sent:
            sys.exit(f"bench: {kept.sent} sent, {kept.recorded} recorded, {kept.lost} lost")
        if kept.sent < pace.rate * seconds * 0.95:
            sys.exit(f"bench: this machine sends no {pace.rate:,} events a second")
        lines.append(
            f"| {pace.rate:,} | {pace.ring_bytes >> 20} MiB | {kept.sent:,} | {kept.lost:,} "
            f"| {100 * kept.processor / kept.seconds:.1f} % |"
        )
    return "\n".join(lines)
