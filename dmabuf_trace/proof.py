# SPDX-License-Identifier: Apache-2.0
"""Whether known leaks (:mod:`dmabuf_trace.control`) are found in a recording: each in its shape, no
clean twin among them, nothing lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmabuf_trace import check
from dmabuf_trace.analysis import Asked, Column, Table, ask, frame, records, registry
from dmabuf_trace.control import EVERYWHERE, SHAPES, Planted, Report, planted

COLUMNS: Final = (
    Column("shape", "text", "shape"),
    Column("planted", "text", "planted"),
    Column("inode", "id", "buffer"),
    Column("exporter", "text", "exporter"),
    Column("found_as", "text", "found as"),
    Column("verdict", "text", "verdict"),
)
WORKS: Final = "as it should be"


@dataclass(frozen=True, slots=True)
class Row:
    """A buffer that was planted, and what is wrong with how it was found; "": nothing.

    ``inode`` None: none is known that was planted so.
    """

    shape: str
    leaked: bool
    inode: int | None
    exporter: str = ""
    found_as: str = ""
    fault: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """All of it. ``faults`` are those of no buffer, ``without`` says what could not be planted."""

    rows: tuple[Row, ...]
    faults: tuple[str, ...]
    without: Mapping[str, str]

    @property
    def works(self) -> bool:
        """Whether all is as it should be."""
        return not self.faults and not any(row.fault for row in self.rows)

    @property
    def table(self) -> Table:
        """For people."""
        rows = [
            {
                "shape": row.shape,
                "planted": "leak" if row.leaked else "clean twin",
                "inode": row.inode,
                "exporter": row.exporter or None,
                "found_as": row.found_as or None,
                "verdict": row.fault or row.note or WORKS,
            }
            for row in self.rows
        ]
        return Table("control", "Planted on purpose", COLUMNS, frame(COLUMNS, rows), "nothing")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a recording has of buffers made in it, and what the gate says to it.

    ``names`` and ``exporters`` by inode number, and ``shapes`` of those that it calls leaks.
    ``queues``: sockets were looked into. ``doubts``: why rules can't be judged.
    """

    names: Mapping[int, str]
    exporters: Mapping[int, str]
    shapes: Mapping[int, str]
    queues: bool
    doubts: tuple[str, ...]


def read(path: Path) -> Seen:
    """Judge a recording by the default policy.

    Raises:
        InputError: it is not a recording that this version reads.
    """
    last, (listed,) = ask(path, [Asked(registry()["buffers"])])
    rows = records(next(iter(listed.answer.tables)).rows)
    made = [row for row in rows if row["origin"] != "before"]
    end = last.snapshots.get("end")
    verdict = check.read(path, check.policy())
    return Seen(
        {row["inode"]: row["name"] or "" for row in made},
        {row["inode"]: row["exporter"] or "" for row in made},
        {
            inode: finding.subject["shape"]
            for finding in verdict.findings
            for inode in finding.inodes
            if "shape" in finding.subject
        },
        bool(end and end.queues),
        tuple(dict.fromkeys(case.reason for case in verdict.of("inconclusive"))),
    )


def prove(seen: Seen, report: Report | None) -> Proof:
    """Compare; without a report of what was planted, names of buffers tell it."""
    made = report.planted if report else planted(seen.names.items())
    rows = [_judged(each, seen) for each in made]
    without = dict(report.without) if report else {}
    for shape in SHAPES:
        if shape not in without:
            rows += _absent(shape, {each.leaked for each in made if each.shape == shape})
    rows.sort(key=lambda row: (list(SHAPES).index(row.shape), not row.leaked))
    return Proof(tuple(rows), seen.doubts, without)


def _absent(shape: str, planted: set[bool]) -> Iterator[Row]:
    """What can be planted everywhere, and where one of a pair was, the other."""
    if planted or shape in EVERYWHERE:
        for leaked in {True, False} - planted:
            yield Row(shape, leaked, None, fault="NOT in the recording")


def _judged(each: Planted, seen: Seen) -> Row:
    found = seen.shapes.get(each.inode, "")
    exporter = each.exporter or seen.exporters.get(each.inode, "")
    note = fault = ""
    if each.inode not in seen.exporters:
        fault = "NOT in the recording"
    elif not each.leaked:
        fault = "NOT clean: called a leak" if found else ""
    elif not found:
        fault = "NOT called a leak"
    elif each.shape == "in-flight" and found == "kernel" and not seen.queues:
        note = "found; sockets can't be looked into here"
    elif found != each.shape:
        fault = "NOT found in its shape"
    return Row(each.shape, each.leaked, each.inode, exporter, found, fault, note)
