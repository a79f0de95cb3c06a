# SPDX-License-Identifier: Apache-2.0
"""The bytes around a block: kind, length, checksum.

A file is the 8-byte ``MAGIC`` and then blocks: ``BLOCK`` (16 bytes, little-endian: magic, kind, 0,
length, CRC) and a payload padded with zeros to a multiple of 8. The CRC covers kind, length and
payload. A length is bounded before it is believed. Must not know what a payload means.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Final

MAGIC: Final = b"\x89DBT\r\n\x1a\n"
BLOCK: Final = struct.Struct("<4sHHII")
BLOCK_MAGIC: Final = b"BLK\n"
MAX_PAYLOAD: Final = 64 << 20

Payload = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Cut:
    """Where and why a recording ends early: byte offset of the first unusable byte, and a text."""

    offset: int
    reason: str


def _checksum(kind: int, payload: Payload) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<HI", kind, len(payload))))


def frame(kind: int, payload: Payload) -> list[Payload]:
    """A block as buffers to be written one after the other; the payload is not copied."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes is no block")
    head = BLOCK.pack(BLOCK_MAGIC, kind, 0, len(payload), _checksum(kind, payload))
    return [head, payload, bytes(-len(payload) % 8)]


def skip(file: BinaryIO) -> int | None:
    """Pass over a block; its kind, None where there is none."""
    head = file.read(BLOCK.size)
    if len(head) < BLOCK.size:
        return None
    magic, kind, zero, length, _ = BLOCK.unpack(head)
    if magic != BLOCK_MAGIC or zero or length > MAX_PAYLOAD:
        return None
    file.seek(length + -length % 8, os.SEEK_CUR)
    return int(kind)


def read(file: BinaryIO) -> tuple[int, bytes] | Cut:
    """Kind and payload of the next whole block, or where and why there is none."""
    offset = file.tell()
    head = file.read(BLOCK.size)
    if len(head) < BLOCK.size:
        return Cut(offset, "ends within a block" if head else "ends without its end block")
    magic, kind, zero, length, crc = BLOCK.unpack(head)
    if magic != BLOCK_MAGIC or zero or length > MAX_PAYLOAD:
        return Cut(offset, "a block has a damaged head")
    payload = file.read(length)
    padding = -length % 8
    if len(payload) < length or len(file.read(padding)) < padding:
        return Cut(offset, "ends within a block")
    if _checksum(kind, payload) != crc:
        return Cut(offset, "a block has a wrong checksum")
    return kind, payload
