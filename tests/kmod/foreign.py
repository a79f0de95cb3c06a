# SPDX-License-Identifier: Apache-2.0
"""Checks: the importers take buffers of other exporters, and other importers take ours."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from tests.kmod import client
from tests.kmod.client import DYNAMIC_IMPORTER, PAGE_SIZE, Importer, Ref, Usage
from tests.kmod.harness import SkipError, counted, refused

SIZE = 4 * PAGE_SIZE
HEAP = Path("/dev/dma_heap/system")
UDMABUF = Path("/dev/udmabuf")


def _call(device: Path, request: int, arg: bytearray) -> int:
    if not device.exists():
        raise SkipError(f"no {device}")
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    result: int = fcntl.ioctl(fd, request, arg)
    os.close(fd)
    return result


def heap_buffer() -> int:
    """The fd of a buffer of the system heap: DMA_HEAP_IOCTL_ALLOC."""
    arg = bytearray(struct.pack("=QIIQ", SIZE, 0, os.O_RDWR | os.O_CLOEXEC, 0))
    _call(HEAP, client.ioc(3, ord("H"), 0, len(arg)), arg)
    return int(struct.unpack("=QIIQ", arg)[1])


def udmabuf_buffer() -> int:
    """The fd of a udmabuf over a memfd: UDMABUF_CREATE."""
    memory = os.memfd_create("pages", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(memory, SIZE)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    arg = bytearray(struct.pack("=IIQQ", memory, 1, 0, SIZE))
    fd = _call(UDMABUF, client.ioc(1, ord("u"), 0x42, len(arg)), arg)
    os.close(memory)
    return fd


def _use(ref: Ref, fd: int) -> None:
    """Only the importers' own counters move, and those of a fence."""
    with counted(ref, get_ok=8, attach_ok=8, map_ok=8, unmap=8, detach=8, put=8):
        for importer in Importer:
            for flags in 0, DYNAMIC_IMPORTER:
                handle = ref.attach(fd, importer, flags=flags)
                assert ref.map(handle).bytes == SIZE
                ref.unmap(handle)
                ref.detach(handle)
    with counted(ref, get_ok=1, put=1, fence_created=1, fence_signalled=1, live_fences=1):
        ref.fence(fd, Usage.WRITE, delay_us=10_000)
        client.sync_start(fd)
    client.sync_end(fd)
    with counted(ref, get_ok=1, put=1), refused(errno.EINVAL):
        ref.move(fd)
    os.close(fd)


def check_heap(ref: Ref) -> None:
    """every importer, static or dynamic, maps a buffer of the system heap; it takes fences"""
    _use(ref, heap_buffer())


def check_udmabuf(ref: Ref) -> None:
    """every importer, static or dynamic, maps a buffer of udmabuf; it takes fences"""
    _use(ref, udmabuf_buffer())


def check_vgem_imports(ref: Ref) -> None:
    """an import by another driver counts at the exporter, and not as a call of this module"""
    if subprocess.run(["modprobe", "vgem"], check=False, capture_output=True).returncode:
        raise SkipError("no vgem")
    cards = [card for card in Path("/sys/class/drm").glob("card*") if "vgem" in str(card.resolve())]
    with ref.export(SIZE) as buffer:
        before = ref.counters()
        arg = bytearray(struct.pack("=IIi", 0, 0, buffer.fd))
        # DRM_IOCTL_PRIME_FD_TO_HANDLE; the close of the card gives the import back.
        _call(Path("/dev/dri") / cards[0].name, client.ioc(3, ord("d"), 0x2E, len(arg)), arg)
        seen = ref.counters() - before
    # Some kernels map at import, others do not.
    maps = seen.get("op_map_ok", 0)
    expected = {"op_attach_ok": 1, "op_detach": 1}
    if maps:
        expected |= {"op_map_ok": maps, "op_unmap": maps, "live_pages": 4}
    assert seen == expected
