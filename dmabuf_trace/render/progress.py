# SPDX-License-Identifier: Apache-2.0
"""A bar on stderr, where it is a terminal, while a recording is read and its questions answered.

It shows up when that takes longer than a second; rich is not loaded before.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmabuf_trace import progress
from dmabuf_trace.render.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_SECONDS: Final = 1.0


def shown() -> AbstractContextManager[None]:
    """Within: reading is shown, if there is a terminal to show it on."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return nullcontext()
    return progress.told_to(Bar())


class Bar:
    """A :class:`dmabuf_trace.progress.Listener`; ``visible`` is set while the bar is."""

    def __init__(self) -> None:
        self.visible = threading.Event()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._bar: Progress | None = None
        self._now = ("", 0, 0)

    def advance(self, path: Path, done: int, size: int) -> None:
        """Show it, when it is time."""
        with self._lock:
            self._now = (f"reading {printable(path.name)}", done, size)
            if self._timer is None:
                self._timer = threading.Timer(PATIENCE_SECONDS, self._show)
                self._timer.daemon = True
                self._timer.start()
            self._update()

    def over(self) -> None:
        """Take it away."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            if self._bar:
                self._bar.stop()
                self._bar = None
            self.visible.clear()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
        )
        with self._lock:
            if self._timer is None:  # it was over while rich was loaded
                return
            self._bar = Progress(
                *columns,
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.add_task("")
            self._update()
            self._bar.start()
            self.visible.set()

    def _update(self) -> None:
        if self._bar:
            what, done, size = self._now
            task = self._bar.task_ids[0]
            self._bar.update(task, description=what, completed=done, total=size)
