# SPDX-License-Identifier: Apache-2.0
"""``[[allow]]``: findings that are known and tolerated, with a reason and perhaps a last day."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from dmabuf_trace import checks
from dmabuf_trace.findings import Excused, Finding
from dmabuf_trace.policy import Entry, Key, Section, Values
from dmabuf_trace.stacks import function

_PATTERNS: Final = ("rule", "shape", "exporter", "name", "comm", "device", "call")


def _objection(values: Values) -> str:
    """What is wrong with an entry of the allow-list."""
    if all(values[key] is None for key in (*_PATTERNS, "stack")):
        return "would allow everything: say which findings it is about"
    rules = (rule for check in checks.registry() for rule in check.rules)
    rule = values["rule"]
    if rule is not None and not any(fnmatchcase(each, rule) for each in rules):
        return f"never used: no rule is named {rule!r}"
    return ""


ALLOW: Final = Section(
    "allow",
    "findings that are known and tolerated; all that an entry gives must match",
    (
        Key("rule", "pattern", "name of the case, as leaks.kernel or contract.*"),
        Key("shape", "pattern", "shape of the leak"),
        Key("exporter", "pattern", "exporter of the buffer"),
        Key("name", "pattern", "name of the buffer"),
        Key("comm", "pattern", "thread that made it"),
        Key("device", "pattern", "device of the importer"),
        Key("call", "pattern", "call and percentile, as 'map p99'"),
        Key("stack", "pattern", "a function in the kernel stack"),
        Key("reason", "text", "why it is tolerated", required=True),
        Key("expires", "date", "the last day on which it is"),
    ),
    entries=True,
    objection=_objection,
)


class Allowed:
    """The allow-list, and which of its entries were used."""

    def __init__(self, entries: tuple[Entry, ...], today: datetime.date) -> None:
        self._entries = entries
        self._today = today
        self._used: set[int] = set()

    def sort(self, findings: tuple[Finding, ...]) -> tuple[list[Finding], list[Excused]]:
        """Those that count, and those that do not."""
        rest: list[Finding] = []
        excused: list[Excused] = []
        for finding in findings:
            entry = next((each for each in self._entries if self._fits(each, finding)), None)
            if entry is None:
                rest.append(finding)
            else:
                self._used.add(entry.line)
                excused.append(Excused(finding, str(entry.values["reason"])))
        return rest, excused

    def _is_over(self, entry: Entry) -> bool:
        last = entry.values["expires"]
        return last is not None and last < self._today

    def _fits(self, entry: Entry, finding: Finding) -> bool:
        if self._is_over(entry):
            return False
        facts = {**finding.subject, "rule": finding.rule}
        wanted = entry.values["stack"]
        return entry.fits(facts, _PATTERNS) and (
            wanted is None or any(fnmatchcase(function(frame), wanted) for frame in finding.stack)
        )

    def notes(self, path: str) -> Iterator[str]:
        """Entries that did nothing."""
        for entry in self._entries:
            if self._is_over(entry):
                yield f"{path}:{entry.line}: expired on {entry.values['expires']}, not used"
            elif entry.line not in self._used:
                yield f"{path}:{entry.line}: allows what was not found"
