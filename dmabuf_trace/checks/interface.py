# SPDX-License-Identifier: Apache-2.0
"""What a check is: a section of the policy, the analyses that it asks, and how it judges them.

Excuses, baselines and doubts are the same for all, and no check knows them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmabuf_trace.analysis import Result, records
from dmabuf_trace.findings import Finding
from dmabuf_trace.policy import Section
from dmabuf_trace.units import bytes_text, count_text

if TYPE_CHECKING:
    from pathlib import Path

    from dmabuf_trace.policy import Values
    from dmabuf_trace.trace import Trace

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Draft:
    """A rule with all that speaks against it, ahead of what is tolerated.

    ``limits`` are the most of each number (:attr:`Finding.numbers`) that all findings together may
    come to; without any, a finding is one too many. ``relies_on`` are the event kinds whose loss
    may hide a finding; ``off`` says why the rule is not judged, ``doubt`` why it can't be told.
    """

    name: str
    title: str
    relies_on: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    limits: Mapping[str, int] | None = None
    off: str = ""
    doubt: str = ""
    measured: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a check judges by: its values of the policy, answers by analysis, the last stretch.

    ``path`` is what the recording is called in commands.
    """

    values: Values
    results: Mapping[str, Result]
    trace: Trace
    path: Path

    def rows(self, analysis: str, table: str) -> list[Row]:
        """Rows of a table of an answer."""
        tables = self.results[analysis].answer.tables
        return records(next(each for each in tables if each.name == table).rows)

    def show(self, inode: int | None) -> str:
        """The command that tells a buffer's story."""
        return f"{self.again('show')} {inode}" if inode else ""

    def again(self, command: str) -> str:
        """A command on this recording."""
        return f"dmabuf-trace {command} {shlex.quote(str(self.path))}"


@dataclass(frozen=True, slots=True)
class Check:
    """``ask`` gives, for values of ``section``, each analysis that it needs with its parameters.

    ``rules`` are the names of all cases that it makes. ``propose`` tells, of a good run, the lines
    of a policy that it passes, from the answers to ``explore``.
    """

    section: Section
    rank: int
    rules: tuple[str, ...]
    ask: Callable[[Values], dict[str, dict[str, str]]]
    judge: Callable[[Judged], Iterator[Draft]]
    explore: dict[str, dict[str, str]]
    propose: Callable[[Judged], Iterator[str]]


def subject(**facts: object) -> dict[str, str]:
    """Whom a finding is about: what is known of it."""
    return {key: str(value) for key, value in facts.items() if value not in (None, "")}


def with_room(measured: int) -> int:
    """Twice what was measured, rounded up to two digits: no run is like another."""
    unit: int = 10 ** max(len(str(2 * measured)) - 2, 0)
    return -(-2 * measured // unit) * unit


def buffers_text(inodes: list[int], most: int = 8) -> str:
    """``buffer 41``, ``buffers 41, 42, ...``."""
    word = "buffer" if len(inodes) == 1 else "buffers"
    more = ", ..." if len(inodes) > most else ""
    return f"{word} {', '.join(map(str, inodes[:most]))}{more}"


def size_text(buffers: int, size: int) -> str:
    """``3 buffers, 192 KiB``."""
    return f"{count_text(buffers, 'buffer')}, {bytes_text(size)}"
