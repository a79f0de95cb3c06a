# SPDX-License-Identifier: Apache-2.0
"""``[contract]``: rules between exporters and importers that the trace shows broken.

Each rule that a trace can show is a case, switched in ``[contract.rules]``. Those that rest on how
long something took are off where a slow machine alone may break them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dmabuf_trace.checks.interface import Check, Draft, Judged, Row, subject
from dmabuf_trace.findings import Finding
from dmabuf_trace.policy import Key, Section
from dmabuf_trace.rules import RULES, Rule
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    from dmabuf_trace.policy import Values

JUDGED: Final = tuple(rule for rule in RULES if rule.judge)
OFF: Final = ("mapping_not_held",)
"""Rules that are off by default: ``[mappings]`` says how long each device may hold one."""


def ask(values: Values) -> dict[str, dict[str, str]]:
    """The analysis, with its limits."""
    limits = ("unmap_within", "signal_within")
    return {"contract": {name: f"{values[name]}ns" for name in limits}}


def judge(judged: Judged) -> Iterator[Draft]:
    """A case per rule."""
    rows = {row["rule"]: row for row in judged.rows("contract", "rules")}
    violators: dict[str, list[Row]] = defaultdict(list)
    for row in judged.rows("contract", "violators"):
        violators[row["rule"]].append(row)
    for rule in JUDGED:
        row = rows[rule.name]
        off = "" if judged.values["rules"][rule.name] else "off in the policy"
        if row["verdict"] == "does not apply":
            off = f"holds for {rule.applies} kernels, not for this one"
        yield Draft(
            f"contract.{rule.name}",
            rule.text,
            tuple(dict.fromkeys((*rule.fakes, *rule.hides))),
            () if off else tuple(_findings(judged, rule, row, violators[rule.name])),
            off=off,
            measured=f"{count_text(row['cases'], 'case')}" if row["cases"] else "no case",
        )


def _findings(judged: Judged, rule: Rule, row: Row, violators: list[Row]) -> Iterator[Finding]:
    """Who broke it; where lost events may explain that, nobody is named."""
    if row["verdict"] == "violated":
        for each in violators:
            yield _finding(judged, rule, each, each["violations"])
    elif row["violations"]:
        unknown = {"what": f"{rule.text}: it looks broken", "device": None, "comm": None}
        each = {**unknown, "first_inode": row["first_inode"]}
        yield _finding(judged, rule, each, row["violations"], row["reason"])


def _finding(judged: Judged, rule: Rule, row: Row, count: int, doubt: str = "") -> Finding:
    whom = " ".join(
        text for text in (row["device"] and f"device {row['device']}", row["comm"]) if text
    )
    times = f" ({count:,} times)" if count > 1 else ""
    evidence = [f"first seen on buffer {row['first_inode']}"] if row["first_inode"] else []
    return Finding(
        rule=f"contract.{rule.name}",
        summary=f"{row['what']}{': ' if whom else ''}{whom}{times}",
        evidence=(*evidence, *([f"but {doubt}"] if doubt else [])),
        cause=f"{rule.text} ({rule.source})",
        next=judged.show(row["first_inode"]),
        subject=subject(device=row["device"], comm=row["comm"]),
        inodes=(row["first_inode"],) if row["first_inode"] else (),
        count=count,
        certain=not doubt,
    )


def propose(judged: Judged) -> Iterator[str]:
    """Rules that were broken, off."""
    broken = [
        row
        for row in judged.rows("contract", "rules")
        if row["violations"] and row["rule"] not in OFF
    ]
    if broken:
        yield "[contract.rules]"
        for row in broken:
            yield f"{row['rule']} = false  # {count_text(row['violations'], 'violation')}"
        yield ""


CHECK: Final = Check(
    section=Section(
        "contract",
        "rules of the dma-buf contract",
        (
            Key("unmap_within", "duration", "time to unmap after a move", 10 * 10**9),
            Key("signal_within", "duration", "time that a fence has to signal", 10 * 10**9),
        ),
        (
            Section(
                "rules",
                "which rules are judged",
                tuple(Key(rule.name, "flag", rule.text, rule.name not in OFF) for rule in JUDGED),
                refused=tuple((rule.name, rule.why) for rule in RULES if not rule.judge),
            ),
        ),
    ),
    rank=2,
    rules=tuple(f"contract.{rule.name}" for rule in JUDGED),
    ask=ask,
    judge=judge,
    explore={"contract": {"unmap_within": "10s", "signal_within": "10s"}},
    propose=propose,
)
