# SPDX-License-Identifier: Apache-2.0
"""One buffer's whole story: its events in order of time, and who holds it at the end.

Must not know terminals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmabuf_trace import holders, schema
from dmabuf_trace.analysis import View, doubts, records
from dmabuf_trace.errors import InputError
from dmabuf_trace.names import Names

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from dmabuf_trace.trace import Trace

Row = dict[str, Any]

_DEPTH: Final = {"attach": 1, "detach": 1, "map": 2, "unmap": 2}
_OF_OPERATION: Final = {"pin": 2, "unpin": 2, "map": 2, "unmap": 2, "attach": 1, "detach": 1}


@dataclass(frozen=True, slots=True)
class Step:
    """An event: its raw fields, ns since the trace began, 0 (buffer), 1 (attachment) or 2 (mapping)
    deep, the attachment's id or None, the frames of its stacks or None.

    A part of a call comes behind the call, one deeper, though its record was made before.
    """

    event: Row
    since_ns: int
    depth: int
    attachment_id: int | None
    stack: list[str] | None
    user_stack: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """Rows as the trace has them, gaps are None; ``shape`` and ``holders`` of an alive buffer.

    ``queues``: sockets were looked into for fds of it.
    """

    buffer: Row
    attachments: list[Row]
    mappings: list[Row]
    steps: tuple[Step, ...]
    shape: str | None
    holders: list[Row]
    queues: bool
    missing: dict[str, str]
    doubts: tuple[str, ...]
    names: Names


def find(trace: Trace, wanted: str) -> Row:
    """The buffer of that inode number or name.

    Raises:
        InputError: there is none, or there are several.
    """
    table = trace.buffers
    found = table[table["name"] == wanted]
    if (inode := _number(wanted)) is not None and (by_inode := table["inode"] == inode).any():
        found = table[by_inode]
    _only(trace.path, wanted, found["inode"].unique().tolist())
    return records(found)[-1]


def _number(wanted: str) -> int | None:
    """What may be an inode number."""
    return int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 19 else None


def _only(path: Path, wanted: str, inodes: list[int]) -> int:
    """The inode number that is the only one."""
    if not inodes:
        hint = f"list them with: dmabuf-trace buffers {path}"
        raise InputError(f"no buffer {wanted} in {path}", hint)
    if len(inodes) > 1:
        inodes = sorted(inodes)
        some = ", ".join(map(str, inodes[:8])) + (", ..." if len(inodes) > 8 else "")
        message = f"{len(inodes)} buffers are named {wanted}: {some}"
        raise InputError(message, f"choose one: dmabuf-trace show {path} {inodes[0]}")
    return inodes[0]


def read(path: Path, wanted: str) -> tuple[Trace, Story]:
    """The story of one buffer of a recording of any length, and what is about that buffer.

    By its name it takes twice as long.

    Raises:
        InputError: as :func:`find`, or the file is not a recording that this version reads.
    """
    from dmabuf_trace.trace import about

    inode = _number(wanted)
    found = about(path, inode) if inode is not None else None
    if found is None or inode not in found.rows.buffers["inode"]:
        found = about(path, _named(path, wanted))
    return found, tell(found, wanted)


def _named(path: Path, name: str) -> int:
    """The inode number of the buffer of that name."""
    from dmabuf_trace.trace import stretches

    inodes: set[int] = set()
    for stretch in stretches(path):
        settled = stretch.rows.buffers
        keys = [key for key in set(settled["name"].tolist()) if stretch.names.buffer(key) == name]
        mine = np.isin(settled["name"], np.array(keys, np.uint64))
        inodes.update(settled["inode"][mine].tolist())
    return _only(path, name, list(inodes))


def tell(trace: Trace, wanted: str) -> Story:
    """The story of one buffer; see :func:`find`."""
    buffer = find(trace, wanted)
    view = View(trace, holders.NEEDS)
    mine = (trace.rows.event_buffers == buffer["id"]).nonzero()[0]
    mine = mine[trace.raw["ts"][mine].argsort(kind="stable")]
    steps = _nested(
        [
            _step(trace, view, row, attachment)
            for row, attachment in zip(
                trace.raw[mine], trace.rows.event_attachments[mine].tolist(), strict=True
            )
        ]
    )
    held_by = holders.at_end(view).get(buffer["id"], []) if buffer["open"] else []
    return Story(
        buffer=buffer,
        attachments=_of(buffer, trace.attachments),
        mappings=_of(buffer, trace.mappings),
        steps=steps,
        shape=holders.shape(view, buffer["begin"], held_by) if buffer["open"] else None,
        holders=held_by,
        queues=view.queues,
        missing=trace.missing,
        doubts=doubts(trace, tuple(kind.name for kind in schema.KINDS)),
        names=trace.names,
    )


def _of(buffer: Row, table: pd.DataFrame) -> list[Row]:
    return records(table[(table["buffer_id"] == buffer["id"]).fillna(False)])


def _nested(steps: list[Step]) -> tuple[Step, ...]:
    """Each part behind the innermost call on its thread that it lies in, and one deeper.

    ``steps`` come in order of time; a call's own record follows those of its parts.
    """
    inside: dict[int, list[Step]] = defaultdict(list)
    waiting: dict[int, list[tuple[int, Step]]] = defaultdict(list)  # parts, by thread
    ordered: list[Step | None] = []
    for step in steps:
        event = step.event
        parts = waiting[event["tid"]]
        if event["dur"]:
            begin = event["ts"] - event["dur"]
            while parts and parts[-1][1].event["ts"] - parts[-1][1].event["dur"] >= begin:
                at, part = parts.pop()
                ordered[at] = None
                inside[id(step)].insert(0, part)
        if event["kind"] in schema.PARTS:
            parts.append((len(ordered), step))
        ordered.append(step)

    def unfold(step: Step, depth: int) -> Iterator[Step]:
        yield replace(step, depth=depth)
        for part in inside[id(step)]:
            yield from unfold(part, depth + 1)

    tops = (step for step in ordered if step)
    return tuple(each for step in tops for each in unfold(step, step.depth))


def _step(trace: Trace, view: View, row: Any, attachment: int) -> Step:
    event = dict(zip(row.dtype.names, row.item(), strict=True))
    kind = schema.KIND_NAMES.get(event["kind"], "")
    return Step(
        event=event,
        since_ns=event["ts"] - trace.start,
        depth=_depth(kind, event["detail"]),
        attachment_id=attachment or None,
        stack=view.stack(event["stack"]),
        user_stack=view.user_stack(event["user_stack"]),
    )


def _depth(kind: str, detail: int) -> int:
    """How deep an event lies by its kind; an operation that is part of no call, as that call."""
    if kind == "operation" and 0 < detail <= len(schema.OPERATIONS):
        return _OF_OPERATION.get(schema.OPERATIONS[detail - 1], 0)
    return _DEPTH.get(kind, 0)
