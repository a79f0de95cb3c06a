# SPDX-License-Identifier: Apache-2.0
"""Checks: buffers that stand for another one, so that a call is made within the same call."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from tests.kmod.client import PAGE_SIZE, Buffer, Direction, Importer, Ref, Request
from tests.kmod.harness import counted, refused

MAX_WRAPS = 3


def wrap(ref: Ref, buffer: Buffer) -> Buffer:
    """A new buffer that stands for this one."""
    # a bytearray: with bytes, Python returns the argument and drops the result
    fd: int = fcntl.ioctl(ref.fd, Request.WRAP, bytearray(struct.pack("=i", buffer.fd)))
    return Buffer(fd, os.fstat(fd).st_ino, buffer.size)


def check_operations_reach_the_buffer_behind(ref: Ref) -> None:
    """attach, map, unmap and detach of a wrap are made, and counted, once more behind it"""
    with ref.export(PAGE_SIZE) as inner, wrap(ref, inner) as outer:
        assert outer.ino != inner.ino
        with counted(
            ref, attach_ok=2, op_attach_ok=2, get_ok=1, live_attachments=2, live_handles=1
        ):
            handle = ref.attach(outer, Importer.IMP64)
        with counted(ref, map_ok=2, op_map_ok=2, live_maps=2, live_pages=1):
            assert ref.map(handle, Direction.TO_DEVICE).bytes == PAGE_SIZE
        with counted(ref, unmap=2, op_unmap=2, live_maps=-2):
            ref.unmap(handle)
        with counted(ref, detach=2, op_detach=2, put=1, live_attachments=-2, live_handles=-1):
            ref.detach(handle)


def check_the_buffer_behind_lives_as_long(ref: Ref) -> None:
    """a wrap keeps what it stands for alive, and gives it back with its own release"""
    inner = ref.export(PAGE_SIZE)
    outer = wrap(ref, inner)
    with counted(ref):
        inner.close()
    with counted(ref, op_release=2, put=1, live_buffers=-2):
        outer.close()


def check_depth_is_limited(ref: Ref) -> None:
    """wraps of wraps end with ELOOP, as all their operations are on one stack"""
    buffers = [ref.export(PAGE_SIZE)]
    for _ in range(MAX_WRAPS):
        buffers.append(wrap(ref, buffers[-1]))
    handle = ref.attach(buffers[-1], Importer.IMP64)
    mapped = MAX_WRAPS + 1
    with counted(ref, map_ok=mapped, op_map_ok=mapped, live_maps=mapped, live_pages=1):
        ref.map(handle)
    ref.unmap(handle)
    ref.detach(handle)
    with refused(errno.ELOOP):
        wrap(ref, buffers[-1])
    for buffer in buffers:
        buffer.close()
