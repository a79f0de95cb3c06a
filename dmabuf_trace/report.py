# SPDX-License-Identifier: Apache-2.0
"""One screen about a recording: what it is, its totals, what the analyses found, what to do next.

Asks every analysis that has a place in the report; names none. Must not know terminals.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace.analysis import (
    Analysis,
    Answer,
    Asked,
    Column,
    Result,
    Table,
    View,
    ask,
    pick,
    records,
    registry,
)
from dmabuf_trace.measure import added

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from dmabuf_trace.extent import Window
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
    ``window_ns`` from when to when it was asked, since it began, where not of all of it,
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
    window_ns: tuple[int, int] | None
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
        duration_ns=trace.duration_ns,
        window_ns=trace.window_ns,
        events=trace.events_read,
        lost_events=trace.lost_events,
        missing=trace.missing,
        operations=_operations(trace),
        filters=trace.filters,
        looks_between=trace.looks_between,
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
    """Ask a whole trace everything."""
    asking = questions(every=False)
    for asked in asking:
        asked.take(trace)
    return made(trace, tuple(asked.answer(trace) for asked in asking))


def read(path: Path, *, every: bool = False, window: Window | None = None) -> Report:
    """Ask a recording what the report has, or ``every`` analysis that can be asked in stretches.

    Lists as long as the recording are left out.
    """
    return made(*ask(path, questions(every=every), window))


def questions(
    *, every: bool, texts: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> list[Asked]:
    """What a report asks, as :func:`read` has it; ``texts`` are parameters by analysis."""
    known = registry().values()
    shown = sorted((each for each in known if each.report_rank), key=lambda each: each.report_rank)
    others = [
        each for each in known if every and each.fold and not each.is_list and not each.report_rank
    ]
    return [Asked(each, **texts.get(each.name, {})) for each in (_TOTALS, *shown, *others)]


def made(trace: Trace, answered: tuple[Result, ...]) -> Report:
    """A report of the answers to :func:`questions`; ``trace`` is the last stretch."""
    (totals,) = answered[0].answer.tables
    results = answered[1:]
    quality = trace.quality[[column.name for column in QUALITY_COLUMNS]]
    return Report(
        recording(trace),
        totals,
        results,
        Table("quality", "What may be missing", QUALITY_COLUMNS, quality, "nothing: no event lost"),
        tuple(dict.fromkeys(_next(trace, totals, results))),
    )


_CALLS: Final = {"buffers": "export", "attachments": "attach", "mappings": "map"}


def _fold_totals(view: View, before: pd.DataFrame | None) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for name, call in _CALLS.items():
        table: pd.DataFrame = getattr(view, name)
        begun, is_open = table["begin"].notna(), table["open"]
        rows.append(
            {
                "what": name,
                "before": (~begun).sum(),
                "begun": begun.sum(),
                "ended": (~is_open).sum(),
                "open": is_open.sum(),
                "failed": (view.errors["kind"] == call).sum(),
                "open_bytes": (
                    table.loc[is_open, "size_bytes"].sum() if "size_bytes" in table else pd.NA
                ),
            }
        )
    found = pd.DataFrame(rows).astype({"open_bytes": "Int64"})
    return added(before, found, ["what"], **dict.fromkeys(found.columns[1:], "sum"))


def _run_totals(view: View, counts: pd.DataFrame) -> Answer:
    rows = counts.astype({"failed": "Int64"}).set_index("what").loc[list(_CALLS)].reset_index()
    rows["failed"] = rows["failed"].mask(rows["what"].map(_CALLS).isin(view.missing))
    return Answer((Table("totals", "Totals", TOTAL_COLUMNS, pick(TOTAL_COLUMNS, rows)),))


_TOTALS: Final = Analysis(
    name="totals",
    question="How many were there?",
    needs=(*_CALLS, "errors"),
    relies_on=(),
    run=_run_totals,
    fold=_fold_totals,
)


def _next(trace: Trace, totals: Table, results: tuple[Result, ...]) -> Iterator[str]:
    """The first buffer of each finding, else the list of buffers."""
    file = shlex.quote(str(trace.path))
    for result in results:
        for inode in result.answer.inodes[:1]:
            yield f"dmabuf-trace show {file} {inode}"
    if totals.rows[["before", "begun"]].iloc[0].any():
        yield f"dmabuf-trace buffers {file}"
