# SPDX-License-Identifier: Apache-2.0
"""Texts for the ids in events: exporters, devices, buffer names, threads.

Owns the lookup from string id (or thread) to text, for live use and for files. Names are few, one
per string, so they are Python objects; events are not. Must not know pandas or terminals: the
texts are as the kernel gave them and unsafe to print.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.tables import order_of

UNKNOWN: Final = "<unknown>"
"""Shown for a name that was lost; an empty text means that there is no name."""

_LOCAL: Final = 1 << 63
"""First id given to a text that has none from the kernel (read from /proc)."""

_LATEST: Final = 1 << 13
"""Names of a kind that are kept though nobody needs them now."""

_EXPORTER, _DEVICE, _BUFFER, _COMM = (
    schema.NAME_TYPES[name] for name in ("exporter", "device", "buffer", "comm")
)


class Device(NamedTuple):
    """An importer device, its driver ("": none bound) and its bus ("": none)."""

    name: str
    driver: str
    bus: str


UNKNOWN_DEVICE: Final = Device(UNKNOWN, "", "")


def _decode(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


class _Texts(dict[int, str]):
    """Texts by id; ``ids`` has the first id of each text."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __setitem__(self, key: int, text: str) -> None:
        super().__setitem__(key, text)
        self.ids.setdefault(text, key)

    def __delitem__(self, key: int) -> None:
        if self.ids.get(self[key]) == key:
            del self.ids[self[key]]
        super().__delitem__(key)


class Names:
    """Every name seen so far; unknown ids give :data:`UNKNOWN`."""

    def __init__(self) -> None:
        self._exporters = _Texts()
        self._devices: dict[int, Device] = {}
        self._buffers = _Texts()
        self._threads: dict[int, list[tuple[int, str, int]]] = {}
        self._cgroups: dict[int, str] = {}
        self._local = 0

    def feed(self, names: NDArray[np.void]) -> None:
        """Take name records; ``names`` has :data:`schema.NAME_DTYPE`."""
        for key, ts, kind, _pid, cgroup, text, driver, bus in names.tolist():
            if kind == _EXPORTER:
                self._exporters[key] = _decode(text)
            elif kind == _DEVICE:
                self._devices[key] = Device(_decode(text), _decode(driver), _decode(bus))
            elif kind == _BUFFER:
                self._buffers[key] = _decode(text)
            elif kind == _COMM:
                self._feed_thread(key, ts, _decode(text), cgroup)

    def feed_cgroups(self, paths: dict[int, str]) -> None:
        """Take paths of cgroups by id."""
        self._cgroups |= paths

    def _feed_thread(self, tid: int, ts: int, comm: str, cgroup: int) -> None:
        known = self._threads.setdefault(tid, [])
        known.append((ts, comm, cgroup))
        if len(known) > 1 and known[-2][0] > ts:
            known.sort()

    def feed_forks(self, forks: NDArray[np.void]) -> None:
        """Let children have the name and cgroup of the thread that made them, until their own tell.

        Without that, one whose pid another process had before would go by that one's name.
        """
        forks = forks[np.argsort(forks["ts"], kind="stable")]
        columns = (forks[name].tolist() for name in ("tid", "detail", "ts"))
        for tid, child, ts in zip(*columns, strict=True):
            if tid in self._threads:
                known = self._threads.setdefault(child, [])
                at = bisect_left(known, ts, key=lambda entry: entry[0])
                known.insert(at, (ts, *self._thread(tid, ts)))

    def intern_exporter(self, text: str) -> int:
        """Id of an exporter known by its text only; the kernel's id where there is one."""
        return self._intern(self._exporters, text)

    def intern_buffer(self, text: str) -> int:
        """Id of a buffer name known by its text only; 0 for no name."""
        return self._intern(self._buffers, text) if text else 0

    def _intern(self, table: _Texts, text: str) -> int:
        if text in table.ids:
            return table.ids[text]
        key = _LOCAL + self._local
        self._local += 1
        table[key] = text
        return key

    def remember_thread(self, tid: int, ts: int, comm: str) -> None:
        """Say what a thread is called from which nothing was heard so far."""
        if tid not in self._threads:
            self._feed_thread(tid, ts, comm, 0)

    @property
    def count(self) -> int:
        """Names of threads and buffers that are known."""
        return len(self._threads) + len(self._buffers)

    def keep(self, threads: set[int], buffers: set[int]) -> None:
        """Forget all names of other threads and buffers but the latest thousands."""
        for known, kept in ((self._threads, threads), (self._buffers, buffers)):
            for key in [key for key in list(known)[:-_LATEST] if key not in kept]:
                del known[key]

    def exporter(self, key: int) -> str:
        """Exporter name of a string id."""
        return self._exporters.get(key, UNKNOWN)

    def exporters(self) -> dict[int, str]:
        """All exporters by their string ids, several of one where a look found it first."""
        return self._exporters

    def device(self, key: int) -> Device:
        """Device of a string id."""
        return self._devices.get(key, UNKNOWN_DEVICE)

    def buffer(self, key: int) -> str:
        """Buffer name of a string id; ``""`` for id 0, a buffer without a name."""
        return self._buffers.get(key, UNKNOWN) if key else ""

    def comm(self, tid: int, ts: int) -> str:
        """Name of a thread at ``ts``; the earliest known one where ``ts`` is before all."""
        return self._thread(tid, ts)[0]

    def cgroup(self, tid: int, ts: int) -> str | None:
        """Path of a thread's cgroup at ``ts``, as for :meth:`comm`; None: not known."""
        return self._cgroups.get(self._thread(tid, ts)[1])

    def _thread(self, tid: int, ts: int) -> tuple[str, int]:
        known = self._threads.get(tid)
        if not known:
            return UNKNOWN, 0
        index = bisect_right(known, ts, key=lambda entry: entry[0])
        return known[max(index - 1, 0)][1:]

    def threads(
        self, tids: NDArray[Any], times: NDArray[Any]
    ) -> tuple[list[str], list[str | None], NDArray[np.int64]]:
        """:meth:`comm` and :meth:`cgroup` of threads, and which is that of each at its time."""
        entries = [(UNKNOWN, 0)]
        index = np.zeros(len(tids), np.int64)
        order = order_of(tids)
        threads, starts = np.unique(tids[order], return_index=True)
        for tid, rows in zip(threads.tolist(), np.split(order, starts[1:]), strict=False):
            if known := self._threads.get(tid):
                index[rows] = len(entries)
                entries += [(comm, cgroup) for _, comm, cgroup in known]
                if len(known) > 1:
                    later = np.array([ts for ts, _, _ in known[1:]], np.uint64)
                    then = times[rows].astype(np.uint64)
                    index[rows] += np.searchsorted(later, then, side="right")
        cgroups = [self._cgroups.get(cgroup) for _, cgroup in entries]
        return [comm for comm, _ in entries], cgroups, index
