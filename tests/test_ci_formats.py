# SPDX-License-Identifier: Apache-2.0
"""What CI reads: each format by a reader or a schema of others, whatever names there are."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from typing import Any, Final
from xml.etree import ElementTree as ET

import cmarkgfm
import github_action_utils
import junitparser
import pytest
from hypothesis import given, settings
from sarif_kit.validate import validation_errors
from tap.parser import Parser

from dmabuf_trace.findings import Verdict
from dmabuf_trace.render.github import SHOWN, verdict_commands, verdict_summary
from dmabuf_trace.render.junit import verdict_junit
from dmabuf_trace.render.ktap import verdict_ktap
from dmabuf_trace.render.machine import verdict_json
from dmabuf_trace.render.sarif import verdict_sarif
from dmabuf_trace.render.text import printable
from tests.verdicts import (
    COMMAND,
    DOUBTED,
    EVERYTHING,
    EXCUSED,
    FAILED,
    HOSTILE,
    LEAK,
    OFF,
    PASSED,
    any_verdict,
    hostile,
    verdict,
)

Counts = Counter[str]


def expected(found: Verdict) -> Counts:
    """Outcomes, the command's among them."""
    counts = Counter[str](case.outcome for case in found.cases)
    if found.command:
        counts["failed" if found.command.status else "passed"] += 1
    return counts


def in_junit(text: str) -> Counts:
    """Outcomes as junitparser reads them."""
    suites = junitparser.JUnitXml.fromstring(text.encode())
    (suite,) = suites
    kinds = {"Failure": "failed", "Error": "inconclusive", "Skipped": "off"}
    found = Counter[str]()
    for test in suite:
        results = [type(result).__name__ for result in test.result]
        assert len(results) <= 1
        found[kinds[results[0]] if results else "passed"] += 1
    assert (suites.tests, suites.failures, suites.errors) == (
        *(found.total(), found["failed"], found["inconclusive"]),
    )
    assert suite.skipped == found["off"]
    return found


def in_ktap(text: str) -> Counts:
    """Outcomes as tap.py reads them; KTAP's directive ERROR is none that TAP has."""
    lines = list(Parser().parse_text(text))
    found = Counter[str]()
    for number, line in enumerate((each for each in lines if each.category == "test"), 1):
        assert line.number == number
        if line.skip:
            found["off"] += 1
        elif line.ok:
            found["passed"] += 1
        else:
            doubted = line.directive.text.startswith("ERROR inconclusive")
            found["inconclusive" if doubted else "failed"] += 1
    (plan,) = (line for line in lines if line.category == "plan")
    assert plan.expected_tests == found.total()
    known = {"test", "plan", "diagnostic"}
    assert [line for line in lines if line.category not in known] == lines[:1]  # the version
    return found


def in_sarif(text: str) -> tuple[Counts, dict[str, Any]]:
    """Levels of results, and the one run, of a document that fits the schema."""
    document = json.loads(text)
    assert validation_errors(document) == []
    (run,) = document["runs"]
    results = (row for row in run["results"] if not row["suppressions"])
    return Counter(row["level"] for row in results), run


def in_github(text: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Level, properties and message of each line."""
    for line in text.splitlines():
        match = re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.*)", line)
        assert match, line
        level, told, message = match.groups()
        properties = dict(each.split("=", 1) for each in told.split(","))
        yield (
            level,
            {key: unescaped(value) for key, value in properties.items()},
            unescaped(message),
        )


def unescaped(text: str) -> str:
    for code, char in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, char)
    return text


class Page(HTMLParser):
    """Tags and text of a summary as GitHub's own Markdown makes it."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(cmarkgfm.github_flavored_markdown_to_html(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


OUR_TAGS: Final = {"h2", "h3", "p", "ul", "li", "code", "strong", "span"}


@pytest.mark.parametrize(
    "found",
    [
        verdict(),
        verdict(PASSED),
        verdict(PASSED, command=replace(COMMAND, status=0, failed=0)),
        verdict(PASSED, command=COMMAND),
        verdict(FAILED, PASSED),
        verdict(DOUBTED, OFF),
        verdict(EXCUSED),
        EVERYTHING,
        *map(hostile, HOSTILE),
    ],
)
def test_every_reader_counts_the_same(found: Verdict) -> None:
    agree(found)


@settings(deadline=None)
@given(any_verdict())
def test_every_reader_counts_the_same_whatever_there_is(found: Verdict) -> None:
    agree(found)


def agree(found: Verdict) -> None:
    """Every format can be read, and says the same."""
    counts = expected(found)
    assert in_junit(verdict_junit(found)) == counts
    assert in_ktap(verdict_ktap(found)) == counts
    levels, run = in_sarif(verdict_sarif(found))
    certain = Counter("error" if each.certain else "warning" for each in found.findings)
    assert levels == certain
    assert run["invocations"][0]["exitCode"] == found.status
    document = json.loads(verdict_json(found))
    assert Counter(case["outcome"] for case in document["cases"]) == Counter(
        case.outcome for case in found.cases
    )
    annotated = Counter(level for level, _, _ in in_github(verdict_commands(found)))
    failed = bool(found.command and found.command.status)
    assert annotated == +Counter(
        error=min(SHOWN, certain["error"] + failed),
        warning=min(SHOWN, certain["warning"] + len(found.of("inconclusive"))),
        notice=min(SHOWN, sum(len(case.excused) for case in found.cases)),
    )
    page = Page(verdict_summary(found))
    assert page.tags <= OUR_TAGS
    everything = (verdict_junit, verdict_ktap, verdict_sarif, verdict_commands, verdict_summary)
    for render in everything:
        text = render(found)
        assert text == text.encode().decode()
        assert printable(text.replace("\n", "")) == text.replace("\n", "")


def test_junit() -> None:
    suites = ET.fromstring(verdict_junit(EVERYTHING))  # noqa: S314 - our own
    (suite,) = suites

    assert suite.attrib == {
        "name": "dmabuf-trace",
        "tests": "6",
        "failures": "2",
        "errors": "1",
        "skipped": "1",
        "time": "2.500",
        "timestamp": "2025-10-09T08:53:20",
        "hostname": "board",
    }
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties == {
        "verdict": "1 finding (exit status 1)",
        "kernel": "6.12.0-test x86_64",
        "command": "./suite --all",
        "recording": "x.dbt",
    }
    tests = [
        (
            test.get("classname"),
            test.get("name"),
            *((each.tag, each.get("message")) for each in test),
        )
        for test in suite.iter("testcase")
    ]
    assert tests == [
        ("dmabuf_trace.leaks", "leaks.kernel", ("system-out", None)),
        ("dmabuf_trace.leaks", "leaks.fd", ("failure", "3 buffers stay open: 24 KiB")),
        ("dmabuf_trace.waits", "waits.fence", ("error", "3 events were lost")),
        ("dmabuf_trace.growth", "growth.buffers", ("skipped", "no limit is set")),
        ("dmabuf_trace.contract", "contract.mapping_not_held", ("system-out", None)),
        (
            *("dmabuf_trace.command", "command"),
            ("failure", "./suite --all ended with status 3, 2 of 10 runs failed"),
        ),
    ]


def test_ktap() -> None:
    lines = verdict_ktap(EVERYTHING).splitlines()

    assert lines[:2] == ["KTAP version 1", "1..6"]
    assert [line for line in lines[2:] if not line.startswith("# ")] == [
        "ok 1 leaks.kernel",
        "not ok 2 leaks.fd",
        "not ok 3 waits.fence # ERROR inconclusive: 3 events were lost",
        "ok 4 growth.buffers # SKIP no limit is set",
        "ok 5 contract.mapping_not_held",
        "not ok 6 command",
    ]
    at = lines.index("not ok 2 leaks.fd")
    assert lines[at - 1] == "#  next: dmabuf-trace show x.dbt 41"


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\ud800" not in name])
def test_workflow_commands_are_those_that_others_would_write(name: str) -> None:
    written = StringIO()
    with redirect_stdout(written):
        github_action_utils.error(
            printable(name), title=printable(name), file=printable(name), line=7
        )
    finding = replace(LEAK, location=(name, 7), summary=name, evidence=(), subject={}, stack=())
    bare = replace(finding, cause="", next="")
    found = verdict(replace(FAILED, name=name, findings=(bare,)))

    # "source:" of a finding has its location once more
    ours = verdict_commands(found).partition("%0A")[0]

    assert ours == written.getvalue().rstrip("\n")


def test_annotations_are_as_many_as_github_shows() -> None:
    found = list(in_github(verdict_commands(verdict(replace(FAILED, findings=(LEAK,) * 12)))))

    assert len(found) == SHOWN
    assert found[-1] == ("error", {"title": "dmabuf-trace"}, "and 3 more")


def test_a_summary_says_all() -> None:
    page = Page(verdict_summary(EVERYTHING))

    for text in (*LEAK.evidence, LEAK.cause, LEAK.next, "3 events were lost", "known, bug 7"):
        assert text in page.text
    assert "the command itself failed" in page.text.lower()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_summary_shows_names_and_renders_none(name: str) -> None:
    page = Page(verdict_summary(hostile(name)))

    assert page.tags <= OUR_TAGS
    shown = " ".join(page.text.split())
    assert " ".join(printable(name).split()) in shown


@pytest.mark.parametrize("room", [0, 99, 500, 4000, 1 << 20])
def test_a_summary_fits(room: int) -> None:
    many = verdict(replace(FAILED, findings=(LEAK,) * 3000), notes=("\u20ac" * 99_999,))

    text = verdict_summary(many, room)

    assert len(text.encode()) <= room
    assert bool(text) == (room >= 500)
    assert text.endswith("more: the summary is full_\n") == bool(text)


def test_sarif() -> None:
    _, run = in_sarif(verdict_sarif(EVERYTHING))

    leak, perhaps, excused = run["results"]
    assert [row["ruleId"] for row in run["results"]] == [
        *("leaks.fd", "waits.fence", "contract.mapping_not_held")
    ]
    for row in run["results"]:
        assert run["tool"]["driver"]["rules"][row["ruleIndex"]]["id"] == row["ruleId"]
    assert leak["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "drivers/dma-buf/heaps/system_heap.c"},
        "region": {"startLine": 12},
    }
    assert "physicalLocation" not in perhaps["locations"][0]
    assert [
        frame["location"]["logicalLocations"][0]["name"] for frame in leak["stacks"][0]["frames"]
    ] == [
        "dma_buf_export",
        "heap_ioctl",
    ]
    assert excused["suppressions"][0]["justification"] == "known, bug 7"
    assert leak["partialFingerprints"] == excused["partialFingerprints"]
    (invocation,) = run["invocations"]
    said = [
        (row["level"], row["descriptor"]["id"]) for row in invocation["toolExecutionNotifications"]
    ]
    assert said == [("warning", "inconclusive"), ("error", "command"), ("note", "note")]


def test_an_absolute_path_in_sarif() -> None:
    finding = replace(LEAK, location=("/src/a b/x.c", 0))

    _, run = in_sarif(verdict_sarif(verdict(replace(FAILED, findings=(finding,)))))

    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "file:///src/a%20b/x.c"}}


def test_a_finding_that_is_nowhere_has_no_place_in_sarif() -> None:
    finding = replace(LEAK, location=None, stack=(), subject={})

    _, run = in_sarif(verdict_sarif(verdict(replace(FAILED, findings=(finding,)))))

    assert not {"locations", "stacks"} & run["results"][0].keys()
