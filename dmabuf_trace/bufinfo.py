# SPDX-License-Identifier: Apache-2.0
"""Every live buffer, as debugfs lists them.

Reading takes the lock of the kernel's list and the reservation lock of each buffer: where one of
those is stuck, the reader is, and behind it whoever exports or releases a buffer. So it is read
only where a person asked for it. Must not know what the list is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

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

NO_NAME: Final = "<none>"


def parse(text: str) -> Iterator[Found]:
    """The buffers of a bufinfo."""
    for match in _BUFFER.finditer(text):
        name = "" if match["name"] == NO_NAME else match["name"]
        inode, size, count = (int(match[key]) for key in ("inode", "size", "count"))
        yield Found(inode, size, match["exporter"], name, count)


def read() -> tuple[Found, ...]:
    """All live buffers.

    Raises:
        UntraceableError: no debugfs, none mounted, or not for this user.
    """
    try:
        return tuple(parse(PATH.read_text(errors="backslashreplace")))
    except PermissionError:
        raise UntraceableError(f"{PATH} may not be read", "run it with sudo") from None
    except OSError as error:
        raise UntraceableError(
            f"{PATH} can't be read: {error.strerror}",
            "mount -t debugfs debugfs /sys/kernel/debug",
        ) from None
