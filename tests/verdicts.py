# SPDX-License-Identifier: Apache-2.0
"""Verdicts for the tests of outputs: one of every outcome, hostile ones, random ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final, get_args

from hypothesis import strategies as st

from dmabuf_trace.findings import SUBJECTS, Case, CommandEnd, Excused, Finding, Outcome, Verdict
from dmabuf_trace.report import Recording

LEAK: Final = Finding(
    rule="leaks.fd",
    summary="3 buffers stay open: 24 KiB",
    evidence=("41, 42, 43 of exporter system", "app-100 holds fds 3, 4, 5"),
    cause="the process never closes them",
    next="dmabuf-trace show x.dbt 41",
    subject={"shape": "fd", "exporter": "system", "comm": "app"},
    stack=("dma_buf_export+0x10", "heap_ioctl+0x20"),
    inodes=(41, 42, 43),
    count=3,
    amount=24 << 10,
    location=("drivers/dma-buf/heaps/system_heap.c", 12),
)
PERHAPS: Final = Finding(
    rule="waits.fence",
    summary="a fence took 2s",
    subject={"call": "map"},
    amount=2 * 10**9,
    is_time=True,
    certain=False,
)
RECORDING: Final = Recording(
    path="x.dbt",
    release="6.12.0-test",
    machine="x86_64",
    hostname="board",
    tool="0.1.0",
    command=("./suite", "--all"),
    began_ns=1_760_000_000 * 10**9,
    duration_ns=2_500_000_000,
    window_ns=None,
    events=6,
    lost_events=1,
    missing={},
    operations={},
    filters=(),
    looks_between=0,
    cut=None,
    ended="command ended",
)
PASSED: Final = Case("leaks.kernel", "Does the kernel keep buffers?", "passed", measured="0 kept")
FAILED: Final = Case("leaks.fd", "Do processes keep buffers open?", "failed", (LEAK,))
DOUBTED: Final = Case(
    "waits.fence", "Do fences take long?", "inconclusive", (PERHAPS,), reason="3 events were lost"
)
OFF: Final = Case("growth.buffers", "Does it grow?", "off", reason="no limit is set")
EXCUSED: Final = Case(
    "contract.mapping_not_held",
    "Are mappings given back?",
    "passed",
    excused=(Excused(LEAK, "known, bug 7"),),
)
COMMAND: Final = CommandEnd(("./suite", "--all"), 3, cycles=10, failed=2)


def verdict(
    *cases: Case, command: CommandEnd | None = None, notes: tuple[str, ...] = ()
) -> Verdict:
    """Of the recording that all these tests share."""
    return Verdict(asdict(RECORDING), cases, command, notes)


EVERYTHING: Final = verdict(
    *(PASSED, FAILED, DOUBTED, OFF, EXCUSED), command=COMMAND, notes=("a policy was read",)
)

HOSTILE: Final = (
    "\x1b[2J\x07",
    "<script>&amp;</testcase>]]>",
    "a\nb\r\n::error::pwned",
    "##[error]pwned",
    "\u202egnp.exe",
    "\ud800",
    "\0",
    "\uffff\x85\u2028",
    " # SKIP ",
    "Subtest: x",
    "KTAP version 1",
    "TAP version 13",
    "1..99",
    "ok 1 x",
    "Bail out!",
    "reboot: System halted",
    "Kernel panic - not syncing: VFS:",
    "kunit test case crashed!",
    "a|b\\|c",
    "`` ` ```",
    "![x](https://x.example/y.png) [y](javascript:z)",
    "*a* _b_ ~~c~~ # d\n===",
    "@org/team me@x.example www.x.example https://x.example #12",
    "%0A%25,file=x:y",
    "{\"'}",
    "//host/../\u00e4 b?c#d",
    " ",
    "\u00a0",
    "",
)


def hostile(text: str) -> Verdict:
    """Every text is the same one."""
    finding = Finding(
        *(text, text, (text,), text, text),
        subject=dict.fromkeys(SUBJECTS, text),
        stack=(text, text),
        location=(text, 1),
    )
    of: dict[Outcome, tuple[Finding, ...]] = {
        "passed": (),
        "failed": (finding,),
        "inconclusive": (finding,),
        "off": (),
    }
    excused = (Excused(finding, text),)
    cases = (Case(text, text, each, of[each], excused, text, text) for each in of)
    recording = asdict(RECORDING) | {
        **dict.fromkeys(("path", "release", "machine", "hostname", "cut", "ended"), text),
        "command": (text,),
    }
    return Verdict(recording, tuple(cases), CommandEnd((text,), 1), (text,))


TEXTS: Final = st.one_of(
    st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=[]), max_size=12)
)
NUMBERS: Final = st.integers(-(1 << 63), 1 << 63)
FINDINGS: Final = st.builds(
    Finding,
    TEXTS,
    TEXTS,
    evidence=st.lists(TEXTS, max_size=5).map(tuple),
    cause=TEXTS,
    next=TEXTS,
    subject=st.dictionaries(st.sampled_from(SUBJECTS), TEXTS),
    stack=st.lists(TEXTS, max_size=9).map(tuple),
    inodes=st.lists(NUMBERS, max_size=2).map(tuple),
    count=NUMBERS,
    amount=NUMBERS,
    is_time=st.booleans(),
    certain=st.booleans(),
    location=st.none() | st.tuples(TEXTS, NUMBERS),
)
CASES: Final = st.builds(
    Case,
    TEXTS,
    TEXTS,
    st.sampled_from(get_args(Outcome)),
    findings=st.lists(FINDINGS, max_size=3).map(tuple),
    excused=st.lists(st.builds(Excused, FINDINGS, TEXTS), max_size=2).map(tuple),
    reason=TEXTS,
    measured=TEXTS,
)
COMMANDS: Final = st.builds(
    CommandEnd,
    st.lists(TEXTS, max_size=3).map(tuple),
    st.integers(0, 255),
    cycles=st.integers(1, 99),
    failed=st.integers(0, 99),
)


@st.composite
def any_verdict(draw: st.DrawFn) -> Verdict:
    """Sensible or not."""
    told: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("path", "release", "machine", "hostname"), st.none() | TEXTS),
        **dict.fromkeys(("began_ns", "duration_ns"), st.none() | NUMBERS),
        "command": st.none() | st.lists(TEXTS, max_size=3).map(tuple),
    }
    recording = draw(st.fixed_dictionaries({}, optional=told))
    cases = draw(st.lists(CASES, max_size=6))
    notes = draw(st.lists(TEXTS, max_size=2))
    return Verdict(recording, tuple(cases), draw(st.none() | COMMANDS), tuple(notes))
