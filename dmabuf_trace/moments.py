# SPDX-License-Identifier: Apache-2.0
"""Tables of moments: calls that fail, waits, calls of exporters, moves, looks at the holders."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from dmabuf_trace import schema
from dmabuf_trace.blocks import Holder
from dmabuf_trace.columns import TABLES, TEXT
from dmabuf_trace.errnos import error_name
from dmabuf_trace.frames import chosen, gaps, signed, strings, texts
from dmabuf_trace.source import Array, Columns, Source, Structs, kind_name, stacks
from dmabuf_trace.tables import Flag, look_up, of_kinds

_K: Final = schema.KIND
_TIMED: Final = [kind.id for kind in schema.KINDS if kind.timed]
_OF_THE_LIVING: Final = [kind.id for kind in schema.KINDS if kind.timed and not kind.part]
_WAITS: Final = (_K["lock_wait"], _K["fence_wait"])
_VM_WRITE: Final = 0x2
_VM_SHARED: Final = 0x8
"""include/linux/mm.h"""
_MMAPS: Final = (_K["mmap"], _K["mmap_importer"])


def errors(source: Source) -> pd.DataFrame:
    """One row per call that failed, in order of time."""
    rows = source.rows.errors
    rows = rows[np.argsort(rows["ts"], kind="stable")]
    of = source.stretch.known.buffers
    exporters = np.where(
        rows["kind"] == _K["export"],
        rows["name"],
        look_up(rows["buffer_id"], of["id"], of["exporter"]),
    )
    return pd.DataFrame(
        {
            "ts": signed(rows["ts"]),
            "kind": texts(rows["kind"], kind_name),
            **source.buffer(rows["buffer_id"]),
            "attachment_id": gaps(rows["attachment_id"], rows["attachment_id"] != 0),
            **source.device(rows["name"], of_kinds(rows["kind"], (_K["attach"], _K["map"]))),
            "exporter": texts(exporters, source.names.exporter, exporters != 0),
            "errno": rows["errno"].astype(np.int64),
            "error": texts(rows["errno"], error_name),
            "call_ns": signed(rows["dur"]),
            **source.thread(rows, rows["ts"]),
            "cpu": rows["cpu"].astype(np.int64),
        },
        columns=list(TABLES["errors"]),
    )


def _failures(rows: Structs) -> pd.Series[str]:
    """Names of errors, NA for what succeeded."""
    return texts(-rows["ret"].astype(np.int64), error_name, rows["ret"] < 0)


def events(
    source: Source, *kinds: str, tids: Array | None = None, inodes: Array | None = None
) -> pd.DataFrame:
    """One row per event, in order of time (and of the ring, where times are equal).

    With ``kinds``: of these only; with ``tids``, ``inodes``: by these threads, on these buffers.
    """
    if kinds:
        order = _of_kinds(source, *(_K[kind] for kind in kinds))
    else:
        order = np.argsort(source.raw["ts"], kind="stable")
    for field, wanted in (("tid", tids), ("buffer", inodes)):
        if wanted is not None:
            order = order[np.isin(source.raw[field][order], wanted)]
    rows = source.raw.take(order)
    buffer_ids = source.rows.event_buffers[order]
    attachment_ids = source.rows.event_attachments[order]
    timed = of_kinds(rows["kind"], _TIMED)
    return pd.DataFrame(
        {
            "ts": signed(rows["ts"]),
            "kind": texts(rows["kind"], kind_name),
            "buffer_id": gaps(buffer_ids, buffer_ids != 0),
            "attachment_id": gaps(attachment_ids, attachment_ids != 0),
            "inode": signed(rows["buffer"]),
            **{column: rows[column] for column in ("object", "value", "aux")},
            **{column: rows[column].astype(np.int64) for column in ("detail", "ret")},
            "call_ns": gaps(rows["dur"], timed),
            **source.thread(rows, rows["ts"]),
            **stacks(rows),
            "cpu": rows["cpu"].astype(np.int64),
        },
        columns=list(TABLES["events"]),
    )


def last_calls(source: Source, tids: Array) -> pd.Series[int]:
    """By thread, when it made a call last that is none of those made on its way out."""
    mine = np.flatnonzero(np.isin(source.raw["tid"], tids))
    mine = mine[of_kinds(source.raw["kind"][mine], _OF_THE_LIVING)]
    rows = source.raw.take(mine)
    return pd.Series(signed(rows["ts"])).groupby(rows["tid"].astype(np.int64)).max()


def _part(source: Source, mine: Array, length: str) -> Columns:
    """What parts of calls have in common; their length is the column ``length``."""
    rows = source.raw.take(mine)
    buffer_ids = source.rows.event_buffers[mine]
    return {
        "begin": signed(rows["ts"]) - signed(rows["dur"]),
        length: signed(rows["dur"]),
        **source.buffer(buffer_ids),
        **source.around(mine),
        "error": _failures(rows),
        **source.thread(rows, rows["ts"]),
    }


def _of_kinds(source: Source, *kinds: int) -> Array:
    """Positions of events of these kinds, in order of time."""
    mine = np.flatnonzero(of_kinds(source.kinds, kinds))
    return mine[np.argsort(source.raw["ts"][mine], kind="stable")]


def waits(source: Source) -> pd.DataFrame:
    """One row per wait for a reservation lock or a fence."""
    mine = _of_kinds(source, *_WAITS)
    rows = source.raw.take(mine)
    is_fence = rows["kind"] == _K["fence_wait"]
    return pd.DataFrame(
        {
            "kind": chosen(("lock", "fence"), is_fence.astype(np.int64)),
            **_part(source, mine, "wait_ns"),
            "timed_out": pd.Series(rows["detail"] == 1, dtype="boolean").where(is_fence),
            "fence_context": gaps(rows["value"], is_fence),
            "fence_seqno": gaps(rows["aux"], is_fence),
        },
        columns=list(TABLES["waits"]),
    )


def operations(source: Source) -> pd.DataFrame:
    """One row per call of an exporter's function."""
    mine = _of_kinds(source, _K["operation"])
    numbers = np.minimum(source.raw["detail"][mine].astype(np.int64), len(schema.OPERATIONS) + 1)
    return pd.DataFrame(
        {
            "operation": chosen(("", *schema.OPERATIONS, ""), numbers),
            **_part(source, mine, "operation_ns"),
        },
        columns=list(TABLES["operations"]),
    )


def moves(source: Source) -> pd.DataFrame:
    """One row per move that an exporter told its importers of."""
    mine = _of_kinds(source, _K["move"])
    rows = source.raw.take(mine)
    buffer_ids = source.rows.event_buffers[mine]
    return pd.DataFrame(
        {
            "ts": signed(rows["ts"]),
            **source.buffer(buffer_ids),
            "mappings": _alive_at(source.stretch.present.mappings, buffer_ids, rows["ts"]),
            "pins": _alive_at(source.stretch.present.pins, buffer_ids, rows["ts"]),
            **source.thread(rows, rows["ts"]),
            **stacks(rows),
        },
        columns=list(TABLES["moves"]),
    )


def _alive_at(rows: Structs, buffer_ids: Array, times: Array) -> Array:
    """How many of these rows each buffer had at a time; those without a known end still count.

    Those whose begin was not seen don't: that they were there shows only at their end.
    """
    rows = rows.compress((rows["begin"] != 0) & np.isin(rows["buffer_id"], buffer_ids))
    never = np.iinfo(np.uint64).max
    over = np.where(rows["end"] != 0, rows["end"], never)
    over[(rows["end"] == 0) & (rows["flags"] & Flag.END_LOST != 0)] = 0
    return _passed(rows["buffer_id"], rows["begin"], buffer_ids, times) - _passed(
        rows["buffer_id"], over, buffer_ids, times
    )


def _passed(ids: Array, moments: Array, asked: Array, times: Array) -> Array:
    """How many moments of the same id lie at or before each of the times asked for."""
    of = np.concatenate([ids, asked])
    at = np.concatenate([moments, times]).astype(np.uint64)
    is_question = np.arange(len(of)) >= len(ids)
    order = np.lexsort((is_question, at, of))
    earlier = np.searchsorted(np.sort(ids), asked)
    passed = np.empty(len(of), np.int64)
    passed[order] = np.cumsum(~is_question[order])
    found: Array = passed[len(ids) :] - earlier
    return found


def vmas(source: Source) -> pd.DataFrame:
    """One row per mmap call."""
    mine = _of_kinds(source, *_MMAPS)
    mine = mine[source.raw["ret"][mine] >= 0]
    rows = source.raw.take(mine)
    buffer_ids = source.rows.event_buffers[mine]
    return pd.DataFrame(
        {
            "begin": signed(rows["ts"]),
            **source.buffer(buffer_ids),
            "start": rows["object"],
            "length_bytes": signed(rows["value"]),
            "offset_pages": signed(rows["aux"]),
            "through": chosen(("importer", "own"), (rows["kind"] == _K["mmap"]).astype(np.int64)),
            "write": rows["detail"] & _VM_WRITE != 0,
            "shared": rows["detail"] & _VM_SHARED != 0,
            "mmap_ns": signed(rows["dur"]),
            **source.thread(rows, rows["ts"]),
            **stacks(rows),
        },
        columns=list(TABLES["vmas"]),
    )


def holders(source: Source) -> pd.DataFrame:
    """One row per fd and VMA of the snapshots, and per process at the end of a socket's queue."""
    rows = [
        (look.when, look.ts, holder) for look in source.stretch.looks for holder in look.holders
    ]
    found: list[Holder] = [holder for _, _, holder in rows]
    fds = np.array([holder.fd for holder in found], np.int64)
    in_flight = np.array([holder.in_flight for holder in found], np.bool_)
    is_vma = (fds < 0) & ~in_flight
    senders = np.array([holder.sender_pid for holder in found], np.int64)
    sender_names = np.array([holder.sender_comm for holder in found], object)
    inodes = np.array([holder.buffer for holder in found], np.uint64)
    of = source.stretch.known.buffers
    of = of[np.argsort(of["inode"], kind="stable")]
    buffer_ids = look_up(inodes, of["inode"], of["id"])
    return pd.DataFrame(
        {
            "when": strings(np.array([when for when, _, _ in rows], object)),
            "ts": np.array([ts for _, ts, _ in rows], np.int64),
            "buffer_id": gaps(buffer_ids, buffer_ids != 0),
            "inode": signed(inodes),
            "pid": np.array([holder.pid for holder in found], np.int64),
            "comm": strings(np.array([holder.comm for holder in found], object)),
            "fd": gaps(fds, fds >= 0),
            "start": gaps(np.array([holder.start for holder in found], np.int64), is_vma),
            "length_bytes": gaps(np.array([holder.length for holder in found], np.int64), is_vma),
            "socket": gaps(np.array([holder.socket for holder in found], np.int64), in_flight),
            "sender_pid": gaps(senders, senders != 0),
            "sender_comm": strings(sender_names, sender_names != ""),
        },
        columns=list(TABLES["holders"]),
    )


def marks(source: Source) -> pd.DataFrame:
    """One row per moment that somebody named."""
    found = source.stretch.marks
    return pd.DataFrame(
        {
            "ts": np.array([mark.ts for mark in found], np.int64),
            "label": strings(np.array([mark.label for mark in found], object)),
            "status": np.array([mark.status for mark in found], np.int64),
        },
        columns=list(TABLES["marks"]),
    )


def probed(source: Source) -> pd.DataFrame:
    """One row per exporter's function that was found and probed while recording."""
    rows: list[tuple[Any, ...]] = [
        (row.ts, row.operation, row.symbol, row.reason) for row in source.probed
    ]
    frame = pd.DataFrame(rows, columns=list(TABLES["probed"]))
    return frame.astype({"ts": "int64", **dict.fromkeys(("operation", "symbol", "reason"), TEXT)})
