# SPDX-License-Identifier: Apache-2.0
"""One thing done wrong each, or right with ``clean``: a leak of each shape, a broken rule.

Each gives the inode number of its buffer. What leaks stays until this process ends, or the module
is asked to undo leaks. What a kernel does not survive is in ``tests/analyses/test_contract.py``
only, as built traces. Standard library only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from tests.cycle import PAGE
from tests.findings import disturbed
from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    LAZY,
    Direction,
    ExportFlag,
    Importer,
    Misuse,
    Op,
    Ref,
    sync_end,
    sync_start,
)

LATE_US: Final = 3_000_000
"""Longer than the limits that a test judges by."""
SOON_US: Final = 10_000
FRAMES: Final = 8


def let_time_pass(ref: Ref) -> None:
    """The kernel takes its time to make some other buffer."""
    ref.inject(Op.EXPORT, delay_us=LATE_US)
    ref.export(PAGE).close()


# leaks


def fd(ref: Ref, *, clean: bool) -> int:
    """An fd is never closed."""
    buffer = ref.export(PAGE)
    if clean:
        buffer.close()
    return buffer.ino


def mapping(ref: Ref, *, clean: bool) -> int:
    """A VMA outlives its fd."""
    with ref.export(PAGE) as buffer:
        vma = buffer.mmap()
    if clean:
        vma.close()
    return buffer.ino


def attachment(ref: Ref, *, clean: bool) -> int:
    """An importer never detaches."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer, Importer.SEG)
        if clean:
            ref.detach(handle)
        else:
            ref.leak(handle)
    return buffer.ino


def in_flight(ref: Ref, *, clean: bool) -> int:
    """An fd is sent, and never received."""
    ours, theirs = socket.socketpair()
    with ref.export(PAGE) as buffer:
        socket.send_fds(ours, [b"x"], [buffer.fd])
    if clean:
        os.close(socket.recv_fds(theirs, 1, 1)[1][0])
    for each in (ours, theirs):
        each.detach()  # stays open
    return buffer.ino


def kernel(ref: Ref, *, clean: bool) -> int:
    """An ioctl takes a reference by dma_buf_get() that nobody puts; clean: one that does."""
    with ref.export(PAGE) as buffer:
        if clean:
            ref.signal(ref.fence(buffer))
        else:
            ref.leak_ref(buffer)
    return buffer.ino


# rules


def incomplete(ref: Ref, *, clean: bool) -> int:
    """An exporter can pin, and not unpin: its export is refused."""
    with suppress(OSError):
        ref.export(PAGE, 0 if clean else ExportFlag.INCOMPLETE).close()
    return 0


def unmapped_twice(ref: Ref, *, clean: bool) -> int:
    """An importer unmaps what is not mapped, a table that it never had."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        ref.map(handle)
        ref.unmap(handle)
        if not clean:
            ref.unmap(handle, Misuse.NOTHING)
        ref.detach(handle)
    return buffer.ino


def unmapped_otherwise(ref: Ref, *, clean: bool) -> int:
    """An unmap has another direction than its map."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer)
        ref.map(handle, Direction.TO_DEVICE)
        ref.unmap(handle, 0 if clean else Misuse.OTHERWISE)
        ref.detach(handle)
    return buffer.ino


def left_mapped(ref: Ref, *, clean: bool) -> int:
    """An importer detaches what it has mapped."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer)
        ref.map(handle)
        if clean:
            ref.unmap(handle)
        ref.detach(handle, Misuse.LEAVE)
    return buffer.ino


def left_attached(ref: Ref, *, clean: bool) -> int:
    """An importer drops its reference, and forgets to detach."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer)
        ref.detach(handle, 0 if clean else Misuse.FORGET)
    return buffer.ino


def pinned_by_a_static_one(ref: Ref, *, clean: bool) -> int:
    """A static importer pins; clean: a dynamic one does."""
    with ref.export(PAGE, ExportFlag.DYNAMIC) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER if clean else 0)
        ref.pin(handle, Misuse.STATIC)
        ref.unpin(handle, Misuse.STATIC)
        ref.detach(handle)
    return buffer.ino


def left_pinned(ref: Ref, *, clean: bool) -> int:
    """An importer detaches what it has pinned."""
    with ref.export(PAGE, ExportFlag.DYNAMIC) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        ref.pin(handle)
        if clean:
            ref.unpin(handle)
        ref.detach(handle, Misuse.LEAVE)
    return buffer.ino


def never_ended(ref: Ref, *, clean: bool) -> int:
    """CPU access begins and does not end."""
    with ref.export(PAGE) as buffer:
        sync_start(buffer.fd)
        if clean:
            sync_end(buffer.fd)
    return buffer.ino


def given_up(ref: Ref, *, clean: bool) -> int:
    """CPU access that a signal interrupts is not begun again."""
    with ref.export(PAGE) as buffer:
        fence = ref.fence(buffer)
        signalled = partial(ref.signal, fence)
        disturbed(partial(sync_start, buffer.fd), signalled, restart=False)
        if clean:
            sync_start(buffer.fd)
            sync_end(buffer.fd)
    ref.export(PAGE).close()  # it lives on: a thread that the signal killed gives nothing up
    return buffer.ino


def held_for_long(ref: Ref, *, clean: bool) -> int:
    """A static importer keeps its mapping while time goes by."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer)
        ref.map(handle)
        if clean:
            ref.unmap(handle)
        let_time_pass(ref)
        ref.detach(handle, force=True)
    return buffer.ino


def deaf_to_moves(ref: Ref, *, clean: bool) -> int:
    """A dynamic importer is told of a move, and unmaps late.

    The exporter is one that forgets pins: up to 6.15 the core pins for the mapping.
    """
    flags = ExportFlag.DYNAMIC | ExportFlag.EAGER | ExportFlag.CARELESS
    with ref.export(PAGE, flags) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER | (0 if clean else LAZY))
        ref.map(handle)
        ref.move(buffer)
        let_time_pass(ref)
        ref.detach(handle, force=True)
    return buffer.ino


def late_fence(ref: Ref, *, clean: bool) -> int:
    """A fence that CPU access waits for signals late."""
    with ref.export(PAGE) as buffer:
        ref.fence(buffer, delay_us=SOON_US if clean else LATE_US)
        sync_start(buffer.fd)
        sync_end(buffer.fd)
    return buffer.ino


# limits that a policy may set


def slow_to_attach(ref: Ref, *, clean: bool) -> int:
    """An exporter's attach takes its time."""
    with ref.export(PAGE) as buffer:
        if not clean:
            ref.inject(Op.ATTACH, delay_us=LATE_US)
        ref.detach(ref.attach(buffer))
    return buffer.ino


def slow_to_map(ref: Ref, *, clean: bool) -> int:
    """An exporter's map takes its time."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer)
        if not clean:
            ref.inject(Op.MAP, delay_us=LATE_US)
        ref.map(handle)
        ref.unmap(handle)
        ref.detach(handle)
    return buffer.ino


def mapped_anew(ref: Ref, *, clean: bool) -> int:
    """A device maps one buffer for every frame."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer)
        for _ in range(1 if clean else FRAMES):
            ref.map(handle)
            ref.unmap(handle)
        ref.detach(handle)
    return buffer.ino


def made_anew(ref: Ref, *, clean: bool) -> int:
    """A buffer is made for every frame."""
    for _ in range(1 if clean else FRAMES):
        ref.export(PAGE).close()
    return 0


Do = Callable[..., int]

LEAKS: Final[dict[str, Do]] = {
    "fd": fd,
    "mapping": mapping,
    "attachment": attachment,
    "in-flight": in_flight,
    "kernel": kernel,
}
"""By shape."""

BROKEN: Final[dict[str, Do]] = {
    "export_complete": incomplete,
    "unmap_once": unmapped_twice,
    "unmap_direction": unmapped_otherwise,
    "unmap_before_detach": left_mapped,
    "detach_before_release": left_attached,
    "static_never_pins": pinned_by_a_static_one,
    "pin_balanced": left_pinned,
    "cpu_access_bracketed": never_ended,
    "sync_restarted": given_up,
    "mapping_not_held": held_for_long,
    "unmap_after_move": deaf_to_moves,
    "fence_signalled": late_fence,
}
"""By rule of the contract."""

EXCEEDED: Final[dict[str, Do]] = {
    "mappings.max_age": held_for_long,
    "latency.attach": slow_to_attach,
    "latency.map": slow_to_map,
    "churn.mappings": mapped_anew,
    "churn.buffers": made_anew,
}
"""By case: it fails where the policy has a limit."""

EVERYTHING: Final = LEAKS | BROKEN | EXCEEDED

COUNTED: Final = {
    "export_complete": {"export_incomplete": 1},
    "unmap_once": {"unmap_nothing": 1},
    "unmap_direction": {"unmap_otherwise": 1},
    "unmap_before_detach": {"left_maps": 1, "op_left_maps": 1},
    "detach_before_release": {"forgotten": 1},
    "static_never_pins": {"pin_static": 1},
    "pin_balanced": {"left_pins": 1},
}
"""What the module says that it did wrong."""


def clean_of(name: str) -> str:
    """What the clean twin is called."""
    return f"{name}, clean"
