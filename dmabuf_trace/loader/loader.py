# SPDX-License-Identifier: Apache-2.0
"""Attaches probes through a back end, each in the best way it can have, and counts the losses."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader import modes, tracefs
from dmabuf_trace.loader.counters import Counters
from dmabuf_trace.loader.interface import (
    AUTO,
    DEFAULT_MAXACTIVE,
    FENTRY,
    KPROBE,
    MULTI,
    TRACEPOINT,
    Attached,
    Backend,
    Link,
    Want,
)
from dmabuf_trace.loader.keys import KeySet
from dmabuf_trace.loader.libbpf import Libbpf
from dmabuf_trace.probes import Probe

MISSED: Final = schema.CAUSE["probe_missed"]
RECURSION: Final = schema.CAUSE["recursion"]


@dataclass(slots=True)
class _On:
    """A program that is attached."""

    probe: Probe
    program: str
    way: str
    link: Link | None
    missed: int = 0


@dataclass(slots=True)
class _Try:
    """A probe on its way to being attached: the ways left, the symbol and reasons so far."""

    probe: Probe
    left: list[str]
    symbol: str = ""
    reasons: list[str] = field(default_factory=list)

    @property
    def way(self) -> str:
        return self.left[0]

    @property
    def entry(self) -> str:
        """The entry's program; a tracepoint of the function's name has one of its own."""
        return self.probe.point if self.on_point else self.probe.entry

    @property
    def on_point(self) -> bool:
        return self.way == TRACEPOINT and not self.probe.tracepoint

    @property
    def returned(self) -> str:
        return "" if self.on_point else self.probe.returned


def _blame_room(counts: NDArray[np.uint64]) -> None:
    """Split the returns without an entry, of one kind, by why there was none."""
    full, no_entry = schema.CAUSE["inflight_full"], schema.CAUSE["no_entry"]
    # an entry without room whose return is still to come, or was missed, has cost no event by this
    counts[full] = min(counts[full], counts[no_entry])
    counts[no_entry] -= counts[full]


class Loader:
    """Loaded and attached programs.

    Args:
        backend: what loads them; it belongs to the loader.
        lib: libbpf, for the maps.
        probes: what to attach; one that can't be is kept as missing in :attr:`attached`.
        config: of :data:`schema.CONFIG_DTYPE`, what the programs are told.
        mode: one of :data:`interface.MODES`.
        maxactive: calls that may be under way at once per timed function that has a kprobe.

    Raises:
        UntraceableError: the kernel or this user can't load the programs, or the kernel refuses the
            mode for every probe.
    """

    def __init__(
        self,
        backend: Backend,
        lib: Libbpf,
        probes: Sequence[Probe],
        config: NDArray[np.void],
        *,
        mode: str = AUTO,
        maxactive: int = DEFAULT_MAXACTIVE,
    ) -> None:
        self.name = backend.name
        self.mode = mode
        self.attached: list[Attached] = []
        self._backend = backend
        self._lib = lib
        self._maxactive = maxactive
        self._on: dict[str, _On] = {}
        self._late = [probe for probe in probes if probe.late]
        self._late_links: dict[str, Link] = {}
        self._late_events: dict[str, Probe] = {}
        self._kprobes = tracefs.KprobeEvents()
        tracefs.sweep(self._kprobes.tracefs)
        fprobe = modes.Exactness.here()
        tries = [
            _Try(probe, [way for way in ranked if way in backend.ways])
            for probe in probes
            if not probe.late
            for ranked in [modes.ways(probe, mode, fprobe, self._kprobes.tracefs)]
        ]
        try:
            self._load(tries, self._late)
            self._counters = Counters(self.map_fd("losses"))
            zero = ctypes.c_uint32(0)
            lib.bpf_map_update_elem(
                self.map_fd("configs"), ctypes.byref(zero), config.ctypes.data, 0
            )
            self._attach_all(tries)
        except BaseException:
            self.close()
            raise

    def _load(self, tries: Iterable[_Try], late: Iterable[Probe] = ()) -> None:
        wanted: dict[str, Want] = {}
        for probe in late:
            wanted[probe.entry] = Want(KPROBE, False, probe.symbols)
            wanted[probe.returned] = Want(KPROBE, True, probe.symbols)
        for each in tries:
            symbols = each.probe.symbols
            wanted[each.entry] = Want(each.way, False, symbols)
            if each.returned:
                wanted[each.returned] = Want(each.way, True, symbols)
        self._backend.load(wanted)

    def _attach_all(self, tries: list[_Try]) -> None:
        """Attach in rounds: what one way refuses is loaded and tried again in the next."""
        done: dict[int, Attached] = {}
        while pending := [each for each in tries if id(each) not in done]:
            # all entries before any return: a return without its entry would count as a loss
            reasons = [self._attach_entry(each) for each in pending]
            for each, reason in zip(pending, reasons, strict=True):
                failed = reason or self._attach_return(each)
                if not failed:
                    instead = "; ".join(each.reasons)
                    done[id(each)] = Attached(each.probe, each.symbol, "", each.way, instead)
                    continue
                each.reasons.append(f"{each.way}: {failed}" if len(each.left) > 1 else failed)
                if len(each.left) == 1:
                    symbol = each.symbol or each.probe.symbols[0]
                    done[id(each)] = Attached(each.probe, symbol, "; ".join(each.reasons))
                else:
                    each.left.pop(0)
            self._check_mode(done.values(), pending)
            if again := [each for each in pending if id(each) not in done]:
                self._load(again)
        self.attached = [done[id(each)] for each in tries]
        self.attached += [Attached(probe, probe.symbols[0], "", KPROBE) for probe in self._late]

    def _check_mode(self, done: Iterable[Attached], tried: list[_Try]) -> None:
        """Refuse a mode that was asked for and that no probe can have."""
        if self.mode in (MULTI, FENTRY) and not any(found.way == self.mode for found in done):
            reason = next(iter(tried[0].reasons), "").removeprefix(f"{self.mode}: ")
            raise UntraceableError(
                f"this kernel can't attach by {self.mode}: {reason}", "try --attach auto"
            )

    def _attach_entry(self, each: _Try) -> str:
        reasons = []
        for symbol in each.probe.symbols:
            reason = self._attach(each.probe, each.entry, each.way, symbol, 0)
            if not reason:
                each.symbol = symbol
                return ""
            reasons.append(reason)
        return "; ".join(dict.fromkeys(reasons))

    def _attach_return(self, each: _Try) -> str:
        if not each.returned:
            return ""
        until = each.probe.until or each.symbol
        reason = self._attach(each.probe, each.returned, each.way, until, self._maxactive)
        if reason:
            self._detach(each.entry)  # alone it would only fill the table of calls under way
        return reason

    def _attach(self, probe: Probe, program: str, way: str, symbol: str, maxactive: int) -> str:
        """Attach a program; "" or the reason why not."""
        if way == KPROBE:
            if reason := self._kprobes.add(program, symbol, maxactive):
                return reason
            # a kprobe event is a tracepoint to perf
            link = self._backend.attach_event(program, self._kprobes.group, program)
            if isinstance(link, str):
                self._kprobes.remove(program)
        else:
            link = self._backend.attach(program, symbol)
        if isinstance(link, str):
            return link
        self._on[program] = _On(probe, program, way, link)
        return ""

    def probe_late(self, probe: Probe, symbol: str) -> str:
        """Put a late probe's programs onto one more function; "" or why the kernel refused.

        ``symbol``: "module:function" or an address as "0x...". Always by kprobe events, whatever
        the mode: they leave a module free to go, and one by module and name comes back with it.
        """
        number = len(self._late_events)
        added = []
        for program, maxactive in ((probe.entry, 0), (probe.returned, self._maxactive)):
            event = f"{program}_{number}"
            reason = self._kprobes.add(event, symbol, maxactive)
            if not reason:
                added.append(event)
                link = self._backend.attach_event(program, self._kprobes.group, event)
                if not isinstance(link, str):
                    self._late_links[event] = link
                    continue
                reason = link
            for event in added:
                if event in self._late_links:
                    self._late_links.pop(event).destroy()
                self._kprobes.remove(event)
            return reason
        self._late_events[event] = probe
        return ""

    def put(self, name: str, key: int, value: int) -> None:
        """Set an entry of a map from u64 to u64."""
        words = (ctypes.c_uint64(key), ctypes.c_uint64(value))
        self._lib.bpf_map_update_elem(
            self.map_fd(name), ctypes.byref(words[0]), ctypes.byref(words[1]), 0
        )

    def _detach(self, program: str) -> None:
        on = self._on.pop(program)
        if on.link:
            on.link.destroy()
        if on.way == KPROBE:
            self._kprobes.remove(program)

    def require(self) -> None:
        """Raise UntraceableError where a probe is missing without which nothing can be told."""
        for attached in self.attached:
            if attached.reason and attached.probe.needed:
                raise UntraceableError(
                    f"{attached.symbol}() can't be probed: {attached.reason}",
                    f"without it {attached.probe.without}; see: dmabuf-trace doctor",
                )

    def map_fd(self, name: str) -> int:
        """File descriptor of a map; it belongs to the loader."""
        return self._backend.map_fd(name)

    def key_set(self, name: str) -> KeySet:
        """A map that is a set of keys."""
        return KeySet(self._lib, self.map_fd(name))

    def losses(self) -> NDArray[np.uint64]:
        """Cumulative loss counters, shape :data:`schema.LOSS_SHAPE`.

        The programs' own counters, and those that the kernel keeps: hits
        missed by each kprobe event or kprobe.multi link, and runs skipped by each program. A miss
        at the entry of a timed call shows as ``no_entry`` at its return and is not counted again;
        nor is an entry that found no room, whose return then says which cause it was.
        """
        total = self._counters.read()
        for kind in schema.KIND_NAMES:
            _blame_room(total[kind])
        misses = self._kprobes.misses()
        for on in self._on.values():
            if on.program == on.probe.entry and on.probe.returned:
                continue
            kind = schema.KIND[on.probe.kinds[0]]
            total[kind, MISSED] += misses.get(on.program, 0) + self._missed(on)
            if not on.probe.skips:
                total[kind, RECURSION] += self._skipped(on.program)
        for probe in self._late:
            total[schema.KIND[probe.kinds[0]], RECURSION] += self._skipped(probe.returned)
        for event, probe in self._late_events.items():
            total[schema.KIND[probe.kinds[0]], MISSED] += misses.get(event, 0)
        return total

    def _skipped(self, program: str) -> int:
        return self._lib.recursion_misses(self._backend.program_fd(program))

    def _missed(self, on: _On) -> int:
        """What a kprobe.multi link missed; the last word is from before it was destroyed."""
        if on.way == MULTI and on.link:
            on.missed = self._lib.missed(on.link.fd)
        return on.missed

    def stack(self, stack_id: int, table: str = "stacks") -> list[int]:
        """Return addresses of a stack, innermost first; empty where it is not known."""
        frames = (ctypes.c_uint64 * schema.STACK_DEPTH)()
        key = ctypes.c_uint32(stack_id)
        if self._lib.bpf_map_lookup_elem(self.map_fd(table), ctypes.byref(key), frames):
            return []
        return [address for address in frames if address]

    def detach(self) -> None:
        """Detach all probes; when it returns no program runs any more, and the maps stay."""
        # returns before entries: a call that ends after the trace is no return without its entry
        for on in reversed(self._on.values()):
            if on.link:
                self._missed(on)
                on.link.destroy()
                on.link = None
        for _, link in reversed(self._late_links.items()):
            link.destroy()
        self._late_links.clear()
        self._kprobes.close()

    def close(self) -> None:
        """Detach and unload."""
        self.detach()
        self._backend.close()
