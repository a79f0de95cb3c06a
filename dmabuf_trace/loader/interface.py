# SPDX-License-Identifier: Apache-2.0
"""What a back end offers: programs loaded into the kernel, their maps, links to kernel functions.

``core`` and ``bcc`` are the back ends. Must not know which probes there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from dmabuf_trace.probes import Probe

KPROBE: Final = "kprobe"
MULTI: Final = "multi"
FENTRY: Final = "fentry"
TRACEPOINT: Final = "tracepoint"

AUTO: Final = "auto"
MODES: Final = (AUTO, KPROBE, MULTI, FENTRY)
"""What ``--attach`` takes."""

CORE: Final = "core"
BCC: Final = "bcc"
LOADERS: Final = (AUTO, CORE, BCC)
"""What ``--loader`` takes."""

DEFAULT_MAXACTIVE: Final = 1024

NO_CHANGE: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Attached:
    """What became of a probe: ``reason`` is "" where it is attached, and then to ``symbol``.

    ``way`` is how it is attached, or "". ``instead`` says why a way that was tried first did not
    do, "" where the first one did.
    """

    probe: Probe
    symbol: str
    reason: str
    way: str = ""
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Want:
    """How a program is to be attached: what a back end has to know before it loads it."""

    way: str
    returned: bool
    symbols: tuple[str, ...]


class Link(Protocol):
    """A program on a kernel function. ``fd`` is the kernel's link, or perf event."""

    @property
    def fd(self) -> int:
        """File descriptor; it belongs to the link."""

    def destroy(self) -> None:
        """Take the program away from the function."""


class Backend(Protocol):
    """Loaded programs; nothing is attached but by :meth:`attach` and :meth:`attach_event`."""

    @property
    def name(self) -> str:
        """One of :data:`LOADERS`."""

    @property
    def ways(self) -> frozenset[str]:
        """The ways in which this back end can attach."""

    def load(self, wanted: Mapping[str, Want]) -> None:
        """Load these programs. May be called again, with others or to have some anew.

        Raises:
            UntraceableError: the kernel, this user or this machine can't load them.
        """

    def map_fd(self, name: str) -> int:
        """File descriptor of a map; it belongs to the back end."""

    def program_fd(self, program: str) -> int:
        """File descriptor of a program that was loaded; it belongs to the back end."""

    def attach_event(self, program: str, group: str, event: str) -> Link | str:
        """Attach a program to an event of tracefs; the link, or the reason why not."""

    def attach(self, program: str, symbol: str) -> Link | str:
        """Attach a program to a function or raw tracepoint, in the way it was loaded for."""

    def close(self) -> None:
        """Unload. Links must be gone."""
