# SPDX-License-Identifier: Apache-2.0
"""Who holds which buffer now, by fd, by VMA and in sockets: from BPF iterators, else from /proc.

Iterators take a reference to each file they pass, which no event of ours shows. /proc needs no
kernel feature and is slower; it gives no size for a buffer that is only mapped, and doesn't show
what is in the queue of a socket. The dma-buf iterator, where the kernel has it, and bufinfo
list the buffers that nobody holds as well. Must not know how a snapshot is judged.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Found, Holder, SnapshotBlock, SyncFiles
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader.iterators import Iterators

LINK: Final = "/dmabuf:"
"""What readlink of /proc/PID/fd/N begins with for a dma-buf; the buffer's name follows."""

SYNC_FILE: Final = "anon_inode:sync_file"
"""What it is for a sync_file."""

PROC: Final = Path("/proc")
KERNEL_THREAD: Final = 0x00200000
"""PF_KTHREAD (include/linux/sched.h), in the flags of /proc/PID/stat."""

_MAPS_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) \S+ [0-9a-f]+ \S+ (\d+) +/dmabuf:([^\n]*)$", re.MULTILINE
)


def _nothing() -> None:
    pass


class Looker:
    """Takes snapshots, from the best source there is; a context manager.

    ``without`` says why the iterators are not it, "" where they are.
    """

    def __init__(self) -> None:
        self._iterators: Iterators | None = None
        self.without = ""
        try:
            self._iterators = Iterators()
        except UntraceableError as error:
            self.without = str(error)

    def take(self, when: str, *, meanwhile: Callable[[], object] = _nothing) -> SnapshotBlock:
        """Look now; ``when`` names the look: "start", "during" and "end" of a recording.

        Iterators take milliseconds; reading /proc takes long, and calls ``meanwhile`` between
        processes.
        """
        if self._iterators:
            try:
                return from_iterators(when, self._iterators)
            except UntraceableError as error:  # a recording must not end for want of this
                self.without = str(error)
        return from_proc(when, meanwhile=meanwhile)

    @property
    def is_quick(self) -> bool:
        """Whether a look takes milliseconds: by iterators it does."""
        return not self.without

    @property
    def tables(self) -> dict[int, int]:
        """From the last look: address of each files_struct that holds fds of buffers, how many.

        Empty where /proc was looked at: it doesn't show them.
        """
        return self._iterators.tables if self._iterators else {}

    def close(self) -> None:
        """Unload the iterators."""
        if self._iterators:
            self._iterators.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take(when: str) -> SnapshotBlock:
    """One look: :meth:`Looker.take`."""
    with Looker() as looker:
        return looker.take(when)


def with_all(taken: SnapshotBlock, listed: Iterable[Found]) -> SnapshotBlock:
    """A look with what bufinfo has listed after it: all live buffers."""
    found = {buffer.buffer: buffer for buffer in (*listed, *taken.buffers)}
    source = f"{taken.source}, bufinfo"
    return replace(taken, buffers=tuple(found.values()), source=source, complete=True)


# from iterators


def from_iterators(when: str, iterators: Iterators) -> SnapshotBlock:
    """A snapshot by iterators, of all processes."""
    ts = time.monotonic_ns()
    live = iterators.live_buffers() if iterators.lists_all else None
    queued = iterators.queued()  # first: what is received meanwhile is then seen as an fd
    holders = iterators.holders()
    if live is not None:
        # what comes or goes meanwhile would seem to be held by nobody: only what stays counts
        live = live[np.isin(live["buffer"], iterators.live_buffers()["buffer"])]
    looked = from_records(when, ts, holders, live, queued)
    found = iterators.sync_files()
    if found is None:
        return looked
    processes = zip(found["pid"].tolist(), map(_text, found["comm"]), strict=True)
    return replace(looked, sync_files=_counted(Counter(processes)))


def _counted(files: Counter[tuple[int, str]]) -> tuple[SyncFiles, ...]:
    return tuple(SyncFiles(*process, count) for process, count in sorted(files.items()))


def from_records(
    when: str,
    ts: int,
    held: NDArray[np.void],
    live: NDArray[np.void] | None,
    queued: NDArray[np.void] | None,
) -> SnapshotBlock:
    """What the iterators' records say; ``live`` None where only held buffers were listed.

    ``queued`` None: sockets were not looked into.
    """
    looked = queued is not None and bool(queued["buffer"].all())  # else a queue is too long
    queued = np.zeros(0, schema.QUEUED_DTYPE) if queued is None else queued[queued["buffer"] != 0]
    found = dict(_found(queued)) | dict(_found(held))
    if live is not None:
        found |= _found(live)
    holders = dict.fromkeys(  # a thread with files of its own shows its process's VMAs once more
        Holder(
            int(row["buffer"]),
            int(row["pid"]),
            _text(row["comm"]),
            int(row["fd"]),
            int(row["start"]),
            int(row["length"]),
        )
        for row in held
    )
    holders |= dict.fromkeys(map(_in_flight, queued))
    buffers, complete = tuple(found.values()), live is not None
    return SnapshotBlock(when, ts, buffers, tuple(holders), 0, "iterators", complete, looked)


def _in_flight(row: np.void) -> Holder:
    return Holder(
        int(row["buffer"]),
        int(row["pid"]),
        _text(row["comm"]),
        -1,
        socket=int(row["socket"]),
        sender_pid=int(row["sender"]),
        sender_comm=_text(row["sender_comm"]),
    )


def _found(rows: NDArray[np.void]) -> Iterable[tuple[int, Found]]:
    for row in rows:
        inode = int(row["buffer"])
        yield (
            inode,
            Found(
                inode,
                int(row["size"]),
                _text(row["exporter"]),
                _text(row["name"]),
                int(row["references"]),
            ),
        )


def _text(value: Any) -> str:
    return bytes(value).decode(errors="backslashreplace")


# from /proc


def _fdinfo(path: Path) -> dict[str, str]:
    pairs = (
        line.split(":\t", 1) for line in path.read_text(errors="backslashreplace").splitlines()
    )
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _fds(
    process: Path,
    pid: int,
    comm: str,
    found: dict[int, Found],
    sync_files: Counter[tuple[int, str]],
) -> Iterator[Holder]:
    for entry in os.scandir(process / "fd"):
        try:
            link = os.readlink(entry.path)  # noqa: PTH115 a Path takes half as long again
            if link == SYNC_FILE:
                sync_files[pid, comm] += 1
            if not link.startswith(LINK):
                continue
            info = _fdinfo(process / "fdinfo" / entry.name)
            inode, size, references = int(info["ino"]), int(info["size"]), int(info["count"])
            found[inode] = Found(inode, size, info["exp_name"], info.get("name", ""), references)
        except (FileNotFoundError, KeyError):
            continue  # closed meanwhile
        yield Holder(inode, pid, comm, int(entry.name))


def _vmas(process: Path, pid: int, comm: str) -> Iterator[Holder]:
    for start, end, inode, _name in _MAPS_LINE.findall((process / "maps").read_bytes()):
        yield Holder(int(inode), pid, comm, -1, int(start, 16), int(end, 16) - int(start, 16))


def _is_kernel_thread(process: Path) -> bool:
    """Kernel threads have no fds, but only root may see that."""
    with suppress(OSError, IndexError, ValueError):
        after_comm = (process / "stat").read_bytes().rpartition(b")")[2].split()
        return bool(int(after_comm[6]) & KERNEL_THREAD)
    return False


def from_proc(
    when: str, proc: Path = PROC, meanwhile: Callable[[], object] = _nothing
) -> SnapshotBlock:
    """Read all processes, and call ``meanwhile`` between them.

    A process that ends meanwhile is left out; one that may not be looked into is counted in
    ``unreadable``. A buffer that is only mapped is a holder's row without one in ``buffers``: its
    size is not to be had from /proc.
    """
    ts = time.monotonic_ns()
    found: dict[int, Found] = {}
    holders: list[Holder] = []
    sync_files: Counter[tuple[int, str]] = Counter()
    unreadable = 0
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        pid = int(process.name)
        meanwhile()
        try:
            comm = (process / "comm").read_text(errors="backslashreplace").rstrip("\n")
            holders += _fds(process, pid, comm, found, sync_files)
            holders += _vmas(process, pid, comm)
        except PermissionError:
            unreadable += not _is_kernel_thread(process)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return SnapshotBlock(
        *(when, ts, tuple(found.values()), tuple(holders), unreadable, "proc"),
        sync_files=_counted(sync_files),
    )
