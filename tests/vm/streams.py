# SPDX-License-Identifier: Apache-2.0
"""Reading what a guest's command writes, live, without what comes before it."""

from __future__ import annotations

import os
import threading
from typing import IO, BinaryIO


class Reader(threading.Thread):
    """Reads `source` to its end. What follows the line `marker` is the command's output."""

    def __init__(self, source: IO[bytes], marker: str, copy_to: BinaryIO | None) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._marker = marker.encode() + b"\n"
        self._copy_to = copy_to
        self.began = threading.Event()
        """Set when the marker has come."""
        self.before = bytearray()
        self.output = bytearray()
        self._muted = False

    def mute(self) -> None:
        """Drop what comes from now on: QEMU's words when it is stopped are not the command's."""
        self._muted = True

    def run(self) -> None:
        while chunk := os.read(self._source.fileno(), 1 << 16):
            if self.began.is_set():
                self._take(chunk)
                continue
            self.before += chunk
            head, found, rest = bytes(self.before).partition(self._marker)
            if found:
                self.before = bytearray(head)
                self.began.set()
                self._take(rest)

    def _take(self, chunk: bytes) -> None:
        if self._muted:
            return
        self.output += chunk
        if self._copy_to is not None:
            self._copy_to.write(chunk)
            self._copy_to.flush()

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")
