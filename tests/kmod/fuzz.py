# SPDX-License-Identifier: Apache-2.0
"""Checks: no argument and no race may harm the kernel. What each call returns is its business:
what counts is that it returns, that the kernel does not complain, and that nothing stays behind.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    LAYOUTS,
    LAZY,
    MAGIC,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    ExportFlag,
    Importer,
    Op,
    Ref,
    Request,
    Usage,
    map_user,
)
from tests.kmod.harness import counted, seeded

SEED = 20110613
ROUNDS = 6000
RACERS = 8
RACE_ROUNDS = 1500
EXPECTED = {errno.ENOENT, errno.EBUSY, errno.EINVAL, errno.ENODATA}  # of racing operations
ATTACH_FLAGS = (0, DYNAMIC_IMPORTER, DYNAMIC_IMPORTER | LAZY)

LAYOUT_OF = {
    Request.EXPORT: "dmabuf_ref_export",
    Request.ATTACH: "dmabuf_ref_attach",
    Request.MAP: "dmabuf_ref_map",
    Request.LEAK_REF: "__s32",
    Request.MOVE: "__s32",
    Request.INJECT: "dmabuf_ref_inject",
    Request.GATE: "dmabuf_ref_gate",
    Request.FENCE: "dmabuf_ref_fence",
    Request.SIGNAL: "__s32",
    Request.WRAP: "__s32",
    Request.COUNTERS: "dmabuf_ref_counters",
}
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


def _ioctl(fd: int, request: int, address: int) -> int:
    """ioctl(2) with any address: its result, or minus its errno."""
    result = int(_libc.ioctl(fd, request, address))
    return result if result >= 0 else -ctypes.get_errno()


def _is_harmless(request: int, values: dict[str, int]) -> bool:
    """Not a valid request to stop: those are for the checks of gates and delays."""
    if request == Request.GATE:
        return values["op"] >= len(Op) or values["closed"] != 1
    if request == Request.FENCE:
        return values["usage"] >= len(Usage) or 0 < values["delay_us"] <= 100
    if request == Request.INJECT:
        return values["op"] >= len(Op) or not 100 < values["delay_us"] <= 10_000_000
    return True


def _random_values(rng: random.Random, layout: str, fds: list[int]) -> dict[str, int]:
    values = {}
    for name, code in LAYOUTS[layout]:
        bits = struct.calcsize(code) * 8
        value = rng.choice((rng.choice(INTERESTING), rng.getrandbits(bits), rng.randrange(12)))
        if name == "fd":
            value = rng.choice((*fds, value))
        if name == "size":
            value = rng.choice((value, rng.randrange(1, 64 * PAGE_SIZE)))
        if name in ("flags", "reserved", "closed"):
            value = rng.choice((0, 0, value))
        values[name] = value & (1 << bits) - 1
    return values


def _pack(layout: str, values: dict[str, int]) -> bytes:
    codes = "".join(code.upper() for _, code in LAYOUTS[layout])
    return struct.pack("=" + codes, *values.values())


def check_bad_pointers(ref: Ref) -> None:
    """every ioctl refuses addresses that it cannot read, or cannot answer to, and keeps nothing"""
    with map_user(-1, 2 * PAGE_SIZE, flags=MAP_PRIVATE | 0x20) as gone:
        freed = gone.address
    kernel = 0xFFFF_8880_0000_0000
    for request in set(Request) - {Request.UNDO_LEAKS}:
        for address in (0, 1, freed, freed + PAGE_SIZE - 1, kernel, (1 << 64) - 1, (1 << 64) - 8):
            with counted(ref):
                assert _ioctl(ref.fd, request, address) == -errno.EFAULT, (request.name, address)


def check_unanswerable_requests(ref: Ref) -> None:
    """where the answer cannot be written, what was done is undone: no fd, no mapping"""
    with ref.export(PAGE_SIZE) as buffer:
        handle = ref.attach(buffer)
        zeroes = map_user(-1, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | 0x20)
        zeroes.write(0, struct.pack("=QQII", PAGE_SIZE, 0, 0, 0))
        zeroes.write(64, struct.pack("=IIIIQ", handle, 0, 0, 0, 0))
        protect = ctypes.CDLL(None).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert protect(zeroes.address, PAGE_SIZE, PROT_READ) == 0
        with counted(ref, export_ok=1, put=1, op_release=1):
            assert _ioctl(ref.fd, Request.EXPORT, zeroes.address) == -errno.EFAULT
        with counted(ref, map_ok=1, op_map_ok=1, unmap=1, op_unmap=1, live_pages=1):
            assert _ioctl(ref.fd, Request.MAP, zeroes.address + 64) == -errno.EFAULT
        assert _ioctl(ref.fd, Request.COUNTERS, zeroes.address) == -errno.EFAULT
        zeroes.close()


def check_unknown_requests(ref: Ref) -> None:
    """numbers, sizes and directions that are not the header's are -ENOTTY"""
    rng = seeded(SEED)
    known = {int(request) for request in Request}
    memory = ctypes.create_string_buffer(16384)
    bits = [
        bit for bit in range(32) if bit // 8 != 1
    ]  # those of the magic stay: the VFS has others
    near = {request ^ 1 << bit for request in known for bit in bits}
    random_ones = {rng.getrandbits(32) & 0xFFFF00FF | MAGIC << 8 for _ in range(ROUNDS)}
    with counted(ref):
        for request in (near | random_ones) - known:
            assert _ioctl(ref.fd, request, ctypes.addressof(memory)) == -errno.ENOTTY, hex(request)


def check_random_arguments(ref: Ref) -> None:
    """thousands of random and nearly right arguments to every ioctl"""
    rng = seeded(SEED)
    with Ref() as other, ref.export(PAGE_SIZE) as own, Path(os.devnull).open("rb") as null:
        fds = [own.fd, null.fileno(), other.fd, -1]
        requests = sorted(set(Request) - {Request.UNDO_LEAKS})
        for _ in range(ROUNDS):
            request = rng.choice(requests)
            layout = LAYOUT_OF.get(request, "dmabuf_ref_handle")
            values = _random_values(rng, layout, fds)
            if not _is_harmless(request, values):
                continue
            memory = ctypes.create_string_buffer(_pack(layout, values))
            result = _ioctl(other.fd, request, ctypes.addressof(memory))
            if request in (Request.EXPORT, Request.WRAP) and result >= 0:
                os.close(result)
    ref.undo_leaks()


def _race(workers: list[Callable[[random.Random], None]]) -> None:
    """Run all at once, each with its own random numbers; an unexpected error of one fails all."""
    failures: list[BaseException] = []

    def run(worker: Callable[[random.Random], None], seed: int) -> None:
        try:
            worker(seeded(seed))
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=run, args=(worker, SEED + number))
        for number, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def check_races_on_one_handle(ref: Ref) -> None:
    """threads map, unmap, pin, move, fence, detach, leak and attach the same few handles at once"""
    flags = ExportFlag.CONTIGUOUS | ExportFlag.DYNAMIC
    with Ref() as shared, ref.export(4 * PAGE_SIZE, flags) as buffer:

        def worker(rng: random.Random) -> None:
            def handle() -> int:
                return rng.randrange(1, 4)

            actions: tuple[Callable[[], object], ...] = (
                lambda: shared.attach(
                    buffer, rng.choice(list(Importer)), flags=rng.choice(ATTACH_FLAGS)
                ),
                lambda: shared.move(buffer),
                lambda: shared.fence(buffer, rng.choice(list(Usage)), rng.randrange(1, 5000)),
                lambda: shared.signal(handle()),
                lambda: shared.pin(handle()),
                lambda: shared.unpin(handle()),
                lambda: shared.map(handle(), rng.randrange(3)),
                lambda: shared.map(handle()),
                lambda: shared.unmap(handle()),
                lambda: shared.vmap(handle()),
                lambda: shared.vunmap(handle()),
                lambda: shared.detach(handle(), force=rng.random() < 0.5),
                lambda: shared.leak(handle()),
                shared.undo_leaks,
            )
            for _ in range(RACE_ROUNDS):
                try:
                    rng.choice(actions)()
                except OSError as error:
                    if error.errno not in EXPECTED:
                        raise

        _race([worker] * RACERS)
    ref.undo_leaks()


def check_races_with_close(ref: Ref) -> None:
    """processes that share one device file use it while others close it; exit closes the rest"""
    with ref.export(PAGE_SIZE) as buffer:
        for _ in range(20):
            shared = Ref()
            handle = shared.attach(buffer)
            children = []
            for number in range(RACERS):
                child = os.fork()
                if not child:
                    for _ in range(number * 3):
                        with suppress(OSError):
                            shared.map(handle)
                            shared.unmap(handle)
                    with suppress(OSError):
                        shared.detach(handle, force=True)
                    os._exit(0)
                children.append(child)
            shared.close()
            for child in children:
                assert os.waitpid(child, 0)[1] == 0
