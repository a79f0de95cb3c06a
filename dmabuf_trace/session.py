# SPDX-License-Identifier: Apache-2.0
"""One recording from beginning to end: attach, run the command, drain, snapshot, close.

Imports neither pandas nor rich: a target needs Python, numpy and libbpf.so.1.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema, snapshot
from dmabuf_trace.capture import Batch, Capture, CaptureOptions
from dmabuf_trace.errors import CommandNotExecutableError, CommandNotFoundError, OutputError
from dmabuf_trace.recording import Writer

DRAIN_SECONDS: Final = 0.02
LOSS_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 2.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record: ``duration`` in seconds or None, ``command`` empty for the whole system."""

    output: Path
    command: tuple[str, ...] = ()
    duration: float | None = None
    force: bool = False
    capture: CaptureOptions = field(default_factory=CaptureOptions)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a recording.

    ``losses`` has :data:`schema.LOSS_SHAPE`; ``status`` is the command's exit status (128 + signal
    as in a shell; 0 without a command); ``trouble`` is "" or why the file ends early.
    """

    events: int
    losses: NDArray[np.uint64]
    seconds: float
    status: int
    trouble: OutputError | None


def find_command(command: tuple[str, ...]) -> None:
    """Refuse a command that can't be started, before anything is attached."""
    if not command:
        return
    name = command[0]
    if shutil.which(name):
        return
    if shutil.which(name, mode=os.F_OK):
        raise CommandNotExecutableError(f"{name} can't be executed", f"chmod +x {name}?")
    raise CommandNotFoundError(f"command not found: {name}", "nothing was recorded")


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A signal that asks to end; a terminal has sent it to the command as well."""

    number: signal.Signals
    from_terminal: bool


@dataclass(frozen=True, slots=True)
class _Ending:
    reason: str
    status: int


@contextmanager
def signals_waited_for() -> Iterator[None]:
    """Within: SIGINT, SIGTERM, SIGHUP and SIGCHLD come only through :func:`wait_signal`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_signal(seconds: float) -> Interrupt | None:
    """The next signal that asks to end, or None when the time is over or a child changed."""
    info = signal.sigtimedwait(SIGNALS, seconds)
    if info is None or info.si_signo == signal.SIGCHLD:
        return None
    return Interrupt(signal.Signals(info.si_signo), from_terminal=info.si_code > 0)


class Child:
    """The command under way."""

    def __init__(self, command: tuple[str, ...]) -> None:
        def unblock() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

        try:
            self._process = subprocess.Popen(command, preexec_fn=unblock)  # noqa: PLW1509
        except OSError as error:
            raise CommandNotExecutableError(
                f"can't execute {command[0]}: {error.strerror}"
            ) from None

    def status(self) -> int | None:
        """Exit status as a shell gives it, None while the command runs."""
        status = self._process.poll()
        return 128 - status if status is not None and status < 0 else status

    def signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; the exit status."""
        self._process.wait()
        return self.status() or 0


class _Recorder:
    """The state of one recording under way."""

    def __init__(self, capture: Capture, writer: Writer) -> None:
        self.capture = capture
        self.writer = writer
        self.stacks: set[int] = set()
        self.losses = np.zeros(schema.LOSS_SHAPE, np.uint64)
        self._losses_due = 0.0
        self.last_event = time.monotonic()

    def drain(self) -> None:
        """Write all that has come."""
        while len((batch := self.capture.drain()).events) or len(batch.names):
            self._write(batch)
        if time.monotonic() >= self._losses_due:
            self.write_losses()

    def _write(self, batch: Batch) -> None:
        if len(batch.names):
            self.writer.write_names(batch.names)
        if len(batch.events):
            self.last_event = time.monotonic()
            self.stacks.update(np.unique(batch.events["stack"]).tolist())
            self.writer.write_events(batch.events)

    def write_losses(self) -> None:
        """Write the counters where they grew."""
        self._losses_due = time.monotonic() + LOSS_SECONDS
        losses = self.capture.loader.losses()
        if not np.array_equal(losses, self.losses):
            self.losses = losses
            self.writer.write_losses(losses)

    def settle(self) -> None:
        """Go on until nothing has come for a while: the kernel defers some releases."""
        ended = now = time.monotonic()
        while now - max(self.last_event, ended) < QUIET_SECONDS and now - ended < SETTLE_SECONDS:
            wait_signal(DRAIN_SECONDS)
            self.drain()
            now = time.monotonic()

    def finish(self, reason: str) -> None:
        """The end of the file: holders, the rest of the events, losses, stacks."""
        # holders while the probes still see releases: nobody can let go unseen after the look
        end = snapshot.take("end")
        self.capture.detach()
        detached = time.monotonic_ns()
        self.drain()
        self.writer.write_snapshot(end)
        self.write_losses()
        self.stacks.discard(schema.UNKNOWN_STACK)
        self.writer.write_stacks(self.capture.stacks(sorted(self.stacks)))
        self.writer.finish(detached, reason)


def record(options: RecordOptions, note: Callable[[str], None]) -> Outcome:
    """Record until the command ends, ``duration`` is over, or a signal comes.

    ``note`` is told once the probes are attached. Nothing is left attached, whatever happens.

    Raises:
        TraceError: it could not be started; nothing is left behind then.
    """
    find_command(options.command)
    writer = Writer(options.output, force=options.force)
    try:
        capture = Capture(options.capture)
    except BaseException:
        writer.discard()
        raise
    try:
        with signals_waited_for():
            writer.begin(capture.header(options.command))
            writer.write_snapshot(snapshot.take("start"))
            note("attached")
            return _run(_Recorder(capture, writer), options)
    finally:
        capture.close()
        writer.close()


def _run(recorder: _Recorder, options: RecordOptions) -> Outcome:
    began = time.monotonic()
    child = Child(options.command) if options.command else None
    trouble = None
    status = 0
    try:
        ending = _loop(recorder, options.duration, child)
        status = ending.status
        if child:
            recorder.settle()
        recorder.finish(ending.reason)
    except OutputError as error:
        trouble = error
        recorder.capture.detach()
        status = child.wait() if child else 0
    seconds = time.monotonic() - began
    return Outcome(recorder.writer.events, recorder.losses, seconds, status, trouble)


def _loop(recorder: _Recorder, duration: float | None, child: Child | None) -> _Ending:
    """Drain until there is a reason to stop.

    A first signal, or the end of ``duration``, is passed on to the command and its end awaited, so
    that what it still gives back is seen; a second signal stops the recording at once and leaves
    the command alone.
    """
    deadline = math.inf if duration is None else time.monotonic() + duration
    reason = ""
    while True:
        interrupt = wait_signal(DRAIN_SECONDS)
        recorder.drain()
        if child and (status := child.status()) is not None:
            return _Ending(reason or "command ended", status)
        if interrupt and (reason or not child):
            return _Ending(interrupt.number.name, 128 + interrupt.number if child else 0)
        if interrupt and child:
            reason = interrupt.number.name
            if not interrupt.from_terminal:
                child.signal(interrupt.number)
        if time.monotonic() >= deadline:
            deadline, reason = math.inf, "duration over"
            if not child:
                return _Ending(reason, 0)
            child.signal(signal.SIGTERM)
