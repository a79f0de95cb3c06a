# SPDX-License-Identifier: Apache-2.0
"""A line per event of the running kernel, as it happens: the wiring of ``trace``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Final

from dmabuf_trace import snapshot
from dmabuf_trace.capture import Batch, Capture
from dmabuf_trace.lines import Lines, Passing, Stacks, Wanted
from dmabuf_trace.livestacks import KernelStacks
from dmabuf_trace.notes import note_missing
from dmabuf_trace.printer import Printer
from dmabuf_trace.render.line import form_for
from dmabuf_trace.request import Request
from dmabuf_trace.session import (
    DRAIN_SECONDS,
    Follower,
    find_command,
    follow,
    signals_waited_for,
    wait_signal,
)
from dmabuf_trace.stderr import note, note_lost
from dmabuf_trace.units import count_text
from dmabuf_trace.userstacks import UserStacks

WAITING: Final = 1 << 18
"""Events that may wait for whoever reads them: some 25 MB."""
PIECE: Final = 1 << 10
PATIENCE_SECONDS: Final = 1.0
"""How long a reader that takes nothing is waited for, once a signal has asked to end."""


def follow_lines(request: Request, wanted: Wanted, *, as_json: bool) -> int:
    """Print until the command ends, the time is over, or a signal comes; the exit status.

    Raises:
        TraceError: it could not be started.
        BrokenPipeError: nobody reads any more.
    """
    find_command(request.command)
    options = request.capture()
    with Capture(options) as capture, signals_waited_for():
        note_missing(capture)
        lines = _Lines(capture, wanted, as_json=as_json)
        if not request.command:
            note("tracing, Ctrl-C to stop")
        follower = Follower(capture, lines.show, drained=lambda _: lines.printer.check())
        ending = follow(follower, request.command, request.seconds)
        capture.detach()
        follower.finish()

        def enough(seconds: float) -> bool:
            asked = wait_signal(DRAIN_SECONDS) is not None
            return asked or (ending.by_signal and seconds > PATIENCE_SECONDS)

        lines.finish(enough)
    lost = note_lost(follower.losses)
    missed = lines.printer.not_shown
    slow = f", {missed:,} not shown: the reader is too slow" if missed else ""
    note(f"{count_text(follower.events, 'event')}, {lost:,} lost{slow}")
    return ending.status


class _Lines:
    """What comes of the batches of a capture: lines on stdout."""

    def __init__(self, capture: Capture, wanted: Wanted, *, as_json: bool) -> None:
        self._passing = Passing(wanted)
        with snapshot.Looker() as looker:
            self._passing.know(capture.watch.begin(looker.take("start")).buffers)
            capture.know_tables(looker.tables)
        self._kernel = KernelStacks(capture) if capture.options.kernel_stacks else None
        self._user = UserStacks(capture.user_stack) if capture.options.user_stacks else None
        self._stacks = Stacks(
            self._kernel.texts if self._kernel else None,
            self._user.texts if self._user else None,
        )
        self._form = form_for(sys.stdout, as_json=as_json)
        sys.stdout.write(self._form.head())
        self.printer = Printer(sys.stdout, self._texts, self._form.gap, WAITING)

    def show(self, batch: Batch) -> None:
        """Have the wanted events of a batch printed."""
        self._passing.names.feed(batch.names)
        self._passing.names.feed_cgroups(batch.cgroups)
        if self._user:
            self._user.take(batch.events)  # now: their processes may end
        for piece in self._passing.feed(batch.events).pieces(PIECE):
            self.printer.put(piece)

    def _texts(self, piece: Lines) -> Iterator[str]:
        if self._kernel:
            self._kernel.know(piece.events)
        for seen in piece:
            yield self._form.line(seen, piece.names, self._stacks)

    def finish(self, enough: Callable[[float], bool]) -> None:
        """Print the rest, as :meth:`Printer.finish`."""
        self.printer.finish(enough)
        if self._user:
            self._user.close()
            if self._user.without:
                note(f"user stacks have no names: {self._user.without}")
            if unplaced := self._user.unplaced:
                stacks = count_text(unplaced, "user stack")
                note(f"{stacks} without names, as the process had ended by then")
