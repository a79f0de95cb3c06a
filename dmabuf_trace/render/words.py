# SPDX-License-Identifier: Apache-2.0
"""What every output of a verdict says, in the same words. Nothing here is escaped yet."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, get_args

from dmabuf_trace.findings import SUBJECTS, Case, CommandEnd, Excused, Finding, Outcome, Verdict
from dmabuf_trace.render.facts import LATEST_NS, date
from dmabuf_trace.units import count_text

TOOL: Final = "dmabuf-trace"
COMMAND_CASE: Final = "command"
"""The wrapped command as a test case beside the others."""


def headline(verdict: Verdict) -> str:
    """``2 findings (exit status 1)``; findings that losses may explain are not counted."""
    return f"{outcome(verdict)} (exit status {verdict.status})"


def outcome(verdict: Verdict) -> str:
    """What it comes to: ``2 findings``, ``clean``."""
    if verdict.outcome == "findings":
        return count_text(sum(finding.certain for finding in verdict.findings), "finding")
    if verdict.outcome == "clean" and verdict.status:
        return "clean, but the command failed"
    return verdict.outcome


def counts(verdict: Verdict) -> str:
    """How many cases came to what."""
    outcomes: tuple[Outcome, ...] = get_args(Outcome)
    told = (f"{len(of):,} {each}" for each in outcomes if (of := verdict.of(each)))
    return f"{count_text(len(verdict.cases), 'case')}: {', '.join(told) or 'nothing was asked'}"


def failure(command: CommandEnd | None) -> str:
    """How the command failed by itself; "" where it did not."""
    if command is None or not command.status:
        return ""
    what = f"{shlex.join(command.command)} ended with status {command.status}"
    if command.cycles > 1:
        what += f", {command.failed:,} of {count_text(command.cycles, 'run')} failed"
    return what


def summary(finding: Finding) -> str:
    """What is wrong, in one line."""
    return finding.summary if finding.certain else f"perhaps: {finding.summary}"


def details(finding: Finding) -> Iterator[tuple[str, str]]:
    """Labels and texts, a line each."""
    for text in finding.evidence:
        yield "evidence", text
    if subject := subject_text(finding):
        yield "about", subject
    if finding.cause:
        yield "cause", finding.cause
    if finding.stack:
        yield "stack", stack_text(finding.stack)
    if finding.location:
        yield "source", "{}:{}".format(*finding.location)
    if finding.next:
        yield "next", finding.next


def stack_text(frames: Iterable[str]) -> str:
    """A stack on one line, innermost first."""
    return " < ".join(frames)


def subject_text(finding: Finding) -> str:
    """Whom it is about, as a policy would match it."""
    known = ((key, finding.subject.get(key, "")) for key in SUBJECTS)
    return " ".join(f"{key}={shlex.quote(text)}" for key, text in known if text)


def finding_lines(finding: Finding) -> Iterator[str]:
    """A finding in full."""
    yield summary(finding)
    for label, text in details(finding):
        yield f"  {label}: {text}"


def excuse(excused: Excused) -> str:
    """A finding that does not count, and why."""
    return f"excused: {excused.finding.summary} ({excused.reason})"


def case_lines(case: Case) -> Iterator[str]:
    """All that there is to say of a case, but its outcome."""
    if case.outcome in ("inconclusive", "off") and case.reason:
        yield f"{case.outcome}: {case.reason}"
    for finding in case.findings:
        yield from finding_lines(finding)
    for excused in case.excused:
        yield excuse(excused)
    if case.measured:
        yield f"measured: {case.measured}"


def began(verdict: Verdict) -> datetime | None:
    """When the recording began; None where that is not known."""
    return date(verdict.recording.get("began_ns"))


def duration_ns(verdict: Verdict) -> int | None:
    """How long was recorded; None where that is not known."""
    ns = verdict.recording.get("duration_ns")
    return ns if isinstance(ns, int) and 0 <= ns < LATEST_NS else None


def hostname(verdict: Verdict) -> str:
    """Of the machine that was recorded; "" where that is not known."""
    return _text(verdict.recording.get("hostname"))


def facts(verdict: Verdict) -> dict[str, str]:
    """The recording in a few texts, as far as they are known."""
    recording = verdict.recording
    command = verdict.command.command if verdict.command else recording.get("command")
    kernel = " ".join(filter(None, (_text(recording.get(key)) for key in ("release", "machine"))))
    known = {
        "kernel": kernel,
        "command": shlex.join(map(str, command)) if isinstance(command, (list, tuple)) else "",
        "recording": _text(recording.get("path")),
    }
    return {name: text for name, text in known.items() if text}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
