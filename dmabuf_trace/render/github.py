# SPDX-License-Identifier: Apache-2.0
"""A verdict for GitHub Actions: workflow commands, which become annotations, and a step's summary.

GitHub shows ten annotations of a level from a step; the summary has all findings, as far as they
fit into what GitHub takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from dmabuf_trace.findings import Case, Finding, Verdict
from dmabuf_trace.render.text import printable
from dmabuf_trace.render.words import (
    COMMAND_CASE,
    TOOL,
    counts,
    details,
    excuse,
    facts,
    failure,
    finding_lines,
    headline,
    summary,
)

Level = Literal["error", "warning", "notice"]

SHOWN: Final = 10
"""Annotations of one level that GitHub shows of a step."""

SUMMARY_BYTES: Final = 1 << 20
"""What a step may write into its summary; GitHub drops all of it where it is more."""

_LONGEST: Final = 4000
"""Characters of one text."""

_MARKDOWN: Final = re.compile(r"[!-/:-@\[-`{-~]")
_HTML: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "<span>@</span>"}
"""What a backslash is not enough for; an @ by itself makes neither a mention nor a mail address."""


def verdict_commands(verdict: Verdict) -> str:
    """Workflow commands for stdout, a line each: the gravest ones first."""
    said: dict[Level, list[str]] = {"error": [], "warning": [], "notice": []}
    if failed := failure(verdict.command):
        said["error"].append(_command("error", COMMAND_CASE, [failed]))
    for case, finding in _findings(verdict):
        level: Level = "error" if finding.certain else "warning"
        text = finding_lines(finding)
        said[level].append(_command(level, case.name, text, finding.location))
    for case in verdict.of("inconclusive"):
        said["warning"].append(_command("warning", case.name, [f"inconclusive: {case.reason}"]))
    for case in verdict.cases:
        for excused in case.excused:
            where = excused.finding.location
            said["notice"].append(_command("notice", case.name, [excuse(excused)], where))
    return "".join(f"{each}\n" for level, every in said.items() for each in _first(level, every))


def _findings(verdict: Verdict) -> list[tuple[Case, Finding]]:
    pairs = [(case, finding) for case in verdict.cases for finding in case.findings]
    return sorted(pairs, key=lambda pair: not pair[1].certain)


def _first(level: Level, commands: list[str]) -> list[str]:
    if len(commands) <= SHOWN:
        return commands
    rest = len(commands) - SHOWN + 1
    return [*commands[: SHOWN - 1], _command(level, TOOL, [f"and {rest:,} more"])]


def _command(
    level: Level, title: str, lines: Iterable[str], location: tuple[str, int] | None = None
) -> str:
    properties = {"title": title}
    if location:
        properties |= {"file": location[0], "line": str(location[1])}
    told = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    text = "\n".join(map(printable, lines))
    return f"::{level} {told}::{_data(_clipped(text))}"


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    safe = _data(_clipped(printable(text)))
    return safe.replace(":", "%3A").replace(",", "%2C")


def verdict_summary(verdict: Verdict, room: int = SUMMARY_BYTES) -> str:
    """Markdown of at most ``room`` bytes; "" where not even its head fits."""
    blocks = list(_blocks(verdict))
    tail = f"\n_and {len(blocks):,} more: the summary is full_\n"
    left = room - len(tail.encode())
    shown: list[str] = []
    for block in blocks:
        left -= len(block.encode())
        if left < 0:
            rest = f"\n_and {len(blocks) - len(shown):,} more: the summary is full_\n"
            return "".join([*shown, rest]) if shown else ""
        shown.append(block)
    return "".join(shown)


def _blocks(verdict: Verdict) -> Iterator[str]:
    known = "".join(f"- {name}: {_code(text)}\n" for name, text in facts(verdict).items())
    yield f"## {TOOL}: {_text(headline(verdict))}\n\n{_text(counts(verdict))}\n\n{known}\n"
    if failed := failure(verdict.command):
        yield f"**The command itself failed:** {_code(failed)}\n\n"
    for case, finding in _findings(verdict):
        told = "".join(f"- {label}: {_code(text)}\n" for label, text in details(finding))
        yield f"### {_text(case.name)}: {_text(summary(finding))}\n\n{told}\n"
    for case in verdict.of("inconclusive"):
        yield f"- **inconclusive: {_text(case.name)}**: {_text(case.reason)}\n"
    for case in verdict.cases:
        for excused in case.excused:
            yield f"- {_text(case.name)}: {_text(excuse(excused))}\n"
    for note in verdict.notes:
        yield f"- note: {_text(note)}\n"


def _text(text: str) -> str:
    """Neither Markdown nor HTML."""
    safe = _clipped(printable(text)).strip()
    return _MARKDOWN.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), safe)


def _code(text: str) -> str:
    """A code span: its fence is longer than any run of backticks in it."""
    safe = _clipped(printable(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", safe)), default=0))
    return f"{fence} {safe} {fence}"
