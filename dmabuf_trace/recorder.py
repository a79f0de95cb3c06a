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
from dmabuf_trace.capture import Batch, Capture, CaptureOptions
from dmabuf_trace.recording import Writer
from dmabuf_trace.session import Ending, Follower, find_command, follow, signals_waited_for


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
    """What came of a recording; ``losses`` has :data:`schema.LOSS_SHAPE`."""

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
            writer.write_snapshot(looker.take("start"))
            attached(capture)
            return _record(capture, looker, writer, options)


def _record(
    capture: Capture, looker: snapshot.Looker, writer: Writer, options: RecordOptions
) -> Outcome:
    stacks: set[int] = set()

    def write(batch: Batch) -> None:
        if len(batch.names):
            writer.write_names(batch.names)
        if len(batch.events):
            stacks.update(np.unique(batch.events["stack"]).tolist())
            writer.write_events(batch.events)

    began = time.monotonic()
    follower = Follower(capture, write, writer.write_losses)
    ending = follow(follower, options.command, options.duration)
    # holders while the probes still see releases: nobody can let go unseen after the look
    holders = looker.take("end")
    capture.detach()
    detached = time.monotonic_ns()
    follower.finish()
    writer.write_snapshot(holders)
    writer.write_stacks(capture.stacks(sorted(stacks - {schema.UNKNOWN_STACK})))
    writer.finish(detached, ending.reason)
    return Outcome(follower.events, follower.losses, time.monotonic() - began, ending)
