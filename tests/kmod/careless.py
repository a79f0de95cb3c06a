# SPDX-License-Identifier: Apache-2.0
"""Checks: misuse that the kernel does not notice, what stays of it, and what is refused.

That for which it WARNs is done in ``tests/gate``.
"""

from __future__ import annotations

import errno
import os

from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    PAGE_SIZE,
    Direction,
    ExportFlag,
    Importer,
    Misuse,
    Ref,
)
from tests.kmod.dynamic import UNMAPPED
from tests.kmod.foreign import heap_buffer
from tests.kmod.harness import counted, refused

DETACHED = {"detach": 1, "op_detach": 1, "put": 1, "live_handles": -1, "live_attachments": -1}


def check_detach_that_leaves_mappings(ref: Ref) -> None:
    """mappings that an importer leaves at its detach are ended by the exporter, none by the core"""
    with ref.export(PAGE_SIZE) as buffer:
        handle = ref.attach(buffer, Importer.SEG)
        for direction in Direction:
            ref.map(handle, direction)
        ref.vmap(handle)
        with counted(
            ref,
            left_maps=3,
            op_left_maps=3,
            live_maps=-3,
            vunmap=1,
            op_vunmap=1,
            end_ok=1,
            op_end_ok=1,
            **DETACHED,
        ):
            ref.detach(handle, Misuse.LEAVE)


def check_detach_that_leaves_pins(ref: Ref) -> None:
    """pins that an importer leaves at its detach hold the buffer where it is"""
    with ref.export(PAGE_SIZE, ExportFlag.DYNAMIC | ExportFlag.EAGER) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        ref.pin(handle)
        ref.pin(handle)
        with counted(ref, left_pins=2, **DETACHED):
            ref.detach(handle, Misuse.LEAVE)
        with refused(errno.EBUSY):
            ref.move(buffer)


def check_unmap_with_another_direction(ref: Ref) -> None:
    """an unmap with another direction than its map ends the mapping all the same"""
    with ref.export(PAGE_SIZE) as buffer:
        handle = ref.attach(buffer)
        for direction in Direction:
            ref.map(handle, direction)
            with counted(ref, unmap=1, unmap_otherwise=1, **UNMAPPED):
                ref.unmap(handle, Misuse.OTHERWISE)


def check_misuse_that_is_refused(ref: Ref) -> None:
    """nothing is done to others' buffers, nor what would harm the kernel, nor two at once"""
    foreign = heap_buffer()
    with ref.export(PAGE_SIZE) as buffer:
        static, dynamic = ref.attach(buffer), ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        others = ref.attach(foreign)
        ref.map(others)
        with counted(ref):
            for flags in (Misuse.LEAVE, Misuse.FORGET):
                with refused(errno.EINVAL):
                    ref.detach(others, flags)
            with refused(errno.EINVAL):
                ref.unmap(others, Misuse.OTHERWISE)
            with refused(errno.EINVAL):
                ref.pin(others, Misuse.STATIC)
            with refused(errno.EINVAL):
                ref.detach(dynamic, Misuse.FORGET)
            with refused(errno.EINVAL):
                ref.unmap(static, Misuse.NOTHING)
            with refused(errno.EINVAL):
                ref.detach(static, Misuse.LEAVE, force=True)
            with refused(errno.EINVAL):
                ref.export(PAGE_SIZE, ExportFlag.INCOMPLETE | ExportFlag.EAGER)
        ref.detach(others, force=True)
    os.close(foreign)
