# SPDX-License-Identifier: Apache-2.0
"""A recording's events, counted as the module and as ftrace count calls.

Reads the file's blocks directly: neither lifecycle nor analyses take part in the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import EventBlock, LossBlock, NameBlock
from dmabuf_trace.names import Names
from dmabuf_trace.recording import Reader
from tests.kmod.client import EXPORTER, IMPORTER_DRIVER

FTRACE: Final = {
    "dma_buf_export": ("export",),
    "dma_buf_file_release": ("release",),
    "dma_buf_dynamic_attach": ("attach",),
    "dma_buf_detach": ("detach",),
    "dma_buf_map_attachment": ("map",),
    "dma_buf_unmap_attachment": ("unmap",),
    "dma_buf_ioctl": (
        "cpu_begin",
        "cpu_end",
        "set_name",
        "export_sync_file",
        "import_sync_file",
    ),
    "dma_buf_mmap_internal": ("mmap",),
    "dma_buf_mmap": ("mmap_importer",),
    "dma_buf_get": ("get",),
    "dma_buf_pin": ("pin",),
    "dma_buf_unpin": ("unpin",),
    "dma_buf_move_notify": ("move",),
    # the ioctl calls the one, and has the other inlined
    "dma_buf_begin_cpu_access": ("cpu_begin", "kernel_begin"),
    "dma_buf_end_cpu_access": ("kernel_end",),
    "dma_buf_vmap": ("vmap",),
    "dma_buf_vunmap": ("vunmap",),
    "dma_buf_poll": ("poll",),
    "fd_install": ("fd_install",),
    "filp_flush": ("fd_close",),
}
"""Events that come from each function, while no other ioctl is used."""

EXPORTER_SIDE: Final = {
    "export_ok": (("export",), True),
    "fd_ok": (("fd_install",), True),
    "op_attach_ok": (("attach",), True),
    "op_attach_failed": (("attach",), False),
    "op_detach": (("detach",), True),
    "op_map_ok": (("map",), True),
    "op_map_failed": (("map",), False),
    "op_unmap": (("unmap",), True),
    "op_mmap_ok": (("mmap",), True),
    "op_mmap_failed": (("mmap",), False),
    "op_begin_ok": (("cpu_begin", "kernel_begin"), True),
    "op_end_ok": (("cpu_end", "kernel_end"), True),
    "op_release": (("release",), True),
    "move_notify": (("move",), True),
}
"""The module's counters of calls on its own buffers: event kinds, and whether it succeeded."""

IMPORTER_SIDE: Final = {
    "attach_ok": (("attach",), True),
    "attach_failed": (("attach",), False),
    "detach": (("detach",), True),
    "map_ok": (("map",), True),
    "map_failed": (("map",), False),
    "unmap": (("unmap",), True),
    "pin_ok": (("pin",), True),
    "pin_failed": (("pin",), False),
    "unpin": (("unpin",), True),
}
"""The module's counters of calls by its importer devices, on any buffer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    counter: str
    counted: int
    recorded: int


class Recorded:
    """All events of a recording, their names, the final loss counters, and the header."""

    def __init__(self, path: Path) -> None:
        batches = []
        self.names = Names()
        self.losses = np.zeros(schema.LOSS_SHAPE, np.uint64)
        with Reader(path) as reader:
            for block in reader.blocks():
                match block:
                    case EventBlock(events):
                        batches.append(events)
                    case NameBlock(names):
                        self.names.feed(names)
                    case LossBlock(losses):
                        self.losses = losses
        self.cut = reader.cut
        self.header = reader.header
        self.events: NDArray[np.void] = (
            np.concatenate(batches) if batches else np.empty(0, schema.EVENT_DTYPE)
        )

    def count(self, kind: str, ok: bool | None = None) -> int:
        """Events of a kind; only those that succeeded, or failed, unless ``ok`` is None."""
        return self._count(np.ones(len(self.events), np.bool_), kind, ok)

    def _count(self, chosen: NDArray[np.bool_], kind: str, ok: bool | None) -> int:
        chosen = chosen & (self.events["kind"] == schema.KIND[kind])
        if ok is not None:
            chosen &= (self.events["ret"] == 0) == ok
        return int(chosen.sum())

    def against_module(self, counters: Mapping[str, int]) -> list[Row]:
        """Every operation of the reference exporter, beside its events."""
        events = self.events
        exports = events[events["kind"] == schema.KIND["export"]]
        ours = {
            key for key in np.unique(exports["aux"]) if self.names.exporter(int(key)) == EXPORTER
        }
        buffers = exports["buffer"][np.isin(exports["aux"], list(ours)) & (exports["ret"] == 0)]
        on_ours = np.isin(events["buffer"], buffers)
        importers = [
            key
            for key in np.unique(events["aux"])
            if self.names.device(int(key)).driver == IMPORTER_DRIVER
        ]
        by_ours = np.isin(events["aux"], importers)
        return [
            Row(counter, counters[counter], sum(self._count(chosen, kind, ok) for kind in kinds))
            for chosen, table in ((on_ours, EXPORTER_SIDE), (by_ours, IMPORTER_SIDE))
            for counter, (kinds, ok) in table.items()
        ]

    def against_ftrace(self, hits: Mapping[str, int]) -> list[Row]:
        """Every probed function's calls, beside its events."""
        return [
            Row(function, hits[function], sum(self.count(kind) for kind in kinds))
            for function, kinds in FTRACE.items()
        ]
