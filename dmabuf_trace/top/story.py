# SPDX-License-Identifier: Apache-2.0
"""One buffer as of a moment: what it is, who has it, and its latest events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dmabuf_trace import schema
from dmabuf_trace.render.event import kind_name, what
from dmabuf_trace.render.text import printable
from dmabuf_trace.tables import empty, together
from dmabuf_trace.top.activity import Moment
from dmabuf_trace.top.listings import process
from dmabuf_trace.units import bytes_text, count_text, duration_text

_ROWS: Final = 5
"""Attachments that are told of, and processes with fds."""


def lines(moment: Moment, buffer: int, back: int, height: int) -> list[Text]:
    """At most so many lines; events up to the one that is ``back`` from the latest."""
    first, *others = map(printable, _facts(moment, buffer))
    head = [Text(first, "bold"), *map(Text, others)]
    batches = [(batch, np.flatnonzero(batch.buffers == buffer)) for batch in moment.latest]
    count = sum(len(mine) for _, mine in batches)
    room = max(height - len(head) - 2, 1)
    last = max(count - back, min(count, room))
    events = together(
        [batch.events.take(mine) for batch, mine in batches] or [empty(schema.EVENT_DTYPE)]
    )
    kept = sum(len(batch.events) for batch, _ in batches)
    older = ", older ones are not kept" if moment.events > kept else ""
    title = f"{count_text(count, 'event')}{older}"
    shown = _events(moment, events[max(last - room, 0) : last])
    return [*head, Text(), Text(title, "bold"), *shown]


def _facts(moment: Moment, buffer: int) -> Iterator[str]:
    rows, names = moment.rows, moment.names
    of = rows.buffers[rows.buffers["id"] == buffer][:1]
    if not len(of):
        yield "This buffer is not known"
        return
    row = of[0]
    name = names.buffer(int(row["name"]))
    size = bytes_text(int(row["size"])) if row["size"] or row["begin"] else "size not known"
    yield "  ".join(
        [
            f"Buffer {row['inode']}",
            names.exporter(int(row["exporter"])),
            size,
            *[f'"{name}"'] * bool(name),
        ]
    )
    who = process(moment, int(row["pid"]), int(row["tid"]))
    made = f"exported {_ago(moment, row)} ago by {who}"
    before = (
        f"there before; held then by {who}" if row["pid"] else "there before; nobody held it then"
    )
    yield made if row["begin"] else before
    attachments = rows.attachments[rows.attachments["buffer_id"] == buffer]
    for attachment in attachments[:_ROWS]:
        yield _attachment(moment, attachment)
    yield from _more(len(attachments), "attachment")
    opened = rows.fds[rows.fds["buffer_id"] == buffer]
    for pid in np.unique(opened["pid"])[:_ROWS].tolist():
        fds = ", ".join(map(str, opened["fd"][opened["pid"] == pid][:_ROWS].tolist()))
        yield f"opened by {process(moment, pid, pid)} as fd {fds}"


def _more(count: int, what: str) -> Iterator[str]:
    if count > _ROWS:
        yield f"and {count_text(count - _ROWS, what)} more"


def _ago(moment: Moment, row: Any) -> str:
    return duration_text(max(moment.ts - int(row["begin"]), 0))


def _attachment(moment: Moment, row: Any) -> str:
    device = moment.names.device(int(row["device"]))
    since = f"for {_ago(moment, row)}" if row["begin"] else "since before"
    mapped = moment.rows.mappings
    mapped = mapped[mapped["attachment_id"] == row["id"]]
    begun = mapped[mapped["begin"] != 0]
    longest = (
        f", the oldest for {_ago(moment, begun[begun['begin'].argmin()])}" if len(begun) else ""
    )
    held = count_text(len(mapped), "mapping") if len(mapped) else "not mapped"
    return f"attached to {device.name} {since}, {held}{longest}"


def _events(moment: Moment, events: NDArray[np.void]) -> Iterator[Text]:
    """A line an event, as narrow as they allow."""
    fields = [
        dict(zip(schema.EVENT_DTYPE.names or (), row, strict=True)) for row in events.tolist()
    ]
    rows = [
        (
            f"+{(event['ts'] - moment.start) / 1e9:.6f}",
            printable(process(moment, event["pid"], event["tid"])),
            kind_name(event),
        )
        for event in fields
    ]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row, event in zip(rows, fields, strict=True):
        head = "  ".join(set_cell_size(*each) for each in zip(row, widths, strict=True))
        told = (what(event, moment.names), "red" if event["ret"] < 0 else "")
        yield Text.assemble((f"{head}  ", "dim"), told)
