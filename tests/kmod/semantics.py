# SPDX-License-Identifier: Apache-2.0
"""Checks: each operation does what the header states, and counts exactly that."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.kmod import client
from tests.kmod.client import (
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    Access,
    Direction,
    ExportFlag,
    Importer,
    Mapping,
    Op,
    Ref,
)
from tests.kmod.harness import counted, listed_buffers, refused

PAGES = 4
SIZE = PAGES * PAGE_SIZE


def check_importers_are_bound(_ref: Ref) -> None:
    """the importer devices have the names that the client gives them, and a driver"""
    driver = Path("/sys/bus/platform/drivers", client.IMPORTER_DRIVER)
    assert {i.device for i in Importer} == {d.name for d in driver.glob("dmabuf-ref-*")}


def check_export(ref: Ref) -> None:
    """export gives a close-on-exec fd with the inode and size it says, rounded up to pages"""
    with counted(ref, export_ok=1, fd_ok=1, live_buffers=1):
        buffer = ref.export(SIZE - 1)
    assert buffer.size == SIZE == os.lseek(buffer.fd, 0, os.SEEK_END)
    assert buffer.ino == os.fstat(buffer.fd).st_ino
    assert fcntl.fcntl(buffer.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert fcntl.fcntl(buffer.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    assert [(b.ino, b.size, b.devices) for b in listed_buffers()] == [(buffer.ino, SIZE, ())]
    with counted(ref, op_release=1, live_buffers=-1):
        buffer.close()


def check_export_refusals(ref: Ref) -> None:
    """export refuses sizes and flags it does not know, before it does anything"""
    with counted(ref):
        for size, flags in (
            (0, 0),
            ((256 << 20) + 1, 0),
            (1 << 63, 0),
            (SIZE, ExportFlag.CARELESS),
            (SIZE, 1 << 6),
            (SIZE, 1 << 31),
        ):
            with refused(errno.EINVAL):
                ref.export(size, flags)


def check_export_without_fd(ref: Ref) -> None:
    """where the process has no fd left, the exported buffer is released again"""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as cleanup:
        cleanup.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        while True:
            try:
                cleanup.callback(os.close, os.dup(ref.fd))
            except OSError:
                break
        with counted(ref, export_ok=1, fd_failed=1, put=1, op_release=1), refused(errno.EMFILE):
            ref.export(SIZE)


def check_readonly(ref: Ref) -> None:
    """a read-only buffer cannot be mapped for writing"""
    with ref.export(SIZE, ExportFlag.READONLY) as buffer:
        assert fcntl.fcntl(buffer.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with counted(ref), refused(errno.EACCES):
            buffer.mmap(PROT_READ | PROT_WRITE)
        with counted(ref, op_mmap_ok=1, live_pages=PAGES), buffer.mmap(PROT_READ) as vma:
            assert vma.read(0, SIZE) == bytes(SIZE)


def check_late_and_eager(ref: Ref) -> None:
    """pages come at export if eager, else with the first map, mmap, CPU access or vmap"""
    with counted(ref, export_ok=1, fd_ok=1, op_release=1):
        buffer = ref.export(SIZE, ExportFlag.EAGER)
        assert ref.counters().live_pages == PAGES
        buffer.close()

    with ref.export(SIZE) as buffer:
        handle = ref.attach(buffer)
        assert ref.counters().live_pages == 0
        with counted(ref, map_ok=1, op_map_ok=1, live_maps=1, live_pages=PAGES):
            ref.map(handle)
        ref.detach(handle, force=True)
    with ref.export(SIZE) as buffer, counted(ref, op_mmap_ok=1, live_pages=PAGES):
        buffer.mmap().close()
    with ref.export(SIZE) as buffer, counted(ref, op_begin_ok=1, live_pages=PAGES):
        client.sync_start(buffer.fd)
    with ref.export(SIZE) as buffer:
        handle = ref.attach(buffer)
        with counted(ref, begin_ok=1, op_begin_ok=1, vmap_ok=1, op_vmap_ok=1, live_pages=PAGES):
            ref.vmap(handle)
        ref.detach(handle, force=True)


def check_mmap(ref: Ref) -> None:
    """all mappings of a buffer show the same pages; private ones and ranges beyond are refused"""
    with ref.export(SIZE) as buffer, buffer.mmap() as vma:
        vma.write(PAGE_SIZE - 2, b"across")
        with client.map_user(buffer.fd, PAGE_SIZE, offset=PAGE_SIZE) as second:
            assert second.read(0, 4) == b"ross"
        with counted(ref, op_mmap_failed=1), refused(errno.EINVAL):
            client.map_user(buffer.fd, SIZE, flags=MAP_PRIVATE)
        with counted(ref), refused(errno.EINVAL):
            client.map_user(buffer.fd, SIZE, flags=MAP_SHARED, offset=PAGE_SIZE)


def check_cpu_access(ref: Ref) -> None:
    """SYNC start and end reach begin_cpu_access and end_cpu_access, mapped by devices or not"""
    with ref.export(SIZE) as buffer:
        for handle in [ref.attach(buffer, Importer.IMP32), ref.attach(buffer, Importer.IMP64)]:
            ref.map(handle, Direction.FROM_DEVICE)
        for access in Access.READ, Access.WRITE, Access.RW:
            with counted(ref, op_begin_ok=1):
                client.sync_start(buffer.fd, access)
            with counted(ref, op_end_ok=1):
                client.sync_end(buffer.fd, access)
        with counted(ref), refused(errno.EINVAL):
            client.sync_start(buffer.fd, Access(0))
        client.set_name(buffer.fd, "named")
        assert "name:\tnamed\n" in Path(f"/proc/self/fdinfo/{buffer.fd}").read_text()


def check_attach_map_detach(ref: Ref) -> None:
    """the calls to the core and those that reach the exporter are counted apart, and equal"""
    with ref.export(SIZE) as buffer:
        with counted(
            ref, get_ok=1, attach_ok=1, op_attach_ok=1, live_attachments=1, live_handles=1
        ):
            handle = ref.attach(buffer)
        assert listed_buffers()[0].devices == ("dmabuf-ref-imp64",)
        with counted(ref, map_ok=1, op_map_ok=1, live_maps=1, live_pages=PAGES):
            assert ref.map(handle) == Mapping(nents=PAGES, bytes=SIZE)
        with counted(ref, unmap=1, op_unmap=1, live_maps=-1):
            ref.unmap(handle)
        with counted(ref, detach=1, op_detach=1, put=1, live_attachments=-1, live_handles=-1):
            ref.detach(handle)


def check_nested_maps(ref: Ref) -> None:
    """a handle maps several times, and detaches only when unmapped, or by force"""
    with ref.export(SIZE) as buffer:
        handle = ref.attach(buffer)
        with refused(errno.EINVAL):
            ref.unmap(handle)
        with counted(ref, map_ok=3, op_map_ok=3, live_maps=3, live_pages=PAGES):
            for direction in Direction:
                ref.map(handle, direction)
        with counted(ref, unmap=1, op_unmap=1, live_maps=-1):
            ref.unmap(handle)
        # The core counts nested vmaps itself: the exporter sees the first and the last.
        with counted(ref, begin_ok=2, op_begin_ok=2, vmap_ok=2, op_vmap_ok=1):
            ref.vmap(handle)
            ref.vmap(handle)
        with counted(ref, vunmap=1, end_ok=1, op_end_ok=1):
            ref.vunmap(handle)
        with counted(ref), refused(errno.EBUSY):
            ref.detach(handle)
        with counted(
            ref,
            unmap=2,
            op_unmap=2,
            live_maps=-2,
            vunmap=1,
            op_vunmap=1,
            end_ok=1,
            op_end_ok=1,
            detach=1,
            op_detach=1,
            put=1,
            live_attachments=-1,
            live_handles=-1,
        ):
            ref.detach(handle, force=True)
        with counted(ref), refused(errno.ENOENT):
            ref.map(handle)
        with counted(ref), refused(errno.ENOENT):
            ref.detach(handle)


def check_bad_handles_and_fds(ref: Ref) -> None:
    """unknown handles, directions and fds that are no dma-buf are refused"""
    with ref.export(SIZE) as buffer, Ref() as other:
        handle = ref.attach(buffer)
        for direction in 3, 4, 0xFFFFFFFF:
            with counted(ref), refused(errno.EINVAL):
                ref.map(handle, direction)
        with counted(ref), refused(errno.ENOENT):
            other.map(handle)
        with counted(ref), refused(errno.EINVAL):
            ref.attach(buffer, len(Importer))
        for fd, number in ((-1, errno.EBADF), (9999, errno.EBADF), (ref.fd, errno.EINVAL)):
            with counted(ref, get_failed=1), refused(number):
                ref.attach(fd)
            with counted(ref, get_failed=1), refused(number):
                ref.leak_ref(fd)


def check_close_tears_down(ref: Ref) -> None:
    """the last close of the device file unmaps, detaches and puts; a fork shares the file"""
    with ref.export(SIZE) as buffer:
        other = Ref()
        handle = other.attach(buffer)
        other.map(handle)
        other.vmap(handle)
        child = os.fork()
        if not child:
            other.unmap(handle)
            other.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert ref.counters().live_handles == 1
        other.map(handle)
        with counted(
            ref,
            unmap=1,
            op_unmap=1,
            vunmap=1,
            op_vunmap=1,
            end_ok=1,
            op_end_ok=1,
            detach=1,
            op_detach=1,
            put=1,
            live_maps=-1,
            live_attachments=-1,
            live_handles=-1,
        ):
            other.close()


def check_injected_errors(ref: Ref) -> None:
    """INJECT fails as many calls as asked, with the error asked, and then no more"""
    with ref.export(SIZE) as buffer:
        handle = ref.attach(buffer)
        attempts: dict[Op, tuple[str, Callable[[], object]]] = {
            Op.ATTACH: ("op_attach_failed", lambda: ref.attach(buffer)),
            Op.MAP: ("op_map_failed", lambda: ref.map(handle)),
            Op.MMAP: ("op_mmap_failed", buffer.mmap),
            Op.BEGIN_CPU: ("op_begin_failed", lambda: client.sync_start(buffer.fd)),
            Op.END_CPU: ("op_end_failed", lambda: client.sync_end(buffer.fd)),
            Op.EXPORT: ("export_refused", lambda: ref.export(SIZE)),
        }
        for op, (counter, attempt) in attempts.items():
            ref.inject(op, errno.ENOSPC, count=2)
            before = ref.counters()
            for _ in range(2):
                with refused(errno.ENOSPC):
                    attempt()
            assert (ref.counters() - before)[counter] == 2, op
        with counted(ref, map_ok=1, op_map_ok=1, live_maps=1, live_pages=PAGES):
            ref.map(handle)
        ref.unmap(handle)
        ref.inject(Op.MAP, errno.EIO, count=1)
        ref.inject(Op.MAP, count=0)
        ref.map(handle)
        ref.inject(Op.BEGIN_CPU, errno.EIO)
        with counted(ref, begin_failed=1, op_begin_failed=1), refused(errno.EIO):
            ref.vmap(handle)
        for op in set(Op) - set(attempts) - {Op.PIN}:
            with refused(errno.EINVAL):
                ref.inject(op, errno.EIO)


def check_injection_ends_with_its_file(ref: Ref) -> None:
    """an injection does not outlive the open file that made it"""
    with ref.export(SIZE) as buffer:
        handle = ref.attach(buffer)
        with Ref() as other:
            other.inject(Op.MAP, errno.EIO, count=1000)
            with refused(errno.EIO):
                ref.map(handle)
        ref.map(handle)


def check_injected_delay(ref: Ref) -> None:
    """a delayed operation takes at least as long as asked, and succeeds"""
    with ref.export(SIZE) as buffer:
        handle = ref.attach(buffer)
        ref.inject(Op.MAP, delay_us=30_000)
        start = time.monotonic()
        ref.map(handle)
        assert time.monotonic() - start >= 0.03
