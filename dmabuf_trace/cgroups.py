# SPDX-License-Identifier: Apache-2.0
"""Paths of cgroups, by the ids that the kernel gives with a thread.

Only cgroup v2 has such ids: the inode number of a cgroup's directory, which is its file handle as
well, so that a path costs one look and no search. A cgroup that is gone by then stays unknown.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_FILEID_KERNFS: Final = 0xFE
"""enum fid_type (include/linux/exportfs.h): the handle is the inode number."""


class _Handle(ctypes.Structure):
    """``struct file_handle`` (include/uapi/linux/fcntl.h) with eight bytes in it."""

    _fields_ = (("bytes", ctypes.c_uint32), ("type", ctypes.c_int32), ("inode", ctypes.c_uint64))


class Cgroups:
    """The mounted cgroup v2 hierarchy; ``without`` says why nothing can be told, "" where it can.

    Needs CAP_DAC_READ_SEARCH, which who may trace usually has.
    """

    def __init__(self, mountinfo: Path = MOUNTINFO) -> None:
        self._root = _mount_point(mountinfo)
        self._fd = -1
        self.without = "" if self._root else "no cgroup v2 hierarchy is mounted"
        if self._root:
            try:
                self._fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                self.without = f"{self._root} can't be opened: {error.strerror}"
        self._libc = ctypes.CDLL(None, use_errno=True)

    def path(self, cgroup: int) -> str | None:
        """Path below the hierarchy's root, as /proc/PID/cgroup shows it; None: not known."""
        if self._fd < 0:
            return None
        handle = _Handle(8, _FILEID_KERNFS, cgroup)
        fd = self._libc.open_by_handle_at(self._fd, ctypes.byref(handle), os.O_PATH | os.O_CLOEXEC)
        if fd < 0:
            return None
        try:
            found = str(Path(f"/proc/self/fd/{fd}").readlink())
        finally:
            os.close(fd)
        if self._root == "/":
            return found
        return found.removeprefix(self._root) or "/" if found.startswith(self._root) else None

    def close(self) -> None:
        """Give the hierarchy's fd back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _mount_point(mountinfo: Path) -> str:
    """Where a cgroup v2 hierarchy is mounted; "": nowhere that can be seen."""
    try:
        lines = mountinfo.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, source = line.partition(" - ")
        if source.split(" ", 1)[0] == "cgroup2":
            return mount.split(" ")[4].encode().decode("unicode_escape")
    return ""
