# SPDX-License-Identifier: Apache-2.0
"""From attached probes to batches of events and names, for a recording or for a live view."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema, symbols
from dmabuf_trace.loader.core import DEFAULT_MAXACTIVE, Attached, CoreLoader
from dmabuf_trace.probes import ALWAYS, GROUPS, PROBES
from dmabuf_trace.ring import Ring
from dmabuf_trace.version import VERSION

DEFAULT_RING_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """What one drain found; the names belong ahead of the events."""

    names: NDArray[np.void]
    events: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """``ring_bytes``: a power of two; ``maxactive``: calls under way at once per timed function.

    ``groups`` names the groups of probes that are wanted; those without which nothing can be told
    are on in any case.
    """

    ring_bytes: int = DEFAULT_RING_BYTES
    maxactive: int = DEFAULT_MAXACTIVE
    groups: tuple[str, ...] = tuple(group.name for group in GROUPS)


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
        self.loader = CoreLoader(wanted, ring_bytes=options.ring_bytes, maxactive=options.maxactive)
        try:
            self.loader.require()
            self._names = Ring(
                self.loader.map_fd("names"), schema.NAME_RING_BYTES, schema.NAME_DTYPE
            )
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
            "start": {"monotonic_ns": time.monotonic_ns(), "realtime_ns": time.time_ns()},
            "loader": "core",
            "attach": "kprobe",
            "probes": [
                {
                    "kind": kind,
                    "symbol": attached.symbol,
                    "attached": not attached.reason,
                    "reason": attached.reason,
                    "without": attached.probe.without,
                }
                for attached in (*self.loader.attached, *self._left_out())
                for kind in attached.probe.kinds
            ],
            "options": {
                "ring_bytes": self.options.ring_bytes,
                "maxactive": self.options.maxactive,
                "events": list(self.options.groups),
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
        return Batch(names, events)

    def stacks(self, ids: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Symbolised kernel stacks by id, innermost frame first."""
        addresses = {stack_id: self.loader.stack(stack_id) for stack_id in ids}
        texts = symbols.resolve({address for frames in addresses.values() for address in frames})
        return {
            stack_id: tuple(texts[address] for address in frames)
            for stack_id, frames in addresses.items()
        }

    def detach(self) -> None:
        """Take the probes away; afterwards the rings hold all that will ever come."""
        self.loader.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Detach, unmap the rings, unload."""
        self.loader.detach()
        self._events.close()
        self._names.close()
        self.loader.close()
