# SPDX-License-Identifier: Apache-2.0
"""Every live buffer, and the devices attached to it, as debugfs lists them.

Reading takes the lock of the kernel's list and the reservation lock of each buffer: where one of
those is stuck, the reader is, and behind it whoever exports or releases a buffer. So it is read
only where a person asked for it, by a process of its own that is killed after a while: both waits
end with that. Must not know what the list is for.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from dmabuf_trace.blocks import Found
from dmabuf_trace.errors import UntraceableError

PATH: Final = Path("/sys/kernel/debug/dma_buf/bufinfo")

_BUFFER: Final = re.compile(
    r"^(?P<size>\d{8,})\t[0-9a-f]{8}\t[0-9a-f]{8}\t(?P<count>\d{8,})\t(?P<exporter>[^\t\n]*)\t"
    r"(?P<inode>\d{8,})\t(?P<name>.*?)$(?=\n\t)",
    re.MULTILINE | re.DOTALL,
)
"""The line of a buffer: size, flags, mode, count, exporter, inode, name. A name is at most 31
bytes of anything: it may hold newlines, but has no room to forge a line of its own."""

_DEVICES: Final = re.compile(r"((?:^\t.*\n)*)^Total (\d+) devices attached$", re.MULTILINE)
"""Lines that begin with a tab, and how many of them, the last ones, are devices. The last match of
a buffer is the kernel's: what is ahead of it may be a name."""

_TOTAL: Final = re.compile(r"^Total (\d+) objects, (\d+) bytes$", re.MULTILINE)

NO_NAME: Final = "<none>"
LIMIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Listing:
    """All live buffers, the devices attached to each by its inode number, and the kernel's totals.

    ``totals`` are the objects and bytes that it has added up itself; None: that line is missing.
    """

    buffers: tuple[Found, ...]
    devices: Mapping[int, tuple[str, ...]]
    totals: tuple[int, int] | None


def parse(text: str) -> Listing:
    """A bufinfo."""
    buffers: list[Found] = []
    devices: dict[int, tuple[str, ...]] = {}
    matches = list(_BUFFER.finditer(text))
    ends = [*(match.start() for match in matches[1:]), len(text)]
    for match, end in zip(matches, ends, strict=False):
        name = "" if match["name"] == NO_NAME else match["name"]
        inode, size, count = (int(match[key]) for key in ("inode", "size", "count"))
        buffers.append(Found(inode, size, match["exporter"], name, count))
        *_, attached = None, *_DEVICES.finditer(text, match.end(), end)
        devices[inode] = _last_lines(attached[1], int(attached[2])) if attached else ()
    *_, total = None, *_TOTAL.finditer(text)
    return Listing(tuple(buffers), devices, total and (int(total[1]), int(total[2])))


def _last_lines(text: str, count: int) -> tuple[str, ...]:
    lines = text.splitlines()
    return tuple(line.removeprefix("\t") for line in lines[len(lines) - count :])


def read(seconds: float = LIMIT_SECONDS) -> Listing:
    """All of it.

    Raises:
        UntraceableError: no debugfs, none mounted, not for this user, or a lock is stuck.
    """
    try:
        with PATH.open("rb") as file:
            text = _read(file, seconds)
    except PermissionError:
        raise UntraceableError(f"{PATH} may not be read", "run it with sudo") from None
    except OSError as error:
        raise UntraceableError(
            f"{PATH} can't be read: {error.strerror}",
            "mount -t debugfs debugfs /sys/kernel/debug",
        ) from None
    return parse(text)


def _read(file: BinaryIO, seconds: float) -> str:
    child = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, error = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=seconds)
        raise UntraceableError(
            f"{PATH} could not be read in {seconds:g} s: somebody holds the lock of a buffer",
            "do without --bufinfo, or find who holds it: echo w > /proc/sysrq-trigger; dmesg",
        ) from None
    if child.returncode:
        told = error.decode(errors="backslashreplace").strip()
        raise UntraceableError(f"{PATH} can't be read: {told}")
    return out.decode(errors="backslashreplace")
