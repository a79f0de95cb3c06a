# SPDX-License-Identifier: Apache-2.0
"""Readers of ``trace`` that are slow, stuck or gone, signals, and a lock that is held.

Runs in a guest with the module loaded: ``python3 -m tests.following DIR`` leaves
``following.json``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Final

from tests.cycle import PAGE, cycle, cycles
from tests.kmod.client import Importer, Op, Ref, load
from tests.weather.watch import TRACE, Left, Result, run, wait_until

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
DONE: Final = Path("/tmp/done")  # noqa: S108 - of a guest that lives for this
LINES: Final = Path("/tmp/lines")  # noqa: S108
CYCLES: Final = 300
"""Their lines are many times what a pipe holds."""
SELF: Final = ("python3", "-m", "tests.following")


def _started(*command: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    """A trace of the whole system that is attached."""
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    while "Ctrl-C" not in (line := process.stderr.readline()):
        if not line:
            raise RuntimeError(f"{command} did not start")
    return process


def _ended(process: subprocess.Popen[str]) -> Result:
    stdout, stderr = process.communicate()
    return {"status": process.returncode, "stdout": stdout, "stderr": stderr}


def counted() -> None:
    """Cycles, and what the module says they were."""
    with Ref() as ref:
        for _ in range(CYCLES):
            cycle(ref)
        DONE.write_text(json.dumps(asdict(ref.counters())))


def slow() -> Result:
    """Nothing is read before all has happened."""
    command = [TRACE, "trace", "--json", "--", *SELF, "counted"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until("all has happened", DONE.exists)
    return _ended(process)


def stuck() -> Result:
    """Nothing is read before it has ended by SIGTERM."""
    process = _started(TRACE, "trace", "--json")
    assert process.stdout
    cycles(CYCLES)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return _ended(process)


def gone() -> Result:
    """The reader takes the titles and a line, and goes."""
    process = _started("bash", "-c", f"set -o pipefail; {TRACE} trace | head -2")
    cycles(1)
    return _ended(process)


def interrupted(happen: Callable[[], None], last: str, *options: str) -> Result:
    """A signal, when the last line is there."""
    with LINES.open("w") as lines:
        process = _started(TRACE, "trace", *options, stdout=lines)
        happen()
        wait_until(f"{last} is shown", lambda: last in LINES.read_text())
        process.send_signal(signal.SIGINT)
        ended = _ended(process)
    return {**ended, "stdout": LINES.read_text()}


def failing() -> None:
    """Two devices; a map of the first one fails."""
    with Ref() as ref, ref.export(PAGE) as buffer:
        other, handle = ref.attach(buffer, Importer.IMP32), ref.attach(buffer, Importer.IMP64)
        ref.map(other)
        ref.inject(Op.MAP, 12)
        with suppress(OSError):
            ref.map(handle)


def locked() -> dict[str, Result]:
    """A map that holds its buffer's reservation lock, for ever."""
    with Ref() as ref, ref.export(PAGE) as buffer:
        handle = ref.attach(buffer, Importer.IMP64)
        ref.gate(closed=True)
        pid = os.fork()
        if not pid:
            ref.map(handle)
            os._exit(0)
        wait_until("the lock is held", lambda: ref.counters().gate_waiters == 1)
        found = {
            "locked": run(TRACE, "snapshot", "--bufinfo"),
            "locked, no bufinfo": run(TRACE, "snapshot", "--json"),
        }
        ref.gate(closed=False)
        os.waitpid(pid, 0)
        return {**found, "unlocked": run(TRACE, "snapshot", "--bufinfo")}


def main() -> None:
    """DIR, or what is counted"""
    if sys.argv[1] == "counted":
        counted()
        return
    out = Path(sys.argv[1])
    load(MODULE)
    left = Left()
    chosen = ("--event", "map,attach", "--device", Importer.IMP64.device, "-k", "-u")
    results = {
        "slow": slow(),
        "stuck": stuck(),
        "gone": gone(),
        "interrupted": interrupted(partial(cycles, 1), " release "),
        "chosen": interrupted(failing, "ENOMEM", "--json", *chosen),
        **locked(),
        "left": left.behind(),
    }
    counters = json.loads(DONE.read_text())
    (out / "following.json").write_text(json.dumps({**results, "counters": counters}))


if __name__ == "__main__":
    main()
