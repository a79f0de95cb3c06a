# SPDX-License-Identifier: Apache-2.0
"""``[leaks]``: buffers made in the trace that are alive at its end, by what keeps them alive.

One finding per shape, exporter, name, process and function that exported. Where a release was lost,
a leak is certain only if the kernel itself showed the buffer at the end, by a holder or in its list
of all. What was left behind against the contract (a mapping when its attachment was detached, an
attachment when its buffer was released) tolerates nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace import holders
from dmabuf_trace.analysis import doubts
from dmabuf_trace.blocks import RUN
from dmabuf_trace.checks.interface import (
    Check,
    Draft,
    Judged,
    Row,
    buffers_text,
    size_text,
    subject,
)
from dmabuf_trace.findings import Finding
from dmabuf_trace.policy import Key, Section
from dmabuf_trace.stacks import maker
from dmabuf_trace.units import count_text, duration_text

if TYPE_CHECKING:
    from dmabuf_trace.policy import Values
    from dmabuf_trace.trace import Trace

HOLDERS: Final = 4
"""Holders that a finding names."""

_LIMITS: Final = (
    Key("buffers", "count", "buffers that may be left alive; 0 where no limit is given"),
    Key("bytes", "size", "their size, all together"),
    Key("fds", "count", "fds that processes may have open of them"),
    Key("attachments", "count", "devices that may be attached to them"),
)
LIMITS: Final = tuple(key.name for key in _LIMITS)

_WHY: Final = {
    "fd": "a process never closed its fd",
    "mapping": "the fd was closed, and a VMA was never unmapped",
    "attachment": "an importer never detached: its driver still has the buffer",
    "in-flight": "an fd was sent through a UNIX socket and never received",
    "kernel": "a reference was taken inside the kernel, as by dma_buf_get(), and never put",
    "unknown": "nobody could look at who holds it",
}
_KEPT: Final = {
    "fd": "by an open fd",
    "mapping": "by a VMA",
    "attachment": "by an attached device",
    "in-flight": "in a socket's queue",
    "kernel": "by a kernel reference",
    "unknown": "by nobody knows whom",
}


def ask(values: Values) -> dict[str, dict[str, str]]:
    """The analysis, with the age below which nothing is a leak."""
    return {"leaks": {"min_age": f"{values['min_age']}ns"}}


def judge(judged: Judged) -> Iterator[Draft]:
    """A case per shape, and one for what was left behind."""
    marks = judged.trace.marks
    runs = int((marks["label"] == RUN).sum())
    by_shape: dict[str, list[Row]] = defaultdict(list)
    for row in judged.rows("leaks", "leaks"):
        by_shape[row["shape"]].append(row)
    for shape in holders.SHAPES:
        given = {key: judged.values[shape][key] for key in LIMITS}
        given = {key: judged.values[key] if most is None else most for key, most in given.items()}
        limits = {key: most for key, most in given.items() if most is not None}
        yield Draft(
            f"leaks.{shape}",
            f"no buffer is left alive {_KEPT[shape]}",
            ("export", "release"),
            tuple(_leaks(judged, shape, by_shape[shape])),
            limits or None,
            off="the command was run several times: growth.per_run judges" if runs > 1 else "",
        )
    yield Draft(
        "leaks.left_behind",
        "no mapping outlives its attachment, no attachment its buffer",
        ("attach", "detach", "map", "unmap", "release"),
        tuple(_left_behind(judged)),
    )


def _leaks(judged: Judged, shape: str, rows: list[Row]) -> Iterator[Finding]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        stack = _blamed(row)
        who = (row["exporter"], row["name"], row["comm"], maker(stack))
        groups[who].append({**row, "stack": stack})
    for mine in groups.values():
        yield _finding(judged, shape, mine)


def _blamed(row: Row) -> tuple[str, ...]:
    """The stack that leads to who keeps it: took a reference last, attached, else exported."""
    taken = next(filter(None, row["get_stacks"] or ()), None)
    return tuple(taken or row["attach_stack"] or row["export_stack"] or ())


def _finding(judged: Judged, shape: str, rows: list[Row]) -> Finding:
    first = rows[0]
    size = sum(row["size_bytes"] or 0 for row in rows)
    held = [holder for row in rows for holder in row["holders"] or ()]
    inodes = [row["inode"] for row in rows]
    exporter = first["exporter"] or "an unknown exporter"
    named = f' "{first["name"]}"' if first["name"] else ""
    return Finding(
        rule=f"leaks.{shape}",
        summary=f"{size_text(len(rows), size)} of {exporter}{named}, kept {_KEPT[shape]}",
        evidence=tuple(_evidence(rows, inodes, held)),
        cause=_WHY[shape],
        next=judged.show(inodes[0]),
        subject=subject(
            shape=shape, exporter=first["exporter"], name=first["name"], comm=first["comm"]
        )
        | subject(device=next((h["device"] for h in held if h["kind"] == "device"), None)),
        stack=first["stack"],
        inodes=tuple(inodes),
        count=len(rows),
        amount=size,
        numbers={
            "buffers": len(rows),
            "bytes": size,
            "fds": sum(len(holder["fds"]) for holder in held if holder["kind"] == "fd"),
            "attachments": sum(holder["kind"] == "device" for holder in held),
        },
        certain=not _end_doubts(judged.trace) or set(inodes) <= _confirmed(judged.trace, inodes),
    )


def _evidence(rows: list[Row], inodes: list[int], held: Iterable[Row]) -> Iterator[str]:
    yield buffers_text(inodes)
    by = {f"{row['comm']}-{row['pid']}" for row in rows if row["comm"]}
    ages = [row["age_ns"] for row in rows if row["age_ns"] is not None]
    if ages:
        age = f"{duration_text(max(ages))} old at the end"
        yield f"exported by {', '.join(sorted(by)[:HOLDERS])}; {age}" if by else age
    texts = list(dict.fromkeys(map(holders.text, held)))
    yield from (f"held by {text}" for text in islice(texts, HOLDERS))
    if len(texts) > HOLDERS:
        yield f"and by {len(texts) - HOLDERS:,} more"


def _end_doubts(trace: Trace) -> tuple[str, ...]:
    """Why a buffer that looks alive may be gone, or older than the trace."""
    unseen = [kind for kind in ("export",) if kind in trace.missing]
    return doubts(trace, ("release", *unseen))


def _confirmed(trace: Trace, inodes: list[int]) -> set[int]:
    """Those that the kernel had when it was looked at last."""
    look = trace.snapshots.get("end")
    if look is None:
        return set()
    shown = {buffer.buffer for buffer in look.buffers} | {held.buffer for held in look.holders}
    return shown.intersection(inodes)


def _left_behind(judged: Judged) -> Iterator[Finding]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in judged.rows("leaks", "outlived"):
        groups[row["what"], row["device"], row["comm"]].append(row)
    for (what, device, comm), rows in groups.items():
        inodes = sorted({row["inode"] for row in rows if row["inode"]})
        yield Finding(
            rule="leaks.left_behind",
            summary=f"{count_text(len(rows), 'time')}: device {device} {what}",
            evidence=(buffers_text(inodes),) if inodes else (),
            cause="the importer forgot to unmap or to detach, or did so in the wrong order",
            next=judged.show(inodes[0] if inodes else None),
            subject=subject(device=device, comm=comm),
            inodes=tuple(inodes),
            count=len(rows),
            certain=not judged.results["leaks"].doubts,
        )


def propose(judged: Judged) -> Iterator[str]:
    """What was alive, as the most that may be."""
    for row in judged.rows("leaks", "shapes"):
        yield f"[leaks.{row['shape']}]"
        yield f"buffers = {row['buffers']}"
        yield f"bytes = {row['size_bytes']}"
        yield ""


CHECK: Final = Check(
    section=Section(
        "leaks",
        "buffers left alive at the end; limits hold for each shape that has none of its own",
        (Key("min_age", "duration", "younger ones are no leaks", 0), *_LIMITS),
        tuple(Section(shape, f"kept {_KEPT[shape]}", _LIMITS) for shape in holders.SHAPES),
    ),
    rank=1,
    rules=(*(f"leaks.{shape}" for shape in holders.SHAPES), "leaks.left_behind"),
    ask=ask,
    judge=judge,
    explore={"leaks": {}},
    propose=propose,
)
