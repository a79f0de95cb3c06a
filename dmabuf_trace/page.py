# SPDX-License-Identifier: Apache-2.0
"""A recording as one page has it: the report, a verdict on it, lifetimes, who passed what to whom.

All of it is asked in one pass. Must not know how it is shown.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dmabuf_trace import analysis, check, report
from dmabuf_trace.analysis import Answer, Asked, Result, Table, ask, records
from dmabuf_trace.errnos import INTERRUPTED, error_name
from dmabuf_trace.findings import Case, Finding, Verdict
from dmabuf_trace.graph import Graph
from dmabuf_trace.lifetimes import LIFETIMES
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    from pathlib import Path

    from dmabuf_trace.extent import Window
    from dmabuf_trace.policy import Policy
    from dmabuf_trace.report import Report

POINTS: Final = 200
"""Of the timeline of what was alive."""
EDGES: Final = 40
"""Of the graph, processes and devices each, the largest first."""
_CAUSES: Final = {
    ("attach", "EBUSY"): "the backing storage exists, and does not fit the device's constraints",
}
_INTERRUPTED: Final = {error_name(number) for number in INTERRUPTED}


@dataclass(frozen=True, slots=True)
class Page:
    """``graph_note`` says what the graph leaves out; "": nothing."""

    report: Report
    verdict: Verdict
    lifetimes: Result
    graph: Graph
    graph_note: str

    def answer(self, name: str) -> Answer:
        """That of an analysis."""
        (found,) = (each for each in self.report.results if each.analysis.name == name)
        return found.answer

    def table(self, name: str, table: str) -> Table:
        """A table of an analysis."""
        return _table(self.answer(name), table)


def read(path: Path, window: Window | None = None) -> Page:
    """Ask a recording all that the page shows.

    Raises:
        InputError: the file is not a recording that this version reads.
    """
    rules = _rules()
    reported = report.questions(every=True, texts={"footprint": {"points": str(POINTS)}})
    judged = check.questions(rules)
    alive = Asked(LIFETIMES)
    distinct = {_key(each): each for each in (*reported, *judged, alive)}
    trace, results = ask(path, list(distinct.values()), window)
    answered = dict(zip(distinct, results, strict=True))
    made = report.made(trace, tuple(answered[_key(each)] for each in reported))
    verdict = check.judged(trace, (answered[_key(each)] for each in judged), rules)
    by_name = {each.analysis.name: each for each in made.results}
    failed = _failed(by_name["errors"], path)
    graph, note = _graph(by_name["sharing"])
    return Page(
        made,
        replace(verdict, cases=(*verdict.cases, failed)),
        answered[_key(alive)],
        graph,
        note,
    )


def _key(asked: Asked) -> Hashable:
    return asked.analysis.name, *asked.params.items()


def _rules() -> Policy:
    """As without a policy; and what ``mappings`` shows without an option is held for too long."""
    rules = check.policy()
    shown = analysis.registry()["mappings"].params
    (most,) = (each.parse(each.default) for each in shown if each.name == "min_age")
    mappings = {**rules.values["mappings"], "max_age": most}
    return replace(rules, values={**rules.values, "mappings": mappings})


def _table(answer: Answer, name: str) -> Table:
    (found,) = (each for each in answer.tables if each.name == name)
    return found


def _failed(errors: Result, path: Path) -> Case:
    """Calls that failed, but those that a signal interrupted."""
    findings = tuple(_failures(errors, path))
    case = Case("errors", "no call fails", "passed", findings)
    if findings:
        return replace(case, outcome="failed")
    if errors.doubts:
        return replace(case, outcome="inconclusive", reason="; ".join(errors.doubts))
    return case


def _failures(errors: Result, path: Path) -> Iterator[Finding]:
    for row in records(_table(errors.answer, "errors").rows):
        if row["error"] in _INTERRUPTED:
            continue
        of = f"device {row['device']}" if row["device"] else row["exporter"] or "unknown exporter"
        show = f"dmabuf-trace show {shlex.quote(str(path))} {row['inode']}"
        yield Finding(
            rule="errors",
            summary=f"{count_text(row['calls'], 'call')} of {row['kind']} failed with "
            f"{row['error']}: {of}",
            evidence=(f"called by {row['comm']}-{row['pid']}",),
            cause=_CAUSES.get((row["kind"], row["error"])) or _meaning(row["error"]),
            next=show if row["inode"] else f"dmabuf-trace errors {shlex.quote(str(path))}",
            inodes=(row["inode"],) if row["inode"] else (),
            count=row["calls"],
        )


def _meaning(error: str) -> str:
    return os.strerror(number) if (number := getattr(errno, error, 0)) else ""


def _graph(sharing: Result) -> tuple[Graph, str]:
    """The graph of the largest parts."""
    answer, left_out = sharing.answer, []
    tables = []
    draw = sharing.analysis.graph
    if draw is None:
        return Graph((), ()), ""
    for table in answer.tables:
        rows = table.rows
        if table.name != "tree" and len(rows) > EDGES:
            left_out.append(f"{EDGES} of {len(rows):,} {table.title.lower()}")
            rows = rows.nlargest(EDGES, "size_bytes").sort_index()
        tables.append(replace(table, rows=rows))
    note = f"{' and '.join(left_out)} shown, the largest" if left_out else ""
    return draw(replace(answer, tables=tuple(tables))), note
