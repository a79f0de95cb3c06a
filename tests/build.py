# SPDX-License-Identifier: Apache-2.0
"""A kernel made of a few lines: what it is told to do becomes a recording.

The clock stands still unless :meth:`Build.wait` moves it, so that every age in a test is exact.
Buffers have the inode numbers 41, 42, ... in the order of their export.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Found, Holder, Mark, Probed, SnapshotBlock, SyncFiles
from dmabuf_trace.recording import Writer

START: Final = 1_000_000_000
US, MS, S = 1_000, 1_000_000, 1_000_000_000
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """Who makes the calls."""

    pid: int
    comm: str
    cgroup: int = 0


@dataclass(slots=True)
class Buffer:
    """A buffer that the built kernel made."""

    inode: int
    size: int
    exporter: str
    address: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An importer device attached to a buffer."""

    buffer: Buffer
    address: int
    device: str


@dataclass(frozen=True, slots=True)
class Mapping:
    """An attachment mapped by an sg_table."""

    attachment: Attachment
    sgt: int


APP: Final = Process(100, "app")

P2P: Final = {
    "granted": schema.ATTACH_P2P_ASKED | schema.ATTACH_PEER2PEER,
    "refused": schema.ATTACH_P2P_ASKED,
    "not asked": schema.ATTACH_P2P_NOT_ASKED,
    "granted, old": schema.ATTACH_PEER2PEER,
    "not known, old": 0,
}
"""What came of peer-to-peer, and the bits for it; old recordings have only the exporter's."""


def header(unobserved: Collection[str] = (), **changes: Any) -> dict[str, Any]:
    """A header as the recorder writes it, all probes attached but those of ``unobserved``."""
    return {
        "tool": "0.1.0",
        "host": {"release": "6.12.0-test", "machine": "x86_64", "hostname": "board"},
        "command": ["./suite"],
        "start": {"monotonic_ns": START, "realtime_ns": 1_760_000_000 * S},
        "probes": [
            {
                "kind": kind.name,
                "symbol": kind.source,
                "attached": kind.name not in unobserved,
                "reason": "not asked for" if kind.name in unobserved else "",
            }
            for kind in schema.KINDS
        ],
        "options": {},
        **changes,
    }


@dataclass
class Build:
    """Builds one trace; every method that is a kernel's verb makes one event."""

    now: int = START
    process: Process = APP
    stacks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    losses: NDArray[np.uint64] = field(
        default_factory=lambda: np.zeros(schema.LOSS_SHAPE, np.uint64)
    )
    unreadable: int = 0
    lists_all: bool = False
    sees_queues: bool = False
    sync_files: tuple[SyncFiles, ...] | None = None
    """Whether snapshots list every live buffer, as the dma-buf iterator does."""
    unobserved: Collection[str] = ()
    """Event kinds whose probes were not attached."""

    def __post_init__(self) -> None:
        self._blocks: list[tuple[str, Any]] = []
        self._named: set[tuple[str, int]] = set()
        self._next = {"inode": 41, "address": 0xFFFF_8880_0000_1000}
        self._live: dict[int, Buffer] = {}
        self._holders: list[Holder] = []

    def wait(self, ns: int) -> None:
        """Let time pass."""
        self.now += ns

    def by(self, process: Process) -> Build:
        """Make the next calls as ``process``."""
        self.process = process
        return self

    def _new(self, what: str) -> int:
        self._next[what] += 1 if what == "inode" else 0x1000
        return self._next[what] - (1 if what == "inode" else 0)

    def _name(self, kind: str, text: str, driver: str = "", bus: str = "", key: int = 0) -> int:
        key = key or zlib.crc32(f"{kind}{text}".encode("utf-8", "surrogateescape")) + 1
        if (kind, key) not in self._named or kind == "comm":
            self._named.add((kind, key))
            record = np.zeros(1, schema.NAME_DTYPE)
            texts = (part.encode("utf-8", "surrogateescape") for part in (text, driver, bus))
            cgroup = self.process.cgroup if kind == "comm" else 0
            record[0] = (key, self.now, schema.NAME_TYPES[kind], self.process.pid, cgroup, *texts)
            self._blocks.append(("names", record))
        return key

    def event(self, kind: str, **fields: int) -> None:
        """One raw event; unset fields are 0, the caller is :attr:`process`."""
        self._name("comm", self.process.comm, key=self.process.pid)
        event = np.zeros(1, schema.EVENT_DTYPE)
        values = {"ts": self.now, "pid": self.process.pid, "tid": self.process.pid, "stack": -1}
        values["user_stack"] = -1
        for name, value in {**values, **fields, "kind": schema.KIND[kind]}.items():
            event[name] = value
        self._blocks.append(("events", event))

    def export(
        self,
        size: int = 4 * KIB,
        exporter: str = "system",
        *,
        fd: int | None = None,
        stack: tuple[str, ...] = (),
        dur: int = 0,
        errno: int = 0,
    ) -> Buffer:
        """Make a buffer, with ``fd`` also install it; ``errno`` lets the export fail."""
        aux = self._name("exporter", exporter)
        if errno:
            self.event("export", value=size, aux=aux, ret=-errno, dur=dur)
            return Buffer(0, size, exporter, 0)
        buffer = Buffer(self._new("inode"), size, exporter, self._new("address"))
        self._live[buffer.inode] = buffer
        self.event(
            "export",
            buffer=buffer.inode,
            object=buffer.address,
            value=size,
            aux=aux,
            dur=dur,
            stack=self._stack(stack),
        )
        if fd is not None:
            self.fd(buffer, fd)
        return buffer

    def existing(self, size: int = 4 * KIB, exporter: str = "system", name: str = "") -> Buffer:
        """A buffer that was there before: no event."""
        buffer = Buffer(self._new("inode"), size, exporter, self._new("address"), name)
        self._live[buffer.inode] = buffer
        return buffer

    def _stack(self, frames: tuple[str, ...]) -> int:
        if not frames:
            return schema.UNKNOWN_STACK
        key = next((key for key, known in self.stacks.items() if known == frames), len(self.stacks))
        self.stacks[key] = frames
        return key

    def fd(self, buffer: Buffer, fd: int) -> None:
        """Install an fd of the calling process."""
        self.event("fd_install", **self._file(buffer), detail=fd)
        self._holders.append(Holder(buffer.inode, self.process.pid, self.process.comm, fd))

    def _file(self, buffer: Buffer) -> dict[str, int]:
        return {
            "buffer": buffer.inode,
            "object": buffer.address + 0x100,
            "value": self.table(self.process),
        }

    def table(self, process: Process) -> int:
        """Address of a process's table of fds."""
        return 0xFFFF_8881_0000_0000 + process.pid * 0x1000

    def fork(self, child: Process) -> None:
        """Let the calling process have a child, with a copy of its fds."""
        tables = {"object": self.table(self.process), "value": self.table(child)}
        self.event("fork", **tables, detail=child.pid)

    def close_fd(self, buffer: Buffer, fd: int) -> None:
        """Close an fd of the calling process."""
        self.event("fd_close", **self._file(buffer))
        self.close(fd)

    def close(self, fd: int) -> None:
        """Close an fd of the calling process: no event."""
        self._holders = [h for h in self._holders if (h.pid, h.fd) != (self.process.pid, fd)]

    def mmap(self, buffer: Buffer, start: int = 0x7F00_0000_0000) -> None:
        """Map the whole buffer into the calling process."""
        self.event("mmap", buffer=buffer.inode, object=start, value=buffer.size)
        holder = Holder(buffer.inode, self.process.pid, self.process.comm, -1, start, buffer.size)
        self._holders.append(holder)

    def send(self, buffer: Buffer, to: Process, socket: int = 77) -> None:
        """Send an fd through a socket, and nobody receives it: no event."""
        by = self.process
        self._holders.append(
            Holder(buffer.inode, to.pid, to.comm, -1, 0, 0, socket, by.pid, by.comm)
        )

    def munmap(self, buffer: Buffer) -> None:
        """Unmap the buffer from the calling process: no event."""
        mine = (buffer.inode, self.process.pid, -1)
        self._holders = [h for h in self._holders if (h.buffer, h.pid, h.fd) != mine]

    def name(self, buffer: Buffer, text: str) -> None:
        """DMA_BUF_SET_NAME."""
        buffer.name = text
        self.event("set_name", buffer=buffer.inode, aux=self._name("buffer", text))

    def attach(
        self,
        buffer: Buffer,
        device: str = "vivid-000",
        *,
        driver: str = "vivid",
        bus: str = "platform",
        dynamic: bool = False,
        p2p: str = "not asked",
        dur: int = 0,
        errno: int = 0,
        stack: tuple[str, ...] = (),
        address: int = 0,
    ) -> Attachment:
        """Attach a device; ``errno`` lets it be refused, ``address`` re-uses an address.

        ``p2p``, of a dynamic importer, is one of :data:`P2P`.
        """
        aux = self._name("device", device, driver, bus)
        place = 0 if errno else address or self._new("address")
        self.event(
            "attach",
            buffer=buffer.inode,
            object=place,
            value=zlib.crc32(device.encode("utf-8", "surrogateescape")),
            aux=aux,
            detail=schema.ATTACH_DYNAMIC | P2P[p2p] if dynamic else 0,
            ret=-errno,
            dur=dur,
            stack=self._stack(stack),
        )
        return Attachment(buffer, place, device)

    def detach(self, attachment: Attachment) -> None:
        """Detach."""
        aux = self._name("device", attachment.device)
        inode = attachment.buffer.inode
        self.event("detach", buffer=inode, object=attachment.address, aux=aux)

    def map(
        self,
        attachment: Attachment,
        direction: str = "bidirectional",
        *,
        dur: int = 0,
        errno: int = 0,
        sgt: int = 0,
        entries: int = 1,
    ) -> Mapping:
        """Map; ``sgt`` lets the core hand out a cached sg_table again."""
        mapping = Mapping(attachment, 0 if errno else sgt or self._new("address"))
        of = self._of(mapping, direction)
        if not errno:
            of["detail"] |= entries << schema.MAP_ENTRIES_SHIFT
        if sgt:
            of["detail"] |= schema.MAP_CACHED
        self.event("map", **of, ret=-errno, dur=dur)
        return mapping

    def unmap(self, mapping: Mapping, direction: str = "bidirectional") -> None:
        """Unmap."""
        self.event("unmap", **self._of(mapping, direction))

    def _of(self, mapping: Mapping, direction: str) -> dict[str, int]:
        attachment = mapping.attachment
        return {
            "buffer": attachment.buffer.inode,
            "object": attachment.address,
            "value": mapping.sgt,
            "aux": self._name("device", attachment.device),
            "detail": schema.DIRECTIONS.index(direction),
        }

    def pin(self, attachment: Attachment, *, dur: int = 0, errno: int = 0) -> None:
        """Pin."""
        self.event("pin", **self._on(attachment), dur=dur, ret=-errno)

    def unpin(self, attachment: Attachment) -> None:
        """Give a pin back."""
        self.event("unpin", **self._on(attachment))

    def _on(self, attachment: Attachment) -> dict[str, int]:
        aux = self._name("device", attachment.device)
        return {"buffer": attachment.buffer.inode, "object": attachment.address, "aux": aux}

    def vmap(self, buffer: Buffer, *, dur: int = 0) -> None:
        """Map into the kernel."""
        self.event("vmap", buffer=buffer.inode, object=buffer.address, dur=dur)

    def vunmap(self, buffer: Buffer) -> None:
        """Give a kernel mapping back."""
        self.event("vunmap", buffer=buffer.inode, object=buffer.address)

    def begin(self, buffer: Buffer, sync: int = 1, *, dur: int = 0, errno: int = 0) -> None:
        """Begin CPU access: ``sync`` 1 reads, 2 writes, 3 both."""
        self.event("cpu_begin", buffer=buffer.inode, detail=sync, dur=dur, ret=-errno)

    def end(self, buffer: Buffer, sync: int = 1, *, dur: int = 0, errno: int = 0) -> None:
        """End CPU access."""
        self.event("cpu_end", buffer=buffer.inode, detail=sync | 4, dur=dur, ret=-errno)

    def move(self, buffer: Buffer) -> None:
        """Tell the importers that the buffer moves."""
        self.event("move", buffer=buffer.inode, object=buffer.address)

    def lock_wait(self, buffer: Buffer, dur: int, *, errno: int = 0) -> None:
        """Have waited for the reservation lock."""
        self.event("lock_wait", buffer=buffer.inode, object=1, dur=dur, ret=-errno)

    def fence_wait(
        self, buffer: Buffer, dur: int, *, context: int = 7, seqno: int = 1, timed_out: bool = False
    ) -> None:
        """Have waited for a fence."""
        fence = {"value": context, "aux": seqno, "detail": int(timed_out)}
        self.event("fence_wait", buffer=buffer.inode, dur=dur, **fence)

    def operation(self, buffer: Buffer, name: str, dur: int, *, errno: int = 0) -> None:
        """Have called a function of the exporter."""
        number = schema.OPERATIONS.index(name) + 1
        self.event("operation", buffer=buffer.inode, detail=number, dur=dur, ret=-errno)

    def cgroup(self, cgroup: int, path: str) -> None:
        """Tell the path of a cgroup."""
        self._blocks.append(("cgroups", {cgroup: path}))

    def probed(self, operation: str, symbol: str, reason: str = "") -> None:
        """A function of an exporter was found and probed."""
        row = Probed(self.now, "operation", operation, symbol, reason)
        self._blocks.append(("probed", (row,)))

    def mark(self, label: str, status: int = 0) -> int:
        """Name this moment, and write down what was lost so far; when that is."""
        if self.losses.any():
            self._blocks.append(("losses", self.losses.copy()))
        self._blocks.append(("mark", Mark(self.now, label, status)))
        return self.now

    def get(self, buffer: Buffer, fd: int = 3, *, stack: tuple[str, ...] = ()) -> None:
        """A driver takes a reference; giving it back makes no event."""
        taken = {"buffer": buffer.inode, "object": buffer.address, "detail": fd}
        self.event("get", **taken, stack=self._stack(stack))

    def release(self, buffer: Buffer) -> None:
        """The last reference is gone."""
        self._live.pop(buffer.inode, None)
        self.event("release", buffer=buffer.inode, object=buffer.address)

    def vanish(self, buffer: Buffer) -> None:
        """The last reference is gone, and its event is lost."""
        del self._live[buffer.inode]

    def lose(self, kind: str, cause: str, count: int) -> None:
        """Count lost events."""
        self.losses[schema.KIND[kind], schema.CAUSE[cause]] += np.uint64(count)

    def snapshot(self, when: str, watched: Collection[Buffer] | None = None) -> None:
        """What is there now: buffers, all or those held by an fd or a VMA, and their holders.

        ``watched``: those that filters let pass by now; None: all.
        """
        held = {holder.buffer for holder in self._holders}
        found = tuple(
            Found(
                *(buffer.inode, buffer.size, buffer.exporter, buffer.name),
                watched=watched is None or buffer in watched,
            )
            for buffer in self._live.values()
            if self.lists_all or buffer.inode in held
        )
        source = "iterators" if self.lists_all else "proc"
        block = SnapshotBlock(
            *(when, self.now, found, tuple(self._holders), self.unreadable, source),
            complete=self.lists_all,
            queues=self.sees_queues,
            sync_files=self.sync_files,
        )
        self._blocks.append(("snapshot", block))

    def holding(self, buffer: Buffer, fd: int) -> None:
        """Let the calling process have had an fd for long: no event."""
        self._holders.append(Holder(buffer.inode, self.process.pid, self.process.comm, fd))

    def events(self) -> NDArray[np.void]:
        """All events so far."""
        parts = [block for kind, block in self._blocks if kind == "events"]
        return np.concatenate([np.zeros(0, schema.EVENT_DTYPE), *parts])

    def names(self) -> NDArray[np.void]:
        """All names so far."""
        parts = [block for kind, block in self._blocks if kind == "names"]
        return np.concatenate([np.zeros(0, schema.NAME_DTYPE), *parts])

    def write(self, path: Path, *, cut: bool = False, **changes: Any) -> Path:
        """Write the recording, with an end snapshot unless ``cut``; ``changes``: of the header."""
        if not cut:
            self.snapshot("end")
        with Writer(path) as writer:
            writer.begin(header(self.unobserved, **changes))
            for kind, block in self._blocks:
                getattr(writer, f"write_{kind}")(block)
            if self.losses.any():
                writer.write_losses(self.losses)
            if not cut:
                writer.write_stacks(self.stacks)
                writer.finish(self.now, "command ended")
        return path
