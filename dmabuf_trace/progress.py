# SPDX-License-Identifier: Apache-2.0
"""How far the reading of a recording has come, for whoever wants to show it.

Must not know how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, Protocol


class Listener(Protocol):
    """Is told, from one thread at a time."""

    def advance(self, path: Path, done: int, size: int) -> None:
        """So many bytes of a file were read, of all that it had when it was opened."""

    def over(self) -> None:
        """Results come now, or there will be none."""


_LISTENER: Final[ContextVar[Listener | None]] = ContextVar("listener", default=None)


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Within: this one is told."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        over()
        _LISTENER.reset(token)


def advance(path: Path, done: int, size: int) -> None:
    """Tell how far it has come."""
    if listener := _LISTENER.get():
        listener.advance(path, min(done, size), size)


def over() -> None:
    """Tell that results come: nothing may be shown beside them."""
    if listener := _LISTENER.get():
        listener.over()
