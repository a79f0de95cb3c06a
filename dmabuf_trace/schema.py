# SPDX-License-Identifier: Apache-2.0
"""Every event, field, unit and loss cause: the one source.

Owns the numbers that travel from the kernel to the recording. ``python -m bpf.generate`` writes
``bpf/events.gen.h`` (ids and structs for the BPF programs) and ``bpf/EVENTS.md`` (the reference for
people) from this file; a test fails when they are stale. Must not know how events are loaded,
paired or shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.kinds import ALWAYS, KINDS, OPERATIONS, Kind

__all__ = ["KINDS", "OPERATIONS", "Kind"]

VERSION: Final = 2
"""Version of the schema; a reader refuses recordings of a newer one."""

UNKNOWN_STACK: Final = -1
"""Value of ``stack`` and ``user_stack`` in an event that carries none."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a fixed-size record."""

    name: str
    type: str
    doc: str


@dataclass(frozen=True, slots=True)
class Cause:
    """One way to lose an event, or a part of one."""

    id: int
    name: str
    doc: str
    hint: str


EVENT_FIELDS: Final = (
    Field(
        "ts", "u64", "ns, CLOCK_MONOTONIC, when the record was made; a timed call: at its return"
    ),
    Field("dur", "u64", "ns spent in the call on its thread; 0 where the kind is not timed"),
    Field(
        "buffer", "u64", "inode number of the dma-buf (per boot, never reused); 0: none came to be"
    ),
    Field("object", "u64", "address of the object that the event is about"),
    Field("value", "u64", "per kind"),
    Field("aux", "u64", "per kind; a string id where it names something"),
    Field("pid", "u32", "process (tgid) of the calling thread"),
    Field("tid", "u32", "calling thread"),
    Field("ret", "s32", "0, or the negative errno that the call returned"),
    Field("stack", "s16", "id of the kernel stack; -1: none"),
    Field("user_stack", "s16", "id of the user stack; -1: none"),
    Field("detail", "u32", "per kind"),
    Field("kind", "u16", "one of the kinds below"),
    Field("cpu", "u16", "processor that made the record"),
)

NAME_TEXT, NAME_DRIVER, NAME_BUS = 64, 32, 16

NAME_FIELDS: Final = (
    Field(
        "id",
        "u64",
        "string id (hash of the text); comm: thread; operation: address of the function",
    ),
    Field("ts", "u64", "ns, CLOCK_MONOTONIC, from when on the name holds"),
    Field("type", "u32", "one of the name types below"),
    Field("pid", "u32", "process (tgid), for a comm; operation number, for an operation"),
    Field("cgroup", "u64", "cgroup of the thread (cgroup v2: inode of its directory), for a comm"),
    Field("text", f"char[{NAME_TEXT}]", "the name, NUL-terminated, cut where too long"),
    Field("driver", f"char[{NAME_DRIVER}]", "driver bound to a device; empty: none"),
    Field("bus", f"char[{NAME_BUS}]", "bus of a device; empty: none"),
)

NAME_TYPES: Final = {"exporter": 1, "device": 2, "buffer": 3, "comm": 4, "operation": 5}

COMM, BUFFER_NAME = 16, 32

_SEEN_BUFFER: Final = (
    Field("references", "u64", "references to its file, without the look's own"),
    Field("exporter", f"char[{NAME_TEXT}]", "exporter, NUL-terminated, cut where too long"),
    Field("name", f"char[{BUFFER_NAME}]", "name given by user space; empty: none"),
)

FOUND_FIELDS: Final = (
    Field("buffer", "u64", "inode number of the dma-buf"),
    Field("size", "u64", "bytes"),
    *_SEEN_BUFFER,
)
"""A live buffer, as the dma-buf iterator gives it."""

SYNC_FILE_FIELDS: Final = (
    Field("pid", "u32", "process (tgid) that has it open"),
    Field("fd", "u32", "fd number"),
    Field("comm", f"char[{COMM}]", "name of the process"),
)
"""An open fd of a sync_file."""

QUEUED_FIELDS: Final = (
    Field("buffer", "u64", "inode number of the dma-buf; 0: the socket has more than are told"),
    Field("size", "u64", "bytes"),
    Field("socket", "u64", "inode number of the socket that the fd is queued in"),
    Field("pid", "u32", "process (tgid) that has the socket open"),
    Field("sender", "u32", "process (tgid) that sent it, else that connected; 0: not known"),
    Field("comm", f"char[{COMM}]", "name of the process that has the socket"),
    Field("sender_comm", f"char[{COMM}]", "name of the sender; empty: it is gone"),
    *_SEEN_BUFFER,
)
"""An fd of a buffer that was sent through a UNIX socket and not received yet."""

HELD_FIELDS: Final = (
    Field("buffer", "u64", "inode number of the dma-buf"),
    Field("size", "u64", "bytes"),
    Field("start", "u64", "start address of a VMA; 0: an fd"),
    Field("length", "u64", "length of a VMA in bytes; 0: an fd"),
    Field("table", "u64", "struct files_struct that the fd is in; 0: a VMA"),
    Field("pid", "u32", "process (tgid) that holds it"),
    Field("fd", "s32", "fd number; -1: a VMA"),
    Field("comm", f"char[{COMM}]", "name of the process"),
    *_SEEN_BUFFER,
)
"""An fd or a VMA of a process, as the task iterators give it."""

CONFIG_FIELDS: Final = (
    Field("kernel_stacks", "u64", "bit per kind: its events carry a kernel stack"),
    Field("user_stacks", "u64", "bit per kind: its events carry a user stack"),
    Field("kinds", "u64", "bit per kind: it is observed"),
    Field("task_work_begin", "u64", "where task_work_run() begins; 0: not known"),
    Field("task_work_end", "u64", "where it ends"),
    Field("filters", "u64", "FILTER_* bits of the filters that are on; 0: every event passes"),
    Field("exporter", "u64", "string id of the exporter that passes"),
    Field("min_size", "u64", "bytes of the smallest buffer that passes"),
    Field("max_size", "u64", "bytes of the largest buffer that passes"),
    Field("comm", f"char[{COMM}]", "name of the threads that pass, padded with zeros"),
)
"""What the programs are told before they are attached."""

FILTERS: Final = {"pids": 1, "comm": 2, "exporter": 4, "size": 8}
"""Bits of ``filters``: the first two choose tasks, the others buffers."""

CAUSES: Final = (
    Cause(0, "ring_full", "the ring had no room: the event is gone", "record with a larger --ring"),
    Cause(
        1,
        "inflight_full",
        "the table of calls under way was full: the call's return made no event",
        "record with a larger --table inflight",
    ),
    Cause(
        2,
        "no_entry",
        "a return whose entry was missed: the call made no event",
        "",
    ),
    Cause(
        3,
        "string_lost",
        "a name did not fit its ring: it is shown as unknown until seen again",
        "record with a larger --table names",
    ),
    Cause(4, "stack_lost", "a stack could not be taken: the event has none", ""),
    Cause(5, "unreadable", "the call's arguments could not be read: it made no event", ""),
    Cause(
        6,
        "probe_missed",
        "the kernel passed over the probe, having no room for so many calls at once: no event",
        "record with --attach kprobe, or a larger --maxactive",
    ),
    Cause(
        7,
        "recursion",
        "the kernel skipped the program on a busy processor: no event",
        "record with --attach auto",
    ),
    Cause(
        8,
        "stack_collision",
        "another stack had the place of this one in the table: the event has none",
        "record with a larger --table stacks, fewer kinds of event (--events), or fewer --stacks",
    ),
    Cause(
        9,
        "unwatched",
        "no room to watch one more buffer that the filters let pass: later events on it may be "
        "missing uncounted",
        "filter more narrowly, or record with a larger --table watched",
    ),
)

KIND: Final = {kind.name: kind.id for kind in KINDS}
"""Event kind id by name."""

KIND_NAMES: Final = {kind.id: kind.name for kind in KINDS}
"""Event kind name by id."""

CAUSE: Final = {cause.name: cause.id for cause in CAUSES}
"""Loss cause id by name."""

WHOLE_EVENT_CAUSES: Final = (
    "ring_full",
    "inflight_full",
    "no_entry",
    "unreadable",
    "probe_missed",
    "recursion",
    "unwatched",
)
"""Causes that cost a whole event; the others cost a name or a stack."""

KIND_SLOTS, CAUSE_SLOTS = 32, 16

NAME_RING_BYTES: Final = 1 << 20
"""Size of the ring for names."""

MAP_ENTRIES: Final = {
    "names": NAME_RING_BYTES,
    "inflight": 16384,
    "stacks": 4096,
    "user_stacks": 4096,
    "matching": 65536,
    "watched": 65536,
    "pids": 16384,
}
"""Sizes of the maps that a capture may make larger, or smaller where it has no use for them."""

STACK_DEPTH: Final = 48
"""Frames kept of a stack."""

DIRECTIONS: Final = ("bidirectional", "to_device", "from_device", "none")
"""enum dma_data_direction (include/linux/dma-direction.h), by value."""

ATTACH_DYNAMIC, ATTACH_PEER2PEER, ATTACH_P2P_ASKED, ATTACH_P2P_NOT_ASKED = 1, 2, 4, 8
MAP_DIRECTION, MAP_CACHED, MAP_ENTRIES_SHIFT = 3, 4, 8
MAX_ENTRIES: Final = (1 << 32 - MAP_ENTRIES_SHIFT) - 1
FD_DUP2: Final = 1
FENCE_TIMED_OUT: Final = 1

CONTEXTS: Final = ("unknown", "task", "task work", "kernel worker", "kernel thread")
"""Where a buffer was released, by value."""
SYNC_READ, SYNC_WRITE, SYNC_END = 1, 2, 4

_NUMPY = {"u64": "<u8", "s64": "<i8", "u32": "<u4", "s32": "<i4", "s16": "<i2", "u16": "<u2"}


def _dtype(fields: tuple[Field, ...]) -> np.dtype[np.void]:
    def column(kind: str) -> str:
        return f"S{kind[5:-1]}" if kind.startswith("char[") else _NUMPY[kind]

    return np.dtype([(field.name, column(field.type)) for field in fields])


EVENT_DTYPE: Final = _dtype(EVENT_FIELDS)
"""numpy dtype of one event: 72 bytes, aligned layout equal to packed layout."""

NAME_DTYPE: Final = _dtype(NAME_FIELDS)
"""numpy dtype of one name record: 144 bytes."""

FOUND_DTYPE: Final = _dtype(FOUND_FIELDS)
"""numpy dtype of a live buffer in a snapshot: 120 bytes."""

HELD_DTYPE: Final = _dtype(HELD_FIELDS)
"""numpy dtype of an fd or a VMA in a snapshot: 168 bytes."""

SYNC_FILE_DTYPE: Final = _dtype(SYNC_FILE_FIELDS)
"""numpy dtype of an fd of a sync_file: 24 bytes."""

QUEUED_DTYPE: Final = _dtype(QUEUED_FIELDS)
"""numpy dtype of an fd in a socket's queue: 168 bytes."""

CONFIG_DTYPE: Final = _dtype(CONFIG_FIELDS)
"""numpy dtype of the configuration."""

STACKED: Final = sum(1 << kind.id for kind in KINDS if kind.stack == ALWAYS)
"""Bit per kind that carries stacks unless they are not wanted at all."""

STACKABLE: Final = sum(1 << kind.id for kind in KINDS if kind.stack)
"""Bit per kind that carries stacks where they are asked for."""

PARTS: Final = tuple(kind.id for kind in KINDS if kind.part)
"""Kinds that are parts of other calls: they begin no life, and their failures are those calls'."""

DEVICE_KINDS: Final = tuple(kind.name for kind in KINDS if kind.aux == "string id of the device")
"""Kinds that are about an importer device."""

LOSS_SHAPE: Final = (KIND_SLOTS, CAUSE_SLOTS)
"""Shape of the loss counters: ``losses[kind id, cause id]``, u64, cumulative since attach."""


_FNV_BASIS, _FNV_PRIME, _U64 = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def string_id(name_type: str, text: str) -> int:
    """The id that the programs give a name which has neither driver nor bus.

    ``intern()`` in ``bpf/emit.bpf.h`` computes it there; a guest test compares the two.
    """
    value = (_FNV_BASIS ^ NAME_TYPES[name_type]) * _FNV_PRIME & _U64
    raw = text.encode(errors="surrogateescape")[: NAME_TEXT - 1].ljust(NAME_TEXT, b"\0")
    for part in (raw, bytes(NAME_DRIVER), bytes(NAME_BUS)):
        for word in np.frombuffer(part, "<u8").tolist():
            value = (value ^ word) * _FNV_PRIME & _U64
        value ^= value >> 29
    return value


def lost_events(losses: NDArray[np.uint64]) -> int:
    """Whole events lost, from counters of :data:`LOSS_SHAPE`."""
    return int(losses[:, [CAUSE[cause] for cause in WHOLE_EVENT_CAUSES]].sum())
