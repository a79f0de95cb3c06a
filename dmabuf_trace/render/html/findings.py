# SPDX-License-Identifier: Apache-2.0
"""What was found: what shows it, why it may be, what to do next; and what was not judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET

from dmabuf_trace.analysis import Column
from dmabuf_trace.findings import Case, Finding, Verdict
from dmabuf_trace.render import words
from dmabuf_trace.render.html.elements import Clock, element, folded
from dmabuf_trace.render.html.tables import plain
from dmabuf_trace.units import count_text

MOST: Final = 50
_LINKS: Final = 20
_AS_CODE: Final = ("stack", "next", "source")
_RULES: Final = [
    Column("name", "text", "rule"),
    Column("title", "text", "what it asks"),
    Column("outcome", "text", "outcome"),
    Column("reason", "text", "why, or what was measured"),
]


def findings_parts(verdict: Verdict, drawn: frozenset[int], clock: Clock) -> Iterator[ET.Element]:
    """Findings, certain ones first; buffers in ``drawn`` are links to their lives."""
    found = [
        (case, finding)
        for outcome in ("failed", "inconclusive")
        for case in verdict.cases
        if case.outcome == outcome
        for finding in case.findings
    ]
    found.sort(key=lambda each: not each[1].certain)
    if not found:
        but = "; but not all could be judged" * bool(verdict.of("inconclusive"))
        yield element("p", f"Nothing was found that breaks a rule{but}.")
    for case, finding in found[:MOST]:
        yield _finding(case, finding, drawn)
    if len(found) > MOST:
        yield element("p", f"{MOST} of {len(found):,} findings shown", class_="cut")
    if doubted := verdict.of("inconclusive"):
        yield _doubted(doubted)
    rows = [_rule(case) for case in verdict.cases]
    rules = plain("Rules", _RULES, rows, clock, id="table-rules")
    yield folded(f"What was judged: {words.counts(verdict)}", rules)


def _finding(case: Case, finding: Finding, drawn: frozenset[int]) -> ET.Element:
    facts = element("dl")
    last = ""
    for label, text in words.details(finding):
        if label != last:
            facts.append(element("dt", label))
        facts.append(element("dd", element("code", text) if label in _AS_CODE else text))
        last = label
    if inodes := [inode for inode in finding.inodes if inode in drawn]:
        more = len(inodes) - _LINKS
        links = (_link(inode) for inode in inodes[:_LINKS])
        facts.append(element("dt", "on the timeline"))
        facts.append(element("dd", *links, f"and {more:,} more" if more > 0 else ""))
    title = element("h3", element("span", case.name, class_="rule"), words.summary(finding))
    kind = "certain" if finding.certain else "perhaps"
    return element("article", title, facts, class_=f"finding {kind}")


def _link(inode: int) -> ET.Element:
    return element("a", str(inode), href="#time", data_inode=inode)


def _doubted(cases: tuple[Case, ...]) -> ET.Element:
    """Rules by the reason for which they could not be judged."""
    names: dict[str, list[str]] = {}
    for case in cases:
        names.setdefault(case.reason or "no reason given", []).append(case.name)
    items = [
        element("li", element("strong", reason), f": {', '.join(of)}")
        for reason, of in names.items()
    ]
    title = f"{count_text(len(cases), 'rule')} could not be judged"
    return element("div", element("h3", title), element("ul", *items), class_="doubts")


def _rule(case: Case) -> dict[str, str]:
    count = len(case.findings)
    reason = case.reason or case.measured or (count_text(count, "finding") if count else "")
    if case.excused:
        reason = "; ".join(filter(None, (reason, f"{len(case.excused):,} excused")))
    return {"name": case.name, "title": case.title, "outcome": case.outcome, "reason": reason}
