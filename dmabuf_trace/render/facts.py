# SPDX-License-Identifier: Apache-2.0
"""What every report says of its recording, and of its doubts. Nothing here is escaped yet."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from dmabuf_trace.units import count_text, duration_text

if TYPE_CHECKING:
    from dmabuf_trace.report import Recording, Report

LATEST_NS: Final = 253_370_764_800 * 10**9
"""The year 9999: no date can be made of what is later."""


@dataclass(frozen=True, slots=True)
class Fact:
    """``loss`` and ``blind`` tell what makes answers doubtful."""

    label: str
    text: str
    kind: Literal["", "loss", "blind"] = ""


def date(ns: object) -> datetime | None:
    """A moment of the real-time clock; None where that is not known."""
    if not isinstance(ns, int) or not 0 < ns < LATEST_NS:
        return None
    return datetime.fromtimestamp(ns // 10**9, UTC)


def wall_clock(moment: datetime) -> str:
    """As people read it, in UTC."""
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def recording_facts(recording: Recording) -> Iterator[Fact]:
    """What the file is, and what it lacks."""
    machine = " ".join(part for part in (recording.release, recording.machine) if part)
    host = f" on {recording.hostname}" if recording.hostname else ""
    yield Fact("kernel", f"{machine or 'unknown'}{host}")
    began = date(recording.began_ns)
    at = f"{wall_clock(began)}, " if began else ""
    ended = f", ended: {recording.ended}" if recording.ended else ""
    yield Fact("recorded", f"{at}{duration_text(recording.duration_ns)}{ended}")
    yield Fact("command", shlex.join(recording.command) if recording.command else "whole system")
    if recording.window_ns:
        first, last = map(duration_text, recording.window_ns)
        yield Fact("window", f"{first} to {last}: what is older counts as made before")
    if recording.filters:
        yield Fact("recorded with:", shlex.join(recording.filters))
    if recording.looks_between:
        times = count_text(recording.looks_between, "time")
        yield Fact("holders", f"looked up {times} between start and end")
    lost = recording.lost_events
    yield Fact("events", f"{recording.events:,}, {lost:,} lost", "loss" if lost else "")
    for kind, reason in recording.missing.items():
        yield Fact("not observed:", f"{kind} ({reason or 'no reason given'})", "blind")
    for module, since in recording.operations.items():
        of = f"module {module}" if module else "the kernel itself"
        label = f"operations of exporters in {of}:"
        yield Fact(label, f"observed from +{since / 1e9:.3f}s on")
    if recording.cut:
        yield Fact("CUT:", f"the recording {recording.cut}; all up to there is shown", "loss")


def doubted(report: Report) -> dict[str, list[str]]:
    """Why answers may be wrong, and the analyses whose answers that are."""
    found: dict[str, list[str]] = {}
    for result in report.results:
        for doubt in result.doubts:
            found.setdefault(doubt, []).append(result.analysis.name)
    return found
