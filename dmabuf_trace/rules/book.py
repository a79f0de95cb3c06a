# SPDX-License-Identifier: Apache-2.0
"""The rules, each with who judges it, and the events that this rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dmabuf_trace.analysis import View
from dmabuf_trace.rules import access, attachments, buffers, held
from dmabuf_trace.rules.facts import Facts, Found


@dataclass(frozen=True)
class Rule:
    """One rule. ``judge`` None: it can't be seen, ``why`` says so.

    ``judge`` is asked of each stretch, with what waits of those before; ``close``, where there is
    one, of the last, when stacks are known. ``aside`` says what is not judged.
    ``fakes`` are the event kinds whose loss may make a rule look broken that was kept, ``hides``
    those whose loss may only hide that it was broken; ``each``: a lost event fakes one violation at
    most. ``since``, ``before``: kernels it holds for.
    """

    name: str
    text: str
    source: str
    judge: Callable[[Facts, Any], Found] | None = None
    close: Callable[[View, Found], Found] | None = None
    aside: str = ""
    fakes: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    each: bool = False
    why: str = ""
    applies: str = "all"
    since: tuple[int, int] = (0, 0)
    before: tuple[int, int] = field(default=(1 << 16, 0))


_NO_OWNER: Final = "who owns the reservation lock is not recorded"

RULES: Final = (
    Rule(
        "export_complete",
        "an exporter has map, unmap and release, and pin and unpin both or neither",
        "dma_buf_export(), WARN_ON",
        buffers.export_complete,
        hides=("export",),
    ),
    Rule(
        "map_attached",
        "an importer maps on a live attachment only",
        "dma_buf_map_attachment()",
        attachments.map_attached,
        fakes=("attach",),
        hides=("map", "detach"),
    ),
    Rule(
        "unmap_once",
        "an unmap gives back what was mapped, once",
        "dma_buf_unmap_attachment()",
        attachments.unmap_once,
        fakes=("map", "unmap"),
        hides=("attach", "detach"),
        each=True,
    ),
    Rule(
        "unmap_direction",
        "an unmap has the direction of its map",
        "dma_buf_unmap_attachment()",
        attachments.unmap_direction,
        fakes=("map", "unmap"),
    ),
    Rule(
        "unmap_before_detach",
        "no mapping is live at the detach",
        "dma-buf.c, DOC: device access",
        attachments.unmap_before_detach,
        aside="that the core keeps until the detach",
        fakes=("unmap",),
        hides=("map", "detach"),
        each=True,
    ),
    Rule(
        "detach_own",
        "a detach is told the buffer that its attachment belongs to",
        "dma_buf_detach(), WARN_ON",
        why="the event has the attachment's own buffer, not the one that was told",
    ),
    Rule(
        "detach_before_release",
        "all attachments are detached before the release",
        "dma_buf_release(), WARN_ON",
        attachments.detach_before_release,
        fakes=("detach",),
        hides=("attach", "release"),
        each=True,
    ),
    Rule(
        "vmap_balanced",
        "each vmap has one vunmap, before the release",
        "dma_buf_release() and dma_buf_vunmap(), BUG_ON",
        access.vmap_balanced,
        fakes=("vmap", "vunmap"),
        hides=("export", "release"),
        each=True,
    ),
    Rule(
        "lock_held",
        "the importer holds the reservation lock for pin, unpin, map, unmap, vmap, vunmap",
        "dma-buf.c, DOC: locking convention",
        why=_NO_OWNER,
        applies="6.2 and later; 6.1: where a side is dynamic",
    ),
    Rule(
        "lock_not_held",
        "the importer does not hold it for attach, detach, export, mmap, CPU access, *_unlocked",
        "dma-buf.c, DOC: locking convention",
        why=_NO_OWNER,
        applies="6.2 and later",
        since=(6, 2),
    ),
    Rule(
        "move_locked",
        "the exporter holds the reservation lock when it tells of a move",
        "dma_buf_move_notify(), dma_buf_invalidate_mappings()",
        why=_NO_OWNER,
    ),
    Rule(
        "static_never_pins",
        "only dynamic importers pin",
        "dma_buf_pin(), WARN_ON",
        attachments.static_never_pins,
        fakes=("attach",),
        hides=("pin", "detach"),
    ),
    Rule(
        "pin_balanced",
        "each pin has one unpin, before the detach",
        "dma_buf_unpin()",
        attachments.pin_balanced,
        fakes=("pin", "unpin"),
        hides=("attach", "detach"),
        each=True,
    ),
    Rule(
        "move_notify_given",
        "a dynamic importer can be told of a move",
        "dma_buf_dynamic_attach(), WARN_ON",
        why="the importer's functions are not recorded",
        applies="before 7.1",
        before=(7, 1),
    ),
    Rule(
        "unmap_after_move",
        "told of a move, dynamic importers unmap within bounded time",
        "dma_buf_invalidate_mappings()",
        held.unmap_after_move,
        fakes=("unmap",),
        hides=("attach", "map", "move"),
    ),
    Rule(
        "mapping_not_held",
        "a static importer holds no mapping for undue time",
        "dma_buf_map_attachment()",
        held.mapping_not_held,
        held.without_designed,
        aside=f"held by design ({', '.join(held.BY_DESIGN)})",
        fakes=("unmap",),
        hides=("attach", "map"),
    ),
    Rule(
        "cpu_access_bracketed",
        "CPU access has a begin and an end, of the same direction",
        "dma-buf.c, DOC: cpu access",
        access.cpu_access_bracketed,
        fakes=("cpu_begin", "cpu_end", "kernel_begin", "kernel_end"),
        hides=("export", "release"),
    ),
    Rule(
        "sync_restarted",
        "DMA_BUF_IOCTL_SYNC that fails with EINTR or EAGAIN is called again",
        "dma-buf.h (uapi), DMA_BUF_IOCTL_SYNC",
        access.sync_restarted,
        fakes=("cpu_begin", "cpu_end"),
    ),
    Rule(
        "fence_signalled",
        "fences signal in bounded time",
        "dma-fence.c, DOC: fence cross-driver contract",
        buffers.fence_signalled,
        hides=("fence_wait",),
    ),
    Rule(
        "fences_awaited",
        "a dynamic importer waits for fences by itself before its device accesses the buffer",
        "dma-buf.h, struct dma_buf, DYNAMIC IMPORTER RULES",
        why="what a device waits for is not recorded",
    ),
    Rule(
        "references_balanced",
        "each reference that was taken is dropped",
        "dma_buf_get(), dma_buf_put()",
        why="get_dma_buf() and fput() make no events",
    ),
    Rule(
        "fd_closed_on_exec",
        "fds are made with O_CLOEXEC",
        "dma-buf.rst, Userspace Interface Notes",
        why="whether an fd is closed on exec does not pass fd_install()",
    ),
    Rule(
        "size_invariant",
        "the size never changes, a VMA lies within it",
        "dma_buf_mmap()",
        why="the size is recorded once; the core refuses a VMA that exceeds it",
    ),
    Rule(
        "exporter_callbacks_locked",
        "the core calls pin, map, vmap with the reservation lock held, attach, begin, mmap without",
        "dma-buf.c, DOC: locking convention",
        why=_NO_OWNER,
        applies="6.2 and later",
        since=(6, 2),
    ),
    Rule(
        "no_struct_page",
        "the importer does not touch struct page of an sg_table",
        "dma_buf_map_attachment()",
        why="memory accesses are not traced",
    ),
)
