# SPDX-License-Identifier: Apache-2.0
"""From attached probes to batches of events and names, for a recording or for a live view."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema, symbols
from dmabuf_trace.blocks import Probed
from dmabuf_trace.cgroups import Cgroups
from dmabuf_trace.filters import Filters
from dmabuf_trace.loader.choose import LoadOptions, load
from dmabuf_trace.loader.interface import AUTO, DEFAULT_MAXACTIVE, Attached
from dmabuf_trace.operations import OperationProbes
from dmabuf_trace.probes import ALWAYS, FOLLOWING, GROUPS, PROBES
from dmabuf_trace.ring import Ring
from dmabuf_trace.version import VERSION
from dmabuf_trace.watch import UNUSED, Watch

DEFAULT_RING_BYTES: Final = 8 << 20
TABLES: Final = {"inflight": 1 << 20, "stacks": 1 << 15, "names": 1 << 30, "watched": 1 << 20}
"""Tables in the kernel whose size can be chosen, and the most that fits: calls under way, different
stacks (an event has 15 bits for one), bytes of names not yet read, buffers that filters let pass.
"""
TABLE_MAPS: Final = {"stacks": ("stacks", "user_stacks"), "watched": ("watched", "matching")}
"""Maps of a table that is more than one."""
MANY_STACKS: Final = 16384
"""Room for stacks where those of more than a few kinds are taken; ids must fit 15 bits."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one drain found; the names belong ahead of the events.

    ``cgroups`` are paths of cgroups that came up, by id; ``probed`` are functions probed meanwhile.
    """

    names: NDArray[np.void]
    events: NDArray[np.void]
    cgroups: dict[int, str] = field(default_factory=dict)
    probed: tuple[Probed, ...] = ()


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """``ring_bytes``, ``maxactive``, ``loader`` and ``attach`` as in :class:`LoadOptions`.

    ``groups`` names the groups of probes that are wanted; those without which nothing can be told
    are on in any case. ``kernel_stacks`` and ``user_stacks`` have a bit per kind of event that is
    to carry one. ``tables`` has sizes of :data:`TABLES` that are not to be as usual.
    """

    ring_bytes: int = DEFAULT_RING_BYTES
    maxactive: int = DEFAULT_MAXACTIVE
    groups: tuple[str, ...] = tuple(group.name for group in GROUPS)
    loader: str = AUTO
    attach: str = AUTO
    filters: Filters = field(default_factory=Filters)
    kernel_stacks: int = schema.STACKED
    user_stacks: int = 0
    tables: Mapping[str, int] = field(default_factory=dict)

    @property
    def entries(self) -> dict[str, int]:
        """Sizes of maps that depend on these options."""
        many = bool((self.kernel_stacks | self.user_stacks) & ~schema.STACKED)
        tables = ({"stacks": MANY_STACKS} if many else {}) | dict(self.tables)
        stacks = {"stacks": self.kernel_stacks, "user_stacks": self.user_stacks}
        unused = {name: 1 for name, wanted in stacks.items() if not wanted}
        if not self.filters.bits:
            unused |= UNUSED
        asked = {
            name: size for table, size in tables.items() for name in TABLE_MAPS.get(table, (table,))
        }
        return asked | unused


class Capture:
    """Probes attached and rings open, as a context manager.

    Raises:
        UntraceableError: the kernel can't be traced, or not by this user.
    """

    def __init__(self, options: CaptureOptions) -> None:
        self.options = options
        chosen = {ALWAYS, *options.groups}
        wanted = [probe for group in GROUPS if group.name in chosen for probe in group.probes]
        self._unwanted = [probe for probe in PROBES if probe not in wanted]
        kinds = {schema.KIND[kind] for probe in wanted for kind in probe.kinds}
        config = np.zeros(1, schema.CONFIG_DTYPE)
        config["kernel_stacks"] = options.kernel_stacks
        config["user_stacks"] = options.user_stacks
        config["kinds"] = sum(1 << kind for kind in kinds)
        config["task_work_begin"], config["task_work_end"] = symbols.extent("task_work_run")
        options.filters.configure(config)
        self._cgroups = Cgroups()
        self._cgroups_seen: set[int] = set()
        self._detached = False
        self._symbols: dict[int, str] = {}
        how = LoadOptions(
            *(options.ring_bytes, options.loader, options.attach, options.maxactive),
            entries=options.entries,
        )
        self.loader = load([*(FOLLOWING if options.filters.by_pid else ()), *wanted], config, how)
        self._operations = [OperationProbes(self.loader, probe) for probe in wanted if probe.late]
        try:
            self.loader.require()
            self.watch = Watch(options.filters, self.loader.key_set)
            names = options.tables.get("names", schema.NAME_RING_BYTES)
            self._names = Ring(self.loader.map_fd("names"), names, schema.NAME_DTYPE)
            self._events = Ring(
                self.loader.map_fd("events"), options.ring_bytes, schema.EVENT_DTYPE
            )
        except BaseException:
            self.loader.close()
            raise

    def header(self, command: tuple[str, ...]) -> dict[str, Any]:
        """The recording's header: tool, host, clocks, probes, command."""
        system = os.uname()
        return {
            "tool": VERSION,
            "python": platform.python_version(),
            "host": {
                "release": system.release,
                "version": system.version,
                "machine": system.machine,
                "hostname": system.nodename,
                "cpus": os.cpu_count(),
            },
            "command": list(command) or None,
            "filters": self.options.filters.arguments(),
            "start": {
                "monotonic_ns": time.monotonic_ns(),
                "realtime_ns": time.time_ns(),
                "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            },
            "loader": self.loader.name,
            "attach": self.loader.mode,
            "probes": [
                {
                    "kind": kind,
                    "symbol": attached.symbol,
                    "attached": not attached.reason,
                    "reason": attached.reason,
                    "way": attached.way,
                    "instead": attached.instead,
                    "without": attached.probe.without,
                }
                for attached in (*self.loader.attached, *self._left_out())
                for kind in attached.probe.kinds
            ],
            "no_cgroups": self._cgroups.without,
            "options": {
                "ring_bytes": self.options.ring_bytes,
                "maxactive": self.options.maxactive,
                "events": list(self.options.groups),
                "tables": dict(self.options.tables),
                "kernel_stacks": _kinds(self.options.kernel_stacks),
                "user_stacks": _kinds(self.options.user_stacks),
            },
        }

    def _left_out(self) -> list[Attached]:
        return [Attached(probe, probe.symbols[0], "not asked for") for probe in self._unwanted]

    def drain(self) -> Batch:
        """What has come since the last call; call again until both parts are empty.

        Events are taken first: whatever they name was sent before them.
        """
        events = self._events.drain()
        names = self._names.drain()
        probed = () if self._detached else self._probe(names)
        cgroups = self._new_cgroups(names) if len(names) else {}
        return Batch(names, events, cgroups, probed)

    @property
    def is_empty(self) -> bool:
        """Whether the rings hold nothing, unfinished records included."""
        return self._events.is_empty and self._names.is_empty

    def _probe(self, names: NDArray[np.void]) -> tuple[Probed, ...]:
        return tuple(row for operations in self._operations for row in operations.feed(names))

    def _new_cgroups(self, names: NDArray[np.void]) -> dict[int, str]:
        new = set(names["cgroup"].tolist()) - self._cgroups_seen - {0}
        self._cgroups_seen |= new
        paths = {cgroup: self._cgroups.path(cgroup) for cgroup in new}
        return {cgroup: path for cgroup, path in paths.items() if path is not None}

    def know_tables(self, tables: dict[int, int]) -> None:
        """Say which tables of fds hold how many buffers already: their forks are events."""
        for table, count in tables.items():
            self.loader.put("tables", table, count)

    def stacks(self, ids: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Symbolised kernel stacks by id, innermost frame first."""
        addresses = {stack_id: self.loader.stack(stack_id) for stack_id in ids}
        every = {address for frames in addresses.values() for address in frames}
        self._symbols |= symbols.resolve(every - self._symbols.keys())
        return {
            stack_id: symbols.without_programs(self._symbols[address] for address in frames)
            for stack_id, frames in addresses.items()
        }

    def user_stack(self, kernel_id: int) -> list[int]:
        """Addresses of a user stack, innermost first, by the id that events come with."""
        return self.loader.stack(kernel_id, "user_stacks")

    def detach(self) -> None:
        """Take the probes away; afterwards the rings hold all that will ever come."""
        self._detached = True
        for operations in self._operations:
            operations.close()
        self.loader.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Detach, unmap the rings, unload."""
        self.detach()
        self._events.close()
        self._names.close()
        self._cgroups.close()
        self.loader.close()


def _kinds(bits: int) -> list[str]:
    """Names of the kinds whose bit is set."""
    return [kind.name for kind in schema.KINDS if bits >> kind.id & 1]
