# SPDX-License-Identifier: Apache-2.0
"""The ``core`` back end: prebuilt objects, relocated against the kernel's BTF by libbpf."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from importlib import resources
from typing import Final

from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader.interface import (
    CORE,
    FENTRY,
    KPROBE,
    MULTI,
    NO_CHANGE,
    TRACEPOINT,
    Link,
    Want,
)
from dmabuf_trace.loader.libbpf import Libbpf, MultiOptions

# enum bpf_attach_type, include/uapi/linux/bpf.h
TRACE_FEXIT: Final = 25
TRACE_KPROBE_MULTI: Final = 42

TEACH: Final = "teach"
"""The program that is not attached but run once."""

NO_BTF: Final = "failed to find valid kernel BTF"
"""What libbpf says, which looks in other places too than /sys."""


def object_bytes(part: str = "dmabuf_trace") -> bytes:
    """The object of a part (see ``bpf/build.py``) that was built for this machine.

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


class CoreLink:
    """A ``struct bpf_link *``."""

    def __init__(self, lib: Libbpf, pointer: int) -> None:
        self._lib = lib
        self._pointer = pointer

    @property
    def fd(self) -> int:
        """The link's file descriptor."""
        return int(self._lib.bpf_link__fd(self._pointer))

    def destroy(self) -> None:
        """Detach."""
        self._lib.bpf_link__destroy(self._pointer)


class CoreBackend:
    """Programs from one object, or from several that share the maps of the first.

    Args:
        lib: libbpf.
        ring_bytes: size of the event ring, a power of two of at least one page.
        entries: sizes of other maps, where they are to differ from those in the source.
    """

    name = CORE
    ways = frozenset((KPROBE, MULTI, FENTRY, TRACEPOINT))

    def __init__(
        self, lib: Libbpf, ring_bytes: int, entries: Mapping[str, int] = NO_CHANGE
    ) -> None:
        self._lib = lib
        self._sizes = {"events": ring_bytes, **entries}
        self._objects: list[int] = []
        self._programs: dict[str, tuple[int, Want]] = {}
        self._targets: dict[str, str] = {}

    def load(self, wanted: Mapping[str, Want]) -> None:
        """Load the wanted programs, and no others: fentry has an object of its own."""
        for part, in_part in (
            ("dmabuf_trace", {n: want for n, want in wanted.items() if want.way != FENTRY}),
            ("dmabuf_trace_fentry", {n: want for n, want in wanted.items() if want.way == FENTRY}),
        ):
            if in_part:
                self._load(part, in_part)

    def _load(self, part: str, wanted: Mapping[str, Want]) -> None:
        data = object_bytes(part)
        opened = self._lib.bpf_object__open_mem(data, len(data), None)
        if not opened:
            reason = self._lib.reason(ctypes.get_errno())
            raise UntraceableError(f"the BPF object can't be opened: {reason}")
        self._share_maps(opened)
        program = self._lib.bpf_object__next_program(opened, None)
        while program:
            name = self._lib.bpf_program__name(program).decode()
            chosen = name == TEACH or (
                name in wanted and self._prepare(program, name, wanted[name])
            )
            self._lib.bpf_program__set_autoload(program, chosen)
            program = self._lib.bpf_object__next_program(opened, program)
        self._lib.reason(0)
        if error := self._lib.bpf_object__load(opened):
            reason = self._lib.reason(error)
            self._lib.bpf_object__close(opened)
            if os.geteuid() != 0:
                raise UntraceableError("loading BPF programs needs root", "run with sudo")
            if NO_BTF in reason:
                raise UntraceableError("this kernel has no BTF", "the bcc loader does without")
            raise UntraceableError(
                f"this kernel refuses the BPF programs: {reason}", "see: dmabuf-trace doctor"
            )
        self._objects.append(int(opened))
        # what it fails to find out, the first dma-buf teaches
        teach = self._lib.bpf_object__find_program_by_name(opened, TEACH.encode())
        self._lib.bpf_prog_test_run_opts(self._lib.bpf_program__fd(teach), None)

    def _share_maps(self, opened: int) -> None:
        if not self._objects:
            for name, size in self._sizes.items():
                found = self._lib.bpf_object__find_map_by_name(opened, name.encode())
                self._lib.bpf_map__set_max_entries(found, size)
            return
        found = self._lib.bpf_object__next_map(opened, None)
        while found:
            shared = self.map_fd(self._lib.bpf_map__name(found).decode())
            self._lib.bpf_map__reuse_fd(found, shared)
            found = self._lib.bpf_object__next_map(opened, found)

    def _prepare(self, program: int, name: str, want: Want) -> bool:
        """Make the program one for its way; whether the kernel can have it."""
        self._programs[name] = (program, want)
        if want.way == MULTI:
            self._lib.bpf_program__set_expected_attach_type(program, TRACE_KPROBE_MULTI)
        if want.way != FENTRY:
            return True
        if want.returned:
            self._lib.bpf_program__set_expected_attach_type(program, TRACE_FEXIT)
        for symbol in want.symbols:
            # fails for what is in no BTF, neither the kernel's nor a module's
            if not self._lib.bpf_program__set_attach_target(program, 0, symbol.encode()):
                self._targets[name] = symbol
                return True
        return False

    def map_fd(self, name: str) -> int:
        """File descriptor of a map."""
        found = self._lib.bpf_object__find_map_by_name(self._objects[0], name.encode())
        return int(self._lib.bpf_map__fd(found))

    def program_fd(self, program: str) -> int:
        """File descriptor of a program."""
        return int(self._lib.bpf_program__fd(self._programs[program][0]))

    def attach_event(self, program: str, group: str, event: str) -> Link | str:
        """Attach to a tracefs event."""
        handle, _ = self._programs[program]
        return self._linked(
            self._lib.bpf_program__attach_tracepoint(handle, group.encode(), event.encode())
        )

    def attach(self, program: str, symbol: str) -> Link | str:
        """Attach to a function, or to a raw tracepoint."""
        handle, want = self._programs[program]
        if want.way == FENTRY and self._targets.get(program) != symbol:
            return f"{symbol} is not in the kernel's BTF"
        if want.way == TRACEPOINT:
            link = self._lib.bpf_program__attach_raw_tracepoint(handle, symbol.encode())
        elif want.way == FENTRY:
            link = self._lib.bpf_program__attach_trace(handle)
        else:
            options = MultiOptions.of(symbol, returned=want.returned)
            link = self._lib.bpf_program__attach_kprobe_multi_opts(
                handle, None, ctypes.byref(options)
            )
        return self._linked(link)

    def _linked(self, link: int | None) -> Link | str:
        return CoreLink(self._lib, link) if link else self._lib.reason(ctypes.get_errno())

    def close(self) -> None:
        """Unload."""
        for opened in self._objects:
            self._lib.bpf_object__close(opened)
        self._objects.clear()
