# SPDX-License-Identifier: Apache-2.0
"""What guest tests let the reference exporter do while a recorder watches.

Runs in a guest: ``python3 -m tests.scenarios record DIR NAME...`` makes those recordings, each into
``DIR/NAME.dbt``, and writes what the module and ftrace counted meanwhile to ``DIR/NAME.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests import oracle
from tests.kmod.client import DYNAMIC_IMPORTER, Direction, ExportFlag, Importer, Op, Ref, load

PAGE: Final = 4096
CYCLES: Final = 10_000
RACERS: Final = 8
RACER_CYCLES: Final = 1_000
BLOCKED: Final = 60
MOVES: Final = 100


def cycle(ref: Ref) -> None:
    """One buffer from export to release, through one device."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer, Importer.IMP64)
        ref.map(handle, Direction.TO_DEVICE)
        ref.unmap(handle)
        ref.detach(handle)


def cycles() -> None:
    """One process at full speed."""
    with Ref() as ref:
        for _ in range(CYCLES):
            cycle(ref)


def racing() -> None:
    """Eight processes that begin together, on however many processors there are."""
    gate, opener = os.pipe()
    children = []
    for _ in range(RACERS):
        if pid := os.fork():
            children.append(pid)
            continue
        os.close(opener)
        os.read(gate, 1)  # returns when the last writing end is closed
        with Ref() as ref:
            for _ in range(RACER_CYCLES):
                cycle(ref)
        os._exit(0)
    os.close(opener)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    if any(statuses):
        raise RuntimeError(f"racers failed: {statuses}")


def blocked() -> None:
    """Sixty threads inside one function at once: each maps a buffer of its own."""
    with Ref() as ref:
        buffers = [ref.export(PAGE) for _ in range(BLOCKED)]
        handles = [ref.attach(buffer, Importer.IMP64) for buffer in buffers]
        ref.gate(True, Op.MAP)
        threads = [threading.Thread(target=ref.map, args=(handle,)) for handle in handles]
        for thread in threads:
            thread.start()
        while ref.counters().gate_waiters < BLOCKED:
            os.sched_yield()
        ref.gate(False, Op.MAP)
        for thread in threads:
            thread.join()
        for handle, buffer in zip(handles, buffers, strict=True):
            ref.unmap(handle)
            ref.detach(handle)
            buffer.close()


def movable() -> None:
    """A dynamic importer pins; between pins the exporter moves the buffer."""
    with Ref() as ref, ref.export(PAGE, ExportFlag.DYNAMIC | ExportFlag.EAGER) as buffer:
        handle = ref.attach(buffer, Importer.IMP64, flags=DYNAMIC_IMPORTER)
        for _ in range(MOVES):
            ref.pin(handle)
            ref.unpin(handle)
            ref.move(buffer)
        ref.detach(handle)


SCENARIOS: Final[dict[str, Callable[[], None]]] = {
    "cycles": cycles,
    "racing": racing,
    "blocked": blocked,
    "movable": movable,
}


@dataclass(frozen=True, slots=True)
class Recording:
    """A scenario, and the options with which it is recorded."""

    scenario: str
    options: tuple[str, ...] = ()


RECORDINGS: Final = {
    **{name: Recording(name) for name in SCENARIOS},
    "tiny-ring": Recording("cycles", ("--ring", str(PAGE))),
    "few-returns": Recording("blocked", ("--maxactive", "4")),
    "devices-only": Recording("blocked", ("--events", "devices")),
}


def record(name: str, directory: Path) -> None:
    """Make a recording, and write down what was counted meanwhile."""
    made = RECORDINGS[name]
    oracle.start()
    with Ref() as ref:
        before = asdict(ref.counters())
        recorder = ["dmabuf-trace", "record", "-o", str(directory / f"{name}.dbt"), *made.options]
        command = ["python3", "-m", "tests.scenarios", made.scenario]
        subprocess.run([*recorder, "--", *command], check=True)
        after = asdict(ref.counters())
    module = {name: after[name] - before[name] for name in after}
    counted = {"module": module, "ftrace": oracle.hits()}
    (directory / f"{name}.json").write_text(json.dumps(counted))
    oracle.stop()


def main() -> None:
    """SCENARIO | record DIR NAME..."""
    match sys.argv[1:]:
        case ["record", directory, *names]:
            load(Path("/opt/kmod/dmabuf_ref.ko"))
            for name in names:
                record(name, Path(directory))
        case [name] if name in SCENARIOS:
            SCENARIOS[name]()
        case _:
            known = " | ".join(SCENARIOS)
            sys.exit(f"usage: python3 -m tests.scenarios {known} | record DIR NAME...")


if __name__ == "__main__":
    main()
