# SPDX-License-Identifier: Apache-2.0
"""Running a command in bad weather, and seeing what it leaves behind in the kernel."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

TRACE: Final = "dmabuf-trace"
KPROBE_EVENTS: Final = Path("/sys/kernel/tracing/kprobe_events")
PATIENCE: Final = 300.0
POLL_SECONDS: Final = 0.05
OURS: Final = "dmabuf_trace_"
Result = dict[str, Any]


def run(*command: str) -> Result:
    """Status and output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def shell(script: str) -> Result:
    """The same for a script, in mounts of its own."""
    return run("unshare", "-m", "sh", "-ec", script)


def wait_until(what: str, true: Callable[[], bool]) -> None:
    """Return when it is true.

    Raises:
        TimeoutError: it did not become so.
    """
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(POLL_SECONDS)  # yielding only would take the time from what is waited for


def programs() -> set[int]:
    """Ids of the BPF programs in the kernel, but for the one that bpftool lists holders with."""
    listed = json.loads(run("bpftool", "-j", "prog", "list")["stdout"])
    return {program["id"] for program in listed if program.get("name") != "iter"}


def events() -> list[str]:
    """Our kprobe events, attached or not."""
    return [line for line in KPROBE_EVENTS.read_text().splitlines() if OURS in line]


def armed() -> list[str]:
    """Functions on which a kprobe is switched on."""
    listed = Path("/sys/kernel/debug/kprobes/list").read_text().splitlines()
    return [line for line in listed if "[DISABLED]" not in line]


class Left:
    """What is in the kernel now, to see later what has come and stayed."""

    def __init__(self) -> None:
        self._programs, self._armed = programs(), armed()

    def behind(self) -> Result:
        """What is left: the kernel frees programs a while after their owner is gone."""
        with suppress(TimeoutError):  # then they are shown
            wait_until("programs are gone", lambda: not programs() - self._programs)
        return {
            "programs": sorted(programs() - self._programs),
            "armed": sorted(set(armed()) - set(self._armed)),
            "events": events(),
        }


class Recorder:
    """``record`` of the whole system, in the background and attached."""

    def __init__(self, output: Path, *options: str, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, TRACE, "record", "-o", str(output), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = ""
        assert self.process.stderr is not None
        while "recording" not in self.said:
            line = self.process.stderr.readline()
            if not line:
                raise RuntimeError(f"the recorder did not start: {self.said}")
            self.said += line

    def end(self, number: signal.Signals = signal.SIGINT) -> Result:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> Result:
        """Wait for its end; what it said since it was attached."""
        _, stderr = self.process.communicate()
        return {"status": self.process.returncode, "stdout": "", "stderr": stderr}


def wait_for_growth(path: Path, size: int) -> None:
    """Return when a file being written has at least ``size`` bytes."""
    wait_until(f"{path} grows", lambda: path.stat().st_size >= size)
