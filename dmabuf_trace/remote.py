# SPDX-License-Identifier: Apache-2.0
"""A recorder in a process of its own, and the asking side of :mod:`steering`.

Imports nothing heavy: whoever asks reads the file by other means.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from dmabuf_trace.errors import EXIT_OK, TraceError

START_SECONDS: Final = 300.0
ANSWER_SECONDS: Final = 60.0
END_SECONDS: Final = 60.0
_SAYS: Final = "dmabuf-trace: "
_MAX_LABEL: Final = 1000


class RecorderError(TraceError):
    """The recorder could not begin, does not answer, or has ended."""


class RemoteRecorder:
    """Records into ``path``, an older file there is replaced; ``options`` as on the command line.

    It ends with :meth:`close`, or when this process does, however that comes. A signal from the
    terminal does not reach it.

    Raises:
        RecorderError: there is no recorder, with the line that it said itself.
    """

    def __init__(self, path: Path, options: Sequence[str]) -> None:
        self.path = path
        self._unread = b""
        self._owed = 0
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the recorder
        theirs, self._requests = os.pipe()
        self._answers, ours = os.pipe()
        command = [sys.executable, "-P", "-m", "dmabuf_trace", "record", "--steered", "--force"]
        self._process = subprocess.Popen(
            [*command, "-o", str(path), *options],
            stdin=theirs,
            stdout=ours,
            stderr=self._said,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(ours)
        self._readable = select.poll()
        self._readable.register(self._answers, select.POLLIN)
        try:
            self._ask("mark begin", START_SECONDS)
        except BaseException:
            self._process.kill()
            self._let_go()
            raise

    def mark(self, label: str) -> int:
        """All that has happened by now can be read; when that is, ns of CLOCK_MONOTONIC."""
        text = label.encode("unicode_escape")[:_MAX_LABEL].decode()
        return self._ask(f"mark {text}", ANSWER_SECONDS)

    def write_stacks(self) -> None:
        """The kernel stacks so far can be read."""
        self._ask("stacks", ANSWER_SECONDS)

    def close(self) -> None:
        """End the recording; afterwards the file is whole.

        Raises:
            RecorderError: it did not end well.
        """
        try:
            with suppress(BrokenPipeError):  # closing it is not enough: a child may have it too
                os.write(self._requests, b"end\n")
            status = self._process.wait(END_SECONDS)
            if status != EXIT_OK:
                raise self._error()
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise RecorderError("the recorder did not end") from None
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._process.wait()
        for fd in (self._requests, self._answers):
            if fd >= 0:
                os.close(fd)
        self._requests = self._answers = -1
        self._said.close()

    def _ask(self, request: str, seconds: float) -> int:
        try:
            os.write(self._requests, f"{request}\n".encode())
        except BrokenPipeError:
            raise self._error() from None
        self._owed += 1
        deadline, line = time.monotonic() + seconds, ""
        while self._owed:  # one that was not waited for: its asker was interrupted
            line = self._line(deadline)
            self._owed -= 1
        verdict, _, text = line.partition(" ")
        if verdict != "ok":
            raise RecorderError(f"the recorder refuses {request!a}: {text}")
        return int(text)

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._unread:
            if not self._readable.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise RecorderError("the recorder did not answer in time")
            found = os.read(self._answers, 1 << 16)
            if not found:
                raise self._error()
            self._unread += found
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="backslashreplace")

    def _error(self) -> RecorderError:
        """What it said last, with its hint, and how it ended."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return RecorderError("the recorder hears and says nothing any more")
        self._said.seek(0)
        lines = self._said.read().decode(errors="backslashreplace").splitlines()
        own = [at for at, line in enumerate(lines) if line.startswith(_SAYS)]
        if status <= 0 or not own:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            return RecorderError(f"the recorder ended with {how}", " ".join(lines[-1:]))
        message, *hint = lines[own[-1] :]
        return RecorderError(message.removeprefix(_SAYS), " ".join(hint).strip())
