# SPDX-License-Identifier: Apache-2.0
"""Follows a capture while a command runs: signals, the command, the rhythm of the drain.

Imports neither pandas nor rich: a target needs Python, numpy and libbpf.so.1. Must not know where
the events go.
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
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.capture import Batch, Capture
from dmabuf_trace.errors import CommandNotExecutableError, CommandNotFoundError, OutputError

DRAIN_SECONDS: Final = 0.02
BATCHES: Final = 64
FEW_EVENTS: Final = 1 << 13
"""A batch of fewer has emptied the ring: what came meanwhile is left for the next time."""

LOSS_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 2.0
COMMAND_ENDED: Final = "command ended"
DURATION_OVER: Final = "duration over"
"""Why following ended, where it was no signal."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


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
class Ending:
    """Why following ended, and the exit status to pass on.

    ``status`` is the first of the command's that is not 0, 128 + signal as in a shell; 0 without a
    command. ``runs`` of it have ended, ``failed`` of them with another status than 0.
    """

    reason: str
    status: int = 0
    runs: int = 0
    failed: int = 0

    @property
    def by_signal(self) -> bool:
        """Whether a signal asked for it."""
        return self.reason not in (COMMAND_ENDED, DURATION_OVER)


@contextmanager
def signals_waited_for() -> Iterator[None]:
    """Within: SIGINT, SIGTERM, SIGHUP and SIGCHLD come only through :func:`wait_signal`.

    One that comes after the end was decided is dropped: it asked for what has happened.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        while signal.sigtimedwait(SIGNALS, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_signal(seconds: float) -> Interrupt | None:
    """The next signal that asks to end, or None when the time is over or a child changed."""
    info = signal.sigtimedwait(SIGNALS, seconds)
    if info is None or info.si_signo == signal.SIGCHLD:
        return None
    if info.si_signo not in SIGNALS:
        return None  # stopped, and continued too late: Python then returns what nobody filled in
    return Interrupt(signal.Signals(info.si_signo), from_terminal=info.si_code > 0)


class Child:
    """The command under way; ``prepare`` was called in its process, ahead of its exec."""

    def __init__(self, command: tuple[str, ...], prepare: Callable[[], None]) -> None:
        def begin() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            prepare()

        try:
            self._process = subprocess.Popen(command, preexec_fn=begin)  # noqa: PLW1509
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


class Periodic:
    """Does something every so many seconds, while :meth:`turn` is called often enough.

    It never gets more than ``share`` of the time: what takes long is done less often.
    """

    def __init__(
        self,
        seconds: float,
        action: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        share: float = 0.1,
    ) -> None:
        self._seconds, self._share = seconds, share
        self._action = action
        self._clock = clock
        self._due = clock() + seconds

    def turn(self) -> None:
        """Do it if it is time."""
        began = self._clock()
        if began >= self._due:
            self._action()
            self._due = began + max(self._seconds, (self._clock() - began) / self._share)


class Follower:
    """Hands every batch of a capture to ``sink``, and keeps the loss counters.

    ``losses`` has :data:`schema.LOSS_SHAPE`; ``lost`` is called with them where they grew,
    ``drained`` after every drain with the time (ns, CLOCK_MONOTONIC); ``periodic`` gets its turn
    between drains, and ``wait`` is what passes the time: as :func:`wait_signal`.
    """

    def __init__(
        self,
        capture: Capture,
        sink: Callable[[Batch], None],
        lost: Callable[[NDArray[np.uint64]], None] = lambda _: None,
        drained: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.capture = capture
        self.events = 0
        self.losses = np.zeros(schema.LOSS_SHAPE, np.uint64)
        self.last_event = time.monotonic()
        self._latest = 0
        self._sink = sink
        self._lost = lost
        self._drained = drained
        self._losses_due = 0.0
        self.periodic: Periodic | None = None
        self.wait: Callable[[float], Interrupt | None] = wait_signal

    def drain(self) -> bool:
        """Hand on what has come; whether there may be more.

        Bounded, so that events which come as fast as they are handed on don't keep the loop from
        seeing a signal.
        """
        more = True
        for _ in range(BATCHES):
            batch = self.capture.drain()
            more = bool(len(batch.events) or len(batch.names) or batch.probed)
            if not more:
                break
            if len(batch.events):
                self.last_event = time.monotonic()
                self.events += len(batch.events)
                self._latest = int(batch.events["ts"][-1])
            self._sink(batch)
            if len(batch.events) < FEW_EVENTS:
                break
        self._drained(time.monotonic_ns())
        if time.monotonic() >= self._losses_due:
            self.count_losses()
        return more

    def catch_up(self) -> int:
        """Hand on all that has happened by now, however fast more comes; when that is, in ns.

        What was sent before now is ahead, in the ring, of what was stamped after it.
        """
        now = time.monotonic_ns()
        while (self.drain() or not self.capture.is_empty) and self._latest <= now:
            pass
        return now

    def finish(self) -> None:
        """Hand on the rest, after the probes were detached, and read the last counters."""
        while self.drain():
            pass
        self.count_losses()

    def count_losses(self) -> None:
        """Read the counters."""
        self._losses_due = time.monotonic() + LOSS_SECONDS
        losses = self.capture.loader.losses()
        if not np.array_equal(losses, self.losses):
            self.losses = losses
            self._lost(losses)

    def settle(self) -> Interrupt | None:
        """Go on until nothing has come for a while: the kernel defers some releases.

        Returns the first signal that asked to end meanwhile.
        """
        interrupt = None
        ended = now = time.monotonic()
        while now - max(self.last_event, ended) < QUIET_SECONDS and now - ended < SETTLE_SECONDS:
            interrupt = interrupt or wait_signal(DRAIN_SECONDS)
            self.drain()
            now = time.monotonic()
        return interrupt


def follow(
    follower: Follower,
    command: tuple[str, ...],
    duration: float | None,
    cycles: int = 1,
    ended: Callable[[int], None] = lambda _: None,
) -> Ending:
    """Run the command, if there is one, so many times, and drain until there is a reason to stop.

    ``ended`` is told the status of each run, once nothing comes of it any more. A first signal, or
    the end of ``duration`` (seconds), is passed on to the command and its end awaited, so that what
    it still gives back is seen, and it is not run again; a second signal ends at once and leaves
    the command alone. Where the sink fails the command is waited for before the failure goes on: a
    full disk must not take the workload with it. Call within :func:`signals_waited_for`.
    """
    deadline = math.inf if duration is None else time.monotonic() + duration
    if not command:
        return Ending(_loop(follower, deadline, None))
    statuses: list[int] = []
    status, reason = 0, COMMAND_ENDED
    while reason == COMMAND_ENDED and len(statuses) < cycles:
        child = Child(command, follower.capture.watch.follow_this)
        try:
            reason = _loop(follower, deadline, child)
            interrupt = follower.settle()
            found = child.status()
            if found is None:  # it goes on without us
                status = status or 128 + signal.Signals[reason]
                break
            statuses.append(found)
            status = status or found
            ended(found)
        except OutputError:
            follower.capture.detach()
            child.wait()
            raise
        if reason == COMMAND_ENDED and len(statuses) < cycles:
            reason = _stop_now(interrupt or wait_signal(0), deadline) or COMMAND_ENDED
    return Ending(reason, status, len(statuses), sum(map(bool, statuses)))


def _stop_now(interrupt: Interrupt | None, deadline: float) -> str:
    """Why the command is not to be run again; "": it is."""
    if interrupt:
        return interrupt.number.name
    return DURATION_OVER if time.monotonic() >= deadline else ""


def _loop(follower: Follower, deadline: float, child: Child | None) -> str:
    """Drain until the command has ended, or there is a reason not to wait for that; which it is."""
    reason = ""
    while True:
        interrupt = follower.wait(DRAIN_SECONDS)
        follower.drain()
        if follower.periodic:
            follower.periodic.turn()
        if child and child.status() is not None:
            return reason or COMMAND_ENDED
        if interrupt and (reason or not child):
            return interrupt.number.name
        if interrupt and child:
            reason = interrupt.number.name
            if not interrupt.from_terminal:
                child.signal(interrupt.number)
        if time.monotonic() >= deadline:
            deadline, reason = math.inf, DURATION_OVER
            if not child:
                return reason
            child.signal(signal.SIGTERM)
