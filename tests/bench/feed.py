# SPDX-License-Identifier: Apache-2.0
"""A source of events that needs neither kprobes nor dma-bufs, for the product's own consumers.

The ring, the loss counters and their maps are those of the real programs; the events are realistic
ones, stamped as they are sent. Needs root, clang and a kernel with BPF ring buffers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bpf.build import ARCHITECTURES, FLAGS
from dmabuf_trace import schema
from dmabuf_trace.loader.counters import Counters
from dmabuf_trace.loader.keys import KeySet
from dmabuf_trace.loader.libbpf import Libbpf
from tests.bench.generate import Generator

HERE: Final = Path(__file__).parent
TEMPLATES: Final = 1 << 14
TICK_NS: Final = 1_000_000
PACKET: Final = bytes(64)
"""What the socket filter is run on: it has to be there, and nobody looks at it."""


class _TestRun(ctypes.Structure):
    """``struct bpf_test_run_opts`` (tools/lib/bpf/bpf.h)."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


def compiled() -> bytes:
    """The object, with the headers of the real programs."""
    machine = os.uname().machine
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "feed.o"
        arch = f"-D__TARGET_ARCH_{ARCHITECTURES[machine]}"
        include = f"-I{HERE.parents[1] / 'bpf'}"
        quiet = "-Wno-unused-function"  # most of what the header offers is not needed here
        command = ["clang", *FLAGS, quiet, arch, include, "-c", str(HERE / "feed.bpf.c")]
        subprocess.run([*command, "-o", str(out)], check=True)
        return out.read_bytes()


class Feed:
    """The loaded program with its ring; stands where a loader stands in a :class:`Capture`."""

    name = mode = "feed"
    attached: tuple[()] = ()

    def __init__(self, ring_bytes: int) -> None:
        self._lib = Libbpf()
        data = compiled()
        self._object = self._lib.bpf_object__open_mem(data, len(data), None)
        self._lib.bpf_map__set_max_entries(
            self._lib.bpf_object__find_map_by_name(self._object, b"events"), ring_bytes
        )
        if not self._object or self._lib.bpf_object__load(self._object):
            sys.exit(f"bench: the kernel refuses the program: {self._lib.reason(0)}")
        program = self._lib.bpf_object__find_program_by_name(self._object, b"feed")
        self._program = int(self._lib.bpf_program__fd(program))
        self._counters = Counters(self.map_fd("losses"))
        self._fill()
        self._producer = 0
        self.sent = 0
        """Events sent until it was detached, lost ones included."""

    def _fill(self) -> None:
        events = np.concatenate(list(Generator(8.0).slices()))[-TEMPLATES:]
        events["stack"] = events["user_stack"] = schema.UNKNOWN_STACK
        fd = self.map_fd("templates")
        for index, event in enumerate(np.ascontiguousarray(events)):
            key, value = c_uint32(index), event.tobytes()
            self._lib.bpf_map_update_elem(fd, ctypes.byref(key), value, 0)

    def run(self, count: int) -> None:
        """Send ``count`` events at once, from here."""
        options = _TestRun(
            sz=ctypes.sizeof(_TestRun),
            data_in=ctypes.cast(ctypes.c_char_p(PACKET), c_void_p),
            data_size_in=len(PACKET),
            repeat=count,
        )
        if error := self._lib.bpf_prog_test_run_opts(self._program, ctypes.byref(options)):
            raise OSError(-error, "BPF_PROG_TEST_RUN failed")

    def pace(self, rate: int) -> None:
        """Send ``rate`` events a second from a process of its own, on the first processor."""
        self._producer = os.fork()
        if not self._producer:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            self._produce(rate)

    def _produce(self, rate: int) -> None:
        per_tick = rate * TICK_NS // 1_000_000_000
        due = time.monotonic_ns()
        while True:
            self.run(per_tick)
            due += TICK_NS
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)  # late: caught up with

    def _count(self) -> int:
        count = ctypes.c_uint64()
        zero = c_uint32(0)
        fd = self.map_fd("sent")
        self._lib.bpf_map_lookup_elem(fd, ctypes.byref(zero), ctypes.byref(count))
        return count.value

    # what a Capture asks its loader for

    def require(self) -> None:
        """Nothing is missing."""

    def put(self, table: str, key: int, value: int) -> None:
        """What the programs would be told: nobody asks."""

    def map_fd(self, name: str) -> int:
        """File descriptor of a map."""
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        return int(self._lib.bpf_map__fd(found))

    def key_set(self, name: str) -> KeySet:
        """A map that is a set of keys."""
        return KeySet(self._lib, self.map_fd(name))

    def losses(self) -> NDArray[np.uint64]:
        """The programs' loss counters, read as the real loader does."""
        return self._counters.read()

    def stack(self, _id: int, _table: str = "") -> list[int]:
        """No event has one."""
        return []

    def detach(self) -> None:
        """Stop the producer: afterwards nothing comes any more."""
        if self._producer:
            os.kill(self._producer, signal.SIGKILL)
            os.waitpid(self._producer, 0)
            self._producer = 0
            self.sent = self._count()

    def close(self) -> None:
        """Stop the producer and unload."""
        self.detach()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = 0


@contextmanager
def feeding(feed: Feed) -> Iterator[None]:
    """Within: whatever captures gets its events from ``feed``, all else is the product's."""
    with patch("dmabuf_trace.capture.load", lambda *_: feed):
        yield
