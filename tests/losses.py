# SPDX-License-Identifier: Apache-2.0
"""What makes a recorder lose events, names and stacks, one way each.

Every function is the command of a recorder, which therefore is its parent process. Runs in a guest
with the reference exporter loaded; standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.cycle import PAGE, cycles
from tests.kmod.client import Access, Op, Ref, ioc, map_user, set_name, sync_end, sync_start

STALLED: Final = 2_000
NAMED: Final = 200
TORN: Final = 10
SKIPPED: Final = 500
BUCKETS: Final = 1 << 20
PREEMPTION: Final = Path("/sys/kernel/debug/sched/preempt")
"""How the kernel lets tasks be preempted within it: the mode in parentheses, of those it offers."""


@contextmanager
def stalled_reader(reader: int) -> Iterator[None]:
    """Within: the recorder, of that pid, is stopped and reads nothing."""
    os.kill(reader, signal.SIGSTOP)
    stat = Path("/proc", str(reader), "stat")
    while stat.read_text().rpartition(") ")[2][0] != "T":
        os.sched_yield()
    try:
        yield
    finally:
        os.kill(reader, signal.SIGCONT)


def stalled() -> None:
    """More events than the ring holds while nobody reads it."""
    with stalled_reader(os.getppid()):
        cycles(STALLED)


def naming() -> None:
    """More new names than their ring holds while nobody reads it."""
    with Ref() as ref, ref.export(PAGE) as buffer, stalled_reader(os.getppid()):
        for number in range(NAMED):
            set_name(buffer.fd, f"name {number}")


def torn() -> None:
    """Ioctls whose argument is gone when they return, as another thread has unmapped it.

    One whole bracket comes first.
    """
    libc = ctypes.CDLL(None)
    sync = ioc(1, ord("b"), 0, 8)  # DMA_BUF_IOCTL_SYNC
    with Ref() as ref, ref.export(PAGE) as buffer:
        sync_start(buffer.fd)
        sync_end(buffer.fd)
        for _ in range(TORN):
            page = map_user(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.write(0, int(Access.RW).to_bytes(8, "little"))
            arguments = (buffer.fd, ctypes.c_ulong(sync), ctypes.c_void_p(page.address))
            ref.gate(True, Op.BEGIN_CPU)
            thread = threading.Thread(target=libc.ioctl, args=arguments)
            thread.start()
            while not ref.counters().gate_waiters:
                os.sched_yield()
            page.close()
            ref.gate(False, Op.BEGIN_CPU)
            thread.join()


class _MapOptions(ctypes.Structure):
    """``struct bpf_map_create_opts`` of libbpf, up to ``map_flags``."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def busy_with_maps() -> None:
    """Walk an empty hash map for ever: meanwhile the kernel runs no other program here."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    hash_map, no_prealloc = 1, 1
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=no_prealloc)
    fd = libbpf.bpf_map_create(hash_map, b"empty", 8, 8, BUCKETS, ctypes.byref(options))
    if fd < 0:
        raise OSError("no map")
    position, key, value = ctypes.c_uint32(), ctypes.c_uint64(), ctypes.c_uint64()
    out = (ctypes.byref(position), ctypes.byref(key), ctypes.byref(value))
    while True:
        libbpf.bpf_map_lookup_batch(fd, None, *out, ctypes.byref(ctypes.c_uint32(1)), None)


@contextmanager
def preemptible() -> Iterator[None]:
    """Within: a task can be preempted anywhere in the kernel, as many kernels are built."""
    found = re.search(r"\((\w+)\)", PREEMPTION.read_text())
    PREEMPTION.write_text("full")
    try:
        yield
    finally:
        if found:
            PREEMPTION.write_text(found[1])


def skipped() -> None:
    """Calls on a processor on which the kernel runs no programs, as a bpf(2) is under way there."""
    os.sched_setaffinity(0, {0})
    with preemptible():
        if not (busy := os.fork()):
            busy_with_maps()
        cycles(SKIPPED)
        os.kill(busy, signal.SIGKILL)
        os.waitpid(busy, 0)


LOSING: Final[dict[str, Callable[[], None]]] = {
    "stalled": stalled,
    "naming": naming,
    "torn": torn,
    "skipped": skipped,
}
