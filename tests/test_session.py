# SPDX-License-Identifier: Apache-2.0
"""Following a command: its end, its status, signals, time limits, a sink that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from dmabuf_trace import schema
from dmabuf_trace.capture import Batch, Capture
from dmabuf_trace.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    OutputError,
)
from dmabuf_trace.session import (
    Ending,
    Follower,
    Periodic,
    find_command,
    follow,
    signals_waited_for,
    wait_signal,
)

NO_NAMES = np.empty(0, schema.NAME_DTYPE)


class ScriptedCapture:
    """Stands for the rings: hands out batches, and does something whenever it is asked for one."""

    def __init__(self, *sizes: int, on_drain: Callable[[], None] = lambda: None) -> None:
        self._sizes = list(sizes)
        self._on_drain = on_drain
        self.loader = self
        self.watch = self
        self.detached = False
        self.always = 0
        self.unfinished = 0
        self.ts = 0
        self.lost = np.zeros(schema.LOSS_SHAPE, np.uint64)

    def drain(self) -> Batch:
        self._on_drain()
        size = self._sizes.pop(0) if self._sizes else self.always
        events = np.zeros(size, schema.EVENT_DTYPE)
        events["ts"] = self.ts
        return Batch(NO_NAMES, events)

    @property
    def is_empty(self) -> bool:
        self.unfinished = max(self.unfinished - 1, 0)
        return not self.unfinished

    def losses(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
        return self.lost.copy()

    def detach(self) -> None:
        self.detached = True

    def follow_this(self) -> None:
        """Nothing is filtered."""


def run(
    capture: ScriptedCapture,
    *command: str,
    duration: float | None = None,
    sink: Callable[[Batch], None] = lambda _: None,
    cycles: int = 1,
    ended: Callable[[int], None] = lambda _: None,
) -> tuple[Ending, Follower]:
    follower = Follower(cast("Capture", capture), sink)
    with signals_waited_for():
        return follow(follower, command, duration, cycles, ended), follower


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


def send(number: signal.Signals) -> None:
    """Signal this thread: the process may have others, which a test runner started."""
    signal.pthread_kill(threading.get_ident(), number)


def test_the_commands_end_and_status_are_passed_on() -> None:
    ending, _ = run(ScriptedCapture(), *python("raise SystemExit(7)"))
    assert ending == Ending("command ended", 7, runs=1, failed=1)


def test_a_command_killed_by_a_signal_ends_as_in_a_shell() -> None:
    ending, _ = run(ScriptedCapture(), *python("import os; os.kill(os.getpid(), 9)"))
    assert ending == Ending("command ended", 128 + 9, 1, 1)


def test_every_batch_reaches_the_sink() -> None:
    sizes: list[int] = []

    def sink(batch: Batch) -> None:
        sizes.append(len(batch.events))

    _, follower = run(ScriptedCapture(3, 5, 2), *python("pass"), sink=sink)
    assert sizes == [3, 5, 2]
    assert follower.events == 10


def test_the_duration_ends_a_recording_of_the_whole_system() -> None:
    ending, _ = run(ScriptedCapture(), duration=0)
    assert ending == Ending("duration over")


def test_the_duration_ends_the_command() -> None:
    ending, _ = run(ScriptedCapture(), *python("import signal; signal.pause()"), duration=0)
    assert ending == Ending("duration over", 128 + signal.SIGTERM, 1, 1)


def test_a_signal_ends_a_recording_of_the_whole_system() -> None:
    capture = ScriptedCapture(on_drain=lambda: send(signal.SIGINT))
    ending, _ = run(capture)
    assert ending == Ending("SIGINT")


def test_threads_of_libraries_take_no_signal() -> None:
    code = """
import pathlib
import dmabuf_trace.cli
for task in pathlib.Path("/proc/self/task").iterdir():
    lines = (line.split(":") for line in (task / "status").read_text().splitlines())
    print(int(dict(lines)["SigBlk"], 16))
"""
    threads = {**os.environ, "OPENBLAS_NUM_THREADS": "4"}
    done = subprocess.run(python(code), env=threads, check=True, capture_output=True, text=True)
    main, *others = map(int, done.stdout.split())
    assert not main
    for blocked in others:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            assert blocked >> number - 1 & 1


def test_events_without_end_do_not_keep_a_signal_out() -> None:
    capture = ScriptedCapture()
    capture.always = 1
    ending, follower = run(capture, duration=0)
    assert ending == Ending("duration over")
    assert follower.events > 0


def test_the_rest_is_handed_on_to_the_last_event() -> None:
    follower = Follower(cast("Capture", ScriptedCapture(*[1] * 1000)), lambda _: None)
    follower.finish()
    assert follower.events == 1000


def test_a_signal_is_passed_on_and_what_the_command_does_then_is_seen(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"""
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
pathlib.Path({str(ready)!r}).touch()
signal.pause()
"""
    sent: list[bool] = []

    def send_once() -> None:
        if ready.exists() and not sent:
            sent.append(True)
            send(signal.SIGTERM)

    ending, _ = run(ScriptedCapture(on_drain=send_once), *python(code))
    assert ending == Ending("SIGTERM", 3, 1, 1)


def test_a_command_is_run_so_many_times_and_each_end_is_told(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code = f"""
import pathlib, sys
runs = pathlib.Path({str(runs)!r})
count = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (count + 1))
sys.exit([0, 5, 0, 6][count])
"""
    told: list[int] = []

    ending, _ = run(ScriptedCapture(), *python(code), cycles=4, ended=told.append)

    assert ending == Ending("command ended", 5, runs=4, failed=2)
    assert told == [0, 5, 0, 6]


def test_a_signal_during_a_run_ends_the_lot_after_it() -> None:
    sent: list[bool] = []

    def send_once() -> None:
        if not sent:
            sent.append(True)
            send(signal.SIGTERM)

    told: list[int] = []
    code = "import signal; signal.pause()"
    capture = ScriptedCapture(on_drain=send_once)
    ending, _ = run(capture, *python(code), cycles=3, ended=told.append)

    assert ending == Ending("SIGTERM", 128 + signal.SIGTERM, 1, 1)
    assert told == [128 + signal.SIGTERM]


def test_a_signal_between_two_runs_ends_the_lot() -> None:
    told: list[int] = []

    def ended(status: int) -> None:
        told.append(status)
        if len(told) == 2:
            send(signal.SIGINT)

    ending, _ = run(ScriptedCapture(), *python("raise SystemExit(3)"), cycles=9, ended=ended)

    assert ending == Ending("SIGINT", 3, runs=2, failed=2)


def test_what_never_ended_is_no_run(tmp_path: Path) -> None:
    told: list[int] = []
    ready = tmp_path / "ready"
    code = f"""
import os, pathlib, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
path = pathlib.Path({str(ready)!r})
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
while True:
    signal.pause()
"""

    def insist() -> None:
        if ready.exists():
            send(signal.SIGINT)

    capture = ScriptedCapture(on_drain=insist)
    ending, _ = run(capture, *python(code), cycles=2, ended=told.append)

    os.kill(int(ready.read_text()), signal.SIGKILL)
    assert (ending, told) == (Ending("SIGINT", 128 + signal.SIGINT, 0, 0), [])


def test_catching_up_waits_for_what_is_unfinished_and_not_for_what_comes_later() -> None:
    capture = ScriptedCapture(3)
    capture.unfinished = 2
    follower = Follower(cast("Capture", capture), lambda _: None)
    follower.catch_up()
    assert (follower.events, capture.unfinished) == (3, 0)

    capture.always, capture.ts = 1, 1 << 62
    follower.catch_up()
    assert follower.events == 4


def test_a_second_signal_leaves_a_stubborn_command_alone(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"""
import os, pathlib, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
path = pathlib.Path({str(pid_file)!r})
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
while True:
    signal.pause()
"""

    def insist() -> None:
        if pid_file.exists():
            send(signal.SIGINT)

    ending, _ = run(ScriptedCapture(on_drain=insist), *python(code))
    assert ending == Ending("SIGINT", 128 + signal.SIGINT)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_losses_are_counted() -> None:
    capture = ScriptedCapture()
    capture.lost[schema.KIND["map"], schema.CAUSE["ring_full"]] = 4
    _, follower = run(capture, *python("pass"))
    assert follower.losses.sum() == 4


def test_a_sink_that_fails_does_not_take_the_command_with_it(tmp_path: Path) -> None:
    done = tmp_path / "done"

    def full(_: Batch) -> None:
        raise OutputError("can't write x: No space left on device")

    capture = ScriptedCapture(1)
    with pytest.raises(OutputError):
        run(capture, *python(f"import pathlib; pathlib.Path({str(done)!r}).touch()"), sink=full)
    assert done.exists()
    assert capture.detached


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFoundError, match="command not found: no-such-command"):
        find_command(("no-such-command",))
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(CommandNotExecutableError, match="can't be executed"):
        find_command((str(plain),))
    find_command(())
    find_command(("sh", "-c", "true"))


def test_what_is_periodic_gets_a_tenth_of_the_time_at_most() -> None:
    now = [0.0]
    done: list[float] = []

    def slow() -> None:
        done.append(now[0])
        now[0] += 0.5

    periodic = Periodic(1, slow, lambda: now[0])
    for _ in range(30):
        periodic.turn()
        now[0] += 0.5

    assert done == [1.0, 6.0, 11.0, 16.0]


def test_what_is_no_signal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    # what Python gave a recorder that had been stopped and continued within sigtimedwait()
    unfilled = SimpleNamespace(si_signo=798374144, si_code=0)
    monkeypatch.setattr(signal, "sigtimedwait", lambda *_: unfilled)
    assert wait_signal(1) is None
