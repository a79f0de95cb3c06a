# SPDX-License-Identifier: Apache-2.0
"""BPF iterators: the kernel walks its buffers, fds, VMAs and queues itself, and hands out records.

Which of them there are is asked of the kernel's BTF, whose texts name the target of each, and then
by loading. Must not know what a record means.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader.btf import names_in
from dmabuf_trace.loader.core import object_bytes
from dmabuf_trace.loader.libbpf import Libbpf

TARGETS: Final = {
    "live_buffers": ("bpf_iter_dmabuf", schema.FOUND_DTYPE),
    "held_fds": ("bpf_iter_task_file", schema.HELD_DTYPE),
    "held_vmas": ("bpf_iter_task_vma", schema.HELD_DTYPE),
    "sync_file_fds": ("bpf_iter_task_file", schema.SYNC_FILE_DTYPE),
    "queued_fds": ("bpf_iter_task_file", schema.QUEUED_DTYPE),
}
"""Program, the kernel function that stands for its target, and its records."""

NEEDED: Final = ("held_fds", "held_vmas")
OPTIONAL: Final = ("queued_fds", "sync_file_fds")
"""Programs that a kernel may refuse, in the order in which they are given up; the first needs
bpf_loop (5.17)."""

READ_BYTES: Final = 1 << 18


def _there() -> set[str]:
    """Programs whose target the kernel has."""
    targets = names_in(target for target, _ in TARGETS.values())
    return {name for name, (target, _) in TARGETS.items() if target in targets}


class Iterators:
    """The iterators that this kernel has, loaded; a context manager.

    Raises:
        UntraceableError: the kernel or this user can't load them; holders have to come from /proc.
    """

    def __init__(self) -> None:
        self._lib = Libbpf()
        self._links: dict[str, int] = {}
        self._object = 0
        self.tables: dict[int, int] = {}
        self.without_queues = ""
        there = _there()
        if missing := [name for name in NEEDED if name not in there]:
            targets = ", ".join(TARGETS[name][0].removeprefix("bpf_iter_") for name in missing)
            raise UntraceableError(f"this kernel has no BPF iterator {targets}")
        for name in OPTIONAL:
            try:
                self._object = self._load(there)
                break
            except UntraceableError as error:
                self.without_queues = str(error)
                there.discard(name)
        else:
            self._object = self._load(there)
        try:
            for name in there:
                self._links[name] = self._attach(name)
        except BaseException:
            self.close()
            raise

    def _program(self, opened: int, name: str) -> int:
        return int(self._lib.bpf_object__find_program_by_name(opened, name.encode()))

    def _load(self, there: set[str]) -> int:
        data = object_bytes("snapshot")
        opened = self._lib.bpf_object__open_mem(data, len(data), None)
        if not opened:
            raise UntraceableError(
                f"the iterators can't be opened: {self._lib.reason(ctypes.get_errno())}"
            )
        for name in TARGETS:
            self._lib.bpf_program__set_autoload(self._program(opened, name), name in there)
        if error := self._lib.bpf_object__load(opened):
            reason = self._lib.reason(error)
            self._lib.bpf_object__close(opened)
            if os.geteuid() != 0:
                raise UntraceableError("loading BPF programs needs root", "run with sudo")
            raise UntraceableError(f"the iterators can't be loaded: {reason}")
        return int(opened)

    def _attach(self, name: str) -> int:
        link = self._lib.bpf_program__attach_iter(self._program(self._object, name), None)
        if not link:
            reason = self._lib.reason(ctypes.get_errno())
            raise UntraceableError(f"the iterator {name} can't be attached: {reason}")
        return int(link)

    @property
    def lists_all(self) -> bool:
        """Whether :meth:`live_buffers` can be asked."""
        return "live_buffers" in self._links

    def live_buffers(self) -> NDArray[np.void]:
        """Every live buffer; :data:`schema.FOUND_DTYPE`."""
        return self._read("live_buffers")

    def holders(self) -> NDArray[np.void]:
        """Every fd and VMA of a buffer, each process once; :data:`schema.HELD_DTYPE`.

        ``tables`` then has, by address of a files_struct, how many fds of buffers are in it.
        """
        found = np.concatenate([self._read(name) for name in NEEDED])
        fds = np.unique(found[found["fd"] >= 0][["table", "fd"]])  # processes may share a table
        tables, counts = np.unique(fds["table"], return_counts=True)
        self.tables = dict(zip(tables.tolist(), counts.tolist(), strict=True))
        return found

    def sync_files(self) -> NDArray[np.void] | None:
        """Every open fd of a sync_file; :data:`schema.SYNC_FILE_DTYPE`. None: can't tell."""
        return self._read_optional("sync_file_fds")

    def queued(self) -> NDArray[np.void] | None:
        """Every fd of a buffer in a socket's queue; :data:`schema.QUEUED_DTYPE`. None: can't tell.

        Those of sockets that a process has open, whatever network namespace they are in.
        """
        return self._read_optional("queued_fds")

    def _read_optional(self, name: str) -> NDArray[np.void] | None:
        if name in self._links:
            with suppress(UntraceableError):
                return self._read(name)
        return None

    def _read(self, name: str) -> NDArray[np.void]:
        fd = self._lib.bpf_iter_create(self._lib.bpf_link__fd(self._links[name]))
        if fd < 0:
            raise UntraceableError(f"the iterator {name} can't be read: {os.strerror(-fd)}")
        try:
            return np.frombuffer(_all(fd), TARGETS[name][1])
        except OSError as error:
            raise UntraceableError(f"the iterator {name} can't be read: {error.strerror}") from None
        finally:
            os.close(fd)

    def close(self) -> None:
        """Detach and unload."""
        for link in self._links.values():
            self._lib.bpf_link__destroy(link)
        self._links.clear()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _all(fd: int) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(fd, READ_BYTES)
        except BlockingIOError:  # after a million objects without a hit the kernel asks to go on
            continue
        if not part:
            return b"".join(parts)
        parts.append(part)
