# SPDX-License-Identifier: Apache-2.0
"""Checks: who is told of a move, what they do about it, and that nobody else notices."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    LAZY,
    PAGE_SIZE,
    PROT_READ,
    Buffer,
    ExportFlag,
    Importer,
    Ref,
    Vma,
)
from tests.kmod.dynamic import MAPPED, UNMAPPED, UNPINNED, maps_at_attach
from tests.kmod.harness import counted, in_child, page_frames, refused

PAGES = 4
SIZE = PAGES * PAGE_SIZE
MOVABLE = ExportFlag.DYNAMIC | ExportFlag.EAGER
REFUSED = {"get_ok": 1, "put": 1}
MOVED = REFUSED | {"move_notify": 1}


@contextmanager
def _stays(ref: Ref, buffer: Buffer) -> Iterator[None]:
    """The block makes the buffer stay where it is."""
    yield
    with counted(ref, **REFUSED), refused(errno.EBUSY):
        ref.move(buffer)


def check_move(ref: Ref) -> None:
    """MOVE tells each dynamic importer once, and user mappings see the content on new pages"""
    content = bytes(range(256)) * (SIZE // 256)
    with ref.export(SIZE, MOVABLE) as buffer, buffer.mmap() as vma, buffer.mmap(PROT_READ) as other:
        vma.write(0, content)
        before = page_frames(vma)
        for _ in range(2):
            ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        with counted(ref, notified=2, **MOVED):
            ref.move(buffer)
        assert other.read(0, SIZE) == content
        assert set(page_frames(other)).isdisjoint(before)
        vma.write(PAGE_SIZE, b"new")
        assert other.read(PAGE_SIZE, 3) == b"new"
        assert vma.read(0, SIZE) == other.read(0, SIZE)


def check_move_refusals(ref: Ref) -> None:
    """what is pinned, by whomever, stays; what has no pages, or no way to move, is refused"""
    with ref.export(SIZE, MOVABLE) as buffer:
        dynamic = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        with _stays(ref, buffer):
            ref.pin(dynamic)
        ref.unpin(dynamic)
        with _stays(ref, buffer):
            ref.vmap(dynamic)
        ref.vunmap(dynamic)
        with _stays(ref, buffer):
            static = ref.attach(buffer)
            ref.map(static)
        ref.detach(static, force=True)
        with counted(ref, notified=1, **MOVED):
            ref.move(buffer)
    for flags, number in ((ExportFlag.DYNAMIC, errno.ENODATA), (ExportFlag.EAGER, errno.EINVAL)):
        with ref.export(SIZE, flags) as buffer, counted(ref, **REFUSED), refused(number):
            ref.move(buffer)
    for fd, number in ((-1, errno.EBADF), (ref.fd, errno.EINVAL)):
        with counted(ref, get_failed=1), refused(number):
            ref.move(fd)


def check_move_by_a_careless_exporter(ref: Ref) -> None:
    """a careless exporter grants pins and moves what is pinned; a vmap holds it all the same"""
    with ref.export(SIZE, MOVABLE | ExportFlag.CARELESS) as buffer, buffer.mmap() as vma:
        vma.write(0, b"kept")
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        with counted(ref, pin_ok=1, op_pin_ok=1):
            ref.pin(handle)
        with counted(ref, notified=1, **MOVED):
            ref.move(buffer)
        assert vma.read(0, 4) == b"kept"
        with _stays(ref, buffer):
            ref.vmap(handle)
        ref.vunmap(handle)
        with counted(ref, unpin=1, op_unpin=1):
            ref.unpin(handle)


def _stays_for_a_map(ref: Ref, buffer: Buffer, handle: int) -> bool:
    """Map a dynamic importer: a core that maps at attach also pins for this, until the unmap."""
    ref.map(handle)
    if not maps_at_attach():
        return False
    with _stays(ref, buffer):
        pass
    with counted(ref, unmap=1, **UNMAPPED, **UNPINNED):
        ref.unmap(handle)
    with counted(ref, notified=1, **MOVED):
        ref.move(buffer)
    return True


def check_move_unmaps_at_once(ref: Ref) -> None:
    """a dynamic importer that is told of a move unmaps at once, where its map pins nothing"""
    with ref.export(SIZE, MOVABLE) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        if _stays_for_a_map(ref, buffer, handle):
            return
        ref.map(handle)
        with counted(ref, notified=1, unmap=2, op_unmap=2, live_maps=-2, **MOVED):
            ref.move(buffer)
        with counted(ref), refused(errno.EINVAL):
            ref.unmap(handle)
        with counted(ref, map_ok=1, **MAPPED):
            ref.map(handle)


def check_move_of_a_lazy_importer(ref: Ref) -> None:
    """a lazy one keeps its mapping, and with it the old pages, until it maps anew or unmaps"""
    with ref.export(SIZE, MOVABLE) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER | LAZY)
        if _stays_for_a_map(ref, buffer, handle):
            return
        with counted(ref, notified=1, live_pages=PAGES, **MOVED):
            ref.move(buffer)
        with counted(ref, unmap=1, op_unmap=1, map_ok=1, op_map_ok=1, live_pages=-PAGES):
            ref.map(handle)
        with counted(ref, notified=2, move_notify=2, get_ok=2, put=2, live_pages=PAGES):
            ref.move(buffer)
            ref.move(buffer)
        with counted(ref, unmap=1, **UNMAPPED, live_pages=-PAGES):
            ref.unmap(handle)


def check_move_of_an_unmapped_static_importer(ref: Ref) -> None:
    """a static importer is never told; unmapped, it keeps the buffer only if it maps at attach"""
    with ref.export(SIZE, MOVABLE) as buffer:
        ref.attach(buffer)
        if maps_at_attach():
            with _stays(ref, buffer):
                pass
        else:
            with counted(ref, **MOVED):
                ref.move(buffer)


def check_move_keeps_to_the_constraints(ref: Ref) -> None:
    """the new pages suit all who are attached"""
    with ref.export(SIZE, ExportFlag.DYNAMIC) as buffer:
        handle = ref.attach(buffer, Importer.CONTIG, flags=DYNAMIC_IMPORTER)
        with buffer.mmap() as vma:
            for _ in range(3):
                ref.move(buffer)
                assert vma.read(0, SIZE) == bytes(SIZE)
                frames = page_frames(vma)
                assert frames == list(range(frames[0], frames[0] + PAGES))
        assert ref.map(handle).nents == 1


def _write_and_read_back(vma: Vma, page: int) -> None:
    for number in range(3000):
        value = number.to_bytes(8, "little")
        vma.write(page * PAGE_SIZE, value)
        assert vma.read(page * PAGE_SIZE, 8) == value


def check_move_under_running_writers(ref: Ref) -> None:
    """processes that write to their mapping during moves lose nothing of it"""
    with ref.export(SIZE, MOVABLE) as buffer, buffer.mmap() as vma:
        children = set()
        for page in range(PAGES):
            children.add(in_child(partial(_write_and_read_back, vma, page)))
        while children:
            ref.move(buffer)
            child, status = os.waitpid(-1, os.WNOHANG)
            if child:
                assert status == 0
                children.remove(child)
        last = (2999).to_bytes(8, "little")
        assert [vma.read(page * PAGE_SIZE, 8) for page in range(PAGES)] == [last] * PAGES


def check_mapping_grown_beyond_the_buffer(ref: Ref) -> None:
    """the part of a mapping that mremap(2) grew beyond a movable buffer is SIGBUS to touch"""
    libc = ctypes.CDLL(None)
    libc.mremap.restype = ctypes.c_void_p
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    with ref.export(SIZE, MOVABLE) as buffer, buffer.mmap() as vma:

        def touch() -> None:
            address = libc.mremap(vma.address, SIZE, 2 * SIZE, 1)  # MREMAP_MAYMOVE
            ctypes.string_at(address, SIZE)
            ctypes.string_at(address + SIZE, 1)

        assert os.WTERMSIG(os.waitpid(in_child(touch), 0)[1]) == signal.SIGBUS
