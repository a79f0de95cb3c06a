# SPDX-License-Identifier: Apache-2.0
"""What the events of a generated pipeline are about: processes, names, addresses, inode numbers.

Addresses are out of slabs, and come again when what had them is long gone; inode numbers never do.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Found, Holder, Probed
from tests.bench.mix import SLAB, Part, Pipeline, Step

Column = NDArray[np.int64]
Name = dict[str, int | bytes]

_KERNEL: Final = np.int64(0xFFFF_8880_0000_0000 - (1 << 64))
"""Where the kernel maps all memory, on x86-64."""
_USER: Final = 0x7F00_0000_0000
_DMA_BUF, _FILE, _LOCK, _TABLE, _DEVICE, _SG_TABLE = 40, 41, 42, 44, 50, 60
"""Sorts of objects, each with pages of its own; attachments are sorts from 0 on, by device."""
_THROUGH_ATTACHMENTS: Final = ("map", "unmap", "pin", "unpin")
_BEFORE, _SHARED, _FRESH = 1 << 16, 1 << 20, 1 << 21
"""From where on inode numbers are counted: they grow with time."""
_PIPELINES: Final = 256


def _cgroup(process: str) -> int:
    return zlib.crc32(process.encode())


class Objects:
    """Those of one pipeline, the ``number``-th of a trace."""

    def __init__(self, pipeline: Pipeline, number: int) -> None:
        self.pipeline = pipeline
        self._number = number
        self.pids = [1_000 * (number + 1) + 150 * who for who in range(len(pipeline.processes))]
        self.tids = {(who, ""): pid for who, pid in enumerate(self.pids)}
        threads = dict.fromkeys((s.who, s.thread) for s in pipeline.steps if s.thread)
        for index, (who, name) in enumerate(threads, 1):
            self.tids[who, name] = self.pids[who] + index
        self.attaching = {s.device for s in pipeline.steps if s.kind == "attach"}
        """Devices that attach in each frame."""
        self.cached = {s.device for s in pipeline.steps if s.detail & schema.MAP_CACHED}
        """Devices whose attachments keep their mapping."""
        self.shared = np.arange(0 if pipeline.fresh else pipeline.buffers)
        """The buffers that all frames share."""

    # what a recording has beside events

    def names(self) -> Iterator[Name]:
        """Fields of :data:`schema.NAME_DTYPE`, those that are not empty, for what events name."""
        texts = [("exporter", self.pipeline.exporter), ("buffer", self.pipeline.name)]
        for kind, text in [*texts, *(("device", device) for device in self.pipeline.devices)]:
            key, number = schema.string_id(kind, text), schema.NAME_TYPES[kind]
            of_device: Name = {"driver": text.rstrip("0123456789").encode(), "bus": b"platform"}
            named: Name = {"id": key, "type": number, "text": text.encode()}
            yield named | (of_device if kind == "device" else {})
        for (who, thread), tid in self.tids.items():
            process = self.pipeline.processes[who]
            yield {
                "id": tid,
                "type": schema.NAME_TYPES["comm"],
                "pid": self.pids[who],
                "cgroup": _cgroup(process),
                "text": (thread or process).encode(),
            }

    def cgroups(self) -> dict[int, str]:
        """A cgroup per program."""
        return {_cgroup(name): f"/system.slice/{name}.service" for name in self.pipeline.processes}

    def stacks(self) -> dict[int, tuple[str, ...]]:
        """Of the exports and of the attaches."""
        allocate = f"{self.pipeline.exporter}_allocate"
        return {
            self._stack(0): ("dma_buf_export", allocate, "__x64_sys_ioctl"),
            self._stack(1): ("dma_buf_dynamic_attach", "dma_buf_attach", "__x64_sys_ioctl"),
        }

    def _stack(self, which: int) -> int:
        return 100 + 2 * self._number + which

    def probed(self, ts: int) -> Iterator[Probed]:
        """The exporter's functions whose calls are among the events."""
        exporter, steps = self.pipeline.exporter, self.pipeline.steps
        details = {what.detail for what in calls(steps) if what.kind == "operation"}
        for operation in (schema.OPERATIONS[detail - 1] for detail in sorted(details)):
            yield Probed(ts, "operation", operation, f"{exporter}:{exporter}_{operation}", "")

    def held(self) -> tuple[list[Found], list[Holder]]:
        """The buffers that all frames share, as a look shows them."""
        pipe = self.pipeline
        inodes = self.inodes(self.shared).tolist()
        found = [Found(inode, pipe.size, pipe.exporter, pipe.name, 2) for inode in inodes]
        who = self.pids[0], pipe.processes[0]
        return found, [Holder(inode, *who, fd) for fd, inode in enumerate(inodes, 20)]

    # what events are about

    def slots(self, frames: Column) -> Column:
        """Which buffer each frame is about."""
        return frames if self.pipeline.fresh else frames % self.pipeline.buffers

    def inodes(self, slots: Column) -> Column:
        """Inode numbers of buffers."""
        first = _BEFORE if self.pipeline.before else _SHARED
        if self.pipeline.fresh:
            first, slots = _FRESH, (slots * (1_000 / self.pipeline.hz)).astype(np.int64)
        return first + slots * _PIPELINES + self._number

    def fill(self, step: Step, what: Step | Part, column: NDArray[np.void], frames: Column) -> None:
        """The objects that a call of ``step``, or a part of it, is about."""
        slot = self.slots(frames)
        column["buffer"] = self.inodes(slot)
        attachment = self._attachment(step.device, frames)
        match what.kind:
            case "operation" if schema.OPERATIONS[what.detail - 1] in _THROUGH_ATTACHMENTS:
                column["object"] = attachment
            case "export" | "release" | "get" | "move" | "vmap" | "vunmap" | "operation":
                column["object"] = self._address(_DMA_BUF, slot)
            case "fd_install" | "fd_close" | "poll":
                column["object"] = self._address(_FILE, slot)
            case "attach" | "detach" | "map" | "unmap" | "pin" | "unpin":
                column["object"] = attachment
                column["aux"] = schema.string_id("device", self.pipeline.devices[step.device])
            case "mmap":
                column["object"] = _USER + (slot % 997 << 20)
            case "lock_wait":
                column["object"] = self._address(_LOCK, slot)
        self._fill_values(step, what.kind, column, frames)
        if isinstance(what, Step) and what.ret:
            column["ret"] = what.ret
            _undo(what.kind, column)

    def _fill_values(self, step: Step, kind: str, column: NDArray[np.void], frames: Column) -> None:
        pipe = self.pipeline
        match kind:
            case "export":
                column["value"], column["stack"] = pipe.size, self._stack(0)
                column["aux"] = schema.string_id("exporter", pipe.exporter)
            case "mmap":
                column["value"] = pipe.size
            case "set_name":
                column["aux"] = schema.string_id("buffer", pipe.name)
            case "attach":
                column["value"] = self._address(_DEVICE + step.device, np.zeros_like(frames))
                column["stack"], column["detail"] = self._stack(1), pipe.importer
            case "map" | "unmap":
                kept = step.device in self.cached
                of = self.slots(frames) if kept else frames
                column["value"] = self._address(_SG_TABLE + step.device, of)
            case "fd_install" | "fd_close":
                column["value"] = self._address(_TABLE + step.who, np.zeros_like(frames))
            case "export_sync_file" | "import_sync_file":
                column["value"] = 50 + frames % 8
            case "fence_wait":
                column["value"], column["aux"] = 700 + self._number, frames.view(np.uint64)
            case "poll":
                column["value"], column["detail"] = 1, frames % 2

    def _attachment(self, device: int, frames: Column) -> NDArray[np.uint64]:
        new = device in self.attaching
        return self._address(device, frames if new else self.slots(frames))

    def _address(self, sort: int, which: Column) -> NDArray[np.uint64]:
        """Address of the object of a sort: one of ``places`` in a few pages."""
        place = which * 29 % self.pipeline.places  # an allocator's free list is no sequence
        group = ((self._number << 7 | sort % 128) * 0x9E3779B1) % (1 << 18)
        addresses: Column = _KERNEL + ((group << 6) + place // SLAB << 12) + place % SLAB * 96
        return addresses.view(np.uint64)


def calls(steps: tuple[Step, ...]) -> Iterator[Step | Part]:
    """All that makes events: each step behind its parts."""
    for step in steps:
        yield from step.parts
        yield step


def _undo(kind: str, column: NDArray[np.void]) -> None:
    """What a call that failed does not tell."""
    if kind in ("export", "get"):
        column["buffer"] = 0
    if kind in ("export", "get", "attach"):
        column["object"] = 0
    if kind == "map":
        column["value"] = 0
