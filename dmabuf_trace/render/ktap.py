# SPDX-License-Identifier: Apache-2.0
"""A verdict as KTAP version 1 (Documentation/dev-tools/ktap.rst), flat.

What was not asked for is skipped. KTAP has no word for inconclusive: such a case is ``not ok`` with
the directive ERROR, for it must not count as passed, and a skipped one does not fail a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from dmabuf_trace.findings import Case, Verdict
from dmabuf_trace.render.text import printable
from dmabuf_trace.render.words import COMMAND_CASE, case_lines, facts, failure, headline

_TAKEN: Final = re.compile(
    r"#|(?<=List of all partitions):|(?<=Kernel panic - not syncing):|(?<=reboot):"
)
"""What is read as a directive, and what the kernel's parser ends at wherever a line has it."""


def verdict_ktap(verdict: Verdict) -> str:
    """Each case as a test, and the wrapped command."""
    return "".join(f"{each}\n" for each in _lines(verdict))


def _lines(verdict: Verdict) -> Iterator[str]:
    count = len(verdict.cases) + (verdict.command is not None)
    yield "KTAP version 1"
    yield f"1..{count}" if count else "1..0 # SKIP nothing was asked"
    yield f"# verdict: {headline(verdict)}"
    for name, text in facts(verdict).items():
        yield f"# {name}: {_text(text)}"
    for note in verdict.notes:
        yield f"# note: {_text(note)}"
    for number, case in enumerate(verdict.cases, 1):
        yield from (f"#  {_text(each)}" for each in case_lines(case))
        yield _result(case, number)
    if verdict.command:
        if failed := failure(verdict.command):
            yield f"#  {_text(failed)}"
        yield f"{'not ok' if failed else 'ok'} {count} {COMMAND_CASE}"


def _result(case: Case, number: int) -> str:
    name = _text(case.name) or "unnamed"
    reason = _text(case.reason)
    match case.outcome:
        case "passed":
            return f"ok {number} {name}"
        case "failed":
            return f"not ok {number} {name}"
        case "inconclusive":
            return f"not ok {number} {name} # ERROR inconclusive: {reason}"
        case "off":
            return f"ok {number} {name} # SKIP {reason}".rstrip()


def _text(text: str) -> str:
    return _TAKEN.sub(lambda found: f"\\x{ord(found[0]):02x}", printable(text)).strip()
