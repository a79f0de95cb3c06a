# SPDX-License-Identifier: Apache-2.0
"""A verdict as SARIF 2.1.0.

Findings are results: errors, or warnings where losses may explain them; excused ones are
suppressed. Inconclusive cases and a command that failed are notifications of the one invocation,
whose exit code is the check's. A result has a physical location only where its finding has one:
GitHub takes no file in which one has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from dmabuf_trace.findings import Excused, Finding, Verdict
from dmabuf_trace.render.text import printable
from dmabuf_trace.render.words import (
    COMMAND_CASE,
    TOOL,
    began,
    duration_ns,
    facts,
    failure,
    finding_lines,
    headline,
    hostname,
)
from dmabuf_trace.version import VERSION

SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)

Json = dict[str, Any]


def verdict_sarif(verdict: Verdict) -> str:
    """One run."""
    rules = {printable(case.name): case.title for case in verdict.cases}
    index = {rule: at for at, rule in enumerate(rules)}
    described = [
        {"id": rule, "shortDescription": _message(title or rule)} for rule, title in rules.items()
    ]
    results: list[Json] = []
    for case in verdict.cases:
        rule = printable(case.name)
        of = {"ruleId": rule, "ruleIndex": index[rule]}
        results += [{**of, **_result(finding)} for finding in case.findings]
        results += [{**of, **_suppressed(excused)} for excused in case.excused]
    run = {
        "tool": {"driver": {"name": TOOL, "version": VERSION, "rules": described}},
        "invocations": [_invocation(verdict, index)],
        "results": results,
        "properties": {name: printable(text) for name, text in facts(verdict).items()},
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _message(text: str) -> Json:
    return {"text": printable(text)}


def _invocation(verdict: Verdict, index: dict[str, int]) -> Json:
    found: Json = {
        "executionSuccessful": verdict.outcome != "inconclusive",
        "exitCode": verdict.status,
        "exitCodeDescription": headline(verdict),
        "toolExecutionNotifications": list(_notifications(verdict, index)),
    }
    if host := hostname(verdict):
        found["machine"] = printable(host)
    if at := began(verdict):
        took = timedelta(microseconds=(duration_ns(verdict) or 0) // 1000)
        found["startTimeUtc"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        found["endTimeUtc"] = (at + took).strftime("%Y-%m-%dT%H:%M:%SZ")
    return found


def _notifications(verdict: Verdict, index: dict[str, int]) -> Iterator[Json]:
    for case in verdict.of("inconclusive"):
        rule = printable(case.name)
        yield {
            "level": "warning",
            "message": _message(f"{case.name} is inconclusive: {case.reason}"),
            "descriptor": {"id": "inconclusive"},
            "associatedRule": {"id": rule, "index": index[rule]},
        }
    if failed := failure(verdict.command):
        descriptor = {"id": COMMAND_CASE}
        yield {"level": "error", "message": _message(failed), "descriptor": descriptor}
    for note in verdict.notes:
        yield {"level": "note", "message": _message(note), "descriptor": {"id": "note"}}


def _result(finding: Finding) -> Json:
    key = "\0".join(finding.key).encode(errors="backslashreplace")
    result: Json = {
        "level": "error" if finding.certain else "warning",
        "message": {"text": "\n".join(map(printable, finding_lines(finding)))},
        "partialFingerprints": {"finding/v1": hashlib.sha256(key).hexdigest()},
        "occurrenceCount": max(1, finding.count),
        # an empty list says that it is not suppressed, none at all that nobody knows
        "suppressions": [],
    }
    if location := {**_logical(finding), **_physical(finding)}:
        result["locations"] = [location]
    if finding.stack:
        frames = [{"location": {"logicalLocations": [_function(at)]}} for at in finding.stack]
        result["stacks"] = [{"message": {"text": "kernel stack"}, "frames": frames}]
    return result


def _suppressed(excused: Excused) -> Json:
    why = {"kind": "external", "status": "accepted", "justification": printable(excused.reason)}
    return {**_result(excused.finding), "suppressions": [why]}


def _function(frame: str) -> Json:
    name = printable(frame)
    return {"name": name.partition("+")[0], "fullyQualifiedName": name, "kind": "function"}


def _logical(finding: Finding) -> Json:
    """The innermost function, and whom it is about."""
    found = [_function(finding.stack[0])] if finding.stack else []
    for key, text in finding.subject.items():
        name, kind = printable(text), printable(key)
        found.append({"name": name, "fullyQualifiedName": f"{kind}:{name}", "kind": kind})
    return {"logicalLocations": found} if found else {}


def _physical(finding: Finding) -> Json:
    """The source."""
    if not finding.location:
        return {}
    file, line = finding.location
    region = {"region": {"startLine": line}} if line > 0 else {}
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(file)}, **region}}


def _uri(file: str) -> str:
    """Of an absolute path, or relative to the root of the sources."""
    path = quote(file, safe="/", errors="backslashreplace")
    return f"file://{path}" if file.startswith("/") else path
