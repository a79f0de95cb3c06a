# SPDX-License-Identifier: Apache-2.0
"""Drain and write: the product's path beside callbacks of libbpf and bcc, on one ring in one run.

Runs on this machine: it needs no kprobes. The figures are processor time, so that they mean the
same on a busy machine.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from ctypes import POINTER, c_int, c_void_p
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np

from dmabuf_trace import schema
from dmabuf_trace.capture import Capture, CaptureOptions
from dmabuf_trace.loader.libbpf import SONAME
from dmabuf_trace.recording import Writer
from dmabuf_trace.session import Follower
from tests.bench.feed import Feed, feeding

ROUNDS: Final = 7
EVENTS: Final = 300_000
RING_BYTES: Final = 32 << 20
PACKAGES: Final = Path("/usr/lib/python3/dist-packages")

_CTYPES: Final[dict[np.dtype[Any], Any]] = {
    np.dtype("<u8"): ctypes.c_uint64,
    np.dtype("<i8"): ctypes.c_int64,
    np.dtype("<u4"): ctypes.c_uint32,
    np.dtype("<i4"): ctypes.c_int32,
    np.dtype("<u2"): ctypes.c_uint16,
    np.dtype("<i2"): ctypes.c_int16,
}


class Event(ctypes.Structure):
    """An event, as a callback sees it."""

    _fields_ = tuple(
        (name, _CTYPES[schema.EVENT_DTYPE[name]]) for name in schema.EVENT_DTYPE.names or ()
    )


@cache
def _bcc() -> tuple[ModuleType, ModuleType]:
    """The distribution's bcc and its tables, whatever Python runs this (PyPI's is another bcc)."""
    found = importlib.util.spec_from_file_location(
        "bcc",
        PACKAGES / "bcc" / "__init__.py",
        submodule_search_locations=[str(PACKAGES / "bcc")],
    )
    if not (PACKAGES / "bcc").is_dir() or not found or not found.loader:
        sys.exit("bench: bcc not found: apt-get install python3-bpfcc")
    module = importlib.util.module_from_spec(found)
    sys.modules["bcc"] = module
    found.loader.exec_module(module)
    return module, importlib.import_module("bcc.table")


class Ours:
    """Follower, ring and writer, as ``record`` puts them together."""

    name = "dmabuf-trace: drain, checksum, write"

    def __init__(self, feed: Feed, path: Path) -> None:
        self.writer = Writer(path, force=True)
        self.writer.begin({})
        writer = self.writer
        with feeding(feed):
            capture = Capture(CaptureOptions(ring_bytes=RING_BYTES))
        self._follower = Follower(
            capture,
            lambda batch: writer.write_events(batch.events),
            writer.write_losses,
            writer.write_due,
        )

    def consume(self) -> int:
        """Take all there is; how many events."""
        before = self._follower.events
        while self._follower.drain():
            pass
        return self._follower.events - before


class LibbpfCallback:
    """ring_buffer__consume() with libc's write() as its callback: no Python per event."""

    name = "libbpf, write() as its C callback"

    def __init__(self, feed: Feed, path: Path) -> None:
        self._lib = ctypes.CDLL(SONAME)
        self._lib.ring_buffer__new.restype = c_void_p
        self._lib.ring_buffer__new.argtypes = (c_int, c_void_p, c_void_p, c_void_p)
        self._lib.ring_buffer__consume.argtypes = (c_void_p,)
        write = ctypes.cast(ctypes.CDLL(None).write, c_void_p)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._ring = self._lib.ring_buffer__new(feed.map_fd("events"), write, fd, None)

    def consume(self) -> int:
        """Take all there is."""
        return int(self._lib.ring_buffer__consume(self._ring))


class BccCallback:
    """A bcc callback: with ``cast`` it casts each record and writes it, else it does nothing."""

    def __init__(self, feed: Feed, path: Path, *, cast: bool) -> None:
        bcc, table = _bcc()
        self._count = 0
        pointer = POINTER(Event)
        file = path.open("wb")

        def keep(_ctx: object, data: int, _size: int) -> None:
            event = ctypes.cast(data, pointer).contents
            self._count += 1
            file.write(event)

        def nothing(_ctx: object, _data: int, _size: int) -> None:
            self._count += 1

        # bcc's own opening and wrapping of a ring, without its compiler
        self._bpf = SimpleNamespace(_ringbuf_manager=None)
        self._bpf._open_ring_buffer = partial(bcc.BPF._open_ring_buffer, self._bpf)
        self._table = SimpleNamespace(bpf=self._bpf, map_fd=feed.map_fd("events"), _cbs={})
        table.RingBuf.open_ring_buffer(self._table, keep if cast else nothing)
        self._consume = partial(bcc.BPF.ring_buffer_consume, self._bpf)

    def consume(self) -> int:
        """Take all there is."""
        before = self._count
        self._consume()
        return self._count - before


def measure(folder: Path) -> dict[str, list[float]]:
    """Processor time per event in ns, of each consumer in each round."""
    feed = Feed(RING_BYTES)
    consumers: dict[str, Callable[[], int]] = {
        Ours.name: Ours(feed, folder / "ours").consume,
        LibbpfCallback.name: LibbpfCallback(feed, folder / "libbpf").consume,
        "bcc callback: cast, write": BccCallback(feed, folder / "bcc", cast=True).consume,
        "bcc callback that does nothing": BccCallback(feed, folder / "none", cast=False).consume,
    }
    runs: dict[str, list[float]] = {name: [] for name in consumers}
    for _ in range(ROUNDS):
        for name, consume in consumers.items():
            feed.run(EVENTS)
            began = time.process_time_ns()
            taken = consume()
            runs[name].append((time.process_time_ns() - began) / EVENTS)
            if taken != EVENTS or feed.losses().any():
                sys.exit(f"bench: {name}: {taken} of {EVENTS} events taken")
    feed.close()
    return runs


def figures(folder: Path | None) -> str:
    """The table; files are written into ``folder``, by default a temporary one."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        medians = {tool: statistics.median(runs) for tool, runs in measure(Path(name)).items()}
    ours = medians[Ours.name]
    lines = [
        f"{EVENTS:,} events a round in a ring of {RING_BYTES >> 20} MiB, medians of {ROUNDS} "
        "interleaved rounds, processor time:",
        "",
        "| consumer | ns an event | million events/s | ratio |",
        "|---|---|---|---|",
        *(
            f"| {tool} | {each:,.0f} | {1e3 / each:.1f} | {each / ours:.1f} |"
            for tool, each in medians.items()
        ),
    ]
    return "\n".join(lines)
