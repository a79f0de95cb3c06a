# SPDX-License-Identifier: Apache-2.0
"""``[[latency]]``: how long calls may take, per device (attach, map) and per exporter (export).

Off until an entry is given. Of entries for one call the first that fits a device counts.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dmabuf_trace.checks.interface import Check, Draft, Judged, Row, subject, with_room
from dmabuf_trace.findings import Finding
from dmabuf_trace.policy import Entry, Key, Section
from dmabuf_trace.units import count_text, duration_text
from dmabuf_trace.values import literally, quoted, written

if TYPE_CHECKING:
    from dmabuf_trace.policy import Values

CALLS: Final = {
    "export": ("exporter", "exporters", "buffers"),
    "attach": ("device", "devices", "attaches"),
    "map": ("device", "devices", "maps"),
}
"""Whose calls they are, which table counts them, in which column."""
ENOUGH: Final = 20
PERCENTILES: Final = ("p50", "p95", "p99", "max")


def _entries(values: Values) -> tuple[Entry, ...]:
    entries: tuple[Entry, ...] = values["latency"]
    return entries


def ask(values: Values) -> dict[str, dict[str, str]]:
    """The analysis, where there is an entry."""
    return {"devices": {}} if _entries(values) else {}


def judge(judged: Judged) -> Iterator[Draft]:
    """A case per kind of call."""
    for call, (who, counted, column) in CALLS.items():
        name, title = f"latency.{call}", f"no {who}'s {call} takes longer than it may"
        entries = [each for each in _entries(judged.values) if each.values["call"] == call]
        if not entries:
            yield Draft(name, title, off="no limit in the policy")
            continue
        counts = _counts(judged, who, counted, column)
        findings = [
            finding
            for row in judged.rows("devices", call)
            for finding in _slow(judged, call, entries, row, counts[row[who]])
        ]
        yield Draft(name, title, (call,), tuple(findings))


def _counts(judged: Judged, who: str, table: str, column: str) -> Counter[str]:
    """Calls by device or exporter; devices of one name count together."""
    counts: Counter[str] = Counter()
    for row in judged.rows("devices", table):
        counts[row[who]] += row[column]
    return counts


def _slow(
    judged: Judged, call: str, entries: list[Entry], row: Row, calls: int
) -> Iterator[Finding]:
    """What of a device's or an exporter's times is too long; nothing of too few calls."""
    who = CALLS[call][0]
    facts = {who: row[who]}
    entry = next((each for each in entries if each.fits(facts, ("device", "exporter"))), None)
    if entry is None or calls < entry.values["min_calls"]:
        return
    for percentile in PERCENTILES:
        most, took = entry.values[percentile], row[f"{call}_{percentile}_ns"]
        if most is not None and took > most:
            yield Finding(
                rule=f"latency.{call}",
                summary=f"{call} of {who} {row[who]}: {percentile} is {duration_text(took)}, "
                f"{duration_text(most)} is the most",
                evidence=(f"{count_text(calls, 'call')}; the limit is at line {entry.line}",),
                cause="lock, pin, exporter or fence: the analysis devices tells them apart",
                next=f"{judged.again('devices')} --{who} {shlex.quote(row[who])}",
                subject=subject(**{who: row[who]}, call=f"{call} {percentile}"),
                count=calls,
                amount=took,
                is_time=True,
                certain=not judged.results["devices"].doubts,
            )


def propose(judged: Judged) -> Iterator[str]:
    """Times of those with enough calls, with room."""
    for call, (who, counted, column) in CALLS.items():
        counts = _counts(judged, who, counted, column)
        for row in judged.rows("devices", call):
            if counts[row[who]] >= ENOUGH:
                yield "[[latency]]"
                yield f"call = {quoted(call)}"
                yield f"{who} = {quoted(literally(row[who]))}"
                yield f"p95 = {written('duration', with_room(row[f'{call}_p95_ns']))}"
                yield ""


def _objection(values: Values) -> str:
    who = CALLS[values["call"]][0]
    other = "exporter" if who == "device" else "device"
    if values[other] is not None:
        return f"never used: {values['call']} is judged by {who}, not by {other}"
    if all(values[each] is None for each in PERCENTILES):
        return f"limits nothing: give one of {', '.join(PERCENTILES)}"
    return ""


CHECK: Final = Check(
    section=Section(
        "latency",
        "how long calls may take",
        (
            Key("call", "text", f"one of {', '.join(CALLS)}", choices=tuple(CALLS), required=True),
            Key("device", "pattern", "device of the importer, for attach and map"),
            Key("exporter", "pattern", "exporter, for export"),
            *(Key(each, "duration", f"the most for {each}") for each in PERCENTILES),
            Key("min_calls", "count", "fewer calls are not judged", ENOUGH),
        ),
        entries=True,
        objection=_objection,
    ),
    rank=4,
    rules=tuple(f"latency.{call}" for call in CALLS),
    ask=ask,
    judge=judge,
    explore={"devices": {}},
    propose=propose,
)
