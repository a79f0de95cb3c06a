# SPDX-License-Identifier: Apache-2.0
"""The ``core`` back end: a prebuilt object, relocated against the kernel's BTF by libbpf."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader import tracefs
from dmabuf_trace.loader.libbpf import Libbpf, ProgramInfo
from dmabuf_trace.probes import Probe

DEFAULT_MAXACTIVE: Final = 1024


@dataclass(frozen=True, slots=True)
class Attached:
    """What became of a probe: ``reason`` is "" where it is attached, and then to ``symbol``."""

    probe: Probe
    symbol: str
    reason: str


def object_bytes(part: str = "dmabuf_trace") -> bytes:
    """The object of a part (``bpf/PART.bpf.c``) that was built for this machine.

    Raises:
        UntraceableError: none was built for it.
    """
    machine = os.uname().machine
    file = resources.files("dmabuf_trace.bpf") / f"{part}.{machine}.bpf.o"
    if not file.is_file():
        raise UntraceableError(
            f"no BPF object for {machine} in this installation",
            "build the package again, with clang",
        )
    return file.read_bytes()


class CoreLoader:
    """Loaded and attached programs.

    Args:
        probes: what to attach; one that can't be is kept as missing in :attr:`attached`.
        ring_bytes: size of the event ring, a power of two of at least one page.
        maxactive: calls that may be under way at once per timed function.

    Raises:
        UntraceableError: the kernel or this user can't load the programs.
    """

    def __init__(
        self, probes: Sequence[Probe], *, ring_bytes: int, maxactive: int = DEFAULT_MAXACTIVE
    ) -> None:
        self._lib = Libbpf()
        self._links: list[int] = []
        self._programs: dict[str, tuple[Probe, int]] = {}
        self.attached: list[Attached] = []
        self._kprobes = tracefs.KprobeEvents()
        tracefs.sweep(self._kprobes.tracefs)
        self._object = self._load(ring_bytes)
        self._possible_cpus = int(self._lib.libbpf_num_possible_cpus())
        try:
            # all entries before any return: a return without its entry would count as a loss
            entered = [self._attach_entry(probe) for probe in probes]
            self.attached = [self._attach_return(found, maxactive) for found in entered]
        except BaseException:
            self.close()
            raise

    def _load(self, ring_bytes: int) -> int:
        data = object_bytes()
        opened = self._lib.bpf_object__open_mem(data, len(data), None)
        if not opened:
            raise UntraceableError(
                f"the BPF object can't be opened: {self._lib.reason(ctypes.get_errno())}"
            )
        self._lib.bpf_map__set_max_entries(
            self._lib.bpf_object__find_map_by_name(opened, b"events"), ring_bytes
        )
        if error := self._lib.bpf_object__load(opened):
            reason = self._lib.reason(error)
            self._lib.bpf_object__close(opened)
            if os.geteuid() != 0:
                raise UntraceableError("loading BPF programs needs root", "run with sudo")
            raise UntraceableError(
                f"this kernel refuses the BPF programs: {reason}", "see: dmabuf-trace doctor"
            )
        return int(opened)

    def _attach_entry(self, probe: Probe) -> Attached:
        reasons = []
        for symbol in probe.symbols:
            reason = self._attach(probe, probe.entry, symbol, 0)
            if not reason:
                return Attached(probe, symbol, "")
            reasons.append(reason)
        return Attached(probe, probe.symbols[0], "; ".join(reasons))

    def _attach_return(self, entered: Attached, maxactive: int) -> Attached:
        probe = entered.probe
        if entered.reason or not probe.returned:
            return entered
        reason = self._attach(probe, probe.returned, entered.symbol, maxactive)
        return Attached(probe, entered.symbol, reason)

    def _attach(self, probe: Probe, program: str, symbol: str, maxactive: int) -> str:
        if reason := self._kprobes.add(program, symbol, maxactive):
            return reason
        handle = self._lib.bpf_object__find_program_by_name(self._object, program.encode())
        # a kprobe event is a tracepoint to perf: libbpf opens it by its tracefs name
        link = self._lib.bpf_program__attach_tracepoint(
            handle, self._kprobes.group.encode(), program.encode()
        )
        if not link:
            return self._lib.reason(ctypes.get_errno())
        self._links.append(link)
        self._programs[program] = (probe, handle)
        return ""

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
        return int(
            self._lib.bpf_map__fd(
                self._lib.bpf_object__find_map_by_name(self._object, name.encode())
            )
        )

    def losses(self) -> NDArray[np.uint64]:
        """Cumulative loss counters, shape :data:`schema.LOSS_SHAPE`.

        The programs' own counters, summed over processors, and those that the kernel keeps: hits
        missed by each kprobe event, and runs skipped by each program. A miss at the entry of a
        timed call shows as ``no_entry`` at its return and is not counted again.
        """
        total = np.zeros(schema.LOSS_SHAPE, np.uint64)
        per_cpu = np.zeros(self._possible_cpus, np.uint64)
        fd = self.map_fd("losses")
        for kind in schema.KIND_NAMES:
            for cause in range(schema.CAUSE["probe_missed"]):
                key = ctypes.c_uint32(kind * schema.CAUSE_SLOTS + cause)
                self._lib.bpf_map_lookup_elem(fd, ctypes.byref(key), per_cpu.ctypes.data)
                total[kind, cause] = per_cpu.sum()
        misses = self._kprobes.misses()
        for program, (probe, handle) in self._programs.items():
            if program != (probe.returned or probe.entry):
                continue
            kind = schema.KIND[probe.kinds[0]]
            total[kind, schema.CAUSE["probe_missed"]] += misses[program]
            total[kind, schema.CAUSE["recursion"]] += self._recursion_misses(handle)
        return total

    def _recursion_misses(self, program: int) -> int:
        info = ProgramInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        fd = self._lib.bpf_program__fd(program)
        if self._lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)):
            return 0
        return int(info.recursion_misses)

    def stack(self, stack_id: int) -> list[int]:
        """Return addresses of a kernel stack, innermost first; empty where it is not known."""
        frames = (ctypes.c_uint64 * schema.STACK_DEPTH)()
        key = ctypes.c_uint32(stack_id)
        if self._lib.bpf_map_lookup_elem(self.map_fd("stacks"), ctypes.byref(key), frames):
            return []
        return [address for address in frames if address]

    def detach(self) -> None:
        """Detach all probes; when it returns no program runs any more, and the maps stay."""
        for link in self._links:
            self._lib.bpf_link__destroy(link)
        self._links.clear()
        self._kprobes.close()

    def close(self) -> None:
        """Detach and unload."""
        self.detach()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = 0
