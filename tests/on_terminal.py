# SPDX-License-Identifier: Apache-2.0
"""A command on a terminal of its own: keys go in, what it draws comes out."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from typing import Any, Final, Self

DEADLINE_SECONDS: Final = 60.0
TERM = "xterm-256color"
ENTERS, LEAVES = "\x1b[?1049h", "\x1b[?1049l"
"""What turns the alternate screen on and off."""
INSTALLED: Final = ("dmabuf-trace", "top")
"""The command as it is in a guest."""
_CODES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COMMAND: Final = (sys.executable, "-m", "dmabuf_trace", "top")


class Terminal:
    """``sent`` is what the command drew, ``said``, once it has ended, what it wrote to stderr."""

    def __init__(
        self,
        arguments: Sequence[object],
        width: int = 80,
        height: int = 24,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.fd, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        self.sent = self.said = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.resize(width, height)
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": TERM, "PYTHONIOENCODING": "utf-8"},
        )

    def resize(self, width: int, height: int) -> None:
        """Make it so large."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, size)

    def press(self, keys: str) -> int:
        """Send keys; where in ``sent`` their answer will be."""
        os.write(self.fd, keys.encode())
        return len(self.sent)

    def wait_for(self, text: str, since: int = 0) -> float:
        """Read until a text is there, behind a place of ``sent``; when it was."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in _CODES.sub("", self.sent[since:]):
            if time.monotonic() > deadline or not self._read(1):
                raise AssertionError(f"{text!r} never came: {self.sent[-3000:]!r}")
        return time.monotonic()

    def end(self) -> tuple[int, str]:
        """Read until it has ended; exit status, and what it wrote to stderr."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self._read(0.05)
        while self._read(0):
            pass
        assert self.process.stderr
        self.said = self.process.stderr.read().decode()
        return self.process.returncode, self.said

    def _read(self, seconds: float) -> bool:
        """Whether it may send more."""
        if select.select([self.fd], [], [], seconds)[0]:
            self.sent += self._decoder.decode(os.read(self.fd, 1 << 16))
            return True
        return seconds > 0 and self.process.poll() is None

    @property
    def modes(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self._theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr
        self.process.stderr.close()
        os.close(self.fd)
        os.close(self._theirs)
