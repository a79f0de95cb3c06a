# SPDX-License-Identifier: Apache-2.0
"""Events as they pass, each with what is known by then of its buffer and thread: what lines show.

What is known is looked up here, a batch at a time; texts are made only of what is printed. Must not
know how a line looks, nor where the events come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Found
from dmabuf_trace.errors import InputError
from dmabuf_trace.names import Names

Structs = NDArray[np.void]
Array = NDArray[Any]
Fields = dict[str, Any]

_EXPORT, _RELEASE, _SET_NAME, _FORK = (
    schema.KIND[name] for name in ("export", "release", "set_name", "fork")
)
_OF_DEVICES: Final = [schema.KIND[name] for name in schema.DEVICE_KINDS]
_UNKNOWN: Final = (0, -1)
"""Exporter and size of a buffer of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are shown; each as it is by default lets everything pass.

    ``kinds`` are ids, ``buffer`` is an inode number or a name, that one from when on it has it,
    ``min_dur`` ns: calls of no known length don't pass it. ``comm`` is a thread's name.
    """

    kinds: tuple[int, ...] = ()
    device: str = ""
    buffer: str = ""
    min_dur: int = 0
    errors: bool = False
    pids: tuple[int, ...] = ()
    comm: str = ""
    exporter: str = ""


EVERYTHING: Final = Wanted()


def kinds(texts: Sequence[str]) -> tuple[int, ...]:
    """Ids of kinds of event, of ``map,unmap`` and the like.

    Raises:
        InputError: there is no such kind.
    """
    wanted = [name.strip() for text in texts for name in text.split(",")]
    for name in wanted:
        if name not in schema.KIND:
            raise InputError(f"no event {name!r}", f"there are: {', '.join(schema.KIND)}")
    return tuple(schema.KIND[name] for name in wanted)


class Seen(NamedTuple):
    """An event by its fields, and what was known when it came; size in bytes.

    None: there is no buffer or cgroup, or its size is not known.
    """

    event: Fields
    comm: str
    cgroup: str | None
    exporter: str | None
    size: int | None


Frames = Sequence[str] | None
"""Of a stack, innermost first; None: there is none."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """How the stacks of events are found by their ids; None: they are not wanted."""

    kernel: Callable[[int], Frames] | None = None
    user: Callable[[int], Frames] | None = None

    def of(self, event: Fields) -> dict[str, Frames]:
        """The stacks that are wanted of an event: ``stack`` of the kernel, ``user_stack``."""
        looks = (("stack", self.kernel), ("user_stack", self.user))
        return {
            name: look(event[name]) if event[name] != schema.UNKNOWN_STACK else None
            for name, look in looks
            if look
        }


@dataclass(frozen=True, slots=True)
class Lines:
    """Events (:data:`schema.EVENT_DTYPE`), and columns beside them: each is a :class:`Seen`."""

    names: Names
    events: Structs
    exporters: Array
    sizes: Array
    threads: Array
    comms: Sequence[str]
    cgroups: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.events)

    def part(self, which: slice | NDArray[np.bool_]) -> Lines:
        """Some of them."""
        return replace(
            self,
            events=self.events[which],
            exporters=self.exporters[which],
            sizes=self.sizes[which],
            threads=self.threads[which],
        )

    def pieces(self, most: int) -> Iterator[Lines]:
        """The same in pieces of at most so many events."""
        return (self.part(slice(at, at + most)) for at in range(0, len(self), most))

    def __iter__(self) -> Iterator[Seen]:
        titles = self.events.dtype.names or ()
        columns = (self.events, self.exporters, self.sizes, self.threads)
        for values, exporter, size, thread in zip(*(of.tolist() for of in columns), strict=True):
            event = dict(zip(titles, values, strict=True))
            has_exporter = event["buffer"] or event["kind"] == _EXPORT
            yield Seen(
                event,
                self.comms[thread],
                self.cgroups[thread],
                self.names.exporter(exporter) if has_exporter else None,
                size if size >= 0 else None,
            )


class Passing:
    """Takes what comes, in its order; ``names`` is to be fed ahead of the events."""

    def __init__(self, wanted: Wanted = EVERYTHING) -> None:
        self.names = Names()
        self._wanted = wanted
        self._buffers: dict[int, tuple[int, int]] = {}
        self._named: set[int] = set()
        self._released: list[int] = []

    def know(self, found: Iterable[Found]) -> None:
        """Take the buffers that a look showed."""
        for each in found:
            exporter = self.names.intern_exporter(each.exporter)
            self._buffers.setdefault(each.buffer, (exporter, each.size))
            if each.name and each.name == self._wanted.buffer:
                self._named.add(each.buffer)

    def feed(self, events: Structs) -> Lines:
        """Take events; those that are wanted.

        A released buffer is forgotten with the batch after the one that released it.
        """
        for inode in self._released:
            self._buffers.pop(inode, None)
            self._named.discard(inode)
        self.names.feed_forks(events[events["kind"] == _FORK])
        made = events[(events["kind"] == _EXPORT) & (events["ret"] == 0)]
        facts = zip(made["aux"].tolist(), made["value"].astype(np.int64).tolist(), strict=True)
        self._buffers.update(zip(made["buffer"].tolist(), facts, strict=True))
        self._released = events["buffer"][events["kind"] == _RELEASE].tolist()
        if self._wanted != EVERYTHING:
            events = events[self._passes(events)]
        exporters, sizes = self._facts(events)
        comms, cgroups, threads = self.names.threads(events["tid"], events["ts"])
        lines = Lines(self.names, events, exporters, sizes, threads, comms, cgroups)
        return self._by_comm(lines) if self._wanted.comm else lines

    def _facts(self, events: Structs) -> tuple[Array, Array]:
        """Exporter (string id) and size of the buffer of each event."""
        inodes, index = np.unique(events["buffer"], return_inverse=True)
        facts = [self._buffers.get(inode, _UNKNOWN) for inode in inodes.tolist()]
        exporters = np.array([exporter for exporter, _ in facts], np.uint64)[index]
        sizes = np.array([size for _, size in facts], np.int64)[index]
        is_export = events["kind"] == _EXPORT
        exporters[is_export] = events["aux"][is_export]
        sizes[is_export] = events["value"][is_export].astype(np.int64)
        return exporters, sizes

    def _passes(self, events: Structs) -> NDArray[np.bool_]:
        wanted, kind = self._wanted, events["kind"]
        passes = np.ones(len(events), np.bool_)
        if wanted.kinds:
            passes &= np.isin(kind, wanted.kinds)
        if wanted.min_dur:
            passes &= events["dur"] >= wanted.min_dur
        if wanted.errors:
            passes &= events["ret"] < 0
        if wanted.pids:
            passes &= np.isin(events["pid"], wanted.pids)
        if wanted.device:
            keys = np.unique(events["aux"][np.isin(kind, _OF_DEVICES)])
            mine = [key for key in keys.tolist() if self.names.device(key).name == wanted.device]
            passes &= np.isin(kind, _OF_DEVICES) & np.isin(events["aux"], np.array(mine, np.uint64))
        if wanted.exporter:
            keys = self._facts(events)[0]
            mine = [key for key in set(keys.tolist()) if self._exporter(key) == wanted.exporter]
            passes &= np.isin(keys, np.array(mine, np.uint64))
        if wanted.buffer:
            passes &= self._is_wanted_buffer(events)
        return passes

    def _exporter(self, key: int) -> str:
        return self.names.exporter(key) if key else ""

    def _is_wanted_buffer(self, events: Structs) -> NDArray[np.bool_]:
        """By its inode number, or by its name, from the event on that gives it."""
        wanted, inodes = self._wanted.buffer, events["buffer"]
        by_name = np.isin(inodes, np.array(list(self._named), np.uint64))
        for at in np.flatnonzero((events["kind"] == _SET_NAME) & (events["ret"] == 0)).tolist():
            inode = int(inodes[at])
            is_wanted = self.names.buffer(int(events["aux"][at])) == wanted
            if is_wanted != (inode in self._named):
                by_name[at:][inodes[at:] == inode] = is_wanted
                (self._named.add if is_wanted else self._named.discard)(inode)
        is_number = wanted.isascii() and wanted.isdigit() and len(wanted) < 19
        return by_name | (inodes == int(wanted)) if is_number else by_name

    def _by_comm(self, lines: Lines) -> Lines:
        mine = np.array([comm == self._wanted.comm for comm in lines.comms], np.bool_)
        return lines.part(mine[lines.threads])
