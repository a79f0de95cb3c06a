# SPDX-License-Identifier: Apache-2.0
"""Every kind of event: the part of the schema that says what the general fields mean in each.

Read it through :mod:`dmabuf_trace.schema`. Must not know how events are loaded, paired or shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALWAYS: Final = "always"
ASKED: Final = "asked"


@dataclass(frozen=True, slots=True)
class Kind:
    """One event kind; the texts say what the general fields mean in it, ``""`` means unused (0).

    ``stack``: stacks are taken ``ALWAYS``, only where they are ``ASKED`` for, or never (``""``).
    ``part``: it tells where the time of another call went; what that call came to is in its event.
    """

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
    stack: str = ""
    part: bool = False
    caveat: str = ""


OPERATIONS: Final = (
    *("attach", "detach", "pin", "unpin", "map", "unmap"),
    *("begin", "end", "mmap", "vmap", "vunmap"),
)
"""Operations of an exporter (members of struct dma_buf_ops), numbered from 1."""

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
        stack=ALWAYS,
    ),
    Kind(
        2,
        "fd_install",
        "a file descriptor for the buffer appeared in a process",
        "fd_install(), do_dup2()",
        object="struct file",
        value="struct files_struct that it is in",
        aux="1: put there by dup2() or dup3(), in place of what had the number",
        detail="fd number",
        stack=ASKED,
        caveat="PRIME, heaps, dup, F_DUPFD and SCM_RIGHTS all pass the one function, dup2 the "
        "other. What a fork copies makes no events of its own: see `fork`",
    ),
    Kind(
        3,
        "attach",
        "an importer device attached, or was refused",
        "dma_buf_dynamic_attach()",
        object="struct dma_buf_attachment; 0 on failure",
        value="struct device",
        aux="string id of the device",
        detail="bit 0: dynamic importer; bit 1: peer2peer, as the exporter left it; bit 2: the "
        "importer asks for peer2peer, bit 3: it is dynamic and does not; neither: it is static and "
        "can't, or the recording is older than these bits",
        ret="errno of a refused attach (-EBUSY: the backing storage does not fit the device)",
        timed=True,
        stack=ALWAYS,
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
        detail="bits 0 and 1: enum dma_data_direction; bit 2: cached, a mapping that the "
        "attachment already had; from bit 8 on: entries of the sg_table, as the device sees them",
        ret="errno of a failed map",
        timed=True,
        stack=ASKED,
        caveat="the _unlocked variant calls this function: one event, without its lock wait, which "
        "is a `lock_wait`. Up to 6.15 the core keeps mappings for some exporters and importers, "
        "and hands them out again: same sg_table, no work done. Later kernels never do",
    ),
    Kind(
        6,
        "unmap",
        "a mapping was given back",
        "dma_buf_unmap_attachment()",
        object="struct dma_buf_attachment",
        value="struct sg_table",
        aux="string id of the device",
        detail="bits 0 and 1: enum dma_data_direction; bit 2: cached, the attachment keeps it",
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
        stack=ASKED,
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
        stack=ASKED,
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
        stack=ASKED,
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
        detail="context: 0 unknown, 1 task, within its call, 2 task work, on its way back to user "
        "space, 3 kernel worker, 4 other kernel thread",
        stack=ASKED,
        caveat="the process is whoever dropped the last reference, a kworker at times. Whether a "
        "task is in task work is told by its stack: unknown where addresses are hidden",
    ),
    Kind(
        13,
        "fd_close",
        "a process let go of a file descriptor of the buffer",
        "filp_flush(), up to 6.1 filp_close()",
        object="struct file",
        value="struct files_struct that the fd was in",
        stack=ASKED,
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
        stack=ALWAYS,
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
        stack=ASKED,
        caveat="pins that the core makes by itself for static importers don't pass here: they are "
        "`operation` pin of the exporter",
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
        stack=ASKED,
    ),
    Kind(
        18,
        "kernel_begin",
        "a driver began CPU access",
        "dma_buf_begin_cpu_access()",
        detail="enum dma_data_direction",
        ret="errno",
        timed=True,
        stack=ASKED,
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
        stack=ASKED,
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
    Kind(
        24,
        "fork",
        "a process was made whose table of fds is a copy, buffers included",
        "sched:sched_process_fork",
        object="struct files_struct of the parent",
        value="struct files_struct of the child",
        detail="process (tgid) of the child",
        caveat="made where the parent's table is known to hold an fd of a buffer, from "
        "`fd_install`, `fork` or the snapshot at the start (by iterators). A child that shares the "
        "table makes none, nor do copies without a fork: unshare(), CLOSE_RANGE_UNSHARE",
    ),
    Kind(
        25,
        "poll",
        "user space asked whether the buffer's fences have signalled",
        "dma_buf_poll()",
        object="struct file",
        value="requested events (POLLIN: writers done, POLLOUT: all done)",
        detail="returned events, without 0: nothing yet",
        timed=True,
    ),
    Kind(
        26,
        "lock_wait",
        "a thread waited for the buffer's reservation lock",
        "lock:contention_begin, lock:contention_end",
        object="struct ww_mutex: the lock within struct dma_resv",
        ret="errno of a wait that got no lock (-EDEADLK: backs off, -EINTR: a signal)",
        timed=True,
        part=True,
        caveat="waits only: a free lock makes none. Buffers may share one lock: the one that was "
        "exported or attached last is named. Known are the locks of buffers that were exported, "
        "attached or mapped in the trace, the last 16384 of them",
    ),
    Kind(
        27,
        "fence_wait",
        "a thread waited for a fence of the buffer",
        "dma_fence:dma_fence_wait_start within dma_resv_wait_timeout()",
        value="context of the fence",
        aux="sequence number of the fence in its context",
        detail="1: the time given was over before it signalled",
        ret="errno (-ERESTARTSYS: a signal)",
        timed=True,
        part=True,
        caveat="fences that had signalled make none. A driver that waits by other functions is not "
        "seen. Buffers are known by their reservation object, as for `lock_wait`",
    ),
    Kind(
        28,
        "operation",
        "the core called the exporter",
        "callbacks of struct dma_buf_ops",
        object="struct dma_buf_attachment (pin, unpin, map, unmap) or struct dma_buf (the others)",
        detail="operation: " + ", ".join(f"{n} {name}" for n, name in enumerate(OPERATIONS, 1)),
        ret="errno",
        timed=True,
        part=True,
        caveat="functions are found when a buffer of theirs is exported, attached or mapped, and "
        "probed some milliseconds later: calls before that are not seen. The pins that the core "
        "makes by itself for static importers are visible here only",
    ),
)
