# SPDX-License-Identifier: Apache-2.0
"""``[churn]``: how much may be made anew though an earlier one was given back.

Off until a limit is given. Each limit holds for one device and exporter, or for one exporter, size
and process, as the analysis groups them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dmabuf_trace.checks.interface import Check, Draft, Judged, Row, subject, with_room
from dmabuf_trace.findings import Finding
from dmabuf_trace.policy import Key, Section
from dmabuf_trace.units import bytes_text, count_text, duration_text

if TYPE_CHECKING:
    from dmabuf_trace.policy import Values

WHAT: Final = {
    "mappings": ("remaps", "remap_share", ("map", "unmap")),
    "buffers": ("surplus", "surplus_share", ("export", "release")),
}
"""By table: columns that count what was made anew, and its share of the trace; event kinds."""
LIMITS: Final = tuple(name for count, share, _ in WHAT.values() for name in (count, share))


def ask(values: Values) -> dict[str, dict[str, str]]:
    """The analysis, where there is a limit."""
    return {"churn": {}} if any(values[name] is not None for name in LIMITS) else {}


def judge(judged: Judged) -> Iterator[Draft]:
    """A case for mappings, and one for buffers."""
    for table, (count, share, kinds) in WHAT.items():
        name, title = f"churn.{table}", f"{table} are not made anew more often than they may be"
        limits = {key: judged.values[key] for key in (count, share)}
        if all(most is None for most in limits.values()):
            yield Draft(name, title, off="no limit in the policy")
            continue
        findings = (
            _finding(judged, table, row)
            for row in judged.rows("churn", table)
            if any(most is not None and (row[key] or 0) > most for key, most in limits.items())
        )
        yield Draft(name, title, kinds, tuple(findings))


def _finding(judged: Judged, table: str, row: Row) -> Finding:
    count, share, _ = WHAT[table]
    made = count_text(row[count], table.removesuffix("s"))
    part = f"{row[share]:.2%} of the trace" if row[share] is not None else "time not known"
    if table == "mappings":
        of = f"device {row['device']} of buffers of {row['exporter']}"
        taken, evidence = row["remap_ns"], f"{row['maps']:,} maps of {row['buffers']:,} buffers"
        known = subject(device=row["device"], exporter=row["exporter"])
    else:
        of = f"{row['exporter']}, {bytes_text(row['size_bytes'] or 0)} each, by {row['comm']}"
        taken = row["surplus_ns"]
        evidence = f"{row['exported']:,} exported, at most {row['alive_max']:,} alive at once"
        known = subject(exporter=row["exporter"], comm=row["comm"])
    return Finding(
        rule=f"churn.{table}",
        summary=f"{made} made anew: {of}, {part}",
        evidence=(evidence, f"keeping them would save {duration_text(taken or 0)}"),
        cause="what was given back is made again instead of being kept",
        next=judged.again("churn"),
        subject=known,
        count=row[count],
        amount=taken or 0,
        is_time=True,
        certain=not judged.results["churn"].doubts,
    )


def propose(judged: Judged) -> Iterator[str]:
    """The most that was made anew, with room."""
    lines = []
    for table, (count, _, _) in WHAT.items():
        if rows := judged.rows("churn", table):
            lines.append(f"{count} = {with_room(max(row[count] for row in rows))}")
    if lines:
        yield from ("[churn]", *lines, "")


CHECK: Final = Check(
    section=Section(
        "churn",
        "what may be made anew though an earlier one was given back",
        (
            Key("remaps", "count", "mappings, per device and exporter"),
            Key("remap_share", "share", "time spent on them, as a part of the trace"),
            Key("surplus", "count", "buffers, per exporter, size and process"),
            Key("surplus_share", "share", "time spent on them, as a part of the trace"),
        ),
    ),
    rank=5,
    rules=tuple(f"churn.{table}" for table in WHAT),
    ask=ask,
    judge=judge,
    explore={"churn": {}},
    propose=propose,
)
