# SPDX-License-Identifier: Apache-2.0
"""What another process asks a running recorder for, a line each, and the answers, a line each.

``mark LABEL`` writes all that has happened by now, a look at the holders, what was lost, and a
mark; ``stacks`` writes the names of the kernel stacks so far. The answer is ``ok TS`` (ns,
CLOCK_MONOTONIC; a mark's own) once whole blocks are in the file, where the other process can read
them, or ``error WHY``. At ``end``, when the requests end, whoever sends them does, or nobody reads
the answers, the recording ends as by SIGTERM. Must not know what is recorded.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Mapping
from typing import Final

from dmabuf_trace.session import Interrupt, wait_signal

MAX_REQUEST: Final = 4096
"""Bytes of a line; an answer is shorter, and fits a pipe as a whole."""
END: Final = b"end"
_SHOWN: Final = 40
_GONE: Final = Interrupt(signal.SIGTERM, from_terminal=False)


class Steering:
    """Reads requests from one descriptor, writes answers to another one.

    ``verbs`` does what is asked for, given what follows the verb, and returns a time; it raises
    ValueError where that can't be done.
    """

    def __init__(
        self, requests: int, answers: int, verbs: Mapping[str, Callable[[str], int]]
    ) -> None:
        self._requests = requests
        self._answers = answers
        self._verbs = verbs
        self._parent = os.getppid()
        self._unfinished = b""
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(requests, select.POLLIN)
        self._writable.register(answers, select.POLLOUT)

    def wait(self, seconds: float) -> Interrupt | None:
        """Do what is asked for until the time is over; what asks to end, as :func:`wait_signal`.

        A process forked from the other one may keep its end of the requests open: it is gone when
        it is our parent no more.
        """
        if self._readable.poll(seconds * 1000) and not self._read():
            return _GONE
        return _GONE if os.getppid() != self._parent else wait_signal(0)

    def _read(self) -> bool:
        """Take what there is; whether it goes on."""
        found = os.read(self._requests, MAX_REQUEST)
        *lines, rest = (self._unfinished + found).split(b"\n")
        self._unfinished = rest[: MAX_REQUEST + 1]  # a longer one is refused in any case
        return bool(found) and all(line != END and self._answer(self._do(line)) for line in lines)

    def _do(self, line: bytes) -> str:
        if len(line) > MAX_REQUEST:
            return f"error a request has at most {MAX_REQUEST} bytes"
        verb, _, rest = line.decode(errors="backslashreplace").partition(" ")
        if verb not in self._verbs:
            return f"error no request {verb[:_SHOWN]!a}, there are: {', '.join(self._verbs)}"
        try:
            return f"ok {self._verbs[verb](rest)}"
        except ValueError as error:
            return f"error {error}"

    def _answer(self, text: str) -> bool:
        """Whether it could be sent; the recorder waits for no reader."""
        if not self._writable.poll(0):
            return False
        try:
            os.write(self._answers, f"{text}\n".encode())
        except BrokenPipeError:
            return False
        return True
