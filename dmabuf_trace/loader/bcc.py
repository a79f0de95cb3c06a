# SPDX-License-Identifier: Apache-2.0
"""The ``bcc`` back end: the same sources, compiled on this machine against its kernel headers.

For kernels without BTF, or where no prebuilt object fits. Costs a compiler's time and memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader.interface import BCC, KPROBE, NO_CHANGE, TRACEPOINT, Link, Want

DEBIAN: Final = Path("/usr/lib/python3/dist-packages/bcc/__init__.py")
"""Where python3-bpfcc puts it: out of sight of a virtual environment, but any CPython runs it."""

INSTALL: Final = "apt-get install python3-bpfcc"
# Kernels from 6.19 on are built with -fms-extensions, which their headers then need; harmless
# elsewhere.
FLAGS: Final = ("-DBCC", "-fms-extensions", "-Wno-microsoft-anon-tag")
_INCLUDE: Final = re.compile(r'^#include "([\w.]+)".*\n', re.MULTILINE)


def import_bcc() -> ModuleType:
    """Debian's ``bcc``; the package of that name on PyPI is another one.

    Raises:
        UntraceableError: not installed, or without its library.
    """
    try:
        module = importlib.import_module("bcc")
        if hasattr(module, "BPF"):
            return module
    except (ImportError, OSError):
        pass
    for name in [name for name in sys.modules if name.partition(".")[0] == "bcc"]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "bcc", DEBIAN, submodule_search_locations=[str(DEBIAN.parent)]
    )
    if not DEBIAN.is_file() or spec is None or spec.loader is None:
        raise UntraceableError("bcc is not installed", INSTALL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError, AttributeError) as error:
        del sys.modules["bcc"]
        raise UntraceableError(f"bcc can't be used: {error}", INSTALL) from None
    return module


def headers() -> Path:
    """The headers of the running kernel.

    Raises:
        UntraceableError: not installed.
    """
    release = os.uname().release
    path = Path("/lib/modules", release, "build")
    if not path.exists():
        raise UntraceableError(
            f"the headers of kernel {release} are not installed",
            f"apt-get install linux-headers-{release}",
        )
    return path


def source_text(part: str = "dmabuf_trace") -> str:
    """The sources of a part as one text: bcc doesn't look for programs in included files."""
    folder = resources.files("dmabuf_trace.bpf")
    seen: set[str] = set()

    def text_of(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (folder / name).read_text()
        return _INCLUDE.sub(lambda include: text_of(include[1]), text)

    return text_of(f"{part}.bpf.c")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def _output_kept() -> Iterator[Callable[[], str]]:
    """Within: what is written to stdout and stderr, by C libraries too, goes to a file instead.

    Gives a function that reads it.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it came closed
        stream.flush()
    with tempfile.TemporaryFile() as file:
        kept = [(fd, os.dup(fd)) for fd in (1, 2) if _is_open(fd)]

        def read() -> str:
            file.seek(0)
            return file.read().decode(errors="backslashreplace")

        try:
            for fd, _ in kept:
                os.dup2(file.fileno(), fd)
            yield read
        finally:
            for fd, saved in kept:
                os.dup2(saved, fd)
                os.close(saved)


def complaint(output: str, otherwise: object) -> str:
    """The line of a compiler's or verifier's output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    told = errors[0].partition("error:")[2] if errors else "; ".join(lines[-2:])
    return told.strip() or str(otherwise)


class BccLink:
    """A program on a perf event or a raw tracepoint, by file descriptor."""

    def __init__(self, fd: int, close: Callable[[int], object]) -> None:
        self.fd = fd
        self._close = close

    def destroy(self) -> None:
        """Detach."""
        self._close(self.fd)


class BccBackend:
    """Programs compiled by bcc.

    Args:
        ring_bytes: size of the event ring, a power of two of at least one page.
        entries: sizes of other maps, where they are to differ from those in the source.

    Raises:
        UntraceableError: bcc or the kernel's headers are missing, or the compiler refuses.
    """

    name = BCC
    ways = frozenset((KPROBE, TRACEPOINT))

    def __init__(self, ring_bytes: int, entries: Mapping[str, int] = NO_CHANGE) -> None:
        self._module = import_bcc()
        headers()
        self._library = importlib.import_module("bcc.libbcc").lib
        page = os.sysconf("SC_PAGE_SIZE")
        sizes = [f"-DRING_PAGE_BYTES={page}", f"-DEVENT_RING_BYTES={ring_bytes}"]
        sizes += [f"-DMAX_{name.upper()}={size}" for name, size in entries.items()]
        self._programs: dict[str, int] = {}
        self._bpf: Any = None
        with _output_kept() as output:
            try:
                self._bpf = self._module.BPF(text=source_text(), cflags=[*FLAGS, *sizes])
            except Exception as error:
                raise UntraceableError(
                    f"bcc can't compile the programs: {complaint(output(), error)}",
                    "are the headers those of the running kernel?",
                ) from None

    def programs(self) -> list[str]:
        """The programs that were compiled."""
        count = self._library.bpf_num_functions(self._bpf.module)
        names = (self._library.bpf_function_name(self._bpf.module, i) for i in range(count))
        return [name.decode() for name in names]

    def load(self, wanted: Mapping[str, Want]) -> None:
        """Load the wanted programs."""
        types = {KPROBE: self._module.BPF.KPROBE, TRACEPOINT: self._module.BPF.RAW_TRACEPOINT}
        for name, want in wanted.items():
            with _output_kept() as output:
                try:
                    loaded = self._bpf.load_func(name, types[want.way])
                except Exception as error:
                    raise UntraceableError(
                        f"this kernel refuses the program {name}: {complaint(output(), error)}"
                    ) from None
            self._programs[name] = loaded.fd

    def map_fd(self, name: str) -> int:
        """File descriptor of a map."""
        return int(self._library.bpf_table_fd(self._bpf.module, name.encode()))

    def program_fd(self, program: str) -> int:
        """File descriptor of a program."""
        return self._programs[program]

    def attach_event(self, program: str, group: str, event: str) -> Link | str:
        """Attach to a tracefs event."""
        with _output_kept() as output:
            fd = self._library.bpf_attach_tracepoint(
                self._programs[program], group.encode(), event.encode()
            )
            said = output()
        if fd < 0:
            return complaint(said, "libbcc can't attach to the event")
        return BccLink(fd, self._library.bpf_close_perf_event_fd)

    def attach(self, program: str, symbol: str) -> Link | str:
        """Attach to a raw tracepoint."""
        with _output_kept() as output:
            fd = self._library.bpf_attach_raw_tracepoint(self._programs[program], symbol.encode())
            said = output()
        return BccLink(fd, os.close) if fd >= 0 else complaint(said, "libbcc can't attach")

    def close(self) -> None:
        """Unload."""
        if self._bpf is not None:
            self._bpf.cleanup()
            self._bpf = None
