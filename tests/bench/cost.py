# SPDX-License-Identifier: Apache-2.0
"""What tracing adds to each call, in instructions: ours beside ftrace and bpftrace.

Runs in a guest with one processor whose clock counts instructions: ``./dev bench cost`` boots it.
A tool's own cost is the processor time that the loop uses more with it than without; its reader's
is that of its processes, from the loop's begin until they have nothing left to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.bench.peers import (
    Bare,
    Bpftrace,
    Ftrace,
    NotHereError,
    Ours,
    Tool,
    kprobe_hits,
    processor_time,
)
from tests.kmod.client import load

LOOPS: Final = ("files", "cycle", "alloc", "import", "sync", "files again")
"""As loop.c names them; the first runs before the tool has seen a dma-buf."""
FIRST_WITH_BUFFERS: Final = LOOPS[1]
ROUNDS: Final = 5
"""Unless the command line says another number."""
COUNT: Final = 500
COUNT_OF_EVENTS: Final = 20
WARM_UP: Final = 20
"""Rounds that loop.c does ahead of those that it measures."""
BCC: Final = "ours, --loader bcc"
BPFTRACE_FENTRY: Final = "bpftrace, fentry"
SLOW: Final = {BCC, BPFTRACE_FENTRY}
"""They compile long here, so they are started once, and then measured as often as the others."""
QUIET_SECONDS: Final = 0.5
"""Longer than a recorder keeps events to pack them together."""
QUIET_SHARE: Final = 0.1
BUILT: Final = Path("/tmp/loop")  # noqa: S108


@dataclass(slots=True)
class Figures:
    """Of one tool and loop, per time round the loop: one entry a round of the benchmark."""

    loop: list[float]
    """ns that the loop itself took."""
    reader: list[float]
    """ns that the tool's processes took."""
    events: int = 0
    """Calls that the tool reported."""
    hits: int = 0
    """Firings of kprobe events; 0 where the tool has none."""


def run_loop(name: str, count: int) -> tuple[int, int]:
    """ns of processor time for ``count`` times round the loop, and the pid that it had."""
    word = name.split(maxsplit=1)[0]
    process = subprocess.Popen([str(BUILT), word, str(count)], stdout=subprocess.PIPE)
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"loop {name} failed")
    return int(said), process.pid


def settle(readers: Sequence[int]) -> int:
    """Processor time of a tool's readers once they have nothing left to do."""
    used = processor_time(readers)
    while readers:
        time.sleep(QUIET_SECONDS)
        before, used = used, processor_time(readers)
        if used - before < QUIET_SHARE * QUIET_SECONDS * 1e9:
            break
    return used


def measure(tool: Tool, figures: dict[str, Figures]) -> None:
    """One round: every loop, under the tool."""
    for name in LOOPS:
        if name == FIRST_WITH_BUFFERS:
            # whatever a tool does once, when it meets the exporter, is over before it is measured
            run_loop(name, COUNT_OF_EVENTS)
        before, hits = settle(tool.readers), kprobe_hits()
        took, _ = run_loop(name, COUNT)
        read = settle(tool.readers) - before
        figure = figures.setdefault(name, Figures([], []))
        # files that others open meanwhile don't add up to a hit each time
        figure.hits = (kprobe_hits() - hits) // (COUNT + WARM_UP)
        figure.loop.append(took / COUNT)
        figure.reader.append(read / (COUNT + WARM_UP))


def count_events(tool: Tool, figures: dict[str, Figures]) -> None:
    """How many calls the tool reports per time round each loop."""
    for name in LOOPS:
        _, pid = run_loop(name, COUNT_OF_EVENTS)
        settle(tool.readers)
        figures[name].events = tool.events(pid) // (COUNT_OF_EVENTS + WARM_UP)
    if tool.name != Bare.name and not figures[FIRST_WITH_BUFFERS].events:
        raise RuntimeError(f"{tool.name} reported no call")


def tools() -> list[Tool]:
    """All that are compared."""

    def cycle() -> int:
        return run_loop("cycle", 1)[1]

    return [
        Bare(),
        Ours("ours"),
        Ours("ours, --events buffers", "--events", "buffers"),
        *(
            Ours(f"ours, --attach {mode}", "--attach", mode)
            for mode in ("kprobe", "multi", "fentry")
        ),
        Ours(BCC, "--loader", "bcc"),
        Ftrace("ftrace kprobe events", "kprobe_events"),
        Ftrace("ftrace fprobe events", "dynamic_events"),
        Ftrace("ftrace dma_buf tracepoints", group="dma_buf"),
        Bpftrace("bpftrace, kprobes", "kprobe", cycle),
        Bpftrace(BPFTRACE_FENTRY, "fentry", cycle),
    ]


def prepare() -> None:
    """Load the module, build the loops."""
    load(Path("/opt/kmod/dmabuf_ref.ko"))
    compiler = ["gcc", "-O2", "-Wall", "-Itests/kmod", "-o", str(BUILT), "tests/bench/loop.c"]
    subprocess.run(compiler, check=True)


def main() -> None:
    """Measure, print the result as JSON."""
    prepare()
    done: dict[str, dict[str, Figures]] = {}
    missing: dict[str, str] = {}
    present = tools()
    rounds = int(sys.argv[1]) if sys.argv[1:] else ROUNDS
    for number in range(rounds):
        for tool in list(present):
            try:
                with tool:
                    for _ in range(rounds if tool.name in SLOW else 1):
                        measure(tool, done.setdefault(tool.name, {}))
                    if not number:
                        count_events(tool, done[tool.name])
                if tool.name in SLOW:
                    present.remove(tool)
            except NotHereError as error:
                missing[tool.name] = str(error)
                present.remove(tool)
                done.pop(tool.name, None)
    figures = {
        tool: {name: asdict(figure) for name, figure in each.items()} for tool, each in done.items()
    }
    json.dump({"figures": figures, "missing": missing}, sys.stdout)


if __name__ == "__main__":
    main()
