# SPDX-License-Identifier: Apache-2.0
"""One recording from beginning to end: attach, snapshot, follow, snapshot, close.

Imports neither pandas nor rich: a target needs Python, numpy and libbpf.so.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema, snapshot
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
from dmabuf_trace.userstacks import UserStacks


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record: ``duration`` in seconds or None, ``command`` empty for the whole system.

    ``holders_every``: seconds between looks at the holders; None: at the start and at the end only.
    ``cycles``: how often the command is run; the recording marks the end of each run
    (:data:`blocks.RUN`), with a look at the holders where there are several and looks are quick.
    """

    output: Path
    command: tuple[str, ...] = ()
    duration: float | None = None
    force: bool = False
    capture: CaptureOptions = field(default_factory=CaptureOptions)
    holders_every: float | None = None
    cycles: int = 1


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
            return _record(capture, looker, writer, options)


def _record(
    capture: Capture, looker: snapshot.Looker, writer: Writer, options: RecordOptions
) -> Outcome:
    seen = np.zeros(1 << 16, np.bool_)  # by the 16 bits of a stack's id
    user_stacks = UserStacks(capture.user_stack)

    def write(batch: Batch) -> None:
        if len(batch.names):
            writer.write_names(batch.names)
        if batch.cgroups:
            writer.write_cgroups(batch.cgroups)
        if batch.probed:
            writer.write_probed(batch.probed)
        if len(batch.events):
            taken = batch.events["stack"]
            seen[taken[taken != schema.UNKNOWN_STACK].view(np.uint16)] = True
            if options.capture.user_stacks:
                user_stacks.take(batch.events)
            writer.write_events(batch.events)

    def look() -> None:
        found = looker.take("during", meanwhile=follower.drain)
        writer.write_snapshot(capture.watch.only(found))

    def mark(label: str, status: int) -> None:
        ts = follower.catch_up()
        follower.count_losses()
        writer.write_mark(Mark(ts, label, status))

    def ended(status: int) -> None:
        if options.cycles > 1 and looker.is_quick:
            look()
        mark(RUN, status)

    began = time.monotonic()
    follower = Follower(capture, write, writer.write_losses, writer.write_due)
    if options.holders_every is not None:
        follower.periodic = Periodic(options.holders_every, look)
    ending = follow(follower, options.command, options.duration, options.cycles, ended)
    # holders while the probes still see releases: nobody can let go unseen after the look
    holders = capture.watch.only(looker.take("end"))
    capture.detach()
    detached = time.monotonic_ns()
    follower.finish()
    writer.write_snapshot(holders)
    stacks = np.flatnonzero(seen).astype(np.uint16).view(np.int16)
    writer.write_stacks(capture.stacks(stacks.tolist()))
    if options.capture.user_stacks:
        writer.write_user_stacks(user_stacks.resolve())
    writer.finish(detached, ending.reason)
    return Outcome(
        writer.path,
        writer.size,
        follower.events,
        follower.losses,
        time.monotonic() - began,
        ending,
    )
