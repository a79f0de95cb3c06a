# SPDX-License-Identifier: Apache-2.0
"""What a capture is restricted to, and which of the buffers in a look that concerns.

Says the same as ``bpf/filter.bpf.h``, for what existed before tracing began. Must not know how the
programs are loaded.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Found, Holder, SnapshotBlock
from dmabuf_trace.errors import InputError

NO_LIMIT: Final = (1 << 64) - 1
PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters of a capture; each as it is by default lets everything pass.

    ``pids``: processes, with their children. ``command_only``: the command that is recorded, in the
    same way. ``comm`` is a thread's name, ``exporter`` a buffer's exporter, both compared as a
    whole; ``min_size`` and ``max_size`` are bytes.

    Raises:
        InputError: they can't match anything.
    """

    pids: tuple[int, ...] = ()
    command_only: bool = False
    comm: str = ""
    exporter: str = ""
    min_size: int = 0
    max_size: int = NO_LIMIT

    def __post_init__(self) -> None:
        for option, text, limit in (
            ("--comm", self.comm, schema.COMM),
            ("--exporter", self.exporter, schema.NAME_TEXT),
        ):
            if len(text.encode(errors="surrogateescape")) >= limit:
                raise InputError(f"{option} {text} has more than {limit - 1} bytes: none does")
        if self.min_size > self.max_size:
            raise InputError(f"--min-size {self.min_size} is above --max-size {self.max_size}")

    @property
    def by_pid(self) -> bool:
        """Whether processes are chosen."""
        return bool(self.pids) or self.command_only

    @property
    def by_task(self) -> bool:
        """Whether those who make events are chosen."""
        return self.by_pid or bool(self.comm)

    @property
    def by_buffer(self) -> bool:
        """Whether buffers are chosen."""
        return bool(self.bits & (schema.FILTERS["exporter"] | schema.FILTERS["size"]))

    @property
    def bits(self) -> int:
        """The filters that are on, as the programs are told."""
        on = {
            "pids": self.by_pid,
            "comm": bool(self.comm),
            "exporter": bool(self.exporter),
            "size": self.min_size > 0 or self.max_size < NO_LIMIT,
        }
        return sum(bit for name, bit in schema.FILTERS.items() if on[name])

    def configure(self, config: NDArray[np.void]) -> None:
        """Fill in what the programs are told; ``config`` has :data:`schema.CONFIG_DTYPE`."""
        config["filters"] = self.bits
        config["exporter"] = schema.string_id("exporter", self.exporter)
        config["min_size"], config["max_size"] = self.min_size, self.max_size
        config["comm"] = self.comm.encode(errors="surrogateescape")

    def arguments(self) -> list[str]:
        """The options that say the same, for the recording's header."""
        options: list[str] = []
        for pid in self.pids:
            options += ["--pid", str(pid)]
        options += ["--only-command"] * self.command_only
        for option, text in (("--comm", self.comm), ("--exporter", self.exporter)):
            options += [option, text] if text else []
        options += ["--min-size", str(self.min_size)] if self.min_size else []
        return options + (["--max-size", str(self.max_size)] if self.max_size < NO_LIMIT else [])

    def matches(self, found: Found) -> bool:
        """Whether a buffer matches, whoever uses it."""
        return (
            self.exporter in ("", found.exporter) and self.min_size <= found.size <= self.max_size
        )

    def first_watched(self, look: SnapshotBlock, pids: Container[int]) -> set[int]:
        """Inode numbers to be watched from a look on; ``pids`` are the processes followed.

        Those held by a matching task, where tasks are chosen. A buffer of which the look knows no
        more than who holds it can't be told to match an exporter or a size.
        """
        matching = {found.buffer for found in look.buffers if self.matches(found)}
        if not self.by_task:
            return matching
        held = {holder.buffer for holder in look.holders if self._is_by(holder, pids)}
        return held & matching if self.by_buffer else held

    def _is_by(self, holder: Holder, pids: Container[int]) -> bool:
        """A socket's queue is nobody's: what is in it has still to be received."""
        if holder.in_flight:
            return False
        return (not self.by_pid or holder.pid in pids) and self.comm in ("", holder.comm)

    def first_look(self, look: SnapshotBlock, watched: Set[int]) -> SnapshotBlock:
        """A look at the start as it is recorded: buffers that match, and who holds a watched one.

        The others among them are marked: they count once an event makes them watched.
        """
        buffers = tuple(
            replace(found, watched=found.buffer in watched)
            for found in look.buffers
            if self.matches(found)
        )
        holders = tuple(holder for holder in look.holders if holder.buffer in watched)
        return replace(look, buffers=buffers, holders=holders)


def only(look: SnapshotBlock, watched: Set[int]) -> SnapshotBlock:
    """A look without the buffers that are not watched."""
    return replace(
        look,
        buffers=tuple(found for found in look.buffers if found.buffer in watched),
        holders=tuple(holder for holder in look.holders if holder.buffer in watched),
    )


def check_pid(pid: int, proc: Path = PROC) -> None:
    """Refuse what is no running process.

    Raises:
        InputError: it is none.
    """
    status = _status(proc / str(pid))
    if not status:
        raise InputError(f"--pid {pid}: no such process", "list them with: ps -e")
    if (process := int(status["Tgid"])) != pid:
        raise InputError(f"--pid {pid} is a thread", f"its process is --pid {process}")


def descendants(pids: Set[int], proc: Path = PROC) -> set[int]:
    """The children of processes, theirs, and so on."""
    children: dict[int, set[int]] = {}
    for pid, parent in _parents(proc):
        children.setdefault(parent, set()).add(pid)
    found: set[int] = set()
    new = set(pids)
    while new:
        new = set().union(*(children.get(pid, ()) for pid in new)) - found
        found |= new
    return found - pids


def _parents(proc: Path) -> Iterator[tuple[int, int]]:
    for process in proc.iterdir():
        if process.name.isdigit() and (status := _status(process)):
            yield int(process.name), int(status["PPid"])


def _status(process: Path) -> dict[str, str]:
    """The lines of a process's status; none where it is gone."""
    try:
        lines = (process / "status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}
