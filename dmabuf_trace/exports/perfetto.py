# SPDX-License-Identifier: Apache-2.0
"""A recording as a Perfetto trace, for ui.perfetto.dev and the trace processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from dmabuf_trace.analysis import records
from dmabuf_trace.errors import InputError
from dmabuf_trace.exports.facts import about, identity, read
from dmabuf_trace.exports.ftrace import HINT, Text
from dmabuf_trace.exports.packets import CLOCKS, Packets
from dmabuf_trace.exports.timeline import Timeline
from dmabuf_trace.extent import Window
from dmabuf_trace.recording import Reader
from dmabuf_trace.trace import Trace
from dmabuf_trace.units import count_text

RECORDING: Final = "recording"
MISSING: Final = "lost or not observed"
FTRACE: Final = "ftrace"


def write(
    file: IO[bytes], path: Path, window: Window | None, text: Path | None
) -> tuple[Trace, tuple[str, ...]]:
    """Write the trace, with an ftrace recording in text if there is one; the last stretch, notes.

    Memory grows by some bytes per buffer and mapping, for the counters.

    Raises:
        InputError: the recording or the text can't be read, or they are of different times.
    """
    with Reader(path) as reader:
        header = reader.header
    packets = Packets(file, identity(header))
    packets.begin_sequence(_clocks(header))
    timeline = Timeline(packets)
    last = read(path, window, timeline.take)
    timeline.finish()
    _frame(packets, last)
    notes = tuple(_add_ftrace(packets, timeline, last, Text(text))) if text else ()
    return last, notes


def _clocks(header: dict[str, Any]) -> dict[str, int]:
    began = header.get("start")
    known = began if isinstance(began, dict) else {}
    return {
        key: known[key]
        for key in CLOCKS
        if isinstance(known.get(key), int) and 0 <= known[key] < 1 << 63
    }


def _frame(packets: Packets, trace: Trace) -> None:
    """The whole time, what was said of moments in it, and what is missing from it."""
    told = {key: value for key, value in about(trace).items() if isinstance(value, (int, str))}
    track = packets.track(RECORDING)
    packets.begin(track, trace.start, RECORDING, told)
    for mark in records(trace.marks):
        packets.instant(track, mark["ts"], mark["label"], {"status": mark["status"]})
    packets.end(track, trace.end)
    missing = records(trace.quality)
    for row in missing:
        name = ": ".join(filter(None, (row["what"], row["kind"], row["cause"])))
        args = {key: row[key] for key in ("count", "hint") if row[key]}
        packets.begin(packets.track(MISSING), trace.start, name, args)
    for _ in missing:
        packets.end(packets.track(MISSING), trace.end)
    if trace.lost_events:
        packets.lost(trace.lost_events)


def _add_ftrace(packets: Packets, timeline: Timeline, trace: Trace, text: Text) -> Iterator[str]:
    """Each event as a moment: of its thread, where that is shown, else of its processor."""
    inside = outside = 0
    for event in text.events():
        if not trace.start <= event.ts <= trace.end:
            outside += 1
            continue
        inside += 1
        track = timeline.threads.get(event.tid)
        if track is None:
            track = packets.track(f"cpu {event.cpu}", packets.track(FTRACE))
        args = {"cpu": event.cpu, "tid": event.tid, "comm": event.comm, "text": event.text}
        packets.instant(track, event.ts, event.name, args)
    if not inside:
        raise InputError(f"{text.path} has no event of the time of the recording", HINT)
    if outside:
        yield f"{text.path}: {count_text(outside, 'event')} of another time left out"
    if text.unknown:
        yield f"{text.path}: {count_text(text.unknown, 'line')} left out: no events"
    if text.lost:
        lost = f"{count_text(text.lost, 'event')} lost by ftrace"
        packets.instant(packets.track(MISSING), trace.end, lost, {})
        yield f"{text.path}: {lost}"
