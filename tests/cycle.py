# SPDX-License-Identifier: Apache-2.0
"""The unit that guest tests count in: one buffer from export to release, through one device."""

from __future__ import annotations

from typing import Final

from tests.kmod.client import Direction, Importer, Ref

PAGE: Final = 4096


def cycle(ref: Ref) -> None:
    """Export, attach, map, unmap, detach, close."""
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer, Importer.IMP64)
        ref.map(handle, Direction.TO_DEVICE)
        ref.unmap(handle)
        ref.detach(handle)


def cycles(count: int) -> None:
    """That many, at full speed."""
    with Ref() as ref:
        for _ in range(count):
            cycle(ref)
