# SPDX-License-Identifier: Apache-2.0
"""Checks: pins, by importers and by the core, between static and dynamic of both sides."""

from __future__ import annotations

import errno
from functools import cache
from pathlib import Path

from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    LAZY,
    P2P,
    PAGE_SIZE,
    Direction,
    ExportFlag,
    Importer,
    Mapping,
    Op,
    Ref,
)
from tests.kmod.harness import counted, refused

PAGES = 4
SIZE = PAGES * PAGE_SIZE
ATTACHED = {"get_ok": 1, "attach_ok": 1, "op_attach_ok": 1, "live_attachments": 1}
DETACHED = {"detach": 1, "op_detach": 1, "put": 1, "live_attachments": -1, "live_handles": -1}
MAPPED = {"op_map_ok": 1, "live_maps": 1}
UNMAPPED = {"op_unmap": 1, "live_maps": -1}
PINNED = {"op_pin_ok": 1}
UNPINNED = {"op_unpin": 1}


@cache
def maps_at_attach() -> bool:
    """Does the core map at attach where one side is dynamic and the other is not? (Up to 6.15.)

    A core that does has a function of its own for it; a core that does not lacks it. The same
    cores, built without CONFIG_DMABUF_MOVE_NOTIFY as by Debian, pin for every map.
    """
    symbols = Path("/proc/kallsyms").read_text()
    return " __map_dma_buf\n" in symbols


def check_pins_of_an_importer(ref: Ref) -> None:
    """PIN and UNPIN reach a dynamic exporter's ops->pin and ops->unpin, and nest"""
    with ref.export(SIZE, ExportFlag.DYNAMIC) as buffer:
        with counted(ref, live_handles=1, **ATTACHED):
            handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        with counted(ref), refused(errno.EINVAL):
            ref.unpin(handle)
        with counted(ref, pin_ok=2, op_pin_ok=2):
            ref.pin(handle)
            ref.pin(handle)
        with counted(ref, unpin=1, op_unpin=1):
            ref.unpin(handle)
        with counted(ref), refused(errno.EBUSY):
            ref.detach(handle)
        with counted(ref, unpin=1, op_unpin=1, **DETACHED):
            ref.detach(handle, force=True)


def check_pins_without_a_pinning_exporter(ref: Ref) -> None:
    """an exporter without ops->pin never hears of a pin; a static importer may not ask for one"""
    with ref.export(SIZE) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        with counted(ref, pin_ok=1):
            ref.pin(handle)
        with counted(ref, unpin=1):
            ref.unpin(handle)
        static = ref.attach(buffer)
        for call in ref.pin, ref.unpin:
            with counted(ref), refused(errno.EINVAL):
                call(static)
            with counted(ref), refused(errno.ENOENT):
                call(9999)


def check_pins_of_the_core(ref: Ref) -> None:
    """for a static importer of a dynamic exporter the core pins: at attach, or for each map"""
    early = PINNED | MAPPED | {"live_pages": PAGES} if maps_at_attach() else {}
    late = {} if maps_at_attach() else PINNED | MAPPED | {"live_pages": PAGES}
    with ref.export(SIZE, ExportFlag.DYNAMIC) as buffer:
        with counted(ref, live_handles=1, **ATTACHED, **early):
            handle = ref.attach(buffer)
        with counted(ref, map_ok=1, **late):
            assert ref.map(handle, Direction.TO_DEVICE) == Mapping(nents=PAGES, bytes=SIZE)
        with counted(ref, unmap=1, **({} if maps_at_attach() else UNPINNED | UNMAPPED)):
            ref.unmap(handle)
        with counted(ref, **DETACHED, **(UNPINNED | UNMAPPED if maps_at_attach() else {})):
            ref.detach(handle)


def check_maps_of_a_dynamic_importer(ref: Ref) -> None:
    """a dynamic importer maps under the lock; of a static exporter, what was mapped at attach"""
    with ref.export(SIZE, ExportFlag.DYNAMIC) as buffer:
        handle = ref.attach(buffer, Importer.CONTIG, flags=DYNAMIC_IMPORTER)
        pin, unpin = (PINNED, UNPINNED) if maps_at_attach() else ({}, {})
        with counted(ref, map_ok=1, live_pages=PAGES, **MAPPED, **pin):
            assert ref.map(handle) == Mapping(nents=1, bytes=SIZE)
        with counted(ref, unmap=1, **UNMAPPED, **unpin):
            ref.unmap(handle)
    with ref.export(SIZE) as buffer:
        early = MAPPED | {"live_pages": PAGES} if maps_at_attach() else {}
        late = {} if maps_at_attach() else MAPPED | {"live_pages": PAGES}
        with counted(ref, live_handles=1, **ATTACHED, **early):
            handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        with counted(ref, map_ok=1, **late):
            ref.map(handle)
        with counted(ref, unmap=1, **({} if maps_at_attach() else UNMAPPED)):
            ref.unmap(handle)


def check_pins_that_fail(ref: Ref) -> None:
    """a pin that the exporter refuses fails PIN, and the attach or map that needs it"""
    with ref.export(SIZE, ExportFlag.DYNAMIC) as buffer:
        handle = ref.attach(buffer, flags=DYNAMIC_IMPORTER)
        ref.inject(Op.PIN, errno.ENOMEM)
        with counted(ref, pin_failed=1, op_pin_failed=1), refused(errno.ENOMEM):
            ref.pin(handle)
        with counted(ref), refused(errno.EINVAL):
            ref.inject(Op.PIN, errno.EBUSY)
        ref.inject(Op.PIN, errno.ENOSPC)
        if maps_at_attach():
            undone = {"get_ok": 1, "put": 1, "attach_failed": 1, "op_attach_ok": 1, "op_detach": 1}
            with counted(ref, op_pin_failed=1, **undone), refused(errno.ENOSPC):
                ref.attach(buffer)
        else:
            static = ref.attach(buffer)
            with counted(ref, op_pin_failed=1, map_failed=1), refused(errno.ENOSPC):
                ref.map(static)


def check_peer_to_peer(ref: Ref) -> None:
    """peer-to-peer is an importer's to ask for, and an exporter's to refuse"""
    for flag, answer in ((0, "p2p_ok"), (ExportFlag.NO_P2P, "p2p_failed")):
        with ref.export(SIZE, ExportFlag.DYNAMIC | flag) as buffer:
            with counted(ref, live_handles=1, **{answer: 1}, **ATTACHED):
                ref.attach(buffer, flags=DYNAMIC_IMPORTER | P2P)
            with counted(ref, live_handles=1, **ATTACHED):
                ref.attach(buffer, flags=DYNAMIC_IMPORTER)


def check_flags_of_an_attachment(ref: Ref) -> None:
    """attach refuses flags that it does not know, before it does anything"""
    with ref.export(SIZE) as buffer:
        for flags in LAZY, P2P, P2P | LAZY, 8, 8 | DYNAMIC_IMPORTER, 1 << 31:
            with counted(ref), refused(errno.EINVAL):
                ref.attach(buffer, flags=flags)
