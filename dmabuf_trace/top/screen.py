# SPDX-License-Identifier: Apache-2.0
"""The terminal: draws the latest moment and answers keys, in a thread of its own.

Whoever publishes moments never waits for the terminal: one that takes nothing more stops the
drawing alone.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Final, cast

from rich.console import Console
from rich.live import Live

from dmabuf_trace.errors import OutputError
from dmabuf_trace.top.activity import Moment
from dmabuf_trace.top.draw import Frame, draw
from dmabuf_trace.top.keys import Keys, one_at_a_time
from dmabuf_trace.top.view import View, pressed

LOOK_SECONDS: Final = 0.2
"""How often the size of the terminal is looked at."""
LEAVE_SECONDS: Final = 1.0
"""How long the terminal has to take the last of what it is sent."""


class Terminal:
    """A text stream that sends at once, and owns no lock that the end of Python would wait for."""

    def __init__(self, fd: int, encoding: str) -> None:
        self.fd = fd
        self.encoding = encoding
        self._waiting: list[str] = []

    def write(self, text: str) -> int:
        self._waiting.append(text)
        return len(text)

    def flush(self) -> None:
        rest = "".join(self._waiting).encode(self.encoding, "replace")
        self._waiting.clear()
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.fd


class Screen:
    """What is shown on a terminal; :attr:`is_over` once a person has had enough, or it is gone."""

    def __init__(self, out: int, keys: Keys | None, encoding: str, title: str) -> None:
        self.is_over = False
        self.error: Exception | None = None
        self._terminal = Terminal(out, encoding)
        self._keys = keys
        self._title = title
        self._view = View()
        self._latest: Moment | None = None
        self._shown: Moment | None = None
        self._drawn: Frame | None = None
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def publish(self, moment: Moment) -> None:
        """Show this from now on."""
        self._latest = moment
        with suppress(BlockingIOError):
            os.write(self._wake, b".")

    def close(self) -> None:
        """Show no more, and give the terminal back.

        Raises:
            OutputError: drawing failed.
        """
        self.is_over = True
        with suppress(BlockingIOError):
            os.write(self._wake, b".")
        self._thread.join(LEAVE_SECONDS)
        if self.error:
            raise self.error

    def _run(self) -> None:
        try:
            self._draw_until_over()
        except OSError as error:
            if not self.is_over:
                self.error = OutputError(f"can't write to the terminal: {error.strerror}")
        except Exception as error:
            self.error = error
        finally:
            self.is_over = True

    def _draw_until_over(self) -> None:
        console = Console(
            file=cast("IO[str]", self._terminal),  # what rich uses of it is there
            force_terminal=True,
            highlight=False,
            markup=False,
            emoji=False,
        )
        with Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stderr=False,
            redirect_stdout=False,
        ) as live:
            while not self.is_over:
                self._wait()
                self._draw(console, live)

    def _wait(self) -> None:
        """For a key, a moment, or the time to look at the size.

        A key is answered from the moment that is shown, ahead of any later one: that is quick.
        """
        fds = [self._woken, *([self._keys.fd] if self._keys else [])]
        ready = select.select(fds, [], [], LOOK_SECONDS)[0]
        if self._keys and self._keys.fd in ready:
            for key in self._keys.read():
                if self._shown:
                    self._view = pressed(self._view, key, self._shown)
            self.is_over = self.is_over or self._view.quits
        elif self._woken in ready:
            os.read(self._woken, 4096)
            if self._shown is None or not self._view.stands:
                self._shown = self._latest
        else:
            return
        self._drawn = None

    def _draw(self, console: Console, live: Live) -> None:
        """Draw, if anything is not as it was drawn."""
        if self._shown is None or self._latest is None or self.is_over:
            return
        size = os.get_terminal_size(self._terminal.fd)
        is_plain = "utf" not in self._terminal.encoding.lower()
        frame = Frame(size.columns, size.lines, self._title, is_plain)
        if frame == self._drawn:
            return
        console.size = size
        live.update(draw(self._view, self._shown, self._latest, frame), refresh=True)
        self._drawn = frame


@contextmanager
def shown_on(out: int, keys: int | None, encoding: str, title: str) -> Iterator[Screen]:
    """Within: a terminal shows what is published; ``keys`` is the one to read keys from."""
    with ExitStack() as stack:
        if keys is not None:
            stack.enter_context(one_at_a_time(keys))
        screen = Screen(out, Keys(keys) if keys is not None else None, encoding, title)
        stack.callback(screen.close)
        screen.start()
        yield screen
