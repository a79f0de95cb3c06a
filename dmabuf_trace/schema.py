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

VERSION: Final = 1
"""Version of the schema; a reader refuses recordings of a newer one."""

UNKNOWN_STACK: Final = -1
"""Value of ``stack`` in an event that carries no kernel stack."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a fixed-size record."""

    name: str
    type: str
    doc: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One event kind; the texts say what the general fields mean in it, ``""`` means unused (0)."""

    id: int
    name: str
    doc: str
    source: str
    object: str = ""
    value: str = ""
    aux: str = ""
    detail: str = ""
    ret: str = ""
    timed: bool = False
    stack: bool = False
    caveat: str = ""


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
    Field("stack", "s32", "id of the kernel stack; -1: none"),
    Field("detail", "u32", "per kind"),
    Field("kind", "u16", "one of the kinds below"),
    Field("cpu", "u16", "processor that made the record"),
)

NAME_TEXT, NAME_DRIVER, NAME_BUS = 64, 32, 16

NAME_FIELDS: Final = (
    Field("id", "u64", "string id (hash of the text), or the thread for a comm"),
    Field("ts", "u64", "ns, CLOCK_MONOTONIC, from when on the name holds"),
    Field("type", "u32", "one of the name types below"),
    Field("pid", "u32", "process (tgid), for a comm"),
    Field("text", f"char[{NAME_TEXT}]", "the name, NUL-terminated, cut where too long"),
    Field("driver", f"char[{NAME_DRIVER}]", "driver bound to a device; empty: none"),
    Field("bus", f"char[{NAME_BUS}]", "bus of a device; empty: none"),
)

NAME_TYPES: Final = {"exporter": 1, "device": 2, "buffer": 3, "comm": 4}

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

HELD_FIELDS: Final = (
    Field("buffer", "u64", "inode number of the dma-buf"),
    Field("size", "u64", "bytes"),
    Field("start", "u64", "start address of a VMA; 0: an fd"),
    Field("length", "u64", "length of a VMA in bytes; 0: an fd"),
    Field("pid", "u32", "process (tgid) that holds it"),
    Field("fd", "s32", "fd number; -1: a VMA"),
    Field("comm", f"char[{COMM}]", "name of the process"),
    *_SEEN_BUFFER,
)
"""An fd or a VMA of a process, as the task iterators give it."""

KINDS: Final = (
    Kind(
        1,
        "export",
        "an exporter made a buffer",
        "dma_buf_export()",
        object="struct dma_buf; 0 on failure",
        value="size in bytes",
        aux="string id of the exporter",
        detail="flags given by the exporter (O_RDWR, O_CLOEXEC)",
        ret="errno of a failed export",
        timed=True,
        stack=True,
    ),
    Kind(
        2,
        "fd_install",
        "a file descriptor for the buffer appeared in a process",
        "fd_install()",
        object="struct file",
        detail="fd number",
        caveat="the one function that PRIME, heaps, dup, F_DUPFD and SCM_RIGHTS all pass; dup2 and "
        "fork do not",
    ),
    Kind(
        3,
        "attach",
        "an importer device attached, or was refused",
        "dma_buf_dynamic_attach()",
        object="struct dma_buf_attachment; 0 on failure",
        value="struct device",
        aux="string id of the device",
        detail="bit 0: dynamic importer, bit 1: peer2peer allowed",
        ret="errno of a refused attach (-EBUSY: the backing storage does not fit the device)",
        timed=True,
        stack=True,
        caveat="dma_buf_attach() ends in this function: probing both would count twice",
    ),
    Kind(
        4,
        "detach",
        "an importer device detached",
        "dma_buf_detach()",
        object="struct dma_buf_attachment",
        aux="string id of the device",
        caveat="made at entry: the address is free for the next attach when the call returns. "
        "The detach inside a failing attach (6.1, 6.12) makes no event",
    ),
    Kind(
        5,
        "map",
        "an attachment was mapped into its device's address space",
        "dma_buf_map_attachment()",
        object="struct dma_buf_attachment",
        value="struct sg_table; 0 on failure",
        aux="string id of the device",
        detail="enum dma_data_direction",
        ret="errno of a failed map",
        timed=True,
        caveat="the _unlocked variant calls this function: one event, without its lock wait. Up to "
        "6.12 an exporter may hand out a cached mapping again: same sg_table, no work done",
    ),
    Kind(
        6,
        "unmap",
        "a mapping was given back",
        "dma_buf_unmap_attachment()",
        object="struct dma_buf_attachment",
        value="struct sg_table",
        aux="string id of the device",
        detail="enum dma_data_direction",
        caveat="made at entry, before the sg_table can be reused",
    ),
    Kind(
        7,
        "cpu_begin",
        "user space began CPU access",
        "dma_buf_ioctl(DMA_BUF_IOCTL_SYNC)",
        detail="sync flags: 1 read, 2 write",
        ret="errno",
        timed=True,
    ),
    Kind(
        8,
        "cpu_end",
        "user space ended CPU access",
        "dma_buf_ioctl(DMA_BUF_IOCTL_SYNC)",
        detail="sync flags: 1 read, 2 write, 4 end",
        ret="errno",
        timed=True,
        caveat="the compiler inlines dma_buf_end_cpu_access() into the ioctl: a probe on that "
        "function sees no END from user space",
    ),
    Kind(
        9,
        "mmap",
        "the buffer was mapped into a process through its own fd",
        "dma_buf_mmap_internal()",
        object="start address of the VMA",
        value="length of the VMA in bytes",
        aux="page offset",
        detail="low 32 bits of vm_flags",
        ret="errno",
        timed=True,
    ),
    Kind(
        10,
        "mmap_importer",
        "the buffer was mapped into a process through an importer's fd",
        "dma_buf_mmap()",
        object="start address of the VMA",
        value="length of the VMA in bytes",
        aux="page offset",
        detail="low 32 bits of vm_flags",
        ret="errno",
        timed=True,
    ),
    Kind(
        11,
        "set_name",
        "user space named the buffer",
        "dma_buf_ioctl(DMA_BUF_SET_NAME)",
        aux="string id of the name",
        ret="errno",
        timed=True,
    ),
    Kind(
        12,
        "release",
        "the last reference is gone and the buffer is freed",
        "dma_buf_file_release()",
        object="struct dma_buf",
        caveat="the process is whoever dropped the last reference, a kworker at times",
    ),
    Kind(
        13,
        "fd_close",
        "a process let go of a file descriptor of the buffer",
        "filp_flush(), up to 6.1 filp_close()",
        object="struct file",
        value="struct files_struct that the fd was in",
        caveat="close, dup2 over it, close_range, exec and exit all pass; the fd's number does not",
    ),
    Kind(
        14,
        "get",
        "a driver looked a buffer up by fd, and took a reference",
        "dma_buf_get()",
        object="struct dma_buf; 0 on failure",
        detail="fd number",
        ret="errno (-EINVAL: the fd is no dma-buf)",
        timed=True,
        caveat="a reference taken by the inline get_dma_buf() shows nowhere",
    ),
    Kind(
        15,
        "pin",
        "an importer pinned the buffer where it is",
        "dma_buf_pin()",
        object="struct dma_buf_attachment",
        aux="string id of the device",
        ret="errno",
        timed=True,
        caveat="pins that the core makes by itself for static importers don't pass here",
    ),
    Kind(
        16,
        "unpin",
        "an importer gave its pin back",
        "dma_buf_unpin()",
        object="struct dma_buf_attachment",
        aux="string id of the device",
    ),
    Kind(
        17,
        "move",
        "the exporter told its importers that it moves the buffer: mappings are no longer valid",
        "dma_buf_move_notify(), from 7.1 dma_buf_invalidate_mappings()",
        object="struct dma_buf",
    ),
    Kind(
        18,
        "kernel_begin",
        "a driver began CPU access",
        "dma_buf_begin_cpu_access()",
        detail="enum dma_data_direction",
        ret="errno",
        timed=True,
    ),
    Kind(
        19,
        "kernel_end",
        "a driver ended CPU access",
        "dma_buf_end_cpu_access()",
        detail="enum dma_data_direction",
        ret="errno",
        timed=True,
    ),
    Kind(
        20,
        "vmap",
        "a driver mapped the buffer into the kernel",
        "dma_buf_vmap()",
        object="struct dma_buf",
        ret="errno",
        timed=True,
        caveat="counted by the core: only the first one reaches the exporter",
    ),
    Kind(
        21,
        "vunmap",
        "a driver gave its kernel mapping back",
        "dma_buf_vunmap()",
        object="struct dma_buf",
    ),
    Kind(
        22,
        "export_sync_file",
        "user space took the buffer's fences out as a sync_file",
        "dma_buf_ioctl(DMA_BUF_IOCTL_EXPORT_SYNC_FILE)",
        value="fd of the sync_file",
        detail="sync flags: 1 read, 2 write",
        ret="errno",
        timed=True,
    ),
    Kind(
        23,
        "import_sync_file",
        "user space put a sync_file's fence into the buffer",
        "dma_buf_ioctl(DMA_BUF_IOCTL_IMPORT_SYNC_FILE)",
        value="fd of the sync_file",
        detail="sync flags: 1 read, 2 write",
        ret="errno",
        timed=True,
    ),
)

CAUSES: Final = (
    Cause(0, "ring_full", "the ring had no room: the event is gone", "record with a larger --ring"),
    Cause(
        1,
        "inflight_full",
        "the table of calls under way was full: the call's return made no event",
        "report this: more than 16384 calls under way",
    ),
    Cause(
        2,
        "no_entry",
        "a return without its entry: the call made no event",
        "calls nested on one thread, or an entry that was missed",
    ),
    Cause(
        3, "string_lost", "a name did not fit its ring: it is shown as unknown until seen again", ""
    ),
    Cause(4, "stack_lost", "a kernel stack was not kept: the event has none", ""),
    Cause(5, "unreadable", "the call's arguments could not be read: it made no event", ""),
    Cause(
        6,
        "probe_missed",
        "the kernel passed over the probe, having no room for so many calls at once: no event",
        "record with a larger --maxactive",
    ),
    Cause(7, "recursion", "the kernel skipped the program on a busy processor: no event", ""),
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
)
"""Causes that cost a whole event; the others cost a name or a stack."""

KIND_SLOTS, CAUSE_SLOTS = 32, 8

NAME_RING_BYTES: Final = 1 << 20
"""Size of the ring for names."""

STACK_DEPTH: Final = 48
"""Frames kept of a kernel stack."""

DIRECTIONS: Final = ("bidirectional", "to_device", "from_device", "none")
"""enum dma_data_direction (include/linux/dma-direction.h), by value."""

ATTACH_DYNAMIC, ATTACH_PEER2PEER = 1, 2
SYNC_READ, SYNC_WRITE, SYNC_END = 1, 2, 4

_NUMPY = {"u64": "<u8", "s64": "<i8", "u32": "<u4", "s32": "<i4", "u16": "<u2"}


def _dtype(fields: tuple[Field, ...]) -> np.dtype[np.void]:
    def column(kind: str) -> str:
        return f"S{kind[5:-1]}" if kind.startswith("char[") else _NUMPY[kind]

    return np.dtype([(field.name, column(field.type)) for field in fields])


EVENT_DTYPE: Final = _dtype(EVENT_FIELDS)
"""numpy dtype of one event: 72 bytes, aligned layout equal to packed layout."""

NAME_DTYPE: Final = _dtype(NAME_FIELDS)
"""numpy dtype of one name record: 136 bytes."""

FOUND_DTYPE: Final = _dtype(FOUND_FIELDS)
"""numpy dtype of a live buffer in a snapshot: 120 bytes."""

HELD_DTYPE: Final = _dtype(HELD_FIELDS)
"""numpy dtype of an fd or a VMA in a snapshot: 160 bytes."""

LOSS_SHAPE: Final = (KIND_SLOTS, CAUSE_SLOTS)
"""Shape of the loss counters: ``losses[kind id, cause id]``, u64, cumulative since attach."""


def lost_events(losses: NDArray[np.uint64]) -> int:
    """Whole events lost, from counters of :data:`LOSS_SHAPE`."""
    return int(losses[:, [CAUSE[cause] for cause in WHOLE_EVENT_CAUSES]].sum())
