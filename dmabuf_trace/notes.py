# SPDX-License-Identifier: Apache-2.0
"""What recording says on stderr while it goes on and at its end, a line each.

Imports neither pandas nor rich nor typer: a target needs Python, numpy and libbpf.so.1.
"""

from __future__ import annotations

from dmabuf_trace.capture import Capture
from dmabuf_trace.recorder import Outcome, RecordOptions, record
from dmabuf_trace.session import COMMAND_ENDED
from dmabuf_trace.stderr import note, note_lost
from dmabuf_trace.units import count_text


def note_missing(capture: Capture) -> None:
    """Say what is not observed, and what is attached in another way than was asked for."""
    for attached in capture.loader.attached:
        if attached.reason:
            note(f"not observed: {attached.reason}; {attached.probe.without}")
        elif attached.instead:
            note(f"{attached.symbol} is attached by {attached.way}: {attached.instead}")


def record_with_notes(options: RecordOptions, *, is_all: bool = True) -> Outcome:
    """Record, and say how that goes; where that ``is_all``, also what to do next.

    The exit status is that of the outcome's ending.

    Raises:
        TraceError: as :func:`dmabuf_trace.recorder.record`.
    """

    def attached(capture: Capture) -> None:
        note_missing(capture)
        if not options.command:
            note("recording, Ctrl-C to stop")

    outcome = record(options, attached)
    _note_outcome(options, outcome)
    if is_all:
        note(f"next: dmabuf-trace report {outcome.output}")
    return outcome


def _note_outcome(options: RecordOptions, outcome: Outcome) -> None:
    lost = note_lost(outcome.losses)
    file = outcome.output
    note(
        f"{outcome.events} events in {outcome.seconds:.1f} s, {lost} lost, "
        f"{outcome.size} bytes in {file}"
    )
    if file != options.output:
        note(f"{options.output} was replaced by another file meanwhile")
    ending = outcome.ending
    if ending.reason != COMMAND_ENDED:
        note(f"ended by {ending.reason}")
    if options.cycles > 1:
        runs = count_text(ending.runs, "time")
        note(f"{options.command[0]} was run {runs}, {ending.failed} of them failed")
    if options.command and ending.status:
        note(f"{options.command[0]} ended with status {ending.status}")
