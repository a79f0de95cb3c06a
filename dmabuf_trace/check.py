# SPDX-License-Identifier: Apache-2.0
"""A recording judged by a policy: what is tolerated, excused, worse than before, or can't be told.

Names no check: each is a file in :mod:`dmabuf_trace.checks`. A finding counts where nothing that
was lost can explain it; a rule passes where nothing that was lost can hide one.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmabuf_trace import analysis, checks
from dmabuf_trace import policy as policies
from dmabuf_trace.allowed import ALLOW, Allowed
from dmabuf_trace.analysis import Asked, Result
from dmabuf_trace.blocks import RUN
from dmabuf_trace.checks import Check, Draft, Judged
from dmabuf_trace.findings import Case, CommandEnd, Excused, Finding, Verdict
from dmabuf_trace.policy import Policy, Section, Values
from dmabuf_trace.report import recording
from dmabuf_trace.sourcelines import Lines

if TYPE_CHECKING:
    from dmabuf_trace.extent import Window
    from dmabuf_trace.trace import Trace

SLOWER: Final = 1.25
"""A time is worse than the baseline's where it is longer by this factor."""


def policy_section() -> Section:
    """All that a policy may say."""
    sections = [check.section for check in checks.registry()]
    return Section("policy", "what is tolerated", sections=(*sections, ALLOW))


def reference() -> Iterator[str]:
    """A policy with every key, what it means, and what holds without it, line by line."""
    return policies.reference(policy_section())


def policy(path: Path | None = None) -> Policy:
    """The policy of a file, else what holds without one.

    Raises:
        PolicyError: it can't be used.
    """
    root = policy_section()
    return policies.load(path, root) if path else policies.default(root)


class DebugInfo:
    """Files with debug information; ``root`` is stripped from the paths that they tell.

    Raises:
        InputError: one of them has none, or can't be read.
    """

    def __init__(self, files: Sequence[Path], root: Path | None = None) -> None:
        self._files = files
        self._root = root
        Lines(files)

    def of(self, trace: Trace) -> Lines:
        """What they tell of the builds that a trace is of."""
        return Lines(self._files, trace.builds, self._root)


def _located(cases: list[Case], lines: Lines) -> list[Case]:
    """Cases whose findings tell the line that their stack leads to."""
    found = iter(lines.locations(each.stack for case in cases for each in case.findings))
    return [
        replace(case, findings=tuple(replace(each, location=next(found)) for each in case.findings))
        for case in cases
    ]


class Baseline:
    """Findings of a recording that is known to be good enough.

    Raises:
        InputError: it is not a recording that this version reads.
    """

    def __init__(self, path: Path, rules: Policy) -> None:
        self.path = path
        trace, results = analysis.ask(path, questions(rules))
        drafts = _drafts(trace, results, rules, path)
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
    shown: Path | None = None,
    debug_info: DebugInfo | None = None,
    today: datetime.date | None = None,
) -> Verdict:
    """Judge a recording, or a part of it; with a ``baseline`` only what is worse than in that one.

    ``shown`` is what it is called, where that is not its path; ``debug_info`` leads stacks to
    lines of source.

    Raises:
        InputError: it is not a recording that this version reads.
    """
    trace, results = analysis.ask(path, questions(rules), window)
    return judged(
        *(trace, results, rules),
        baseline=baseline,
        shown=shown,
        debug_info=debug_info,
        today=today,
    )


def questions(rules: Policy) -> list[Asked]:
    """What has to be asked of a recording to judge it."""
    return _asked(
        each for check in checks.registry() for each in check.ask(_values(check, rules)).items()
    )


def judged(
    trace: Trace,
    results: Iterable[Result],
    rules: Policy,
    *,
    baseline: Baseline | None = None,
    shown: Path | None = None,
    debug_info: DebugInfo | None = None,
    today: datetime.date | None = None,
) -> Verdict:
    """Judge answers to :func:`questions`, ``trace`` being the last stretch; see :func:`read`."""
    path = shown or trace.path
    allowed = Allowed(rules.values["allow"], today or datetime.date.today())
    cases = []
    for draft in _drafts(trace, results, rules, path):
        rest, excused = allowed.sort(draft.findings)
        if baseline:
            same = [each for each in rest if baseline.has(each)]
            rest = [each for each in rest if each not in same]
            excused += [Excused(each, f"no worse than in {baseline.path}") for each in same]
        cases.append(_case(draft, rest, excused, _doubts(trace, draft)))
    lines = debug_info and debug_info.of(trace)
    if lines:
        cases = _located(cases, lines)
    facts = {**asdict(recording(trace)), "path": str(path)}
    notes = (*_notes(trace), *allowed.notes(rules.path), *(lines.notes if lines else ()))
    return Verdict(facts, tuple(cases), command_end(trace), notes)


def propose(path: Path) -> str:
    """A policy that this recording passes, with room where runs differ: to be read and trimmed.

    Raises:
        InputError: it is not a recording that this version reads.
    """
    asked = {name: texts for check in checks.registry() for name, texts in check.explore.items()}
    trace, results = analysis.ask(path, _asked(asked.items()))
    answers = _by_name(results)
    lines = [f"# proposed from {path}: read it, and take out what should not be tolerated", ""]
    for check in checks.registry():
        lines += check.propose(Judged({}, answers, trace, path))
    return "\n".join(lines).rstrip() + "\n"


def command_end(trace: Trace) -> CommandEnd | None:
    """How the command of a recording ended; None: it does not tell."""
    command = trace.header.get("command")
    runs = trace.marks[trace.marks["label"] == RUN]
    if not isinstance(command, list) or runs.empty:
        return None
    failed = runs.loc[runs["status"] != 0, "status"].tolist()
    return CommandEnd(tuple(map(str, command)), (*failed, 0)[0], len(runs), len(failed))


def _drafts(trace: Trace, results: Iterable[Result], rules: Policy, path: Path) -> Iterator[Draft]:
    """What all checks come to."""
    answers = _by_name(results)
    for check in checks.registry():
        yield from check.judge(Judged(_values(check, rules), answers, trace, path))


def _asked(texts: Iterable[tuple[str, Mapping[str, str]]]) -> list[Asked]:
    registry = analysis.registry()
    return [Asked(registry[name], **each) for name, each in texts]


def _by_name(results: Iterable[Result]) -> dict[str, Result]:
    return {result.analysis.name: result for result in results}


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
