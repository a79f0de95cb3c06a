# SPDX-License-Identifier: Apache-2.0
"""What a person asks to be recorded, as it was typed, and what it comes to.

Imports neither pandas nor rich nor typer: a target needs Python, numpy and libbpf.so.1. Must not
know which command line it was typed on.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmabuf_trace import options, schema
from dmabuf_trace.capture import CaptureOptions
from dmabuf_trace.errors import InputError
from dmabuf_trace.filters import NO_LIMIT, Filters, check_pid
from dmabuf_trace.loader.interface import LOADERS, MODES
from dmabuf_trace.probes import GROUPS
from dmabuf_trace.recorder import RecordOptions
from dmabuf_trace.sizes import ring_bytes, table_sizes
from dmabuf_trace.units import parse_duration, parse_size

NS_PER_S: Final = 1_000_000_000
SHORTEST_PERIOD: Final = 0.1
STACKS: Final = {"kernel": (1, 0), "user": (0, 1), "both": (1, 1), "none": (0, 0)}
"""Which stacks are taken of all events that can have one: of the kernel, of the user."""


@dataclass(frozen=True, slots=True)
class Request:
    """Options by the names of :mod:`dmabuf_trace.options`, and the command; texts are unchecked.

    The methods raise InputError for what can't be meant.
    """

    command: tuple[str, ...] = ()
    output: str | None = options.OUTPUT.default
    duration: str | None = options.DURATION.default
    ring: str = options.RING.default
    maxactive: int = options.MAXACTIVE.default
    events: str = options.EVENTS.default
    loader: str = options.LOADER.default
    attach: str = options.ATTACH.default
    table: list[str] | None = options.TABLES.default
    pid: list[int] | None = options.PIDS.default
    only_command: bool = options.ONLY_COMMAND.default
    comm: str = options.COMM.default
    exporter: str = options.EXPORTER.default
    min_size: str | None = options.MIN_SIZE.default
    max_size: str | None = options.MAX_SIZE.default
    stacks: str | None = options.STACKS.default
    holders_every: str | None = options.HOLDERS_EVERY.default
    cycles: int = options.CYCLES.default
    force: bool = options.FORCE.default
    steered: bool = False

    @property
    def seconds(self) -> float | None:
        """The duration."""
        return _seconds(self.duration)

    def recording(self) -> RecordOptions:
        """What to record, and into which file."""
        if self.steered and self.command:
            raise InputError("--steered with a command", "whoever steers runs it")
        if self.cycles > 1 and not self.command:
            raise InputError("--cycles without a command", "add: -- CMD...")
        return RecordOptions(
            Path(self.output or time.strftime("dmabuf-%Y%m%d-%H%M%S.dbt")),
            self.command,
            self.seconds,
            self.force,
            self.capture(),
            self._holders_every(),
            self.cycles,
            (sys.stdin.fileno(), sys.stdout.fileno()) if self.steered else None,
        )

    def capture(self) -> CaptureOptions:
        """What to watch."""
        filters = self._filters()
        ring = ring_bytes("--ring", self.ring)
        known = [group.name for group in GROUPS]
        every = self.events == options.ALL
        groups = known if every else [name.strip() for name in self.events.split(",")]
        for name in groups:
            if name not in known:
                there = f"there are: {', '.join(known)}, {options.ALL}"
                raise InputError(f"no event group {name!r}", there)
        if self.loader not in LOADERS:
            raise InputError(f"no loader {self.loader!r}", f"there are: {', '.join(LOADERS)}")
        if self.attach not in MODES:
            raise InputError(f"no attach mode {self.attach!r}", f"there are: {', '.join(MODES)}")
        return CaptureOptions(
            *(ring, self.maxactive, tuple(groups), self.loader, self.attach, filters),
            *self._stacks(),
            tables=table_sizes(self.table),
        )

    def _filters(self) -> Filters:
        if self.only_command and not self.command:
            raise InputError("--only-command without a command", "add: -- CMD...")
        pids = tuple(dict.fromkeys(self.pid or ()))
        for pid in pids:
            check_pid(pid)
        return Filters(
            pids,
            self.only_command,
            self.comm,
            self.exporter,
            parse_size(self.min_size) if self.min_size else 0,
            parse_size(self.max_size) if self.max_size else NO_LIMIT,
        )

    def _stacks(self) -> tuple[int, int]:
        """Bits of the kinds that carry kernel stacks, and user stacks."""
        if self.stacks is None:
            return schema.STACKED, 0
        if self.stacks not in STACKS:
            there = f"there are: {', '.join(STACKS)}"
            raise InputError(f"--stacks {self.stacks} is none of them", there)
        kernel, user = STACKS[self.stacks]
        return kernel * schema.STACKABLE, user * schema.STACKABLE

    def _holders_every(self) -> float | None:
        """Seconds between looks at the holders."""
        seconds = _seconds(self.holders_every)
        if seconds is not None and seconds < SHORTEST_PERIOD:
            text = f"--holders-every {self.holders_every} is too short"
            raise InputError(text, f"from {SHORTEST_PERIOD}s on")
        return seconds


def stacks_of(*, kernel: bool, user: bool) -> str:
    """How to ask for these stacks and no others: one of :data:`STACKS`."""
    return next(name for name, wanted in STACKS.items() if wanted == (kernel, user))


def _seconds(duration: str | None) -> float | None:
    return None if duration is None else parse_duration(duration) / NS_PER_S
