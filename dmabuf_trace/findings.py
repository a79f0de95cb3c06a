# SPDX-License-Identifier: Apache-2.0
"""What a check comes to: findings, in cases, in a verdict. Plain data for every kind of output.

All texts may hold foreign names and are escaped where they are shown. Must not know how findings
are made, nor how they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dmabuf_trace.errors import EXIT_COMMAND, EXIT_FINDINGS, EXIT_INCONCLUSIVE, EXIT_OK
from dmabuf_trace.stacks import maker

Outcome = Literal["passed", "failed", "inconclusive", "off"]
"""``failed``: it has findings that nothing lost can explain. ``inconclusive``: what was not
recorded may hide findings, or explain those that there are. ``off``: not asked for."""

SUBJECTS: Final = ("shape", "exporter", "name", "comm", "device", "call")
"""Keys of :attr:`Finding.subject`, in the order in which people see them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with what shows it, why it may be, and what to do next.

    ``rule`` is the name of its case. ``subject`` tells whom it is about, as far as that is known
    (:data:`SUBJECTS`): that, and ``stack`` (frames, innermost first; often empty) is what policies
    match, and by it findings of two recordings are the same. ``count`` is how many there are of it
    (buffers, mappings, violations), ``amount`` how much: bytes, or ns where ``is_time``;
    ``numbers`` are those that limits of a policy are compared with, by the limit's name.
    ``inodes`` are some of its buffers. ``location`` is ``(file, line)`` of the source that the
    stack leads to. ``certain``: nothing that was lost can explain it.
    """

    rule: str
    summary: str
    evidence: tuple[str, ...] = ()
    cause: str = ""
    next: str = ""
    subject: dict[str, str] = field(default_factory=dict)
    stack: tuple[str, ...] = ()
    inodes: tuple[int, ...] = ()
    count: int = 1
    amount: int = 0
    is_time: bool = False
    numbers: dict[str, int] = field(default_factory=dict)
    certain: bool = True
    location: tuple[str, int] | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same finding in another recording, of another build."""
        return (self.rule, *(self.subject.get(key, "") for key in SUBJECTS), maker(self.stack))


@dataclass(frozen=True, slots=True)
class Excused:
    """A finding that counts for nothing, and why: an entry of the policy, or the baseline."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True)
class Case:
    """One rule that was judged: ``title`` says what it asks, ``reason`` why it is inconclusive or
    off, ``measured`` what was found where that is within its limits."""

    name: str
    title: str
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    excused: tuple[Excused, ...] = ()
    reason: str = ""
    measured: str = ""


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How the command that was recorded ended by itself: a shell's exit status.

    ``failed`` of ``cycles`` runs ended with another status than 0; ``status`` is the first of them.
    """

    command: tuple[str, ...]
    status: int
    cycles: int = 1
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """All cases of a recording. ``recording`` has facts about the file, ``notes`` what else there
    is to say; ``command`` is None where a recording was read that does not tell its end."""

    recording: dict[str, Any]
    cases: tuple[Case, ...]
    command: CommandEnd | None = None
    notes: tuple[str, ...] = ()

    def of(self, outcome: Outcome) -> tuple[Case, ...]:
        """The cases that came to this."""
        return tuple(case for case in self.cases if case.outcome == outcome)

    @property
    def findings(self) -> Iterator[Finding]:
        """Those of all cases, certain or not."""
        return (finding for case in self.cases for finding in case.findings)

    @property
    def outcome(self) -> Literal["clean", "findings", "inconclusive"]:
        """Findings that are certain outweigh doubts, doubts outweigh all that passed."""
        if self.of("failed"):
            return "findings"
        return "inconclusive" if self.of("inconclusive") else "clean"

    @property
    def status(self) -> int:
        """Exit status; the command's own failure shows where nothing outweighs it."""
        if self.outcome == "findings":
            return EXIT_FINDINGS
        if self.outcome == "inconclusive":
            return EXIT_INCONCLUSIVE
        return EXIT_COMMAND if self.command and self.command.status else EXIT_OK
