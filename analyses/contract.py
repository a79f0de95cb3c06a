# SPDX-License-Identifier: Apache-2.0
"""Each rule of the contract between exporters and importers, judged by what the trace shows.

``passed``: it could have been broken, and never was. ``violated``: it was, and nothing lost can
explain it. ``does not apply``: not on this kernel. ``not observed``: all else, with the reason.

What lost events do to a verdict: some kinds, missing, make a rule look broken (without its unmap a
mapping looks live at the detach), others can only hide that it was (a map that nobody saw is left
behind by nobody). So a violation stands unless an event of the first sort was lost or not observed,
or where each lost event explains but one violation and there are more; that there is none stands
only where neither sort was. A buffer that found no room to be watched
counts as a loss of every kind. What a rule needs is judged over the whole trace, not per buffer: a
lost event does not tell which buffer it was about.

Cached mappings (up to 6.15) that are live at a detach are the core's own, which ends them. An
attachment that was never seen attached tells nothing, unless one of the same buffer was detached at
its address before: a map there is one after the detach. Dynamic importers alone are told of moves.
A videobuf2 queue or a DRM import holds its mapping by design, which the stack of the attach tells,
else the driver. A fence shows where somebody waited for it: a wait that has not returned by the end
of the trace makes no event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace.analysis import (
    Analysis,
    Answer,
    Column,
    Param,
    Shown,
    Table,
    View,
    frame,
    pick,
    unknown_exporter,
)
from dmabuf_trace.measure import joined
from dmabuf_trace.rules import RULES, Facts, Found, Limits, Reused, Rule
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

SHOWN: Final = 100

RULE_COLUMNS: Final = (
    Column("rule", "text", "rule"),
    Column("verdict", "text", "verdict"),
    Column("cases", "count", "cases"),
    Column("violations", "count", "violations"),
    Column("first_inode", "id", "first buffer"),
    Column("reason", "text", "why"),
    Column("requirement", "text", "what it asks", spare=True),
    Column("source", "text", "source", spare=True),
    Column("applies", "text", "kernels", spare=True),
)
VIOLATION_COLUMNS: Final = (
    Column("rule", "text", "rule"),
    Column("inode", "id", "buffer"),
    Column("what", "text", "what"),
    Column("device", "text", "device"),
    Column("begin_ns", "time", "at"),
    Column("comm", "text", "by"),
    Column("pid", "id", "pid", spare=True),
)
VIOLATOR_COLUMNS: Final = (
    Column("rule", "text", "rule"),
    Column("what", "text", "what"),
    Column("device", "text", "device"),
    Column("comm", "text", "by"),
    Column("violations", "count", "violations"),
    Column("first_inode", "id", "first buffer"),
)


@dataclass(frozen=True, slots=True)
class Gap:
    """Why events of a kind are missing, and how many."""

    why: str
    count: float


@dataclass(frozen=True)
class Folded:
    """What each rule came to so far, by name, and what there is besides."""

    found: dict[str, Found]
    reused: Reused
    exporters: frozenset[str]


def fold(view: View, before: Folded | None, **limits: Any) -> Folded:
    """Let each rule judge what was settled."""
    reused = Reused.of(view, before.reused if before else None)
    facts = Facts(view, Limits(**limits), reused.dead)
    found = {}
    for rule in RULES:
        if rule.judge:
            earlier = before.found[rule.name] if before else Found()
            found[rule.name] = rule.judge(facts, earlier.waiting).after(earlier)
    exporters = frozenset(view.buffers["exporter"].dropna().unique().tolist())
    return Folded(found, reused, exporters | before.exporters if before else exporters)


def run(view: View, folded: Folded, *, exporter: str, **_: int) -> Answer:
    """See the module's description."""
    unseen = _unseen(view)
    rows, parts = [], []
    for rule in RULES:
        found = folded.found.get(rule.name)
        if found and rule.close:
            found = rule.close(view, found)
        row = _judged(rule, found, unseen, view.release)
        rows.append(row)
        if found and found.broken is not None and row["verdict"] == "violated":
            parts.append(found.broken.assign(rule=rule.name))
    violations = joined(*parts, frame(VIOLATION_COLUMNS, []).assign(ts=[]))
    violations["begin_ns"] = violations["ts"] - view.start
    violations = violations.sort_values(["begin_ns", "inode", "device", "pid"])
    shown = pick(VIOLATION_COLUMNS, violations.head(SHOWN))
    tables = (
        Table("rules", "Rules", RULE_COLUMNS, frame(RULE_COLUMNS, rows)),
        Table("violations", "Violations", VIOLATION_COLUMNS, shown, "none"),
        Table("violators", "Who violated them", VIOLATOR_COLUMNS, _violators(violations)),
    )
    inodes = tuple(violations["inode"].dropna().unique().tolist())
    notes = (*_notes(view, len(violations)), *unknown_exporter(exporter, folded.exporters))
    return Answer(tables, notes, inodes)


def _unseen(view: View) -> dict[str, Gap]:
    """Kinds of which events are missing."""
    quality = view.quality
    lost = quality[quality["whole_event"] & quality["what"].isin(["loss", "reconcile"])]
    counts = lost.groupby("kind")["count"].sum().to_dict()
    found = {str(kind): Gap(f"{count:,} {kind} lost", count) for kind, count in counts.items()}
    if (lost["cause"] == "unwatched").any():
        kinds = {kind for rule in RULES for kind in (*rule.fakes, *rule.hides)}
        found |= dict.fromkeys(kinds, Gap("buffers went unwatched", inf))
    return found | {kind: Gap(f"{kind} was not observed", inf) for kind in view.missing}


def _judged(
    rule: Rule, found: Found | None, unseen: dict[str, Gap], release: str | None
) -> dict[str, Any]:
    """The row of one rule."""
    row = {
        "rule": rule.name,
        "requirement": rule.text,
        "source": rule.source,
        "applies": rule.applies,
    }
    version = re.match(r"(\d+)\.(\d+)", release or "")
    if version and not rule.since <= (int(version[1]), int(version[2])) < rule.before:
        return {**row, "verdict": "does not apply"}
    if not found:
        return {**row, "verdict": "not observed", "reason": rule.why}
    count = 0 if found.broken is None else len(found.broken)
    doubtful = rule.fakes if count else (*rule.fakes, *rule.hides)
    gaps = dict.fromkeys(unseen[kind] for kind in doubtful if kind in unseen)
    explained = sum(gap.count for gap in gaps) if rule.each else inf
    aside = f"{found.aside:,} {rule.aside}: not judged" if found.aside else ""
    reason = "" if found.cases or gaps else "no case in the trace"
    if count and (not gaps or count > explained):
        verdict = "violated"
    else:
        verdict = "not observed" if gaps or reason else "passed"
    return {
        **row,
        "verdict": verdict,
        "cases": found.cases,
        "violations": count,
        "first_inode": _first(found.broken),
        "reason": "; ".join(part for part in (*(gap.why for gap in gaps), reason, aside) if part),
    }


def _violators(violations: pd.DataFrame) -> pd.DataFrame:
    """All violations, counted, also those that are not listed."""
    groups = violations.groupby(["rule", "what", "device", "comm"], dropna=False, sort=False)
    counts = groups.agg(violations=("ts", "size"), first_inode=("inode", "first")).reset_index()
    return pick(VIOLATOR_COLUMNS, counts)


def _first(broken: pd.DataFrame | None) -> int | None:
    """The buffer of the first violation that has one."""
    if broken is None:
        return None
    found = broken[broken["inode"].notna()].sort_values(["ts", "inode"])["inode"]
    return next(iter(found.tolist()), None)


def _notes(view: View, violations: int) -> Iterator[str]:
    if violations > SHOWN:
        yield f"the first {SHOWN} of {count_text(violations, 'violation')} are listed"
    if view.release is None:
        yield "the kernel's version is not known: all rules are taken to apply"


ANALYSIS = Analysis(
    name="contract",
    question="Which rules of the dma-buf contract were kept, broken, or not observed?",
    needs=(
        *("buffers", "attachments", "mappings", "pins", "vmaps", "cpu_accesses", "moves"),
        *("waits", "errors", "events", "quality"),
    ),
    relies_on=(),  # what was lost is part of each verdict
    shows=tuple(
        Shown(
            rule.name,
            rule.fakes,
            dict.fromkeys(rule.hides, "that it was broken may go unseen"),
            rule.why,
            rule.since,
            rule.before,
        )
        for rule in RULES
    ),
    run=run,
    fold=fold,
    params=(
        Param("exporter", "text", "", "only buffers of this exporter"),
        Param("unmap_within", "duration", "1s", "time to unmap after a move, as 500ms or 2s"),
        Param("min_age", "duration", "1s", "mappings held this long are held for undue time"),
        Param(
            "signal_within", "duration", "10s", "time that a fence has to signal, as 500ms or 2s"
        ),
    ),
)
