# SPDX-License-Identifier: Apache-2.0
"""What user space can ask of the kernel to get, name and map a dma-buf. Standard library only.

Every fd belongs to the caller. A call that the kernel refuses raises OSError.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

SET_NAME: Final = 0x40086201  # include/uapi/linux/dma-buf.h
HEAP_ALLOC: Final = 0xC0184800  # include/uapi/linux/dma-heap.h
UDMABUF_CREATE: Final = 0x40187542  # include/uapi/linux/udmabuf.h
UDMABUF_CLOEXEC: Final = 1
DRM_DROP_MASTER: Final = 0x641F  # include/uapi/drm/drm.h, drm_mode.h
DRM_CREATE_DUMB: Final = 0xC02064B2
DRM_PRIME_HANDLE_TO_FD: Final = 0xC00C642D
DRM_PRIME_FD_TO_HANDLE: Final = 0xC00C642E
DRM_GEM_CLOSE: Final = 0x40086409
VIDIOC_QUERYCAP: Final = 0x80685600  # include/uapi/linux/videodev2.h
VIDIOC_REQBUFS: Final = 0xC0145608
VIDIOC_EXPBUF: Final = 0xC0405610
V4L2_STREAMING: Final = 0x04000000
V4L2_MEMORY_MMAP: Final = 1
V4L2_TYPES: Final = {0x1: 1, 0x1000: 9, 0x2: 2, 0x2000: 10}
"""By a bit of ``device_caps``, the type of buffers: capture and output, one plane and several."""

OPEN_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC
DUMB_WIDTH: Final = 64
DUMB_BYTES: Final = 4
"""A line of a dumb buffer has so many pixels of so many bytes: 16 lines are a page."""


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close the fd at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def set_name(fd: int, name: str) -> None:
    """Name a buffer: 31 bytes at most."""
    fcntl.ioctl(fd, SET_NAME, name.encode() + b"\0")


def size_of(fd: int) -> int:
    """Bytes of a buffer."""
    return os.lseek(fd, 0, os.SEEK_END)


# mapping


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc


def map_shared(fd: int) -> Callable[[], None]:
    """Map all of a buffer, to be read and written; what unmaps it.

    Python's own mmap keeps a duplicate of the fd: one more holder.
    """
    size = size_of(fd)
    address = _libc().mmap(None, size, 1 | 2, 1, fd, 0)  # PROT_READ | PROT_WRITE, MAP_SHARED
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"mmap: {os.strerror(ctypes.get_errno())}")
    return lambda: _libc().munmap(address, size)


# exporters


def heap_alloc(size: int, heap: str = "system") -> int:
    """Fd of a new buffer of a dma-heap."""
    with closing(os.open(f"/dev/dma_heap/{heap}", OPEN_FLAGS)) as device:
        argument = bytearray(struct.pack("=QIIQ", size, 0, OPEN_FLAGS, 0))
        fcntl.ioctl(device, HEAP_ALLOC, argument)
    return int(struct.unpack("=QIIQ", argument)[1])


def udmabuf_create(size: int) -> int:
    """Fd of a buffer made of the pages of a sealed memfd."""
    with closing(os.memfd_create("udmabuf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)) as memory:
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with closing(os.open("/dev/udmabuf", OPEN_FLAGS)) as device:
            argument = bytearray(struct.pack("=IIQQ", memory, UDMABUF_CLOEXEC, 0, size))
            return int(fcntl.ioctl(device, UDMABUF_CREATE, argument))


class Prime:
    """An open DRM device: makes GEM buffers, exports and imports them by PRIME.

    Who opens a device that has no master becomes it; that is given up at once, as a compositor that
    starts meanwhile would be refused.
    """

    def __init__(self, node: Path) -> None:
        self.fd = os.open(node, OPEN_FLAGS)
        with suppress(OSError):  # another one is
            fcntl.ioctl(self.fd, DRM_DROP_MASTER)

    def create(self, width: int, height: int) -> int:
        """Handle of a new 32-bit dumb buffer."""
        argument = bytearray(struct.pack("=IIIIIIQ", height, width, 32, 0, 0, 0, 0))
        fcntl.ioctl(self.fd, DRM_CREATE_DUMB, argument)
        return int(struct.unpack("=IIIIIIQ", argument)[4])

    def export(self, handle: int) -> int:
        """Fd for a handle."""
        argument = bytearray(struct.pack("=IIi", handle, OPEN_FLAGS, -1))
        fcntl.ioctl(self.fd, DRM_PRIME_HANDLE_TO_FD, argument)
        return int(struct.unpack("=IIi", argument)[2])

    def adopt(self, fd: int) -> int:
        """Handle for an fd that another device or process exported."""
        argument = bytearray(struct.pack("=IIi", 0, 0, fd))
        fcntl.ioctl(self.fd, DRM_PRIME_FD_TO_HANDLE, argument)
        return int(struct.unpack("=IIi", argument)[0])

    def release(self, handle: int) -> None:
        """Give a handle back."""
        fcntl.ioctl(self.fd, DRM_GEM_CLOSE, struct.pack("=II", handle, 0))

    def close(self) -> None:
        """Close the device, and with it all handles."""
        os.close(self.fd)


def dumb_export(node: Path, size: int) -> int:
    """Fd of a new dumb buffer of a DRM device; the device has no handle of it any more."""
    device = Prime(node)
    try:
        handle = device.create(DUMB_WIDTH, -(-size // (DUMB_WIDTH * DUMB_BYTES)))
        return device.export(handle)
    finally:
        device.close()


def video_export(node: Path) -> int:
    """Fd of a buffer of a V4L2 device, of the size that the device gives it (EXPBUF).

    The device's queue is freed again, which leaves the buffer to the fd.
    """
    with closing(os.open(node, OPEN_FLAGS | os.O_NONBLOCK)) as device:
        found = bytearray(104)
        fcntl.ioctl(device, VIDIOC_QUERYCAP, found)
        able = int(struct.unpack_from("=I", found, 88)[0])
        of = next((of for bit, of in V4L2_TYPES.items() if able & bit), 0)
        if not of or not able & V4L2_STREAMING:
            raise OSError(0, "no queue of buffers")
        asked = bytearray(struct.pack("=IIIII", 1, of, V4L2_MEMORY_MMAP, 0, 0))
        fcntl.ioctl(device, VIDIOC_REQBUFS, asked)
        argument = bytearray(struct.pack("=IIIIi44x", of, 0, 0, OPEN_FLAGS, -1))
        fcntl.ioctl(device, VIDIOC_EXPBUF, argument)
        return int(struct.unpack_from("=i", argument, 16)[0])


@dataclass(frozen=True, slots=True)
class Exporter:
    """A device that makes buffers: ``export(size)`` gives an fd that alone holds a new one.

    ``size`` is in bytes, whole pages; a V4L2 device takes a size of its own instead.
    """

    name: str
    node: Path
    export: Callable[[int], int]


def _heap(node: Path) -> Exporter:
    return Exporter(f"heap {node.name}", node, lambda size: heap_alloc(size, node.name))


def _udmabuf(node: Path) -> Exporter:
    return Exporter("udmabuf", node, udmabuf_create)


def _drm(node: Path) -> Exporter:
    return Exporter(f"DRM {node.name}", node, lambda size: dumb_export(node, size))


def _video(node: Path) -> Exporter:
    return Exporter(f"V4L2 {node.name}", node, lambda _: video_export(node))


NODES: Final[dict[str, Callable[[Path], Exporter]]] = {
    "dma_heap/*": _heap,
    "udmabuf": _udmabuf,
    "dri/card*": _drm,
    "video*": _video,
}
"""By a pattern below ``/dev``; what disturbs others least is first."""


def exporters(dev: Path = Path("/dev")) -> tuple[list[Exporter], list[str]]:
    """Devices that may make buffers, in the order to try them; patterns that match none."""
    found: list[Exporter] = []
    absent = []
    for pattern, make in NODES.items():
        nodes = sorted(dev.glob(pattern), key=lambda node: (node.name != "system", node.name))
        found += map(make, nodes)
        if not nodes:
            absent.append(f"no {dev / pattern}")
    return found, absent
