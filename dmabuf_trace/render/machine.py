# SPDX-License-Identifier: Apache-2.0
"""Results as JSON for programs.

Every document has ``schema`` (raised when a key changes its meaning or goes away; new keys may
appear) and, unless it is about the running system, ``recording``. Sizes are exact integers in
``_bytes``, lengths of time in ``_ns``, times in ns since the trace began where the key ends in
``_ns``, rates per second in ``_per_s``; null is *not observed*. Keys:

- an analysis: ``analysis``, ``question``, ``parameters``, ``certain``, ``doubts``, ``notes`` and
  ``tables``, an object of lists of rows;
- a report: ``totals``, ``analyses`` (by name, as above), ``quality``, ``next``;
- a story: ``buffer``, ``events``, ``attachments``, ``mappings``, ``shape``, ``holders``,
  ``not_observed``, ``doubts``;
- a diff: ``a`` and ``b``, two recordings, else as an analysis; columns end in ``_a`` and ``_b``;
- an account of a snapshot: ``source``, ``lists_all_buffers``, ``unreadable_processes``, ``totals``,
  ``exporters``, ``processes``, ``buffers``;
- a verdict: ``verdict`` (clean, findings, inconclusive), ``status``, ``command`` (``command``,
  ``status``, ``cycles``, ``failed``; null where its end is not known), ``cases`` and ``notes``.
  A case has ``name``, ``title``, ``outcome`` (passed, failed, inconclusive, off), ``reason``,
  ``measured``, ``findings`` and ``excused``, which are findings with a ``reason``. A finding has
  ``rule``, ``summary``, ``evidence``, ``cause``, ``next``, ``subject``, ``stack``, ``inodes``,
  ``count``, ``certain``, ``location`` (``file`` and ``line``, or null), ``amount_bytes`` or
  ``amount_ns``, and ``key``, which is the same for the same finding in another recording.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace.analysis import Result, Table, records
from dmabuf_trace.lines import Seen
from dmabuf_trace.render.jsonl import event_json

if TYPE_CHECKING:
    from dmabuf_trace.accounting import Account
    from dmabuf_trace.findings import Finding, Verdict
    from dmabuf_trace.report import Recording, Report
    from dmabuf_trace.story import Step, Story

SCHEMA: Final = 1
_ROWS_AT_ONCE: Final = 10_000
INDENT: Final = 2


def _whole(document: dict[str, Any]) -> Iterator[str]:
    return _pieces({"schema": SCHEMA, **document})


def _dump(document: dict[str, Any]) -> str:
    return "".join(_whole(document))


def _pieces(value: Any, margin: str = "\n") -> Iterator[str]:
    """A document as text: a table's rows are made as they are taken, as there may be many."""
    inner, opening = margin + " " * INDENT, ""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield f"{opening or '{'}{inner}{json.dumps(key)}: "
            yield from _pieces(each, inner)
            opening = ","
        yield f"{margin}}}"
    elif isinstance(value, Table) and len(value.rows):
        for first in range(0, len(value.rows), _ROWS_AT_ONCE):
            for row in records(value.rows.iloc[first : first + _ROWS_AT_ONCE]):
                yield f"{opening or '['}{inner}{_row(row, inner)}"
                opening = ","
        yield f"{margin}]"
    else:
        yield "[]" if isinstance(value, Table) else _leaf(value, margin)


def _row(row: dict[str, Any], margin: str) -> str:
    """As :func:`_leaf`, by the encoder in C where nothing in it is nested."""
    if not row or any(isinstance(value, list | tuple | dict) for value in row.values()):
        return _leaf(row, margin)
    inner = margin + " " * INDENT
    text = json.dumps(row, allow_nan=False, separators=(f",{inner}", ": "))
    return f"{{{inner}{text[1:-1]}{margin}}}"


def _leaf(value: Any, margin: str) -> str:
    return json.dumps(value, indent=INDENT, allow_nan=False).replace("\n", margin)


def _recording(recording: Recording) -> dict[str, Any]:
    return {"recording": facts(asdict(recording))}


def facts(recording: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recording, by the keys that documents have."""
    found = dict(recording)
    if "began_ns" in found:
        found["began_realtime_ns"] = found.pop("began_ns")
    return found


def _analysis(result: Result) -> dict[str, Any]:
    return {
        "question": result.analysis.question,
        "parameters": dict(result.params),
        "certain": not result.doubts,
        "doubts": list(result.doubts),
        "notes": list(result.answer.notes),
        "tables": {table.name: table for table in result.answer.tables},
    }


def result_json(result: Result, recording: Recording) -> Iterator[str]:
    """One analysis, piece by piece."""
    name = {"analysis": result.analysis.name}
    return _whole({**_recording(recording), **name, **_analysis(result)})


def diff_json(result: Result, before: Recording, after: Recording) -> Iterator[str]:
    """Two recordings beside each other, piece by piece."""
    both = {"a": _recording(before)["recording"], "b": _recording(after)["recording"]}
    return _whole({**both, "analysis": result.analysis.name, **_analysis(result)})


def report_json(report: Report) -> Iterator[str]:
    """The report, every row of every table, piece by piece."""
    return _whole(
        {
            **_recording(report.recording),
            "totals": report.totals,
            "analyses": {result.analysis.name: _analysis(result) for result in report.results},
            "quality": report.quality,
            "next": list(report.next),
        }
    )


def story_json(story: Story, recording: Recording) -> str:
    """One buffer's story, every event."""
    steps = [
        {
            **event_json(_seen(step, story), story.names),
            "since_ns": step.since_ns,
            "attachment_id": step.attachment_id,
            "stack": step.stack,
            "user_stack": step.user_stack,
        }
        for step in story.steps
    ]
    return _dump(
        {
            **_recording(recording),
            "buffer": story.buffer,
            "events": steps,
            "attachments": story.attachments,
            "mappings": story.mappings,
            "shape": story.shape,
            "holders": story.holders,
            "not_observed": story.missing,
            "doubts": list(story.doubts),
        }
    )


def _seen(step: Step, story: Story) -> Seen:
    thread, names, buffer = (step.event["tid"], step.event["ts"]), story.names, story.buffer
    who = (names.comm(*thread), names.cgroup(*thread))
    return Seen(step.event, *who, buffer["exporter"], buffer["size_bytes"])


def account_json(account: Account) -> str:
    """A snapshot of the running system."""
    document: dict[str, Any] = {
        "source": account.source,
        "lists_all_buffers": account.complete,
        "unreadable_processes": account.unreadable,
        "totals": {
            "held_buffers": account.held,
            "held_bytes": account.held_bytes,
            "held_unsized": account.unsized,
            "kernel_only_buffers": account.kernel_only,
            "kernel_only_bytes": account.kernel_only_bytes,
            "in_flight_buffers": account.in_flight,
            "in_flight_bytes": account.in_flight_bytes,
            "bufinfo_objects": account.listed[0] if account.listed else None,
            "bufinfo_bytes": account.listed[1] if account.listed else None,
        },
        "exporters": [
            {
                "exporter": row.name,
                "buffers": row.buffers,
                "size_bytes": row.size,
                "held": row.held,
                "held_bytes": row.held_bytes,
                "processes": row.processes,
                "unsized": row.unsized,
            }
            for row in account.exporters
        ],
        "processes": [
            {
                "pid": row.pid,
                "comm": row.comm,
                "rss_bytes": row.rss,
                "pss_bytes": row.pss,
                "buffers": row.buffers,
                "fds": row.fds,
                "vmas": row.vmas,
                "unsized": row.unsized,
            }
            for row in account.processes
        ],
        "buffers": [
            {
                "inode": row.inode,
                "size_bytes": row.size,
                "exporter": row.exporter,
                "name": row.name,
                "references": row.references,
                "processes": row.processes,
                "holders": list(row.holders),
                "devices": None if row.devices is None else list(row.devices),
            }
            for row in account.buffers
        ],
    }
    return _dump(document)


def verdict_json(verdict: Verdict) -> str:
    """What a check came to, every finding."""
    cases = [
        {
            "name": case.name,
            "title": case.title,
            "outcome": case.outcome,
            "reason": case.reason,
            "measured": case.measured,
            "findings": [_finding(finding) for finding in case.findings],
            "excused": [
                {**_finding(excused.finding), "reason": excused.reason} for excused in case.excused
            ],
        }
        for case in verdict.cases
    ]
    return _dump(
        {
            "recording": facts(verdict.recording),
            "verdict": verdict.outcome,
            "status": verdict.status,
            "command": asdict(verdict.command) if verdict.command else None,
            "cases": cases,
            "notes": list(verdict.notes),
        }
    )


def _finding(finding: Finding) -> dict[str, Any]:
    fields = asdict(finding)
    amount, is_time = fields.pop("amount"), fields.pop("is_time")
    if finding.location:
        fields["location"] = dict(zip(("file", "line"), finding.location, strict=True))
    return {**fields, "amount_ns" if is_time else "amount_bytes": amount, "key": finding.key}
