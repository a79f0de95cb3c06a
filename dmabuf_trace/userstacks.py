# SPDX-License-Identifier: Apache-2.0
"""User stacks: addresses of a process to functions, for processes that may have ended meanwhile.

An address means something only together with the process's mappings, so these are read as soon as
a stack of that process shows up, and each file in which a frame lies is held open: it may be
deleted, replaced, or in a container. Names are looked up at the end. Events carry the kernel's id
of the addresses; here it becomes an id of the recording's own, the same for equal frames of
different processes. Must not know how events are recorded.
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import UserStackBlock
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.libbcc import Libbcc

PROC: Final = Path("/proc")
MAX_ID: Final = (1 << 15) - 1
MAX_OPEN: Final = 256

_MAPS_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ..x. ([0-9a-f]+) (\S+ \d+) *([^\n]*)$", re.MULTILINE
)

Frame = tuple[int, int]
"""Number of a file and offset in it; -1 and an address where it lies in none."""
NO_FILE: Final = -1


@dataclass(frozen=True, slots=True)
class Extent:
    """An executable part of a process's memory; ``key`` tells its file from all others."""

    start: int
    end: int
    offset: int
    key: tuple[str, str]


@dataclass(slots=True)
class _File:
    path: str
    fd: int
    offsets: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)


def extents(maps: bytes) -> list[Extent]:
    """The executable parts in the text of /proc/PID/maps, by address."""
    return [
        Extent(
            int(start, 16),
            int(end, 16),
            int(offset, 16),
            (inode.decode(), path.decode(errors="backslashreplace")),
        )
        for start, end, offset, inode, path in _MAPS_LINE.findall(maps)
    ]


class UserStacks:
    """All user stacks of a recording.

    ``addresses`` gives the addresses of a stack by the kernel's id. ``unplaced`` counts stacks of
    processes that had ended before their mappings could be read, ``without`` says why there are no
    names of functions, "" where there are.
    """

    def __init__(self, addresses: Callable[[int], list[int]], proc: Path = PROC) -> None:
        self.unplaced = 0
        self.without = ""
        self._addresses = addresses
        self._proc = proc
        self._files: dict[tuple[str, str], int] = {}
        self._opened: list[_File] = []
        self._ids: dict[tuple[int, int], int] = {}
        self._placed: dict[int, int] = {}
        self._own: dict[tuple[Frame, ...], int] = {}
        self._stacks: list[tuple[Frame, ...]] = []
        self._bcc: Libbcc | None = None

    def take(self, events: NDArray[np.void]) -> None:
        """Replace the kernel's ids in ``events`` (:data:`schema.EVENT_DTYPE`) by our own."""
        column = events["user_stack"]
        has = column >= 0
        if not has.any():
            return
        pairs = events["pid"][has].astype(np.int64) << 16 | column[has]
        distinct, index = np.unique(pairs, return_inverse=True)
        keys = [(pair >> 16, pair & 0xFFFF) for pair in distinct.tolist()]
        new: dict[int, list[int]] = {}
        for pid, kernel_id in keys:
            if (pid, kernel_id) not in self._ids:
                new.setdefault(pid, []).append(kernel_id)
        for pid, kernel_ids in new.items():
            self._read(pid, kernel_ids)
        column[has] = np.array([self._ids[key] for key in keys], np.int16)[index]

    def _read(self, pid: int, kernel_ids: list[int]) -> None:
        try:
            mapped = extents((self._proc / str(pid) / "maps").read_bytes())
        except OSError:
            mapped = []
        for kernel_id in kernel_ids:
            # the same addresses in a process that has ended: almost always one that it was forked
            # from, as every other one has its own layout
            known = self._placed.get(kernel_id) if not mapped else None
            if known is None:
                self.unplaced += not mapped
                frames = [self._frame(pid, mapped, each) for each in self._addresses(kernel_id)]
                known = self._number(tuple(frames))
            if mapped:
                self._placed[kernel_id] = known
            self._ids[pid, kernel_id] = known

    def _number(self, frames: tuple[Frame, ...]) -> int:
        number = self._own.get(frames, len(self._own)) if frames else MAX_ID + 1
        if number > MAX_ID:
            return schema.UNKNOWN_STACK
        if number == len(self._own):
            self._stacks.append(frames)
            self._own[frames] = number
        return number

    def _frame(self, pid: int, mapped: list[Extent], address: int) -> Frame:
        at = bisect_right(mapped, address, key=lambda extent: extent.start) - 1
        if at < 0 or address >= mapped[at].end:
            return NO_FILE, address
        extent = mapped[at]
        number = self._files.get(extent.key)
        if number is None:
            number = self._files[extent.key] = len(self._opened)
            self._opened.append(_File(extent.key[1], self._open(pid, extent)))
        offset = address - extent.start + extent.offset
        self._opened[number].offsets.add(offset)
        return number, offset

    def _open(self, pid: int, extent: Extent) -> int:
        """The very file that is mapped, whatever has become of its path; -1: there is none."""
        path = self._proc / str(pid) / "map_files" / f"{extent.start:x}-{extent.end:x}"
        try:
            # opening a device could do something
            if len(self._opened) >= MAX_OPEN or not stat.S_ISREG(path.stat().st_mode):
                return -1
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    def texts(self, number: int) -> tuple[str, ...]:
        """A stack by our id, innermost frame first; another thread may take events meanwhile.

        ``function+0x1f [file]``, ``/path/to/file+0x1234`` where no function is known there, and the
        bare address outside of any file.
        """
        return tuple(
            f"{at:#x}" if file == NO_FILE else self._name(self._opened[file], at)
            for file, at in self._stacks[number]
        )

    def _name(self, file: _File, offset: int) -> str:
        """Of a place in a file; one that is new is looked up together with all that are."""
        if offset not in file.names:
            new = set(file.offsets) - file.names.keys()
            found = {at: f"{file.path or '[anonymous]'}+{at:#x}" for at in new}
            if (bcc := self._library()) and file.fd >= 0:
                base = file.path.rpartition("/")[2]
                functions = bcc.functions(file.fd, new)
                found |= {at: f"{text} [{base}]" for at, text in functions.items()}
            file.names |= found
        return file.names[offset]

    def _library(self) -> Libbcc | None:
        if not self._bcc and not self.without:
            try:
                self._bcc = Libbcc()
            except UntraceableError as error:
                self.without = str(error)
        return self._bcc

    def resolve(self) -> UserStackBlock:
        """All stacks, by our ids; closes the files."""
        stacks = {number: self.texts(number) for number in range(len(self._stacks))}
        self.close()
        return UserStackBlock(stacks, self.without, self.unplaced)

    def close(self) -> None:
        """Close the files."""
        for file in self._opened:
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1
