# SPDX-License-Identifier: Apache-2.0
"""Python client of the reference exporter's character device.

Owns the calls; dmabuf_ref.h defines them: test_client.py compares every number
and layout here with that header. Errors of the module arrive as OSError.
Standard library only, so that it runs in any guest.
"""

from __future__ import annotations

import ctypes
import enum
import fcntl
import os
import struct
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

DEVICE: Final = Path("/dev/dmabuf_ref")
EXPORTER: Final = "dmabuf_ref"
IMPORTER_DRIVER: Final = "dmabuf-ref-importer"
PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")


class Importer(enum.IntEnum):
    """Importer devices; `device` is what the kernel calls them."""

    IMP64 = 0
    IMP32 = 1
    CONTIG = 2
    SEG = 3

    @property
    def device(self) -> str:
        return f"dmabuf-ref-{self.name.lower()}"


class Op(enum.IntEnum):
    """Operations of the exporter that `Ref.inject` and `Ref.gate` act upon."""

    EXPORT = 0
    ATTACH = 1
    DETACH = 2
    MAP = 3
    UNMAP = 4
    MMAP = 5
    BEGIN_CPU = 6
    END_CPU = 7
    VMAP = 8
    VUNMAP = 9
    RELEASE = 10
    PIN = 11
    UNPIN = 12


class Direction(enum.IntEnum):
    """enum dma_data_direction, without DMA_NONE."""

    BIDIRECTIONAL = 0
    TO_DEVICE = 1
    FROM_DEVICE = 2


class Usage(enum.IntEnum):
    """What a fence is for, and so who waits for it."""

    KERNEL = 0
    WRITE = 1
    READ = 2
    BOOKKEEP = 3


class ExportFlag(enum.IntFlag):
    READONLY = 1 << 0
    EAGER = 1 << 1
    CONTIGUOUS = 1 << 2
    DYNAMIC = 1 << 3
    CARELESS = 1 << 4
    NO_P2P = 1 << 5
    INCOMPLETE = 1 << 8


class Misuse(enum.IntFlag):
    """What no driver may do; one at a time, see struct dmabuf_ref_handle."""

    LEAVE = 1 << 8
    FORGET = 1 << 9
    OTHERWISE = 1 << 10
    NOTHING = 1 << 11
    STATIC = 1 << 12


FORCE: Final = 1 << 0  # of DETACH
DYNAMIC_IMPORTER: Final = 1 << 0  # of ATTACH
LAZY: Final = 1 << 1  # of ATTACH, with DYNAMIC_IMPORTER
P2P: Final = 1 << 2  # of ATTACH, with DYNAMIC_IMPORTER


class Access(enum.IntFlag):
    """Flags of DMA_BUF_IOCTL_SYNC, without the one for its end."""

    READ = 1
    WRITE = 2
    RW = 3


@dataclass(frozen=True, slots=True)
class Counters:
    """struct dmabuf_ref_counters; the header says what each one equals."""

    export_ok: int
    export_failed: int
    export_refused: int
    fd_ok: int
    fd_failed: int
    get_ok: int
    get_failed: int
    put: int
    attach_ok: int
    attach_failed: int
    detach: int
    map_ok: int
    map_failed: int
    unmap: int
    begin_ok: int
    begin_failed: int
    end_ok: int
    end_failed: int
    vmap_ok: int
    vmap_failed: int
    vunmap: int
    pin_ok: int
    pin_failed: int
    unpin: int
    move_notify: int
    p2p_ok: int
    p2p_failed: int
    fence_created: int
    fence_signalled: int
    notified: int
    export_incomplete: int
    left_maps: int
    left_pins: int
    forgotten: int
    unmap_otherwise: int
    unmap_nothing: int
    pin_static: int
    op_attach_ok: int
    op_attach_failed: int
    op_detach: int
    op_map_ok: int
    op_map_failed: int
    op_unmap: int
    op_mmap_ok: int
    op_mmap_failed: int
    op_begin_ok: int
    op_begin_failed: int
    op_end_ok: int
    op_end_failed: int
    op_vmap_ok: int
    op_vmap_failed: int
    op_vunmap: int
    op_release: int
    op_pin_ok: int
    op_pin_failed: int
    op_unpin: int
    op_left_maps: int
    live_buffers: int
    live_attachments: int
    live_maps: int
    live_pages: int
    live_handles: int
    pending_fences: int
    live_fences: int
    gate_waiters: int
    leaked_attachments: int
    leaked_refs: int

    def __sub__(self, before: Counters) -> dict[str, int]:
        """What changed since `before`: only the counters that differ."""
        pairs = ((f.name, getattr(self, f.name) - getattr(before, f.name)) for f in fields(self))
        return {name: change for name, change in pairs if change}


# Argument layouts: field names and struct codes, in the header's order.
LAYOUTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "dmabuf_ref_export": (("size", "Q"), ("ino", "Q"), ("flags", "I"), ("reserved", "I")),
    "dmabuf_ref_attach": (("fd", "i"), ("importer", "I"), ("flags", "I"), ("reserved", "I")),
    "dmabuf_ref_map": (
        ("handle", "I"),
        ("direction", "I"),
        ("nents", "I"),
        ("reserved", "I"),
        ("bytes", "Q"),
    ),
    "dmabuf_ref_handle": (("handle", "I"), ("flags", "I")),
    "dmabuf_ref_inject": (
        ("op", "I"),
        ("error", "i"),
        ("count", "I"),
        ("reserved", "I"),
        ("delay_us", "Q"),
    ),
    "dmabuf_ref_gate": (("op", "I"), ("closed", "I")),
    "dmabuf_ref_fence": (("fd", "i"), ("usage", "I"), ("delay_us", "Q")),
    "dmabuf_ref_counters": tuple((f.name, "Q") for f in fields(Counters)),
    "__s32": (("fd", "i"),),
}


def _packer(layout: str) -> struct.Struct:
    return struct.Struct("=" + "".join(code for _, code in LAYOUTS[layout]))


_EXPORT = _packer("dmabuf_ref_export")
_ATTACH = _packer("dmabuf_ref_attach")
_MAP = _packer("dmabuf_ref_map")
_HANDLE = _packer("dmabuf_ref_handle")
_INJECT = _packer("dmabuf_ref_inject")
_GATE = _packer("dmabuf_ref_gate")
_FENCE = _packer("dmabuf_ref_fence")
_COUNTERS = _packer("dmabuf_ref_counters")
_FD = _packer("__s32")

MAGIC: Final = 0xDB
_W, _R = 1, 2


def ioc(direction: int, magic: int, number: int, size: int) -> int:
    """The kernel's _IOC(); direction is 1 for _IOW, 2 for _IOR, 3 for both."""
    return direction << 30 | size << 16 | magic << 8 | number


class Request(enum.IntEnum):
    EXPORT = ioc(_R | _W, MAGIC, 0x00, _EXPORT.size)
    ATTACH = ioc(_W, MAGIC, 0x01, _ATTACH.size)
    MAP = ioc(_R | _W, MAGIC, 0x02, _MAP.size)
    UNMAP = ioc(_W, MAGIC, 0x03, _HANDLE.size)
    VMAP = ioc(_W, MAGIC, 0x04, _HANDLE.size)
    VUNMAP = ioc(_W, MAGIC, 0x05, _HANDLE.size)
    DETACH = ioc(_W, MAGIC, 0x06, _HANDLE.size)
    LEAK = ioc(_W, MAGIC, 0x07, _HANDLE.size)
    LEAK_REF = ioc(_W, MAGIC, 0x08, _FD.size)
    UNDO_LEAKS = ioc(0, MAGIC, 0x09, 0)
    INJECT = ioc(_W, MAGIC, 0x0A, _INJECT.size)
    GATE = ioc(_W, MAGIC, 0x0B, _GATE.size)
    COUNTERS = ioc(_R, MAGIC, 0x0C, _COUNTERS.size)
    PIN = ioc(_W, MAGIC, 0x0D, _HANDLE.size)
    UNPIN = ioc(_W, MAGIC, 0x0E, _HANDLE.size)
    MOVE = ioc(_W, MAGIC, 0x0F, _FD.size)
    FENCE = ioc(_W, MAGIC, 0x10, _FENCE.size)
    SIGNAL = ioc(_W, MAGIC, 0x11, _FD.size)
    WRAP = ioc(_W, MAGIC, 0x12, _FD.size)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED, MAP_PRIVATE = 1, 2


@dataclass(slots=True)
class Vma:
    """A user mapping of a dma-buf; it stays until `close`, whatever its fd does."""

    address: int
    size: int

    def read(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(self._at(offset, size), size)

    def write(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self._at(offset, len(data)), data, len(data))

    def close(self) -> None:
        if self.address and _libc.munmap(self.address, self.size):
            raise _errno_error("munmap")
        self.address = 0

    def _at(self, offset: int, size: int) -> int:
        if not self.address or offset < 0 or offset + size > self.size:
            raise ValueError(f"{size} bytes at {offset} are outside the mapping")
        return self.address + offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def map_user(
    fd: int, size: int, prot: int = PROT_READ | PROT_WRITE, flags: int = MAP_SHARED, offset: int = 0
) -> Vma:
    """mmap(2) a dma-buf. (The mmap module keeps a duplicate of the fd: a holder nobody asked for.)

    Raises OSError with the errno of mmap(2).
    """
    address = _libc.mmap(None, size, prot, flags, fd, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        raise _errno_error("mmap")
    return Vma(address, size)


def _errno_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


@dataclass(slots=True)
class Buffer:
    """An exported buffer as this process holds it: an fd, until `close`."""

    fd: int
    ino: int
    size: int

    def fileno(self) -> int:
        return self.fd

    def mmap(self, prot: int = PROT_READ | PROT_WRITE) -> Vma:
        return map_user(self.fd, self.size, prot)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Mapping:
    """What the device saw of one map: segments and their sum in bytes."""

    nents: int
    bytes: int


class Ref:
    """An open /dev/dmabuf_ref. Handles, injections and gates end with its `close`."""

    def __init__(self, device: Path = DEVICE) -> None:
        self.fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def export(self, size: int, flags: int = 0) -> Buffer:
        """Create a buffer of `size` bytes, rounded up to pages."""
        arg = bytearray(_EXPORT.pack(size, 0, flags, 0))
        fd = fcntl.ioctl(self.fd, Request.EXPORT, arg)
        size, ino, _, _ = _EXPORT.unpack(arg)
        return Buffer(fd, ino, size)

    def attach(
        self,
        fd: int | Buffer,
        importer: int = Importer.IMP64,
        *,
        leak: bool = False,
        flags: int = 0,
    ) -> int:
        """Attach an importer device to any dma-buf; returns the handle.

        `flags`: DYNAMIC_IMPORTER, also with LAZY and P2P, or none for a static one.
        With `leak` the handle is leaked at once, and of no more use.
        """
        number = fd if isinstance(fd, int) else fd.fd
        # A bytearray: with bytes, Python returns the argument and drops the result.
        arg = bytearray(_ATTACH.pack(number, importer, flags, 0))
        handle: int = fcntl.ioctl(self.fd, Request.ATTACH, arg)
        if leak:
            self.leak(handle)
        return handle

    def map(self, handle: int, direction: int = Direction.BIDIRECTIONAL) -> Mapping:
        arg = bytearray(_MAP.pack(handle, direction, 0, 0, 0))
        fcntl.ioctl(self.fd, Request.MAP, arg)
        _, _, nents, _, size = _MAP.unpack(arg)
        return Mapping(nents, size)

    def unmap(self, handle: int, flags: int = 0) -> None:
        """Unmap the newest mapping of the handle; misuse: OTHERWISE, NOTHING."""
        self._handle(Request.UNMAP, handle, flags)

    def vmap(self, handle: int) -> None:
        """Begin CPU access and map into the kernel; nests."""
        self._handle(Request.VMAP, handle)

    def vunmap(self, handle: int) -> None:
        self._handle(Request.VUNMAP, handle)

    def pin(self, handle: int, flags: int = 0) -> None:
        """Pin the buffer where it is; only for dynamic importers. Pins add up. Misuse: STATIC."""
        self._handle(Request.PIN, handle, flags)

    def unpin(self, handle: int, flags: int = 0) -> None:
        self._handle(Request.UNPIN, handle, flags)

    def detach(self, handle: int, flags: int = 0, *, force: bool = False) -> None:
        """Detach; refused with EBUSY while mapped, unless `force` unmaps first.

        Misuse: LEAVE, FORGET.
        """
        self._handle(Request.DETACH, handle, flags | (FORCE if force else 0))

    def leak(self, handle: int) -> None:
        """Keep the attachment, and its mappings, beyond `close`, until `undo_leaks`."""
        self._handle(Request.LEAK, handle)

    def leak_ref(self, fd: int | Buffer) -> None:
        """Take a kernel reference to any dma-buf that nobody puts until `undo_leaks`."""
        number = fd if isinstance(fd, int) else fd.fd
        fcntl.ioctl(self.fd, Request.LEAK_REF, _FD.pack(number))

    def move(self, fd: int | Buffer) -> None:
        """Tell the dynamic importers, then give the buffer new pages; EBUSY while pinned.

        A careless exporter forgets pins.
        """
        number = fd if isinstance(fd, int) else fd.fd
        fcntl.ioctl(self.fd, Request.MOVE, _FD.pack(number))

    def fence(self, fd: int | Buffer, usage: int = Usage.WRITE, delay_us: int = 0) -> int:
        """Add a fence to any dma-buf; returns its number.

        It signals after `delay_us` if that is not 0, by `signal`, or by `close`.
        """
        number = fd if isinstance(fd, int) else fd.fd
        fence: int = fcntl.ioctl(
            self.fd, Request.FENCE, bytearray(_FENCE.pack(number, usage, delay_us))
        )
        return fence

    def signal(self, fence: int) -> None:
        """Signal the fence, unless it has been, and forget its number."""
        fcntl.ioctl(self.fd, Request.SIGNAL, _FD.pack(fence))

    def undo_leaks(self) -> int:
        """Release everything that anybody leaked; returns how many."""
        return fcntl.ioctl(self.fd, Request.UNDO_LEAKS)

    def inject(self, op: int, error: int = 0, count: int = 1, delay_us: int = 0) -> None:
        """Let the next `count` calls of `op` take longer, or fail with errno `error`."""
        fcntl.ioctl(self.fd, Request.INJECT, _INJECT.pack(op, error, count, 0, delay_us))

    def gate(self, closed: bool, op: int = Op.MAP) -> None:
        """While closed, calls of `op` wait; `counters().gate_waiters` says how many."""
        fcntl.ioctl(self.fd, Request.GATE, _GATE.pack(op, closed))

    def counters(self) -> Counters:
        arg = bytearray(_COUNTERS.size)
        fcntl.ioctl(self.fd, Request.COUNTERS, arg)
        return Counters(*_COUNTERS.unpack(arg))

    def _handle(self, request: Request, handle: int, flags: int = 0) -> None:
        fcntl.ioctl(self.fd, request, _HANDLE.pack(handle, flags))


# The ioctls that every dma-buf has: linux/dma-buf.h.
_SYNC: Final = ioc(_W, ord("b"), 0, 8)
_SYNC_END: Final = 4
_SET_NAME: Final = ioc(_W, ord("b"), 1, 8)
_SYNC_FILE: Final = struct.Struct("=Ii")
_EXPORT_SYNC_FILE: Final = ioc(_R | _W, ord("b"), 2, _SYNC_FILE.size)
_IMPORT_SYNC_FILE: Final = ioc(_W, ord("b"), 3, _SYNC_FILE.size)


def sync_start(fd: int, access: Access = Access.RW) -> None:
    """DMA_BUF_IOCTL_SYNC with START: CPU access begins."""
    fcntl.ioctl(fd, _SYNC, struct.pack("=Q", access))


def sync_end(fd: int, access: Access = Access.RW) -> None:
    """DMA_BUF_IOCTL_SYNC with END, and the flags that the start had."""
    fcntl.ioctl(fd, _SYNC, struct.pack("=Q", access | _SYNC_END))


def set_name(fd: int, name: str) -> None:
    """DMA_BUF_SET_NAME: up to 31 bytes."""
    fcntl.ioctl(fd, _SET_NAME, name.encode() + b"\0")


def export_sync_file(fd: int, access: Access = Access.RW) -> int:
    """DMA_BUF_IOCTL_EXPORT_SYNC_FILE: an fd with the fences that such an access waits for."""
    arg = bytearray(_SYNC_FILE.pack(access, -1))
    fcntl.ioctl(fd, _EXPORT_SYNC_FILE, arg)
    return int(_SYNC_FILE.unpack(arg)[1])


def import_sync_file(fd: int, sync_file: int, access: Access = Access.RW) -> None:
    """DMA_BUF_IOCTL_IMPORT_SYNC_FILE: add the fences of a sync_file as such an access."""
    fcntl.ioctl(fd, _IMPORT_SYNC_FILE, _SYNC_FILE.pack(access, sync_file))


def load(module: Path) -> None:
    """insmod; raises CalledProcessError, with its message in `stderr`."""
    subprocess.run(["insmod", str(module)], check=True, capture_output=True, text=True)


def unload() -> None:
    """rmmod; raises CalledProcessError where the module is still in use."""
    subprocess.run(["rmmod", EXPORTER], check=True, capture_output=True, text=True)
