# SPDX-License-Identifier: Apache-2.0
"""Kprobe events made through tracefs.

Chosen because they are exact where other ways lose: a return probe takes an explicit maxactive
(without one, only some ten calls may block at once and the rest return unseen), and the kernel
counts the misses of each event in ``kprobe_profile``. Events outlive a killed owner, unlike BPF
links, so each group carries its owner's pid, and the namespace in which it is one, and
:func:`sweep` removes those of the dead.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader import privilege

ROOTS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
PREFIX: Final = "dmabuf_trace_"


def root() -> Path:
    """The mounted tracefs.

    Raises:
        UntraceableError: not mounted, without kprobe events, locked, or not for this user.
    """
    privilege.require()
    for path in ROOTS:
        if os.access(path / "kprobe_events", os.W_OK):
            _require_unlocked(path)
            return path
    if os.geteuid():
        raise UntraceableError("tracing needs root", "run it with sudo")
    if any((path / "events").is_dir() for path in ROOTS):
        raise UntraceableError(
            "this kernel has no kprobe events", "a kernel with CONFIG_KPROBE_EVENTS is needed"
        )
    raise UntraceableError(
        "tracefs is not mounted, or this kernel has none",
        "mount -t tracefs tracefs /sys/kernel/tracing",
    )


def has_tracepoint(tracefs: Path, name: str) -> bool:
    """Whether the kernel's dma-buf core has a tracepoint of this name."""
    return (tracefs / "events" / "dma_buf" / name).is_dir()


def _require_unlocked(tracefs: Path) -> None:
    """Modes say that the file may be opened; the kernel's lockdown has the last word."""
    try:
        os.close(os.open(tracefs / "kprobe_events", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        raise UntraceableError(
            "this kernel is locked down and refuses to be traced",
            "see /sys/kernel/security/lockdown: tracing needs [none] or [integrity]",
        ) from None


def _command(tracefs: Path, line: str) -> None:
    """Append a line to kprobe_events; a buffered open for appending is refused by the kernel."""
    fd = os.open(tracefs / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def _namespace() -> int:
    """Which processes our pids are numbers of: containers share the kernel's tracefs."""
    return Path("/proc/self/ns/pid").stat().st_ino


class KprobeEvents:
    """The kprobe events of this process, in one group."""

    def __init__(self) -> None:
        self.tracefs = root()
        self.group = f"{PREFIX}{os.getpid()}_{_namespace()}"
        self._events: list[str] = []
        self._misses: dict[str, int] = {}

    def add(self, event: str, symbol: str, maxactive: int = 0) -> str:
        """Make an event on a function's entry, or on its return with room for ``maxactive`` calls.

        Returns "" or the reason why the kernel refused.
        """
        kind = f"r{maxactive}" if maxactive else "p"
        try:
            _command(self.tracefs, f"{kind}:{self.group}/{event} {symbol}")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return f"the kernel has no function {symbol} that can be probed"
            return os.strerror(error.errno or 0)
        self._events.append(event)
        self._misses[event] = 0
        return ""

    def remove(self, event: str) -> None:
        """Remove one event; its user must be gone."""
        _command(self.tracefs, f"-:{self.group}/{event}")
        self._events.remove(event)

    def misses(self) -> dict[str, int]:
        """Missed hits by event, as kprobe_profile counts them; the last ones once it is closed."""
        for line in (self.tracefs / "kprobe_profile").read_text().splitlines():
            event, _hits, missed = line.split()
            if event in self._events:
                self._misses[event] = int(missed)
        return self._misses

    def close(self) -> None:
        """Remove the events; their users must be gone."""
        self.misses()
        for event in tuple(self._events):
            self.remove(event)


def sweep(tracefs: Path) -> list[str]:
    """Remove the groups of recorders that were killed; returns their names.

    Call before any is made: one of this process's pid is then another's that had it before.
    """
    pattern = re.compile(rf"^[pr]\d*:({PREFIX}(\d+)_{_namespace()})/(\S+)", re.MULTILINE)
    swept = set()
    for group, pid, event in pattern.findall((tracefs / "kprobe_events").read_text()):
        if int(pid) == os.getpid() or not Path("/proc", pid).exists():
            _command(tracefs, f"-:{group}/{event}")
            swept.add(group)
    return sorted(swept)
