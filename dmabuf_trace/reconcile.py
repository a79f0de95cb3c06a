# SPDX-License-Identifier: Apache-2.0
"""The buffers that events leave open, compared with the kernel's own list at the end.

Where they disagree an event was lost, and the kernel is believed. Must not know pandas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.blocks import SnapshotBlock
from dmabuf_trace.tables import Flag

Structs = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Differences:
    """Inode numbers, ascending: ``gone`` are open by the events and the kernel does not have them,
    ``unknown`` the kernel has and neither events nor the look at the start know them."""

    gone: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()


def compare(
    buffers: Structs, seen: NDArray[np.uint64], snapshots: Mapping[str, SnapshotBlock]
) -> Differences:
    """Compare, as far as the snapshots list all buffers.

    ``buffers`` has :data:`tables.BUFFER_DTYPE`, ``seen`` are inode numbers that events tell of.
    What began after the look at the end is left out of ``gone``; without a full look at the start a
    buffer may be older, so none is ``unknown``.
    """
    start, end = snapshots.get("start"), snapshots.get("end")
    if end is None or not end.complete:
        return Differences()
    listed = _inodes(end)
    opened = buffers[(buffers["flags"] & Flag.OPEN != 0) & (buffers["seen"] < end.ts)]
    gone = np.setdiff1d(opened["inode"], listed)
    unknown = np.zeros(0, np.uint64)
    if start is not None and start.complete:
        known = np.union1d(seen, _inodes(start))
        unknown = np.setdiff1d(listed, known)
    return Differences(_numbers(gone), _numbers(unknown))


def settle(buffers: Structs, differences: Differences) -> None:
    """Mark what is gone as over: a buffer that the kernel does not have is no leak."""
    gone = np.isin(buffers["inode"], np.array(differences.gone, np.uint64))
    gone &= buffers["flags"] & Flag.OPEN != 0
    buffers["flags"][gone] = buffers["flags"][gone] & ~Flag.OPEN | Flag.END_LOST


def _inodes(snapshot: SnapshotBlock) -> NDArray[np.uint64]:
    """Those listed; a holder's buffer is alive even where a list was read before it was made."""
    found = [buffer.buffer for buffer in snapshot.buffers]
    return np.array([*found, *(holder.buffer for holder in snapshot.holders)], np.uint64)


def _numbers(inodes: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(inode) for inode in inodes)
