# SPDX-License-Identifier: Apache-2.0
"""Checks: calls that wait at a gate, and every shape of leak and its undoing."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kmod import client
from tests.kmod.client import DYNAMIC_IMPORTER, PAGE_SIZE, ExportFlag, Importer, Op, Ref
from tests.kmod.harness import counted, idle, in_child, listed_buffers, refused, wait_until

THREADS = 60


@contextmanager
def _gate(op: Op) -> Iterator[None]:
    """Closed for the block, which may fail."""
    with Ref() as gatekeeper:
        gatekeeper.gate(True, op)
        try:
            yield
        finally:
            gatekeeper.gate(False, op)


def check_gate_holds_sixty(ref: Ref) -> None:
    """sixty threads wait in one operation at once, and all go on when the gate opens"""
    handles = []
    for _ in range(THREADS):
        with ref.export(PAGE_SIZE) as buffer:
            handles.append(ref.attach(buffer))
    threads = [threading.Thread(target=ref.map, args=(handle,)) for handle in handles]
    with _gate(Op.MAP):
        for thread in threads:
            thread.start()
        wait_until(lambda: ref.counters().gate_waiters == THREADS, "all threads wait")
        before = ref.counters()
        assert before.live_maps == 0
    for thread in threads:
        thread.join()
    assert ref.counters() - before == {
        "gate_waiters": -THREADS,
        "map_ok": THREADS,
        "op_map_ok": THREADS,
        "live_maps": THREADS,
        "live_pages": THREADS,
    }


@contextmanager
def _child_waiting_in_map(ref: Ref, gatekeeper: Ref) -> Iterator[int]:
    """A process that waits in ops->map, at the gate that the gatekeeper has closed."""
    gatekeeper.gate(True, Op.MAP)
    child = os.fork()
    if not child:
        gatekeeper.close()
        with Ref() as own, own.export(PAGE_SIZE) as buffer:
            own.map(own.attach(buffer))
        os._exit(0)
    wait_until(lambda: ref.counters().gate_waiters == 1, "the child waits")
    yield child


def check_gate_lets_a_killed_process_go(ref: Ref) -> None:
    """SIGKILL ends the wait: the map fails, and the process leaves nothing behind"""
    with Ref() as other, _child_waiting_in_map(ref, other) as child:
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    wait_until(lambda: not idle(ref), "the killed process's buffer is gone")


def check_gate_opens_with_its_file(ref: Ref) -> None:
    """a gate opens when the file that closed it is closed"""
    with Ref() as other, _child_waiting_in_map(ref, other) as child:
        other.close()
        assert os.waitpid(child, 0)[1] == 0


def check_gates_of_other_operations(ref: Ref) -> None:
    """every operation has a gate of its own"""
    with ref.export(PAGE_SIZE, ExportFlag.DYNAMIC) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        calls: dict[Op, Callable[[], object]] = {
            Op.EXPORT: lambda: ref.export(PAGE_SIZE).close(),
            Op.ATTACH: lambda: ref.detach(ref.attach(buffer)),
            Op.MAP: lambda: ref.map(handle),
            Op.UNMAP: lambda: ref.unmap(handle),
            Op.MMAP: lambda: buffer.mmap().close(),
            Op.BEGIN_CPU: lambda: client.sync_start(buffer.fd),
            Op.END_CPU: lambda: client.sync_end(buffer.fd),
            Op.VMAP: lambda: ref.vmap(handle),
            Op.VUNMAP: lambda: ref.vunmap(handle),
            Op.DETACH: lambda: ref.detach(ref.attach(buffer)),
            Op.RELEASE: lambda: ref.export(PAGE_SIZE).close(),
            Op.PIN: lambda: ref.pin(handle),
            Op.UNPIN: lambda: ref.unpin(handle),
        }
        assert set(calls) == set(Op)
        for op, call in calls.items():
            with _gate(op):
                # Not a thread: who waits in mmap(2) holds the lock that our page faults need.
                child = in_child(call)
                wait_until(lambda: ref.counters().gate_waiters == 1, f"{op.name} waits")
            assert os.waitpid(child, 0)[1] == 0


def check_leak_of_an_attachment(ref: Ref) -> None:
    """a leaked attachment survives every fd, mapped as it was, until UNDO_LEAKS"""
    other = Ref()
    buffer = other.export(PAGE_SIZE)
    handle = other.attach(buffer, Importer.IMP32)
    other.map(handle)
    other.leak(handle)
    with refused(errno.ENOENT):
        other.detach(handle)
    other.attach(buffer, Importer.IMP64, leak=True)
    other.close()
    buffer.close()
    now = ref.counters()
    assert (now.live_buffers, now.live_maps, now.leaked_attachments) == (1, 1, 2)
    assert [set(b.devices) for b in listed_buffers()] == [{"dmabuf-ref-imp32", "dmabuf-ref-imp64"}]
    with counted(
        ref,
        unmap=1,
        op_unmap=1,
        detach=2,
        op_detach=2,
        put=2,
        op_release=1,
        leaked_attachments=-2,
        live_maps=-1,
        live_attachments=-2,
        live_handles=-2,
        live_buffers=-1,
        live_pages=-1,
    ):
        assert ref.undo_leaks() == 2


def check_leak_of_a_reference(ref: Ref) -> None:
    """a leaked kernel reference keeps a buffer that nobody seems to have, until UNDO_LEAKS"""
    with ref.export(PAGE_SIZE) as buffer:
        ref.leak_ref(buffer)
        ref.leak_ref(buffer.fd)
    assert [b.devices for b in listed_buffers()] == [()]
    with counted(ref, put=2, op_release=1, leaked_refs=-2, live_buffers=-1):
        assert ref.undo_leaks() == 2
    assert ref.undo_leaks() == 0


def check_leak_of_an_fd_and_of_a_mapping(ref: Ref) -> None:
    """user space leaks by keeping the fd, or the mapping after the fd is closed"""
    buffer = ref.export(PAGE_SIZE)
    vma = buffer.mmap()
    buffer.close()
    assert ref.counters().live_buffers == 1
    with Path("/proc/self/maps").open() as maps:
        held = [line for line in maps if line.startswith(f"{vma.address:x}-")]
    assert str(buffer.ino) in held[0].split()
    assert "dmabuf" in held[0]
    with counted(ref, op_release=1, live_buffers=-1, live_pages=-1):
        vma.close()
