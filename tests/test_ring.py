# SPDX-License-Identifier: Apache-2.0
"""The ring's protocol, on memory laid out as the kernel does it (guest tests use the kernel's)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from dmabuf_trace.ring import BUSY, CHUNK_BYTES, HEAD, Ring

PAGE = mmap.PAGESIZE
RECORD = np.dtype([("number", "<u8"), ("text", "S8")])
STRIDE = RECORD.itemsize + HEAD


class Producer:
    """Writes records as bpf_ringbuf_output() does."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + size)
        self.memory = mmap.mmap(self.fd, 2 * PAGE + size)
        self.written = 0

    def _store(self, position: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            self.memory[2 * PAGE + (position + index) % self.size] = byte

    def push(self, number: int, *, busy: bool = False) -> int:
        """Append a record; returns its position."""
        position = self.written
        head = (RECORD.itemsize | (BUSY if busy else 0)).to_bytes(4, "little")
        body = np.array([(number, b"abc")], RECORD).tobytes()
        self._store(position, head + bytes(4) + body)
        self.written += STRIDE
        self.memory[PAGE : PAGE + 8] = self.written.to_bytes(8, "little")
        return position

    def commit(self, position: int) -> None:
        self._store(position, RECORD.itemsize.to_bytes(4, "little"))

    @property
    def consumed(self) -> int:
        return int.from_bytes(self.memory[0:8], "little")


@pytest.fixture
def producer() -> Iterator[Producer]:
    made = Producer(PAGE)
    yield made
    os.close(made.fd)


def numbers(ring: Ring) -> list[int]:
    return [int(number) for number in ring.drain()["number"]]


def test_records_come_out_once_in_order(producer: Producer) -> None:
    ring = Ring(producer.fd, producer.size, RECORD)
    for number in range(5):
        producer.push(number)
    assert numbers(ring) == [0, 1, 2, 3, 4]
    assert producer.consumed == producer.written
    assert numbers(ring) == []


def test_a_record_may_lie_across_the_end_of_the_ring(producer: Producer) -> None:
    ring = Ring(producer.fd, producer.size, RECORD)
    expected = 0
    for _ in range(10):
        for _ in range(100):
            producer.push(expected)
            expected += 1
        assert numbers(ring) == list(range(expected - 100, expected))
    assert expected * STRIDE > 2 * producer.size


def test_nothing_is_taken_past_an_unfinished_record(producer: Producer) -> None:
    ring = Ring(producer.fd, producer.size, RECORD)
    producer.push(0)
    position = producer.push(1, busy=True)
    producer.push(2)
    assert numbers(ring) == [0]
    assert numbers(ring) == []
    producer.commit(position)
    assert numbers(ring) == [1, 2]


def test_a_large_backlog_comes_in_chunks() -> None:
    producer = Producer(4 * CHUNK_BYTES)
    ring = Ring(producer.fd, producer.size, RECORD)
    total = CHUNK_BYTES // STRIDE + 10
    for number in range(total):
        producer.push(number)
    first, second = numbers(ring), numbers(ring)
    assert len(first) == CHUNK_BYTES // STRIDE
    assert first + second == list(range(total))
    os.close(producer.fd)


def test_a_record_of_another_size_is_an_error_not_data(producer: Producer) -> None:
    ring = Ring(producer.fd, producer.size, RECORD)
    position = producer.push(0)
    producer._store(position, (8).to_bytes(4, "little"))
    with pytest.raises(RuntimeError, match="8 bytes, 16 expected"):
        ring.drain()


def test_closing_unmaps(producer: Producer) -> None:
    ring = Ring(producer.fd, producer.size, RECORD)
    producer.push(0)
    kept = ring.drain()
    ring.close()
    assert kept["text"].tolist() == [b"abc"]
