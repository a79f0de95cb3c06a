# SPDX-License-Identifier: Apache-2.0
"""Writes lines from a thread of its own, so that who makes them never waits for who reads them.

What waits is bounded: beyond that the oldest is left out, which is counted and said in its place.
Must not know what the lines are about.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sized
from typing import Final, Generic, TextIO, TypeVar

from dmabuf_trace.errors import OutputError

Piece = TypeVar("Piece", bound=Sized)

_POLL_SECONDS: Final = 0.02


class Printer(Generic[Piece]):
    """``texts`` makes a text of each event in a piece, ``gap`` one for a number of events that are
    left out. At most ``most`` events wait to be written to ``stream``; those of the piece that is
    being written are none of them. Nobody else may write to it meanwhile.

    ``shown`` counts events that were written.
    """

    def __init__(
        self,
        stream: TextIO,
        texts: Callable[[Piece], Iterator[str]],
        gap: Callable[[int], str],
        most: int,
    ) -> None:
        self.shown = 0
        stream.flush()
        self._fd = stream.fileno()
        self._encoding = stream.encoding, stream.errors or "strict"
        self._texts = texts
        self._gap = gap
        self._most = most
        self._put = 0
        self._left_out = 0
        self._waiting: deque[Piece] = deque()
        self._events = 0
        self._over = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._hang_up = select.poll()
        self._hang_up.register(self._fd, 0)
        self._thread = threading.Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    @property
    def not_shown(self) -> int:
        """Events that were not written, so far."""
        return self._put - self.shown

    def put(self, piece: Piece) -> None:
        """Have a piece written when its turn comes."""
        with self._changed:
            self._waiting.append(piece)
            self._put += len(piece)
            self._events += len(piece)
            while self._events > self._most:
                oldest = len(self._waiting.popleft())
                self._events -= oldest
                self._left_out += oldest
            self._changed.notify()

    def check(self) -> None:
        """Raise what kept the thread from writing.

        Raises:
            BrokenPipeError: nobody reads any more.
            OutputError: nothing more can be written, as on a full disk.
        """
        self._raise()
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in self._hang_up.poll(0)):
            raise BrokenPipeError

    def finish(self, enough: Callable[[float], bool]) -> None:
        """Nothing more is put: wait until all is written.

        ``enough`` is asked again and again, with the seconds for which nothing was taken, whether
        to leave out the rest. Raises as :meth:`check`.
        """
        with self._changed:
            self._over = True
            self._changed.notify()
        shown, since = self.shown, time.monotonic()
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
            if self.shown != shown:
                shown, since = self.shown, time.monotonic()
            if self._error or enough(time.monotonic() - since):
                break
        with self._changed:
            self._waiting.clear()
        self._raise()

    def _raise(self) -> None:
        if isinstance(self._error, OSError) and not isinstance(self._error, BrokenPipeError):
            raise OutputError(f"can't write to stdout: {self._error.strerror}") from None
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            while taken := self._take():
                left_out, piece = taken
                if left_out:
                    self._write(self._gap(left_out))
                for text in self._texts(piece):
                    self._write(text)
                    self.shown += 1
        except BaseException as error:  # for check(), in who puts
            self._error = error

    def _take(self) -> tuple[int, Piece] | None:
        """How many were left out ahead of the next piece, and that one; None: all is over."""
        with self._changed:
            while not self._waiting and not self._over:
                self._changed.wait()
            if not self._waiting:
                return None
            left_out, self._left_out = self._left_out, 0
            piece = self._waiting.popleft()
            self._events -= len(piece)
            return left_out, piece

    def _write(self, text: str) -> None:
        rest = memoryview(text.encode(*self._encoding))
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                select.select([], [self._fd], [])
