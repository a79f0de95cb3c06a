# SPDX-License-Identifier: Apache-2.0
"""One screen about a recording: what it is, its totals, what the analyses found, what to do next.

Asks every analysis that has a place in the report; names none. Must not know terminals.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace.analysis import Column, Result, Table, frame, records, registry

if TYPE_CHECKING:
    import pandas as pd

    from dmabuf_trace.trace import Trace

TOTAL_COLUMNS: Final = (
    Column("what", "text", ""),
    Column("begun", "count", "begun"),
    Column("ended", "count", "ended"),
    Column("open", "count", "open"),
    Column("failed", "count", "failed"),
    Column("open_bytes", "bytes", "open size"),
    Column("before", "count", "begin unseen"),
)
QUALITY_COLUMNS: Final = (
    Column("what", "text", "what"),
    Column("kind", "text", "event"),
    Column("cause", "text", "cause"),
    Column("count", "count", "count"),
    Column("share", "share", "share"),
    Column("hint", "text", "hint"),
)


@dataclass(frozen=True, slots=True)
class Recording:
    """Facts about a file; gaps are None. ``missing`` are event kinds that were not observed,
    ``filters`` the options that chose what was recorded, ``looks_between`` the looks at the holders
    other than at the start and at the end. ``operations`` has, by module ("": the kernel itself),
    ns since the trace began from which on all its exporters' functions were probed.
    """

    path: str
    release: str | None
    machine: str | None
    hostname: str | None
    tool: str | None
    command: tuple[str, ...] | None
    began_ns: int | None
    duration_ns: int
    events: int
    lost_events: int
    missing: dict[str, str]
    operations: dict[str, int]
    filters: tuple[str, ...]
    looks_between: int
    cut: str | None
    ended: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """What ``report`` shows; ``next`` are commands."""

    recording: Recording
    totals: Table
    results: tuple[Result, ...]
    quality: Table
    next: tuple[str, ...]


def recording(trace: Trace) -> Recording:
    """The facts of a trace."""
    host, began = (_part(trace.header, key) for key in ("host", "start"))
    command = trace.header.get("command")
    realtime = began.get("realtime_ns")
    return Recording(
        path=str(trace.path),
        release=_text(host.get("release")),
        machine=_text(host.get("machine")),
        hostname=_text(host.get("hostname")),
        tool=_text(trace.header.get("tool")),
        command=tuple(map(str, command)) if isinstance(command, list) else None,
        began_ns=realtime if isinstance(realtime, int) else None,
        duration_ns=trace.end - trace.start,
        events=len(trace.raw),
        lost_events=trace.lost_events,
        missing=trace.missing,
        operations=_operations(trace),
        filters=trace.filters,
        looks_between=sum(look.when == "during" for look in trace.looks),
        cut=trace.cut.reason if trace.cut else None,
        ended=trace.reason or None,
    )


def _operations(trace: Trace) -> dict[str, int]:
    since: dict[str, int] = {}
    for row in records(trace.probed):
        if not row["reason"]:
            module = row["symbol"].partition(":")[0] if ":" in row["symbol"] else ""
            since[module] = max(row["ts"] - trace.start, since.get(module, 0))
    return since


def _part(header: dict[str, Any], key: str) -> dict[str, Any]:
    value = header.get(key)
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def report(trace: Trace) -> Report:
    """Ask everything."""
    shown = [analysis for analysis in registry().values() if analysis.report_rank]
    asked = sorted(shown, key=lambda analysis: analysis.report_rank)
    results = tuple(analysis(trace) for analysis in asked)
    quality = trace.quality[[column.name for column in QUALITY_COLUMNS]]
    return Report(
        recording(trace),
        Table("totals", "Totals", TOTAL_COLUMNS, frame(TOTAL_COLUMNS, list(_totals(trace)))),
        results,
        Table("quality", "What may be missing", QUALITY_COLUMNS, quality, "nothing: no event lost"),
        tuple(dict.fromkeys(_next(trace, results))),
    )


def _totals(trace: Trace) -> Iterator[dict[str, Any]]:
    calls = (("buffers", "export"), ("attachments", "attach"), ("mappings", "map"))
    failed = trace.errors["kind"]
    for name, call in calls:
        table: pd.DataFrame = getattr(trace, name)
        begun = table["begin"].notna()
        row = {
            "what": name,
            "before": int((~begun).sum()),
            "begun": int(begun.sum()),
            "ended": int((~table["open"]).sum()),
            "open": int(table["open"].sum()),
            "failed": None if call in trace.missing else int((failed == call).sum()),
        }
        if "size_bytes" in table:
            row["open_bytes"] = int(table.loc[table["open"], "size_bytes"].sum())
        yield row


def _next(trace: Trace, results: tuple[Result, ...]) -> Iterator[str]:
    """The first buffer of each finding, else the list of buffers."""
    file = shlex.quote(str(trace.path))
    for result in results:
        for inode in result.answer.inodes[:1]:
            yield f"dmabuf-trace show {file} {inode}"
    if len(trace.buffers):
        yield f"dmabuf-trace buffers {file}"
