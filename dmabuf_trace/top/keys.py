# SPDX-License-Identifier: Apache-2.0
"""Keys of a terminal, one at a time, and the terminal as it was when that is over."""

from __future__ import annotations

import codecs
import os
import re
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NAMED: Final = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[5~": "pgup",
    "\x1b[6~": "pgdn",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b[Z": "shift-tab",
    "\x1b": "esc",
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
}
_ONE: Final = re.compile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|O[A-Z])|.", re.DOTALL)
"""A key: what a terminal sends for a special one, or one character."""


def named(text: str) -> list[str]:
    """The keys in what a terminal sent; those that have no name and can't be printed are left out.

    A sequence that was not sent at once is taken for the keys that it is made of.
    """
    keys = (_NAMED.get(part, part) for part in _ONE.findall(text))
    return [key for key in keys if key.isprintable() and not key.startswith("\x1b")]


class Keys:
    """Reads keys from a terminal."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode

    def read(self) -> list[str]:
        """Those that were pressed; waits where there are none. ``q`` where the terminal is gone."""
        try:
            sent = os.read(self.fd, 4096)
        except OSError:
            sent = b""
        return named(self._decode(sent)) if sent else ["q"]


@contextmanager
def one_at_a_time(fd: int) -> Iterator[None]:
    """Within: keys come as they are pressed and are not shown; Ctrl-C still is SIGINT.

    Ctrl-Z does nothing: stopped, we would leave the terminal as it is now.
    """
    before = termios.tcgetattr(fd)
    now = termios.tcgetattr(fd)
    now[3] &= ~(termios.ICANON | termios.ECHO)
    now[6][termios.VMIN], now[6][termios.VTIME] = 1, 0
    now[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(fd, termios.TCSANOW, now)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
