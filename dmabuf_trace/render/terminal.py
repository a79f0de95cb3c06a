# SPDX-License-Identifier: Apache-2.0
"""Reports, results of analyses and stories as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich.text import Text

from dmabuf_trace import holders, schema
from dmabuf_trace.analysis import Result, records
from dmabuf_trace.render.event import what
from dmabuf_trace.render.facts import doubted, recording_facts
from dmabuf_trace.render.table import Part, grid, line, section
from dmabuf_trace.render.words import stack_text
from dmabuf_trace.units import bytes_text, count_text, duration_text

if TYPE_CHECKING:
    from dmabuf_trace.report import Recording, Report
    from dmabuf_trace.story import Step, Story

REPORT_ROWS: Final = 10

_STYLES: Final = {"": "", "loss": "bold yellow", "blind": "yellow"}


def recording_parts(recording: Recording) -> Iterator[Part]:
    """What the file is, in a few lines."""
    yield line(recording.path, "bold")
    for fact in recording_facts(recording):
        label = fact.label if fact.label.endswith(":") else f"{fact.label:<8}"
        yield line(f"  {label} {fact.text}", _STYLES[fact.kind])


def result_parts(result: Result, limit: int | None = None) -> Iterator[Part]:
    """One analysis, ``limit`` rows of each table."""
    for doubt in result.doubts:
        yield line(f"! {doubt}", "yellow")
    for table in result.answer.tables:
        yield from section(table, limit)
    for note in result.answer.notes:
        yield line(f"note: {note}", "dim")


def report_parts(report: Report) -> Iterator[Part]:
    """The report on about one screen; long tables show their first rows."""
    yield from recording_parts(report.recording)
    yield Text()
    yield grid(report.totals, records(report.totals.rows))
    for result in report.results:
        for table in result.answer.tables:
            yield from section(table, REPORT_ROWS)
        for note in result.answer.notes:
            yield line(f"  note: {note}", "dim")
    yield from section(report.quality)
    for doubt, names in doubted(report).items():
        yield line(f"! {', '.join(names)} {doubt}", "yellow")
    if report.next:
        yield Text()
        for index, command in enumerate(report.next):
            yield line(f"{'next:' if not index else '     '} {command}", "bold")


def story_parts(story: Story, limit: int | None) -> Iterator[Part]:
    """One buffer; ``limit`` steps at most, the middle left out."""
    buffer = story.buffer
    name = f' "{buffer["name"]}"' if buffer["name"] else ""
    size = bytes_text(buffer["size_bytes"]) if buffer["size_bytes"] is not None else "size unknown"
    yield line(f"buffer {buffer['inode']}{name}  {buffer['exporter']}  {size}", "bold")
    if buffer["origin"] != "exported":
        yield line(f"  {_ORIGINS[buffer['origin']]}", "yellow")
    steps = story.steps
    head = len(steps) if limit is None or len(steps) <= limit else limit // 2
    tail = 0 if limit is None or len(steps) <= limit else limit - head
    yield from (part for step in steps[:head] for part in _step(story, step))
    if head + tail < len(steps):
        left_out = count_text(len(steps) - head - tail, "event")
        yield line(f"  ... {left_out} left out, see --all ...", "dim")
    yield from (part for step in steps[len(steps) - tail :] for part in _step(story, step))
    yield from _ending(story)


_ORIGINS: Final = {
    "before": "made before the trace",
    "lost": "made during the trace, but its export made no event",
    "unwatched": "made during the trace, by whom the filters leave out",
    "unknown": "exports were not observed: made before or during the trace",
}


def _step(story: Story, step: Step) -> Iterator[Part]:
    event = step.event
    kind = schema.KIND_NAMES.get(event["kind"], f"kind {event['kind']}")
    who = f"{story.names.comm(event['tid'], event['ts'])}-{event['pid']}"
    tag = f" #{step.attachment_id}" if step.attachment_id else ""
    indent = "  " * step.depth
    verb = f"{indent}{kind}{tag}"
    style = "yellow" if event["ret"] < 0 else ""
    since = f"+{step.since_ns / 1e9:.6f}s"
    yield line(f"{since:>15}  {who:<20}  {verb:<16}  {what(event, story.names)}".rstrip(), style)
    if step.stack:
        yield line(f"{'':41}{indent}at {stack_text(step.stack)}", "dim")
    if step.user_stack:
        yield line(f"{'':41}{indent}from {stack_text(step.user_stack)}", "dim")


def _ending(story: Story) -> Iterator[Part]:
    buffer = story.buffer
    if not buffer["open"]:
        age = "" if buffer["age_ns"] is None else f" after {duration_text(buffer['age_ns'])}"
        yield line(f"released{age}" + (", the release itself was lost" * buffer["end_lost"]))
    else:
        age = "" if buffer["age_ns"] is None else f" after {duration_text(buffer['age_ns'])}"
        yield line(f"alive at the end{age}, shape {story.shape}; held by:", "bold")
        for holder in story.holders:
            yield line(f"  {holders.text(holder)}")
        if not story.holders and story.shape == "unknown":
            yield Text("  not known: nobody looked at the processes after it was made")
        elif not story.holders:
            socket = "" if story.queues else f", or {holders.UNSEEN_QUEUES}"
            yield Text(f"  nobody visible: a reference inside the kernel{socket}")
    for row in story.attachments:
        if row["outlived"]:
            yield line(
                f"! attachment #{row['id']} was there when the buffer was released", "yellow"
            )
    for row in story.mappings:
        if row["outlived"]:
            where = f"attachment #{row['attachment_id']} ({row['device']})"
            yield line(f"! a mapping was left behind when {where} was detached", "yellow")
    for kind, reason in story.missing.items():
        yield line(f"not observed: {kind} ({reason or 'no reason given'})", "yellow")
    for doubt in story.doubts:
        yield line(f"! {doubt}", "yellow")
