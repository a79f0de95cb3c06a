# SPDX-License-Identifier: Apache-2.0
"""A recording judged by a policy: what is tolerated, excused, worse than before, or can't be told.

Names no check: each is a file in :mod:`dmabuf_trace.checks`. A finding counts where nothing that
was lost can explain it; a rule passes where nothing that was lost can hide one.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmabuf_trace import analysis, checks
from dmabuf_trace.analysis import Asked, Result
from dmabuf_trace.checks import Check, Draft, Judged
from dmabuf_trace.findings import Case, CommandEnd, Excused, Finding, Verdict
from dmabuf_trace.policy import Entry, Key, Policy, Section, Values, default, load
from dmabuf_trace.report import recording
from dmabuf_trace.stacks import function as stack_function

if TYPE_CHECKING:
    from dmabuf_trace.trace import Trace, Window

SLOWER: Final = 1.25
"""A time is worse than the baseline's where it is longer by this factor."""

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


def policy_section() -> Section:
    """All that a policy may say."""
    sections = [check.section for check in checks.registry()]
    return Section("policy", "what is tolerated", sections=(*sections, ALLOW))


def policy(path: Path | None = None) -> Policy:
    """The policy of a file, else what holds without one.

    Raises:
        PolicyError: it can't be used.
    """
    return load(path, policy_section()) if path else default(policy_section())


class Baseline:
    """Findings of a recording that is known to be good enough.

    Raises:
        InputError: it is not a recording that this version reads.
    """

    def __init__(self, path: Path, rules: Policy) -> None:
        self.path = path
        _, drafts = _drafts(path, rules)
        self._known = {each.key: each for draft in drafts for each in draft.findings}

    def has(self, finding: Finding) -> bool:
        """Whether it was there already, and as bad."""
        before = self._known.get(finding.key)
        if before is None:
            return False
        if finding.is_time:
            return finding.amount <= SLOWER * before.amount
        return finding.count <= before.count and finding.amount <= before.amount


def read(
    path: Path,
    rules: Policy,
    *,
    window: Window | None = None,
    baseline: Baseline | None = None,
    today: datetime.date | None = None,
) -> Verdict:
    """Judge a recording, or a part of it; with a ``baseline`` only what is worse than in that one.

    Raises:
        InputError: it is not a recording that this version reads.
    """
    trace, drafts = _drafts(path, rules, window)
    allowed = _Allowed(rules.values["allow"], today or datetime.date.today())
    cases = []
    for draft in drafts:
        rest, excused = allowed.sort(draft.findings)
        if baseline:
            same = [each for each in rest if baseline.has(each)]
            rest = [each for each in rest if each not in same]
            excused += [Excused(each, f"no worse than in {baseline.path}") for each in same]
        cases.append(_case(draft, rest, excused, _doubts(trace, draft)))
    facts = asdict(recording(trace))
    notes = (*_notes(trace), *allowed.notes(rules.path))
    return Verdict(facts, tuple(cases), command_end(trace), notes)


def propose(path: Path) -> str:
    """A policy that this recording passes, with room where runs differ: to be read and trimmed.

    Raises:
        InputError: it is not a recording that this version reads.
    """
    questions = {
        name: texts for check in checks.registry() for name, texts in check.explore.items()
    }
    trace, answers = _answers(path, questions.items())
    lines = [f"# proposed from {path}: read it, and take out what should not be tolerated", ""]
    for check in checks.registry():
        lines += check.propose(Judged({}, answers, trace))
    return "\n".join(lines).rstrip() + "\n"


def command_end(trace: Trace) -> CommandEnd | None:
    """How the command of a recording ended; None: it does not tell."""
    command = trace.header.get("command")
    runs = trace.marks[trace.marks["label"] == "run"]
    if not isinstance(command, list) or runs.empty:
        return None
    failed = runs.loc[runs["status"] != 0, "status"].tolist()
    return CommandEnd(tuple(map(str, command)), (*failed, 0)[0], len(runs), len(failed))


def _drafts(path: Path, rules: Policy, window: Window | None = None) -> tuple[Trace, list[Draft]]:
    """The last stretch, and what all checks come to."""
    asked = ((check, check.ask(_values(check, rules))) for check in checks.registry())
    questions = chain.from_iterable(each.items() for _, each in asked)
    trace, answers = _answers(path, questions, window)
    drafts = chain.from_iterable(
        check.judge(Judged(_values(check, rules), answers, trace)) for check in checks.registry()
    )
    return trace, list(drafts)


def _answers(
    path: Path, questions: Iterable[tuple[str, dict[str, str]]], window: Window | None = None
) -> tuple[Trace, dict[str, Result]]:
    """The last stretch, and the answers by analysis."""
    registry = analysis.registry()
    asked = [Asked(registry[name], **texts) for name, texts in questions]
    trace, results = analysis.ask(path, asked, window)
    return trace, {result.analysis.name: result for result in results}


def _values(check: Check, rules: Policy) -> Values:
    values = rules.values[check.section.name]
    return {check.section.name: values} if check.section.entries else values


def _case(draft: Draft, findings: list[Finding], excused: list[Excused], doubts: list[str]) -> Case:
    certain = [finding for finding in findings if finding.certain]
    found = tuple(sorted(findings, key=lambda each: (not each.certain, -each.count)))
    case = Case(draft.name, draft.title, "passed", excused=tuple(excused))
    if draft.off:
        return replace(case, outcome="off", reason=draft.off)
    if not _tolerated(draft, certain):
        return replace(case, outcome="failed", findings=found)
    if not _tolerated(draft, findings):
        reason = "; ".join(doubts) or "what there is may have another cause"
        return replace(case, outcome="inconclusive", findings=found, reason=reason)
    if doubts:
        return replace(case, outcome="inconclusive", reason="; ".join(doubts))
    return replace(case, measured=_measured(draft, findings))


def _tolerated(draft: Draft, findings: Iterable[Finding]) -> bool:
    """Whether all limits hold."""
    if draft.limits is None:
        return not list(findings)
    sums: Counter[str] = Counter()
    for finding in findings:
        sums.update(finding.numbers)
    return all(sums[name] <= most for name, most in draft.limits.items())


def _measured(draft: Draft, findings: list[Finding]) -> str:
    if not findings or draft.limits is None:
        return draft.measured
    sums: Counter[str] = Counter()
    for finding in findings:
        sums.update(finding.numbers)
    return ", ".join(f"{sums[name]:,} {name} of {most:,}" for name, most in draft.limits.items())


def _doubts(trace: Trace, draft: Draft) -> list[str]:
    """Why findings of a rule may be hidden."""
    found = [draft.doubt] if draft.doubt else []
    return [*found, *analysis.doubts(trace, draft.relies_on)]


def _notes(trace: Trace) -> Iterator[str]:
    if trace.filters:
        yield f"recorded with {' '.join(trace.filters)}: what that leaves out is not judged"


class _Allowed:
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
        function = entry.values["stack"]
        return entry.fits(facts, _PATTERNS) and (
            function is None
            or any(fnmatchcase(stack_function(frame), function) for frame in finding.stack)
        )

    def notes(self, path: str) -> Iterator[str]:
        """Entries that did nothing."""
        for entry in self._entries:
            if self._is_over(entry):
                yield f"{path}:{entry.line}: expired on {entry.values['expires']}, not used"
            elif entry.line not in self._used:
                yield f"{path}:{entry.line}: allows what was not found"
