# SPDX-License-Identifier: Apache-2.0
"""What guest tests let the reference exporter do while a recorder watches.

Runs in a guest: ``python3 -m tests.scenarios record DIR NAME...`` makes those recordings, each into
``DIR/NAME.dbt``, and writes what the module and ftrace counted meanwhile to ``DIR/NAME.json``,
with what the scenario itself has to say.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests import oracle, parts
from tests.cycle import PAGE
from tests.cycle import cycles as run_cycles
from tests.kmod.client import DYNAMIC_IMPORTER, ExportFlag, Importer, Op, Ref, load
from tests.kmod.wraps import MAX_WRAPS, wrap
from tests.losses import LOSING

CYCLES: Final = 10_000
RACERS: Final = 8
RACER_CYCLES: Final = 1_000
BLOCKED: Final = 60
MOVES: Final = 100
NESTED: Final = 50
WATCHED: Final = 4


def cycles(count: int = CYCLES) -> None:
    """One process at full speed."""
    run_cycles(count)


def racing(count: int = RACER_CYCLES) -> None:
    """Eight processes that begin together, on however many processors there are."""
    gate, opener = os.pipe()
    children = []
    for _ in range(RACERS):
        if pid := os.fork():
            children.append(pid)
            continue
        os.close(opener)
        os.read(gate, 1)  # returns when the last writing end is closed
        run_cycles(count)
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


def nested() -> None:
    """Calls within calls of the same kind on one thread: an exporter wraps another one's buffer."""
    with Ref() as ref:
        for _ in range(NESTED):
            buffers = [ref.export(PAGE)]
            for _ in range(MAX_WRAPS):
                buffers.append(wrap(ref, buffers[-1]))
            handle = ref.attach(buffers[-1], Importer.IMP64)
            ref.map(handle)
            ref.unmap(handle)
            ref.detach(handle)
            for buffer in buffers:
                buffer.close()


SCENARIOS: Final[dict[str, Callable[[], None]]] = {
    "cycles": cycles,
    "racing": racing,
    "blocked": blocked,
    "movable": movable,
    "nested": nested,
    **LOSING,
    **{name: partial(parts.show, name) for name in parts.SCENARIOS},
}


@dataclass(frozen=True, slots=True)
class Recording:
    """A scenario, and the options with which it is recorded."""

    scenario: str
    options: tuple[str, ...] = ()


RECORDINGS: Final = {
    **{name: Recording(name) for name in SCENARIOS if name not in LOSING},
    "tiny-ring": Recording("cycles", ("--ring", str(PAGE))),
    "stalled": Recording("stalled", ("--ring", str(16 * PAGE))),
    "few-inflight": Recording("blocked", ("--table", "inflight=4")),
    "few-stacks": Recording("blocked", ("--table", "stacks=1")),
    "few-matching": Recording(
        "blocked", ("--exporter", "dmabuf_ref", "--table", f"watched={WATCHED}")
    ),
    "few-watched": Recording("blocked", ("--only-command", "--table", f"watched={WATCHED}")),
    "few-names": Recording("naming", ("--table", f"names={PAGE}")),
    "torn": Recording("torn"),
    "skipped": Recording("skipped", ("--attach", "kprobe")),
    "few-returns": Recording("blocked", ("--attach", "kprobe", "--maxactive", "4")),
    "devices-only": Recording("blocked", ("--events", "devices")),
}


def _counters() -> dict[str, int]:
    """What the module has counted; nobody keeps it open meanwhile."""
    with Ref() as ref:
        return asdict(ref.counters())


def record(name: str, directory: Path) -> None:
    """Make a recording, and write down what was counted meanwhile.

    It grows in the guest's own memory: what reads a file of the host's while another writes it may
    leave zeros in it, as the cache of that file system would have it.
    """
    made = RECORDINGS[name]
    oracle.start()
    before = _counters()
    with tempfile.TemporaryDirectory() as own:
        recording = Path(own, f"{name}.dbt")
        recorder = ["dmabuf-trace", "record", "-o", str(recording), *made.options]
        command = ["python3", "-m", "tests.scenarios", made.scenario]
        told = {**os.environ, parts.RECORDING: str(recording)}
        done = subprocess.run(
            [*recorder, "--", *command], check=True, stdout=subprocess.PIPE, env=told
        )
        for each in Path(own).iterdir():
            shutil.copy(each, directory)
    after = _counters()
    module = {name: after[name] - before[name] for name in after}
    marks = json.loads(done.stdout or "null")
    counted = {"module": module, "ftrace": oracle.hits(), "marks": marks}
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
