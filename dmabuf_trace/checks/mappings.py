# SPDX-License-Identifier: Apache-2.0
"""``[mappings]``: how long static importers may hold one mapping, by class of device.

Off until an age is given. Importers that hold theirs by design (videobuf2 queues, DRM imports) are
judged only by an entry that says so; dynamic ones never, as they are told of moves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace.checks.interface import (
    Check,
    Draft,
    Judged,
    Row,
    buffers_text,
    subject,
    with_room,
)
from dmabuf_trace.findings import Finding
from dmabuf_trace.policy import Entry, Key, Section
from dmabuf_trace.units import count_text, duration_text
from dmabuf_trace.values import literally, quoted, written

if TYPE_CHECKING:
    from dmabuf_trace.policy import Values

NAME: Final = "mappings.max_age"
TITLE: Final = "no static importer holds a mapping for longer than its device may"
PATTERNS: Final = ("device", "driver", "bus")
RELIES_ON: Final = ("attach", "map", "unmap", "detach")


def ask(values: Values) -> dict[str, dict[str, str]]:
    """The analysis, for mappings as old as the shortest age; none: no question."""
    ages = [entry.values["max_age"] for entry in values["device"]]
    if values["max_age"] is not None:
        ages.append(values["max_age"])
    return {"mappings": {"min_age": f"{min(ages)}ns"}} if ages else {}


def judge(judged: Judged) -> Iterator[Draft]:
    """One case."""
    if "mappings" not in judged.results:
        yield Draft(NAME, TITLE, off="no max_age in the policy")
        return
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in judged.rows("mappings", "mappings"):
        most = _most(judged.values, row)
        if most is not None and row["age_ns"] > most:
            key = (row["device"], row["driver"], row["exporter"], row["comm"], most)
            groups[key].append(row)
    findings = tuple(_finding(judged, key, rows) for key, rows in groups.items())
    yield Draft(NAME, TITLE, RELIES_ON, findings)


def _most(values: Values, row: Row) -> int | None:
    """The age that a mapping may have; None: any."""
    facts = {key: row[key] for key in PATTERNS if row[key] is not None}
    entries: tuple[Entry, ...] = values["device"]
    fitting = next((entry.values for entry in entries if entry.fits(facts, PATTERNS)), values)
    is_judged = row["verdict"] == "too long" or (
        row["verdict"] == "by design" and fitting.get("by_design")
    )
    most: int | None = fitting["max_age"] if is_judged else None
    return most


def _finding(judged: Judged, key: tuple[Any, ...], rows: list[Row]) -> Finding:
    device, driver, exporter, comm, most = key
    longest = max(row["age_ns"] for row in rows)
    inodes = list(dict.fromkeys(row["inode"] for row in rows if row["inode"]))
    held = sum(row["state"] == "mapped" for row in rows)
    return Finding(
        rule=NAME,
        summary=f"device {device} held {count_text(len(rows), 'mapping')} for up to "
        f"{duration_text(longest)}, {duration_text(most)} is the most",
        evidence=(
            f"driver {driver or 'unknown'}, mapped by {comm}, {buffers_text(inodes)}",
            f"{held:,} of them mapped still at the end",
        ),
        cause="the exporter can't move what a static importer has mapped",
        next=judged.show(inodes[0] if inodes else None),
        subject=subject(device=device, exporter=exporter, comm=comm),
        inodes=tuple(inodes),
        count=len(rows),
        amount=longest,
        is_time=True,
        certain=not judged.results["mappings"].doubts,
    )


def propose(judged: Judged) -> Iterator[str]:
    """Ages of those devices that held one for long, with room."""
    longest: dict[tuple[str, bool], int] = {}
    for row in judged.rows("mappings", "mappings"):
        if row["verdict"] in ("too long", "by design"):
            key = (row["device"], row["verdict"] == "by design")
            longest[key] = max(longest.get(key, 0), row["age_ns"])
    for device, is_by_design in dict.fromkeys(
        (device, (device, True) in longest) for device, _ in longest
    ):
        most = max(longest.get((device, True), 0), longest.get((device, False), 0))
        yield "[[mappings.device]]"
        yield f"device = {quoted(literally(device))}"
        yield f"max_age = {written('duration', with_room(most))}"
        if is_by_design:
            yield "by_design = true"
        yield ""


_AGE: Final = "the longest that one mapping may be held"

CHECK: Final = Check(
    section=Section(
        "mappings",
        "how long static importers may hold a mapping",
        (Key("max_age", "duration", f"{_AGE}; not given: any time"),),
        (
            Section(
                "device",
                "other ages for some devices",
                (
                    *(Key(name, "pattern", f"{name} of the importer") for name in PATTERNS),
                    Key("max_age", "duration", _AGE, required=True),
                    Key("by_design", "flag", "also for those that hold theirs by design", False),
                ),
                entries=True,
            ),
        ),
    ),
    rank=3,
    rules=(NAME,),
    ask=ask,
    judge=judge,
    explore={"mappings": {"min_age": "1s"}},
    propose=propose,
)
