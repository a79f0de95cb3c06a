# SPDX-License-Identifier: Apache-2.0
"""Drains a BPF ring buffer of fixed-size records into numpy arrays.

Owns the ring's memory layout (kernel/bpf/ringbuf.c): one page with the consumer's position, one
with the producer's, then the data. A record is an 8-byte head (length, two flag bits) and the
payload; with one record size the whole ring is a strided array, so a drain is a few numpy
operations however many events there are. Must not know what a record means.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.errors import UntraceableError

HEAD: Final = 8
BUSY: Final = 1 << 31
CHUNK_BYTES: Final = 1 << 20
_ACQ_REL: Final = 4


class _Fence:
    """Orders reads of positions, heads and payloads as the ring's protocol asks.

    x86 keeps loads in order, and stores in order, by itself; elsewhere a real fence is needed.
    """

    def __init__(self) -> None:
        self._fence = None
        if os.uname().machine in ("x86_64", "i686"):
            return
        try:
            self._fence = ctypes.CDLL("libatomic.so.1").atomic_thread_fence
        except OSError:
            raise UntraceableError(
                "libatomic.so.1 not found, needed on this processor to read the ring safely",
                "apt-get install libatomic1",
            ) from None

    def __call__(self) -> None:
        if self._fence is not None:
            self._fence(_ACQ_REL)


class Ring:
    """Consumer of one ring whose records are all of ``dtype``.

    Args:
        fd: the ring's map fd; it must stay open as long as the Ring.
        size: bytes of data in the ring, as the map was created.
        dtype: of one record; its size must be a multiple of 8.
    """

    def __init__(self, fd: int, size: int, dtype: np.dtype[np.void]) -> None:
        self._size = size
        self._dtype = dtype
        self._stride = dtype.itemsize + HEAD
        self._fence = _Fence()
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # the kernel offers the data twice in a row; one copy is enough and halves what is mapped
        self._producer = mmap.mmap(fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumed = np.frombuffer(self._consumer, "<u8", 1)
        self._produced = np.frombuffer(self._producer, "<u8", 1)
        self._data = np.frombuffer(self._producer, "u1", size, page)

    def drain(self) -> NDArray[np.void]:
        """The next committed records, oldest first, as a copy; empty when there are none.

        At most ``CHUNK_BYTES`` a call: call again until it returns nothing.
        """
        position = int(self._consumed[0])
        available = int(self._produced[0]) - position
        count = min(available, CHUNK_BYTES) // self._stride
        if not count:
            return np.empty(0, self._dtype)
        self._fence()
        count = self._committed(position, count)
        if not count:
            return np.empty(0, self._dtype)
        self._fence()
        # as opaque bytes: one copy, however many fields a record has
        records = np.empty(count, f"V{self._dtype.itemsize}")
        window = self._window(position, count * self._stride)
        records[:] = np.ndarray(count, records.dtype, window, HEAD, (self._stride,))
        self._fence()
        self._consumed[0] = position + count * self._stride
        return records.view(self._dtype)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way, not even a record that its producer has not finished."""
        return int(self._produced[0]) == int(self._consumed[0])

    def _committed(self, position: int, count: int) -> int:
        """How many of the next ``count`` records their producers have finished."""
        start = position & (self._size - 1)
        before_end = min(count, -(-(self._size - start) // self._stride))
        finished = self._finished(start, before_end)
        if finished < before_end or finished == count:
            return finished
        return finished + self._finished(
            start + before_end * self._stride - self._size, count - before_end
        )

    def _finished(self, start: int, count: int) -> int:
        """The same for records whose heads lie before the ring's end, from offset ``start`` on."""
        # copied: each head is read once, as its producer may finish it at any time
        heads = np.ndarray(count, "<u4", self._data, start, (self._stride,)).copy()
        unfinished = np.flatnonzero(heads != self._dtype.itemsize)
        if not len(unfinished):
            return count
        first = int(unfinished[0])
        if not heads[first] & BUSY:
            raise RuntimeError(
                f"ring record of {heads[first]} bytes, {self._dtype.itemsize} expected"
            )
        return first

    def _window(self, position: int, length: int) -> NDArray[np.uint8]:
        """The ring's bytes from ``position`` on; copied only where they lie across its end."""
        start = position & (self._size - 1)
        head = self._data[start : start + length]
        if len(head) == length:
            return head
        return np.concatenate([head, self._data[: length - len(head)]])

    def close(self) -> None:
        """Unmap the ring."""
        del self._consumed, self._produced, self._data
        self._consumer.close()
        self._producer.close()
