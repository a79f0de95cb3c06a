# SPDX-License-Identifier: Apache-2.0
"""What a snapshot comes to: bytes per process, per buffer, and those that only the kernel holds.

The rules are Android's. RSS: a buffer counts in full for each process that holds it, once however
many fds and VMAs it has there and however little it maps, as any of them keeps all of it alive.
PSS: its size divided by the number of processes that hold it. Kernel-only RSS: buffers that no
process holds, also where a socket's queue does. Must not know where the snapshot came from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from dmabuf_trace.blocks import Holder, SnapshotBlock

Row = dict[str, Any]
Who = tuple[int, str]
"""Process: pid and name."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds buffers; ``unsized`` of them are of unknown size and not in the sums."""

    pid: int
    comm: str
    buffers: int
    fds: int
    vmas: int
    rss: int
    pss: int
    unsized: int


@dataclass(frozen=True, slots=True)
class Exporter:
    """The buffers of an exporter, None: of one that is not known; ``unsized`` are not in the sums.

    ``held`` are those that a process holds, by ``processes`` in all.
    """

    name: str | None
    buffers: int
    size: int
    held: int
    held_bytes: int
    processes: int
    unsized: int


class Cell(NamedTuple):
    """How a process holds a buffer: fds, VMAs, and fds in queues of sockets that it has open."""

    fds: int
    vmas: int
    queued: int


@dataclass(frozen=True, slots=True)
class HeldBuffer:
    """A buffer and its holders; what the source does not tell is None.

    ``holders`` are objects as in :func:`dmabuf_trace.holders.at_end`: the fds of a process
    together, then each VMA, then sockets' queues. ``devices`` are those attached.
    """

    inode: int
    size: int | None
    exporter: str | None
    name: str | None
    references: int | None
    processes: int
    holders: tuple[Row, ...]
    devices: tuple[str, ...] | None

    def cells(self) -> dict[Who, Cell]:
        """How each process holds it."""
        found: dict[Who, Cell] = {}
        for row in self.holders:
            who = (row["pid"], row["comm"])
            fds, vmas, queued = found.get(who, Cell(0, 0, 0))
            fds += len(row.get("fds", ()))
            vmas += row["kind"] == "mapping"
            queued += row["kind"] == "in-flight"
            found[who] = Cell(fds, vmas, queued)
        return found


@dataclass(frozen=True, slots=True)
class Account:
    """A whole snapshot, the largest first.

    ``held_bytes`` counts each held buffer once. ``kernel_only`` and ``kernel_only_bytes`` are None
    where the source does not list all buffers, or not all processes could be looked into.
    ``in_flight`` and ``in_flight_bytes``, of those in the queues of sockets, are None where these
    were not looked into. ``listed`` is what the kernel itself has added up, objects and bytes;
    None: it was not asked.
    """

    source: str
    complete: bool
    unreadable: int
    processes: tuple[Process, ...]
    buffers: tuple[HeldBuffer, ...]
    exporters: tuple[Exporter, ...]
    held: int
    held_bytes: int
    unsized: int
    kernel_only: int | None
    kernel_only_bytes: int | None
    in_flight: int | None
    in_flight_bytes: int | None
    listed: tuple[int, int] | None = None


def account(
    snapshot: SnapshotBlock,
    devices: Mapping[int, tuple[str, ...]] = MappingProxyType({}),
    listed: tuple[int, int] | None = None,
) -> Account:
    """Add up a snapshot; ``devices`` are attached to buffers by inode number, where known."""
    held: dict[int, list[Holder]] = defaultdict(list)
    for holder in snapshot.holders:
        held[holder.buffer].append(holder)
    known = {found.buffer: found for found in snapshot.buffers}
    buffers = []
    for inode in known.keys() | held.keys():
        found, holders = known.get(inode), held.get(inode, [])
        buffers.append(
            HeldBuffer(
                inode,
                found.size if found else None,
                found.exporter if found else None,
                found.name if found else None,
                found.references if found and found.references >= 0 else None,
                len({_who(holder) for holder in holders if not holder.in_flight}),
                tuple(_holder_rows(holders)),
                devices.get(inode),
            )
        )
    buffers.sort(key=lambda buffer: (-(buffer.size or 0), buffer.inode))
    sizes = {buffer.inode: buffer.size for buffer in buffers}
    seen = [buffer for buffer in buffers if buffer.processes]
    unheld = [buffer for buffer in buffers if not buffer.processes]
    in_flight = [buffer for buffer in unheld if buffer.holders]
    certain = snapshot.complete and not snapshot.unreadable
    return Account(
        source=snapshot.source,
        complete=snapshot.complete,
        unreadable=snapshot.unreadable,
        processes=_processes(held, sizes),
        buffers=tuple(buffers),
        exporters=_exporters(buffers),
        held=len(seen),
        held_bytes=_bytes(seen),
        unsized=sum(buffer.size is None for buffer in seen),
        kernel_only=len(unheld) if certain else None,
        kernel_only_bytes=_bytes(unheld) if certain else None,
        in_flight=len(in_flight) if snapshot.queues else None,
        in_flight_bytes=_bytes(in_flight) if snapshot.queues else None,
        listed=listed,
    )


def _bytes(buffers: Iterable[HeldBuffer]) -> int:
    return sum(buffer.size or 0 for buffer in buffers)


def _exporters(buffers: Iterable[HeldBuffer]) -> tuple[Exporter, ...]:
    by_name: dict[str | None, list[HeldBuffer]] = defaultdict(list)
    for buffer in buffers:
        by_name[buffer.exporter].append(buffer)
    made = []
    for name, mine in by_name.items():
        held = [buffer for buffer in mine if buffer.processes]
        who = {
            who for buffer in held for who, cell in buffer.cells().items() if cell.fds or cell.vmas
        }
        unsized = sum(buffer.size is None for buffer in mine)
        made.append(
            Exporter(name, len(mine), _bytes(mine), len(held), _bytes(held), len(who), unsized)
        )
    return tuple(sorted(made, key=lambda exporter: (-exporter.size, exporter.name or "")))


def _who(holder: Holder) -> Who:
    return holder.pid, holder.comm


def _processes(held: dict[int, list[Holder]], sizes: dict[int, int | None]) -> tuple[Process, ...]:
    every = [each for holders in held.values() for each in holders]
    fds = Counter(_who(each) for each in every if each.fd >= 0)
    vmas = Counter(_who(each) for each in every if each.fd < 0 and not each.in_flight)
    buffers: Counter[Who] = Counter()
    rss: Counter[Who] = Counter()
    pss: Counter[Who] = Counter()
    unsized: Counter[Who] = Counter()
    for inode, holders in held.items():
        size = sizes[inode]
        sharers = {_who(holder) for holder in holders if not holder.in_flight}
        for who in sharers:
            buffers[who] += 1
            rss[who] += size or 0
            pss[who] += (size or 0) // len(sharers)
            unsized[who] += size is None
    made = [
        Process(*who, buffers[who], fds[who], vmas[who], rss[who], pss[who], unsized[who])
        for who in buffers
    ]
    return tuple(sorted(made, key=lambda process: (-process.rss, process.pid)))


def _holder_rows(holders: Iterable[Holder]) -> Iterable[Row]:
    fds: dict[Who, list[int]] = defaultdict(list)
    vmas, queued = [], []
    for holder in holders:
        if holder.fd >= 0:
            fds[_who(holder)].append(holder.fd)
        elif holder.in_flight:
            queued.append(holder)
        else:
            vmas.append((*_who(holder), holder.start, holder.length))
    for (pid, comm), numbers in sorted(fds.items()):
        yield {"kind": "fd", "pid": pid, "comm": comm, "fds": sorted(numbers)}
    for pid, comm, start, length in sorted(vmas):
        extent = {"start": start, "length_bytes": length}
        yield {"kind": "mapping", "pid": pid, "comm": comm, **extent}
    for each in queued:
        yield {
            "kind": "in-flight",
            "pid": each.pid,
            "comm": each.comm,
            "socket": each.socket,
            "sender_pid": each.sender_pid or None,
            "sender_comm": each.sender_comm or None,
        }
