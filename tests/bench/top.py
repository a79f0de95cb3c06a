# SPDX-License-Identifier: Apache-2.0
"""``top``: what it takes while a kernel is busy, and how fast it is with many buffers alive.

In a guest a loop of export, attach, map, unmap, detach and close runs as fast as it can beside
``top`` on a terminal, then beside bpftrace and perf trace printing the same calls. On this machine
a recording with many buffers alive is replayed on a terminal, and keys are pressed.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dmabuf_trace import schema
from dmabuf_trace.blocks import Found, Holder, SnapshotBlock
from dmabuf_trace.recording import Writer
from tests.bench.cost import prepare, run_loop, settle
from tests.bench.peers import Bpftrace, NotHereError, PerfTrace, processor_time
from tests.build import START, S, header
from tests.on_terminal import INSTALLED, Terminal
from tests.vm import Machine, run_guest

TIMEOUT: Final = 3600
BUSY_SECONDS: Final = 5.0
TIMES: Final = 500
"""Round the loop, until the time is over."""
BUFFERS: Final = 100_000
EVENTS_A_SECOND: Final = 10_000
REPLAYED_SECONDS: Final = 30
KEYS: Final = (("4", "attached  mapped"), ("s", "age▼"), ("r", "age▲"), ("?", "this help"))
"""Keys, and what is drawn after each of them."""
ROUNDS: Final = 3
FIRST_FRAME_GOAL: Final = 2.0
KEY_GOAL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Busy:
    """What a tool took while the loop ran: seconds of wall and processor time, events, lost ones.

    ``loops`` is how often the loop went round meanwhile; ``frames`` are -1 of a tool that has none.
    """

    seconds: float
    processor: float
    loops: int
    events: int
    lost: int
    frames: int = -1


Printer = Bpftrace | PerfTrace

# in the guest


def _loop(seconds: float) -> int:
    """Go round as fast as it goes, for so long; how often that was."""
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        run_loop("cycle", TIMES)
        count += TIMES
    return count


def _measured(pids: list[int], seconds: float) -> tuple[float, float, int]:
    """Wall time, processor time and times round the loop."""
    began, used = time.monotonic(), processor_time(pids)
    count = _loop(seconds)
    return time.monotonic() - began, (processor_time(pids) - used) / 1e9, count


def busy_top() -> Busy:
    """Our own, on a terminal that takes what it is sent."""
    with Terminal([], command=INSTALLED) as terminal:
        terminal.wait_for("q quit")
        first = len(terminal.sent)
        reader = threading.Thread(target=terminal.end)
        reader.start()
        took = _measured([terminal.process.pid], BUSY_SECONDS)
        frames = terminal.sent[first:].count("dmabuf-trace top")
        terminal.press("q")
        reader.join()
        said = terminal.said
    found = re.search(r"(\d+) events, (\d+) lost", said)
    if not found:
        raise RuntimeError(f"top said: {said}")
    return Busy(*took, int(found[1]), int(found[2]), frames)


def busy_printer(peer: Printer) -> Busy:
    """It prints the same calls into a file."""

    def lines() -> int:
        return len(re.findall(peer.LINE, peer.output.read_text(errors="replace"), re.MULTILINE))

    with peer:
        before = lines()
        used = settle(peer.readers)
        seconds, _, count = _measured([*peer.readers], BUSY_SECONDS)
        processor = (settle(peer.readers) - used) / 1e9  # it prints on when the loop is over
        events = lines() - before
        text = peer.output.read_text(errors="replace")
    lost = sum(map(int, re.findall(peer.LOST, text, re.MULTILINE)))
    return Busy(seconds, processor, count, events, lost)


def main() -> None:
    """Measure, print the result as JSON, a tool a line."""

    def warm_up() -> int:
        return run_loop("cycle", 1)[1]

    prepare()
    print(json.dumps({"top": asdict(busy_top())}), flush=True)
    for peer in (Bpftrace("bpftrace", "kprobe", warm_up), PerfTrace("perf trace", warm_up)):
        try:
            print(json.dumps({peer.name: asdict(busy_printer(peer))}), flush=True)
        except NotHereError as error:
            print(json.dumps({peer.name: str(error)}), flush=True)


# on this machine


def many(path: Path) -> None:
    """A recording with that many buffers from before, and some of them used."""
    found = tuple(
        Found(10 + at, 4096 * (1 + at % 64), f"exporter{at % 5}", f"name-{at % 1000}")
        for at in range(BUFFERS)
    )
    holders = tuple(
        Holder(each.buffer, 100 + at % 500, f"process{at % 500}", at)
        for at, each in enumerate(found)
    )
    with Writer(path) as writer:
        writer.begin(header())
        writer.write_snapshot(SnapshotBlock("start", START, found, holders, 0, "iterators", True))
        events = np.zeros(REPLAYED_SECONDS * EVENTS_A_SECOND, schema.EVENT_DTYPE)
        at = np.arange(len(events))
        events["ts"] = START + at * (S // EVENTS_A_SECOND)
        events["kind"] = np.where(at % 2, schema.KIND["cpu_end"], schema.KIND["cpu_begin"])
        events["buffer"] = 10 + at // 2 * 7919 % BUFFERS
        events["pid"] = events["tid"] = 100
        events["stack"] = events["user_stack"] = schema.UNKNOWN_STACK
        for part in np.split(events, REPLAYED_SECONDS * 10):
            writer.write_events(part)
        writer.finish(START + REPLAYED_SECONDS * S, "duration over")


@dataclass(frozen=True, slots=True)
class Replayed:
    """Seconds from the start of the process to its first frame, of them its own processor time, and
    from each key to its answer."""

    first: float
    processor: float
    answered: tuple[float, ...]


def replayed(path: Path) -> Replayed:
    """Play it, and press keys."""
    with Terminal(["--replay", path], 160, 48) as terminal:
        first = terminal.wait_for("q quit") - terminal.began
        used = processor_time([terminal.process.pid]) / 1e9
        answered = []
        for key, answer in KEYS:
            at = terminal.press(key)
            pressed = time.monotonic()
            answered.append(terminal.wait_for(answer, at) - pressed)
        terminal.press("qq")
        terminal.end()
    return Replayed(first, used, tuple(answered))


def figures(kernel: str, folder: Path | None) -> str:
    """Both, as Markdown."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name, "many.dbt")
        many(path)
        runs = [replayed(path) for _ in range(ROUNDS)]
    return "\n".join([*_of_guest(kernel, _in_guest(kernel)), "", *_of_replay(runs)])


def _in_guest(kernel: str) -> dict[str, Any]:
    command = ["python3", "-m", "tests.bench.top"]
    machine = Machine(memory="2G", cpus=1, counted=True)
    done = run_guest(kernel, command, timeout=TIMEOUT, machine=machine, module=True)
    if done.returncode:
        sys.exit(f"bench: failed in the guest with status {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return found


def _of_guest(kernel: str, found: dict[str, Any]) -> list[str]:
    rows = [(name, Busy(**each)) for name, each in found.items() if not isinstance(each, str)]
    others = [(name, each) for name, each in found.items() if isinstance(each, str)]
    return [
        f"Emulated {kernel} guest, one processor whose clock counts instructions; a loop at full",
        "speed shares it with each tool:",
        "",
        "| tool | events | lost | events/s | of one processor | us an event | frames/s |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, busy) for name, busy in rows),
        "",
        "An event is a call. Of what perf trace lost, a call is two: it prints entry and return.",
        *(f"\n{name}: not run, {why}" for name, why in others),
    ]


def _row(name: str, busy: Busy) -> str:
    frames = f"{busy.frames / busy.seconds:.1f}" if busy.frames >= 0 else "-"
    share = busy.processor / busy.seconds
    each = busy.processor / max(busy.events, 1) * 1e6
    counts = f"{busy.events:,} | {busy.lost:,} | {busy.events / busy.seconds:,.0f}"
    return f"| {name} | {counts} | {share:.0%} | {each:.1f} | {frames} |"


def _of_replay(runs: list[Replayed]) -> list[str]:
    first, used, slowest = (
        statistics.median(each)
        for each in zip(
            *((run.first, run.processor, max(run.answered)) for run in runs), strict=True
        )
    )
    return [
        f"`top --replay` on this machine ({os.cpu_count()} processors, {os.getloadavg()[0]:.0f} "
        f"processes running), {BUFFERS:,} buffers alive, medians of {ROUNDS}:",
        "",
        f"- process start to first frame: {_goal(first, FIRST_FRAME_GOAL)}; processor time of its "
        f"own: {used * 1e3:,.0f} ms",
        f"- slowest of the keys to its answer: {_goal(slowest, KEY_GOAL)}",
    ]


def _goal(seconds: float, goal: float) -> str:
    met = "met" if seconds <= goal else "NOT met"
    return f"{seconds * 1e3:,.0f} ms, goal {goal * 1e3:,.0f} ms: {met}"


if __name__ == "__main__":
    main()
