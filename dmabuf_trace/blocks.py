# SPDX-License-Identifier: Apache-2.0
"""What a recording is made of: a dataclass per kind of block, and the rows in them.

Must not know how a block is written, nor what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class BlockKind(IntEnum):
    """Kinds of block in schema 2; schema 1 had no packed events."""

    HEADER = 1
    EVENTS = 2
    NAMES = 3
    LOSSES = 4
    SNAPSHOT = 5
    STACKS = 6
    END = 7
    PACKED_EVENTS = 8
    CGROUPS = 9
    PROBED = 10
    USER_STACKS = 11
    MARK = 12
    BUILDS = 13


@dataclass(frozen=True, slots=True)
class Found:
    """A live buffer as a snapshot shows it: inode number, size in bytes, exporter, name ("": none).

    ``references`` counts fds, VMAs and what the kernel holds itself, without the look's own; -1:
    not known. ``watched`` is False where filters don't let the buffer's events pass yet.
    """

    buffer: int
    size: int
    exporter: str
    name: str
    references: int = -1
    watched: bool = True


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a buffer by an fd (``fd`` >= 0) or by a VMA (``fd`` -1).

    Or one that has a socket open in whose queue an fd of the buffer is: ``socket`` is its inode
    number, else 0. The sender's pid is 0 where it can't be told, its name "" once it is gone.
    """

    buffer: int
    pid: int
    comm: str
    fd: int
    start: int = 0
    length: int = 0
    socket: int = 0
    sender_pid: int = 0
    sender_comm: str = ""

    @property
    def in_flight(self) -> bool:
        """Whether a socket holds the buffer, and not the process itself."""
        return self.socket != 0


@dataclass(frozen=True, slots=True)
class SyncFiles:
    """A process that has ``count`` fds of sync_files open."""

    pid: int
    comm: str
    count: int


@dataclass(frozen=True, slots=True)
class EventBlock:
    """Events in ring order; ``events`` has :data:`schema.EVENT_DTYPE`."""

    events: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class NameBlock:
    """Names, each ahead of the first event that uses it; :data:`schema.NAME_DTYPE`."""

    names: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class LossBlock:
    """Cumulative loss counters, shape :data:`schema.LOSS_SHAPE`; the last block holds the sums."""

    losses: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SnapshotBlock:
    """Holders of all buffers that are watched; ``when`` is "start", "during" or "end", ``ts`` (ns,
    CLOCK_MONOTONIC) is when the look began.

    ``unreadable`` counts processes that could not be looked into. ``source`` is "iterators" or
    "proc", and more where more was read; ``complete``: it lists *all* live buffers, so that one
    which is not in ``buffers`` is gone; else only those that a process holds. ``queues``: all that
    is in the queues of sockets is in ``holders``; else an fd in one may not have been seen.
    ``sync_files`` is of all processes, whatever is watched; None: not counted.
    """

    when: str
    ts: int
    buffers: tuple[Found, ...]
    holders: tuple[Holder, ...]
    unreadable: int
    source: str = "proc"
    complete: bool = False
    queues: bool = False
    sync_files: tuple[SyncFiles, ...] | None = None

    def about(self, buffer: int) -> SnapshotBlock:
        """Of one buffer alone."""
        return replace(
            self,
            buffers=tuple(found for found in self.buffers if found.buffer == buffer),
            holders=tuple(holder for holder in self.holders if holder.buffer == buffer),
            complete=False,
        )


@dataclass(frozen=True, slots=True)
class StackBlock:
    """Symbolised kernel stacks by id, innermost frame first."""

    stacks: dict[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """Build ids, in hex, by module, of what the frames of kernel stacks lie in; "": the kernel."""

    ids: dict[str, str]


@dataclass(frozen=True, slots=True)
class CgroupBlock:
    """Paths of cgroups (v2) by id, as they came up."""

    paths: dict[int, str]


@dataclass(frozen=True, slots=True)
class Probed:
    """A function that was probed while recording, at ``ts`` (ns, CLOCK_MONOTONIC).

    ``operation`` is one of :data:`schema.OPERATIONS`; ``reason`` is why it could not be, "": it is.
    """

    ts: int
    kind: str
    operation: str
    symbol: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProbedBlock:
    """Functions that were probed while recording."""

    probed: tuple[Probed, ...]


@dataclass(frozen=True, slots=True)
class UserStackBlock:
    """User stacks by the id in events, innermost frame first.

    ``without`` says why they have no function names, "" where they do; ``unplaced`` stacks are bare
    addresses, as their process had ended before anything about it could be read.
    """

    stacks: dict[int, tuple[str, ...]]
    without: str = ""
    unplaced: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment that somebody named: all that had happened by ``ts`` (ns, CLOCK_MONOTONIC) is ahead
    of it in the file, losses and a look at the holders too where there was one.

    A run of the recorded command ends with one labelled :data:`RUN`; ``status`` is then its exit
    status as a shell gives it, else 0.
    """

    ts: int
    label: str
    status: int = 0


RUN: Final = "run"


@dataclass(frozen=True, slots=True)
class EndBlock:
    """The recorder closed the file itself: ``ts`` (ns, CLOCK_MONOTONIC), event count, reason."""

    ts: int
    events: int
    reason: str


Block = (
    EventBlock
    | NameBlock
    | LossBlock
    | SnapshotBlock
    | StackBlock
    | UserStackBlock
    | BuildBlock
    | CgroupBlock
    | ProbedBlock
    | Mark
    | EndBlock
)
