# SPDX-License-Identifier: Apache-2.0
"""One recording from beginning to end: attach, snapshot, follow, snapshot, close.

Imports neither pandas nor rich: a target needs Python, numpy and libbpf.so.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import builds, schema, snapshot
from dmabuf_trace.blocks import RUN, Mark
from dmabuf_trace.capture import Batch, Capture, CaptureOptions
from dmabuf_trace.recording import Writer
from dmabuf_trace.session import (
    Ending,
    Follower,
    Periodic,
    find_command,
    follow,
    signals_waited_for,
)
from dmabuf_trace.steering import Steering
from dmabuf_trace.userstacks import UserStacks


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record: ``duration`` in seconds or None, ``command`` empty for the whole system.

    ``holders_every``: seconds between looks at the holders; None: at the start and at the end only.
    ``cycles``: how often the command is run; the recording marks the end of each run
    (:data:`blocks.RUN`), with a look at the holders where there are several and looks are quick.
    ``steering``: descriptors of requests and answers, see :mod:`steering`; without a command only.
    """

    output: Path
    command: tuple[str, ...] = ()
    duration: float | None = None
    force: bool = False
    capture: CaptureOptions = field(default_factory=CaptureOptions)
    holders_every: float | None = None
    cycles: int = 1
    steering: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a recording; ``losses`` has :data:`schema.LOSS_SHAPE`.

    ``output`` is not the file that was asked for where that one was deleted meanwhile, and another
    has taken its place; ``size`` in bytes.
    """

    output: Path
    size: int
    events: int
    losses: NDArray[np.uint64]
    seconds: float
    ending: Ending


def record(options: RecordOptions, attached: Callable[[Capture], None]) -> Outcome:
    """Record until the command ends, ``duration`` is over, or a signal comes.

    ``attached`` is told once the probes are. Nothing stays attached, whatever happens.

    Raises:
        TraceError: it could not be started, and nothing is left behind; or the file could not be
            written any more, and what was written stays.
    """
    find_command(options.command)
    # loaded ahead of the rings: for a moment it takes as much memory as they do
    with snapshot.Looker() as looker:
        writer = Writer(options.output, force=options.force)
        try:
            capture = Capture(options.capture)
        except BaseException:
            writer.discard()
            raise
        with writer, capture, signals_waited_for():
            writer.begin(capture.header(options.command))
            writer.write_snapshot(capture.watch.begin(looker.take("start")))
            capture.know_tables(looker.tables)
            attached(capture)
            return _Recording(capture, looker, writer, options).run()


class _Recording:
    """What is written of a capture, and when."""

    def __init__(
        self, capture: Capture, looker: snapshot.Looker, writer: Writer, options: RecordOptions
    ) -> None:
        self._capture = capture
        self._looker = looker
        self._writer = writer
        self._options = options
        self._seen = np.zeros(1 << 16, np.bool_)  # by the 16 bits of a stack's id
        self._written = np.zeros_like(self._seen)
        self._user_stacks = UserStacks(capture.user_stack)
        self._follower = Follower(capture, self._write, writer.write_losses, writer.write_due)
        if options.holders_every is not None:
            self._follower.periodic = Periodic(options.holders_every, self._look)
        if options.steering:
            verbs = {"mark": self._asked_to_mark, "stacks": self._asked_for_stacks}
            self._follower.wait = Steering(*options.steering, verbs).wait

    def run(self) -> Outcome:
        """Follow to the end, and close the file."""
        options, follower, writer = self._options, self._follower, self._writer
        began = time.monotonic()
        ending = follow(follower, options.command, options.duration, options.cycles, self._ended)
        # holders while the probes still see releases: nobody can let go unseen after the look
        holders = self._capture.watch.only(self._looker.take("end"))
        self._capture.detach()
        detached = time.monotonic_ns()
        follower.finish()
        writer.write_snapshot(holders)
        self._write_stacks()
        if options.capture.user_stacks:
            writer.write_user_stacks(self._user_stacks.resolve())
        writer.finish(detached, ending.reason)
        return Outcome(
            writer.path,
            writer.size,
            follower.events,
            follower.losses,
            time.monotonic() - began,
            ending,
        )

    def _write(self, batch: Batch) -> None:
        writer = self._writer
        if len(batch.names):
            writer.write_names(batch.names)
        if batch.cgroups:
            writer.write_cgroups(batch.cgroups)
        if batch.probed:
            writer.write_probed(batch.probed)
        if len(batch.events):
            taken = batch.events["stack"]
            self._seen[taken[taken != schema.UNKNOWN_STACK].view(np.uint16)] = True
            if self._options.capture.user_stacks:
                self._user_stacks.take(batch.events)
            writer.write_events(batch.events)

    def _write_stacks(self) -> None:
        """Those that are not in the file yet."""
        new = np.flatnonzero(self._seen & ~self._written).astype(np.uint16).view(np.int16)
        self._written |= self._seen
        stacks = self._capture.stacks(new.tolist())
        self._writer.write_stacks(stacks)
        self._writer.write_builds(builds.of(chain.from_iterable(stacks.values())))

    def _look(self) -> None:
        found = self._looker.take("during", meanwhile=self._follower.drain)
        self._writer.write_snapshot(self._capture.watch.only(found))

    def _mark(self, label: str, status: int = 0) -> int:
        ts = self._follower.catch_up()
        self._follower.count_losses()
        self._writer.write_mark(Mark(ts, label, status))
        return ts

    def _ended(self, status: int) -> None:
        """A run of the command has."""
        if self._options.cycles > 1 and self._looker.is_quick:
            self._look()
        self._mark(RUN, status)

    def _asked_to_mark(self, label: str) -> int:
        if not label:
            raise ValueError("a mark needs a label")
        self._look()
        return self._mark(label)

    def _asked_for_stacks(self, rest: str) -> int:
        if rest:
            raise ValueError("nothing follows stacks")
        ts = self._follower.catch_up()
        self._write_stacks()
        return ts
