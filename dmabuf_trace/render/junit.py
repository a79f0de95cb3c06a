# SPDX-License-Identifier: Apache-2.0
"""A verdict as JUnit XML, as Jenkins and GitLab read it.

A case is a test case: findings are its failure, what was not observed is an error of type
``inconclusive``, what was not asked for is skipped. The wrapped command is the test case
``command``. Times are UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree as ET

from dmabuf_trace.findings import Case, CommandEnd, Verdict
from dmabuf_trace.render.text import printable
from dmabuf_trace.render.words import (
    COMMAND_CASE,
    TOOL,
    began,
    case_lines,
    duration_ns,
    facts,
    failure,
    headline,
    hostname,
    summary,
)
from dmabuf_trace.units import count_text

_PACKAGE: Final = "dmabuf_trace"
_HEADER: Final = '<?xml version="1.0" encoding="utf-8"?>\n'


def verdict_junit(verdict: Verdict) -> str:
    """One test suite."""
    tests = [_case(case) for case in verdict.cases]
    if verdict.command:
        tests.append(_command(verdict.command))
    numbers = {
        "tests": str(len(tests)),
        "failures": _count(tests, "failure"),
        "errors": _count(tests, "error"),
    }
    if (took := duration_ns(verdict)) is not None:
        numbers["time"] = f"{took / 1e9:.3f}"
    suites = ET.Element("testsuites", {"name": TOOL, **numbers})
    suite = ET.SubElement(suites, "testsuite", {"name": TOOL, **numbers})
    suite.set("skipped", _count(tests, "skipped"))
    if at := began(verdict):
        suite.set("timestamp", at.strftime("%Y-%m-%dT%H:%M:%S"))
    if host := hostname(verdict):
        suite.set("hostname", printable(host))
    properties = ET.SubElement(suite, "properties")
    for name, text in {"verdict": headline(verdict), **facts(verdict)}.items():
        ET.SubElement(properties, "property", {"name": name, "value": printable(text)})
    suite.extend(tests)
    if verdict.notes:
        ET.SubElement(suite, "system-out").text = _text(verdict.notes)
    ET.indent(suites)
    return _HEADER + ET.tostring(suites, encoding="unicode") + "\n"


def _count(tests: list[ET.Element], what: str) -> str:
    return str(sum(test.find(what) is not None for test in tests))


def _text(lines: Iterable[str]) -> str:
    """Escaped: neither XML 1.0 nor a terminal takes every character, as a reference or not."""
    return "\n".join(map(printable, lines))


def _test(name: str, section: str) -> ET.Element:
    classname = f"{_PACKAGE}.{printable(section)}"
    return ET.Element("testcase", {"classname": classname, "name": printable(name)})


def _result(test: ET.Element, tag: str, kind: str, message: str) -> ET.Element:
    return ET.SubElement(test, tag, {"type": printable(kind), "message": printable(message)})


def _case(case: Case) -> ET.Element:
    test = _test(case.name, case.name.partition(".")[0])
    match case.outcome:
        case "failed":
            findings = case.findings
            more = f" (and {count_text(len(findings) - 1, 'more')})" if len(findings) > 1 else ""
            first = summary(findings[0]) if findings else case.title
            result = _result(test, "failure", case.name, first + more)
        case "inconclusive":
            result = _result(test, "error", "inconclusive", case.reason)
        case "off":
            result = _result(test, "skipped", "off", case.reason)
        case _:
            result = ET.Element("system-out")
    result.text = _text(case_lines(case))
    if result.text and case.outcome == "passed":
        test.append(result)
    return test


def _command(command: CommandEnd) -> ET.Element:
    test = _test(COMMAND_CASE, COMMAND_CASE)
    if failed := failure(command):
        _result(test, "failure", "status", failed).text = _text([failed])
    return test
