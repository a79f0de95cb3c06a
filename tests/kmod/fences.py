# SPDX-License-Identifier: Apache-2.0
"""Checks: who waits for which fence, and how fences come to signal."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading

from tests.kmod import client
from tests.kmod.client import PAGE_SIZE, Access, ExportFlag, Ref, Usage
from tests.kmod.harness import counted, idle, refused, wait_until

SIZE = PAGE_SIZE
EAGER = ExportFlag.EAGER
DELAY_US = 20_000
FENCED = {"get_ok": 1, "put": 1, "fence_created": 1, "pending_fences": 1, "live_fences": 1}
SIGNALLED = {"fence_signalled": 1, "pending_fences": -1}
WAITED_FOR = {"get_ok": 1, "put": 1, "fence_created": 1, "fence_signalled": 1, "live_fences": 1}


def _ready(fd: int, events: int) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(0))


def check_fence_and_signal(ref: Ref) -> None:
    """a fence is pending until SIGNAL, exists as long as its buffer, and is signalled once"""
    with ref.export(SIZE) as buffer:
        with counted(ref, **FENCED):
            fence = ref.fence(buffer)
        with counted(ref, **SIGNALLED):
            ref.signal(fence)
        with counted(ref), refused(errno.ENOENT):
            ref.signal(fence)
        with counted(ref, op_release=1, live_buffers=-1, live_fences=-1):
            buffer.close()


def check_fence_refusals(ref: Ref) -> None:
    """unknown usages, numbers and files, and delays too long, are refused"""
    with ref.export(SIZE) as buffer, Ref() as other:
        fence = ref.fence(buffer)
        for usage, delay_us in ((4, 0), (1 << 31, 0), (0, 10_000_001), (0, 1 << 63)):
            with counted(ref), refused(errno.EINVAL):
                ref.fence(buffer, usage, delay_us)
        for number in (0, -1, fence + 1):
            with counted(ref), refused(errno.ENOENT):
                ref.signal(number)
        with counted(ref), refused(errno.ENOENT):
            other.signal(fence)
        for fd, number in ((-1, errno.EBADF), (ref.fd, errno.EINVAL)):
            with counted(ref, get_failed=1), refused(number):
                ref.fence(fd)
        ref.signal(fence)


# Each with a buffer of its own: a new fence takes the place of one that has signalled.


def check_cpu_access_waits(ref: Ref) -> None:
    """CPU access waits for the fences of writers, and of readers before it writes"""
    for usage, access in (
        (Usage.KERNEL, Access.READ),
        (Usage.WRITE, Access.READ),
        (Usage.WRITE, Access.WRITE),
        (Usage.READ, Access.WRITE),
    ):
        with ref.export(SIZE, EAGER) as buffer, counted(ref, op_begin_ok=1, **WAITED_FOR):
            ref.fence(buffer, usage, DELAY_US)
            client.sync_start(buffer.fd, access)
    for usage, access in ((Usage.READ, Access.READ), (Usage.BOOKKEEP, Access.RW)):
        with ref.export(SIZE, EAGER) as buffer:
            with counted(ref, op_begin_ok=1, **FENCED):
                fence = ref.fence(buffer, usage)
                client.sync_start(buffer.fd, access)
            ref.signal(fence)


def check_map_waits(ref: Ref) -> None:
    """the map of a static importer waits for fences of the kernel's own, and for no others"""
    mapped = {"map_ok": 1, "op_map_ok": 1, "live_maps": 1}
    for usage in Usage:
        with ref.export(SIZE, EAGER) as buffer:
            handle = ref.attach(buffer)
            kernel = usage == Usage.KERNEL
            with counted(ref, **mapped, **(WAITED_FOR if kernel else FENCED)):
                fence = ref.fence(buffer, usage, DELAY_US if kernel else 0)
                ref.map(handle)
            ref.signal(fence)
            ref.detach(handle, force=True)


def check_move_waits(ref: Ref) -> None:
    """a move waits for every fence: no device may still use the old pages"""
    moved = {"move_notify": 1} | WAITED_FOR | {"get_ok": 2, "put": 2}
    for usage in Usage:
        with ref.export(SIZE, EAGER | ExportFlag.DYNAMIC) as buffer, counted(ref, **moved):
            ref.fence(buffer, usage, DELAY_US)
            ref.move(buffer)


def _waiting_reader(ref: Ref, fd: int) -> threading.Thread:
    """A thread whose CPU access waits for a fence. (The core asks the exporter before it waits.)"""
    before = ref.counters().op_begin_ok
    thread = threading.Thread(target=client.sync_start, args=(fd, Access.READ))
    thread.start()
    wait_until(lambda: ref.counters().op_begin_ok > before, "CPU access begins")
    return thread


def check_signal_ends_a_wait(ref: Ref) -> None:
    """SIGNAL lets go who waits, and so does the close of the file that made the fence"""
    with ref.export(SIZE, EAGER) as buffer, Ref() as other:
        for end in (other.signal, lambda _: other.close()):
            fence = other.fence(buffer)
            thread = _waiting_reader(ref, buffer.fd)
            with counted(ref, **SIGNALLED):
                end(fence)
            thread.join()


def check_close_signals(ref: Ref) -> None:
    """no fence stays pending beyond its file, delayed or not"""
    with ref.export(SIZE) as buffer:
        other = Ref()
        for delay_us in (0, 0, 10_000_000):
            other.fence(buffer, delay_us=delay_us)
        with counted(ref, fence_signalled=3, pending_fences=-3):
            other.close()


def check_a_killed_process_stops_waiting(ref: Ref) -> None:
    """SIGKILL ends a wait for a fence that nobody signals"""
    with ref.export(SIZE) as buffer:
        fence = ref.fence(buffer)
        before = ref.counters().op_begin_ok
        child = os.fork()
        if not child:
            client.sync_start(buffer.fd)
            os._exit(0)
        wait_until(lambda: ref.counters().op_begin_ok > before, "the child begins CPU access")
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert ref.counters().pending_fences == 1
        ref.signal(fence)


def check_poll(ref: Ref) -> None:
    """a buffer is readable when its writers' fences have signalled, writable when all have"""
    with ref.export(SIZE) as buffer:
        reader, writer = ref.fence(buffer, Usage.READ), ref.fence(buffer, Usage.WRITE)
        assert not _ready(buffer.fd, select.POLLIN)
        ref.signal(writer)
        wait_until(lambda: _ready(buffer.fd, select.POLLIN), "readable")
        assert not _ready(buffer.fd, select.POLLOUT)
        ref.signal(reader)
        wait_until(lambda: _ready(buffer.fd, select.POLLOUT), "writable")
    # A poll keeps the buffer until the fences that it waited for have signalled.
    wait_until(lambda: not idle(ref), "the buffer is gone")


def check_sync_file(ref: Ref) -> None:
    """a sync_file carries the fence to another buffer, and outlives both"""
    with ref.export(SIZE) as first, ref.export(SIZE) as second:
        fence = ref.fence(first, Usage.WRITE)
        sync_file = client.export_sync_file(first.fd, Access.READ)
        client.import_sync_file(second.fd, sync_file, Access.WRITE)
        assert not _ready(sync_file, select.POLLIN)
        assert ref.counters().live_fences == 1
        thread = _waiting_reader(ref, second.fd)
        ref.signal(fence)
        thread.join()
        assert _ready(sync_file, select.POLLIN)
    assert ref.counters().live_fences == 1
    with counted(ref, live_fences=-1):
        os.close(sync_file)
