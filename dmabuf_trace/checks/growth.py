# SPDX-License-Identifier: Apache-2.0
"""``[growth]``: what becomes more, as leaks do and filled caches don't.

Per run where the command was run several times (``--cycles``), else, if asked for, per second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dmabuf_trace.checks.interface import Check, Draft, Judged, Row, buffers_text, subject
from dmabuf_trace.findings import Finding
from dmabuf_trace.policy import Key, Section
from dmabuf_trace.stacks import maker
from dmabuf_trace.units import bytes_text, rate_text, ratio_text

if TYPE_CHECKING:
    from dmabuf_trace.policy import Values

PER_RUN: Final = "growth.per_run"
PER_SECOND: Final = "growth.per_second"
KINDS: Final = ("export", "release")


def ask(values: Values) -> dict[str, dict[str, str]]:
    """The analysis of runs; that of time where there is a limit."""
    asked = {"cycles": {"warm_up": str(values["warm_up_runs"])}}
    if values["buffers_per_second"] is not None:
        asked["growth"] = {"warm_up": f"{values['warm_up']}ns"}
    return asked


def judge(judged: Judged) -> Iterator[Draft]:
    """A case each."""
    title = "what is alive at the end of a run does not grow from run to run"
    runs, rows = judged.rows("cycles", "runs"), judged.rows("cycles", "growth")
    if len(runs) < 2:
        yield Draft(PER_RUN, title, off="the command was run once: --cycles runs it again")
    else:
        few = any(row["verdict"] == "too few" for row in rows)
        yield Draft(
            PER_RUN,
            title,
            KINDS,
            tuple(_grown(judged, row) for row in _growing(rows, judged, "run")),
            doubt=f"{len(runs)} runs are too few to judge" if few else "",
            measured=f"{len(runs)} runs, {runs[-1]['buffers']:,} buffers alive after the last",
        )
    title = "buffers do not become more with time"
    if "growth" not in judged.results:
        yield Draft(PER_SECOND, title, off="no limit in the policy")
    else:
        rows = judged.rows("growth", "processes")
        findings = tuple(_rising(judged, row) for row in _growing(rows, judged, "second"))
        yield Draft(PER_SECOND, title, KINDS, findings)


def _growing(rows: list[Row], judged: Judged, per: str) -> Iterator[Row]:
    """Rows whose whole interval is above what they may."""
    column = "buffers_per_run_low" if per == "run" else "buffers_per_s_low"
    most = judged.values[f"buffers_per_{per}"]
    return (row for row in rows if row["verdict"] == "grows" and row[column] > most)


def _grown(judged: Judged, row: Row) -> Finding:
    alive = [each for each in judged.rows("leaks", "leaks") if _is_of(each, row)]
    shapes = sorted({each["shape"] for each in alive})
    newest = [each["inode"] for each in reversed(alive)]
    low, high = (ratio_text(row[f"buffers_per_run_{end}"]) for end in ("low", "high"))
    return Finding(
        rule=PER_RUN,
        summary=f"{ratio_text(row['buffers_per_run'])} buffers of {row['exporter']} a run, "
        f"{bytes_text(row['bytes_per_run'])}, exported by {row['comm']}",
        evidence=(
            f"{row['warm_buffers']:,} alive after warm-up, {row['end_buffers']:,} after the last "
            f"run; 95 % interval {low} to {high} a run",
            f"shape {' and '.join(shapes)}, newest: {buffers_text(newest)}" if alive else "",
        ),
        cause="each run leaves some behind; a cache would have filled and stood",
        next=judged.show(newest[0] if newest else None),
        subject=subject(shape=" ".join(shapes), exporter=row["exporter"], comm=row["comm"]),
        stack=next((tuple(each["export_stack"]) for each in alive if each["export_stack"]), ()),
        inodes=tuple(newest),
        count=row["end_buffers"] - row["warm_buffers"],
        amount=row["bytes_per_run"],
        certain=not judged.results["cycles"].doubts,
    )


def _is_of(leak: Row, row: Row) -> bool:
    who = (leak["exporter"], leak["comm"], maker(leak["export_stack"]))
    return who == (row["exporter"], row["comm"], row["at"])


def _rising(judged: Judged, row: Row) -> Finding:
    return Finding(
        rule=PER_SECOND,
        summary=f"{rate_text(row['buffers_per_s'])} buffers of {row['exporter']}, "
        f"exported by {row['comm']}",
        evidence=(
            f"{row['warm_buffers']:,} after warm-up, {row['end_buffers']:,} at the end; 95 % "
            f"interval from {rate_text(row['buffers_per_s_low'])} on",
        ),
        cause="buffers are made faster than they are given back",
        next=judged.again("growth"),
        subject=subject(exporter=row["exporter"], comm=row["comm"]),
        count=row["end_buffers"] - row["warm_buffers"],
        amount=row["bytes_per_s"],
        certain=not judged.results["growth"].doubts,
    )


def propose(judged: Judged) -> Iterator[str]:
    """What grew from run to run, as what may."""
    grown = [row for row in judged.rows("cycles", "growth") if row["verdict"] == "grows"]
    if grown:
        most = max(row["buffers_per_run_high"] for row in grown)
        yield from ("[growth]", f"buffers_per_run = {most:.2f}", "")


CHECK: Final = Check(
    section=Section(
        "growth",
        "what becomes more",
        (
            Key("buffers_per_run", "rate", "how many more each run may leave (--cycles)", 0.0),
            Key("warm_up_runs", "count", "runs that fill caches; 0: a third of them", 0),
            Key(
                "buffers_per_second", "rate", "how many more each second may leave; not given: any"
            ),
            Key("warm_up", "duration", "time that fills caches; 0s: the first third", 0),
        ),
    ),
    rank=6,
    rules=(PER_RUN, PER_SECOND),
    ask=ask,
    judge=judge,
    explore={"cycles": {}},
    propose=propose,
)
