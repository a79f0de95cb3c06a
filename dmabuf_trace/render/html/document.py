# SPDX-License-Identifier: Apache-2.0
"""The page: its parts in order, put into the template with style, script and data.

The policy of the page allows that style and that script, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import PurePath
from string import Template
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from dmabuf_trace.analysis import Result, Table, records
from dmabuf_trace.page import Page
from dmabuf_trace.render import words
from dmabuf_trace.render.facts import doubted, recording_facts
from dmabuf_trace.render.html.elements import Child, Clock, element, folded, written
from dmabuf_trace.render.html.findings import findings_parts
from dmabuf_trace.render.html.histograms import histograms
from dmabuf_trace.render.html.network import network
from dmabuf_trace.render.html.overtime import data
from dmabuf_trace.render.html.tables import table_parts
from dmabuf_trace.units import bytes_text, count_text
from dmabuf_trace.version import VERSION

if TYPE_CHECKING:
    from dmabuf_trace.report import Report


def page_html(page: Page) -> str:
    """The page, in ASCII."""
    clock = Clock.of(page.report.recording)
    style, script = (_file(f"page.{kind}") for kind in ("css", "js"))
    title = f"{PurePath(page.report.recording.path).name}: {words.outcome(page.verdict)}"
    return Template(_file("page.html")).substitute(
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        title=written(element("title", f"{title} - {words.TOOL}")),
        style=style,
        body="\n".join(map(written, _parts(page, clock))),
        data=data(page, clock),
        script=script,
    )


def _file(name: str) -> str:
    return (resources.files(__package__ or "") / name).read_text("ascii")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("ascii")).digest())
    return f"'sha256-{digest.decode('ascii')}'"


_SECTIONS: Final = {
    "findings": "Findings",
    "time": "Over time",
    "latency": "Time in map",
    "sharing": "Who has whose buffers",
    "tables": "All tables",
    "next": "What to do next",
}


def _parts(page: Page, clock: Clock) -> Iterator[ET.Element]:
    yield _header(page, clock)
    links = (element("a", title, href=f"#{name}") for name, title in _SECTIONS.items())
    yield element("nav", *links, aria_label="Sections")
    drawn = frozenset(page.lifetimes.answer.tables[0].rows["inode"].tolist())
    yield element(
        "main",
        _section("findings", *findings_parts(page.verdict, drawn, clock)),
        _section("time", *_over_time(page, clock)),
        _section("latency", *_latency(page)),
        _section("sharing", *_sharing(page)),
        _section("tables", *(_analysis(each, clock) for each in page.report.results)),
        _section("next", *(_command(each) for each in page.report.next)),
    )
    made = f"Made by {words.TOOL} {VERSION}. A - is not observed, or does not apply."
    yield element("footer", made)


def _section(name: str, *children: Child) -> ET.Element:
    return element("section", element("h2", _SECTIONS[name]), *children, id=name)


def _header(page: Page, clock: Clock) -> ET.Element:
    report = page.report
    facts = element("dl", class_="facts")
    for fact in recording_facts(report.recording):
        facts.append(element("dt", fact.label.removesuffix(":")))
        facts.append(element("dd", fact.text, class_=fact.kind or "plain"))
    outcome = words.outcome(page.verdict)
    parts: list[Child] = [
        element("h1", PurePath(report.recording.path).name),
        element("p", outcome, class_=f"outcome {page.verdict.outcome}"),
        facts,
    ]
    if failure := words.failure(page.verdict.command):
        parts.append(element("p", f"The command itself failed: {failure}", class_="loss"))
    parts += _missing(report, clock)
    parts += table_parts(report.totals, clock)
    parts += [element("p", text) for text in _peak(page.table("footprint", "levels"))]
    return element("header", *parts)


def _missing(report: Report, clock: Clock) -> Iterator[ET.Element]:
    """All that makes answers doubtful, folded away where there is some."""
    table = report.quality
    if table.rows.empty:
        yield from table_parts(table, clock)
        return
    doubts = (
        element("p", f"{', '.join(names)}: {doubt}", class_="loss")
        for doubt, names in doubted(report).items()
    )
    count = count_text(len(table.rows), "row")
    title = f"{table.title}, and which answers that makes doubtful ({count})"
    yield folded(title, *doubts, *table_parts(table, clock), class_="missing")


def _peak(levels: Table) -> Iterator[str]:
    for row in records(levels.rows):
        if row["moment"] == "high-water mark":
            at = f"+{row['time_ns'] / 1e9:.3f}s"
            alive = f"{bytes_text(row['size_bytes'])} in {count_text(row['buffers'], 'buffer')}"
            yield f"The most memory alive at once: {alive}, at {at}."


def _over_time(page: Page, clock: Clock) -> Iterator[ET.Element]:
    answer = page.lifetimes.answer
    (table,) = answer.tables
    if table.rows.empty:
        yield element("p", table.empty)
        return
    for note in (*answer.notes, *page.answer("footprint").notes):
        yield element("p", note, class_="cut")
    script = "The charts need JavaScript; the tables have the same numbers."
    yield element("div", element("p", script), id="charts")
    yield folded("The same as a table", *table_parts(table, clock, len(table.rows)))


def _latency(page: Page) -> Iterator[ET.Element]:
    figures = list(histograms(page.table("devices", "map_histogram"), page.table("devices", "map")))
    if figures:
        yield element(
            "p", "Each bar counts the maps that took up to twice as long as those left of it."
        )
        yield element("div", *figures, class_="figures")
    else:
        is_seen = "map" not in page.report.recording.missing
        yield element("p", "no map was seen" if is_seen else "not observed: map")


def _sharing(page: Page) -> Iterator[ET.Element]:
    if page.graph_note:
        yield element("p", page.graph_note, class_="cut")
    if not page.graph.nodes:
        yield element("p", page.lifetimes.answer.tables[0].empty)
        return
    region = {"role": "region", "aria_label": "Who has whose buffers"}
    yield element("div", network(page.graph), class_="scroll", tabindex=0, **region)


def _analysis(result: Result, clock: Clock) -> ET.Element:
    """One question: its tables, and what makes them doubtful."""
    parts: list[Child] = [element("p", doubt, class_="loss") for doubt in result.doubts]
    for table in result.answer.tables:
        parts += table_parts(table, clock)
    parts += [element("p", f"Note: {note}", class_="note") for note in result.answer.notes]
    name, rank = result.analysis.name, result.analysis.report_rank
    title = f"{name}: {result.analysis.question}"
    return folded(title, *parts, is_open=bool(rank), id=f"analysis-{name}")


def _command(text: str) -> ET.Element:
    return element("p", element("code", text))
