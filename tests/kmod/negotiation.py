# SPDX-License-Identifier: Apache-2.0
"""Checks: who may attach when, and what storage the devices' constraints lead to."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from tests.kmod.client import PAGE_SIZE, ExportFlag, Importer, Ref
from tests.kmod.harness import SkipError, counted, page_frames, refused

FOUR_GIB = 1 << 32
SEGMENT = 64 << 10  # of Importer.SEG, which takes four

SCATTERED = ExportFlag.EAGER
CONTIGUOUS = ExportFlag.EAGER | ExportFlag.CONTIGUOUS

# (flags, size in bytes) -> segments seen by each importer, or the errno of its attach
MATRIX: dict[tuple[ExportFlag, int], dict[Importer, int | str]] = {
    (SCATTERED, PAGE_SIZE): {Importer.IMP64: 1, Importer.CONTIG: 1, Importer.SEG: 1},
    (SCATTERED, 4 * PAGE_SIZE): {Importer.IMP64: 4, Importer.CONTIG: "EBUSY", Importer.SEG: 4},
    (SCATTERED, 5 * PAGE_SIZE): {Importer.CONTIG: "EBUSY", Importer.SEG: "EBUSY"},
    (CONTIGUOUS, 5 * PAGE_SIZE): {Importer.IMP64: 1, Importer.CONTIG: 1, Importer.SEG: 1},
    (CONTIGUOUS, 4 * SEGMENT): {Importer.IMP64: 1, Importer.CONTIG: 1, Importer.SEG: 4},
    (CONTIGUOUS, 5 * SEGMENT): {Importer.IMP64: 1, Importer.CONTIG: 1, Importer.SEG: "EBUSY"},
    (ExportFlag(0), 4 * SEGMENT): {Importer.SEG: 4, Importer.CONTIG: 1, Importer.IMP64: 1},
    (ExportFlag(0), 5 * SEGMENT): {
        Importer.SEG: "EINVAL",
        Importer.IMP64: 5 * SEGMENT // PAGE_SIZE,
    },
}


def check_matrix(ref: Ref) -> None:
    """storage that exists and does not fit is -EBUSY, a size that never can is -EINVAL"""
    for (flags, size), expected in MATRIX.items():
        handles: list[int] = []
        with ref.export(size, flags) as buffer:
            for importer, outcome in expected.items():
                if isinstance(outcome, str):
                    number = getattr(errno, outcome)
                    with (
                        counted(ref, get_ok=1, attach_failed=1, op_attach_failed=1, put=1),
                        refused(number),
                    ):
                        ref.attach(buffer, importer)
                else:
                    handles.append(ref.attach(buffer, importer))
                    mapping = ref.map(handles[-1])
                    assert (mapping.nents, mapping.bytes) == (outcome, size), (flags, importer)
        for handle in handles:
            ref.detach(handle, force=True)


def check_late_allocation_suits_all(ref: Ref) -> None:
    """late storage combines the constraints of all who attached by then"""
    size = 8 * PAGE_SIZE
    with ref.export(size) as buffer:
        wide = ref.attach(buffer, Importer.IMP64)
        narrow = ref.attach(buffer, Importer.CONTIG)
        low = ref.attach(buffer, Importer.IMP32)
        with buffer.mmap() as vma:
            frames = page_frames(vma)
        first = frames[0]
        assert frames == list(range(first, first + 8)), "the device that needs it came in time"
        assert (first + 8) * PAGE_SIZE <= FOUR_GIB
        assert [ref.map(handle).nents for handle in (wide, narrow, low)] == [1, 1, 1]


def check_detached_devices_have_no_say(ref: Ref) -> None:
    """a device that detached before the allocation does not shape it"""
    with ref.export(8 * PAGE_SIZE) as buffer:
        ref.detach(ref.attach(buffer, Importer.CONTIG))
        assert ref.map(ref.attach(buffer, Importer.IMP64)).nents == 8
        with refused(errno.EBUSY):
            ref.attach(buffer, Importer.CONTIG)


def check_dma_mask(ref: Ref) -> None:
    """pages above 4 GiB keep the 32-bit device out; its being there first keeps them below"""
    zones = Path("/proc/zoneinfo").read_text()
    normal = re.search(r"zone\s+Normal\n.*?present\s+(\d+)", zones, re.DOTALL)
    if normal is None or normal[1] == "0":
        raise SkipError("no memory above 4 GiB")
    size = 16 * PAGE_SIZE
    with ref.export(size, ExportFlag.EAGER) as buffer:
        with buffer.mmap() as vma:
            assert max(page_frames(vma)) * PAGE_SIZE >= FOUR_GIB, "allocated from low memory"
        with refused(errno.EBUSY):
            ref.attach(buffer, Importer.IMP32)
        ref.attach(buffer, Importer.IMP64)
    with ref.export(size) as buffer:
        ref.attach(buffer, Importer.IMP32)
        with buffer.mmap() as vma:
            assert max(page_frames(vma)) * PAGE_SIZE < FOUR_GIB
