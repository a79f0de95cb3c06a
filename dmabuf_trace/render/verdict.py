# SPDX-License-Identifier: Apache-2.0
"""A verdict as text for people: what it is, then findings, doubts, excuses, counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from rich.text import Text

from dmabuf_trace.findings import Case, Finding, Verdict
from dmabuf_trace.render.table import Part, line
from dmabuf_trace.render.words import (
    counts,
    details,
    excuse,
    failure,
    headline,
    summary,
)
from dmabuf_trace.units import count_text

SCREEN: Final = 5
"""Findings, and other lines of a kind, that are shown where all would not fit on a screen."""

_EVIDENCE: Final = 3
_FRAMES: Final = 6
_STYLES: Final = {"clean": "bold green", "findings": "bold red", "inconclusive": "bold yellow"}


def verdict_parts(verdict: Verdict, limit: int | None = SCREEN) -> Iterator[Part]:
    """The verdict; with ``limit``, so many of each at most, and findings cut short."""
    yield line(headline(verdict), _STYLES[verdict.outcome])
    failed = [(case, finding) for case in verdict.of("failed") for finding in case.findings]
    failed.sort(key=lambda each: not each[1].certain)
    for case, finding in failed[:limit]:
        yield Text()
        yield from _finding(case, finding, short=limit is not None)
    yield from _more(len(failed), limit, "finding")
    yield from _others(verdict, limit)
    yield Text()
    yield line(counts(verdict))
    if failure(verdict.command):
        yield line(f"the command itself failed: {failure(verdict.command)}", "bold yellow")
    yield from (line(f"note: {note}", "dim") for note in verdict.notes)


def _finding(case: Case, finding: Finding, *, short: bool) -> Iterator[Part]:
    yield line(f"{case.name}: {summary(finding)}", "bold" if finding.certain else "yellow")
    last = ""
    for label, text in details(_shortened(finding) if short else finding):
        yield line(f"  {'' if label == last else label:<8}  {text}")
        last = label


def _shortened(finding: Finding) -> Finding:
    evidence, stack = finding.evidence[:_EVIDENCE], finding.stack[:_FRAMES]
    if more := len(finding.evidence) - len(evidence):
        evidence += (f"and {count_text(more, 'more line')}",)
    if more := len(finding.stack) - len(stack):
        stack += (f"... {count_text(more, 'more frame')}",)
    return replace(finding, evidence=evidence, stack=stack)


def _others(verdict: Verdict, limit: int | None) -> Iterator[Part]:
    doubted = verdict.of("inconclusive")
    if doubted:
        yield Text()
    for case in doubted[:limit]:
        yield line(f"inconclusive: {case.name}: {case.reason or 'no reason given'}", "yellow")
        for finding in case.findings[:limit]:
            yield line(f"  perhaps: {finding.summary}")
        yield from _more(len(case.findings), limit, "finding")
    yield from _more(len(doubted), limit, "inconclusive case")
    excused = [(case, each) for case in verdict.cases for each in case.excused]
    if excused:
        yield Text()
    for case, each in excused[:limit]:
        yield line(f"{case.name}: {excuse(each)}", "dim")
    yield from _more(len(excused), limit, "excused finding")


def _more(count: int, limit: int | None, what: str) -> Iterator[Part]:
    if limit is not None and count > limit:
        yield line(f"  and {count_text(count - limit, f'more {what}')}", "dim")
