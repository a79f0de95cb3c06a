# SPDX-License-Identifier: Apache-2.0
"""The recording: append-only blocks, each with kind, length and CRC.

Owns the bytes of a ``.dbt`` file and nothing about what they mean. A recording that was cut
anywhere is readable up to its last whole block; nothing in a file is ever executed, and a length
is bounded before it is believed. Must not know analyses or pandas.

Layout: the 8-byte ``MAGIC``, then blocks of ``BLOCK`` (16 bytes, little-endian) and a payload
padded with zeros to a multiple of 8. The first block is the header, the last one the end.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.errors import InputError, OutputError

MAGIC: Final = b"\x89DBT\r\n\x1a\n"
BLOCK: Final = struct.Struct("<4sHHII")
BLOCK_MAGIC: Final = b"BLK\n"
MAX_PAYLOAD: Final = 64 << 20
SUFFIX: Final = ".dbt"


class BlockKind(IntEnum):
    """Kinds of block in schema 1."""

    HEADER = 1
    EVENTS = 2
    NAMES = 3
    LOSSES = 4
    SNAPSHOT = 5
    STACKS = 6
    END = 7


@dataclass(frozen=True, slots=True)
class Found:
    """A live buffer as a snapshot shows it: inode number, size in bytes, exporter, name ("": none).

    ``references`` counts fds, VMAs and what the kernel holds itself, without the look's own; -1:
    not known.
    """

    buffer: int
    size: int
    exporter: str
    name: str
    references: int = -1


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a buffer by an fd (``fd`` >= 0) or by a VMA (``fd`` -1)."""

    buffer: int
    pid: int
    comm: str
    fd: int
    start: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class EventBlock:
    """Events in ring order; ``events`` has :data:`schema.EVENT_DTYPE`."""

    events: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class NameBlock:
    """Names, each ahead of the first event that uses it; :data:`schema.NAME_DTYPE`."""

    names: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class LossBlock:
    """Cumulative loss counters, shape :data:`schema.LOSS_SHAPE`; the last block holds the sums."""

    losses: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SnapshotBlock:
    """Holders of all buffers; ``when`` is "start" or "end", ``ts`` (ns, CLOCK_MONOTONIC) is when
    the look began.

    ``unreadable`` counts processes that could not be looked into. ``source`` is "iterators" or
    "proc", and more where more was read; ``complete``: it lists *all* live buffers, so that one
    which is not in ``buffers`` is gone; else only those that a process holds.
    """

    when: str
    ts: int
    buffers: tuple[Found, ...]
    holders: tuple[Holder, ...]
    unreadable: int
    source: str = "proc"
    complete: bool = False


@dataclass(frozen=True, slots=True)
class StackBlock:
    """Symbolised kernel stacks by id, innermost frame first."""

    stacks: dict[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class EndBlock:
    """The recorder closed the file itself: ``ts`` (ns, CLOCK_MONOTONIC), event count, reason."""

    ts: int
    events: int
    reason: str


_Row = TypeVar("_Row", Found, Holder, SnapshotBlock, EndBlock)

Block = EventBlock | NameBlock | LossBlock | SnapshotBlock | StackBlock | EndBlock


def _checksum(kind: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<HI", kind, len(payload))))


def _frame(kind: BlockKind, payload: bytes) -> bytes:
    head = BLOCK.pack(BLOCK_MAGIC, kind, 0, len(payload), _checksum(kind, payload))
    return head + payload + bytes(-len(payload) % 8)


def _whole(value: object) -> bool:
    """A number that fits everywhere: 63 bits, or -1 for none."""
    return type(value) is int and -1 <= value < 1 << 63


_FITS: Final[dict[str, Callable[[object], bool]]] = {
    "int": _whole,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
}
"""By a field's annotation: whether a value is what it says."""


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("not a list of texts")
    return tuple(values)


def _row(make: type[_Row], values: dict[str, Any]) -> _Row:
    """A dataclass of whole numbers, texts and flags, from what a file says it is."""
    row = make(**values)
    for field in fields(make):
        fits = _FITS.get(str(field.type))
        if fits and not fits(getattr(row, field.name)):
            raise TypeError(f"{field.name} is not of type {field.type}")
    return row


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Writer:
    """Writes one recording; every call leaves whole blocks in the file.

    The file is created with mode 0600, never through a symbolic link. An existing one is replaced
    only with ``force``, and not before :meth:`begin`.

    Raises:
        OutputError: the file exists, can't be created, or can't be written any more.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path = path
        self.events = 0
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._created = not (force and path.exists())
        try:
            self._fd = os.open(
                path, flags | (os.O_CREAT | os.O_EXCL if self._created else 0), 0o600
            )
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise OutputError(f"{path} is not a regular file", "choose another -o")
            os.fchmod(self._fd, 0o600)
        except FileExistsError:
            raise OutputError(
                f"{path} exists", "choose another -o, or add --force to replace it"
            ) from None
        except OSError as error:
            raise OutputError(
                f"can't create {path}: {error.strerror}", "choose another -o"
            ) from None

    def begin(self, header: dict[str, Any]) -> None:
        """Replace what the file held by the header block."""
        os.ftruncate(self._fd, 0)
        self._write(MAGIC + _frame(BlockKind.HEADER, _json({"schema": schema.VERSION, **header})))

    def discard(self) -> None:
        """Give up before :meth:`begin`: leave nothing new behind."""
        self._close()
        if self._created:
            self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise OutputError(
                f"can't write {self.path}: {error.strerror}",
                "what was written so far can be read",
            ) from None

    def write_events(self, events: NDArray[np.void]) -> None:
        """Append events; ``events`` has :data:`schema.EVENT_DTYPE`."""
        self.events += len(events)
        self._write(_frame(BlockKind.EVENTS, events.tobytes()))

    def write_names(self, names: NDArray[np.void]) -> None:
        """Append names; ``names`` has :data:`schema.NAME_DTYPE`."""
        self._write(_frame(BlockKind.NAMES, names.tobytes()))

    def write_losses(self, losses: NDArray[np.uint64]) -> None:
        """Append the cumulative loss counters."""
        self._write(_frame(BlockKind.LOSSES, losses.astype("<u8").tobytes()))

    def write_snapshot(self, snapshot: SnapshotBlock) -> None:
        """Append a snapshot of holders."""
        self._write(_frame(BlockKind.SNAPSHOT, _json(asdict(snapshot))))

    def write_stacks(self, stacks: dict[int, tuple[str, ...]]) -> None:
        """Append symbolised stacks."""
        self._write(_frame(BlockKind.STACKS, _json(stacks)))

    def finish(self, ts: int, reason: str) -> None:
        """Append the end block and close the file."""
        self._write(
            _frame(BlockKind.END, _json({"ts": ts, "events": self.events, "reason": reason}))
        )
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file as it is; without :meth:`finish` it counts as cut."""
        self._close()


@dataclass(frozen=True, slots=True)
class Cut:
    """Where and why a recording ends early: byte offset of the first unusable byte, and a text."""

    offset: int
    reason: str


class Reader:
    """Reads a recording block by block.

    ``header`` is the header block. After :meth:`blocks` was exhausted, ``cut`` is None for a whole
    recording, else says where and why it ends early.

    Raises:
        InputError: not a recording, or one of a newer schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut: Cut | None = None
        self._file = self._open(path)
        first = self._file.read(len(MAGIC))
        if not first:
            self._refuse("is empty", "was the recorder killed before it started?")
        if not MAGIC.startswith(first):
            self._refuse("is not a dmabuf-trace recording")
        found = self._next()
        if found is None or found[0] != BlockKind.HEADER:
            self._refuse("was cut or damaged within its header: nothing can be read from it")
        header = self._decode_json(found[1])
        version = header.get("schema") if isinstance(header, dict) else None
        if not isinstance(version, int):
            self._refuse("has a header without a schema version")
        self.header: dict[str, Any] = header
        if version > schema.VERSION:
            self._refuse(
                f"has schema {version}, this dmabuf-trace reads up to {schema.VERSION}",
                "upgrade dmabuf-trace",
            )

    def _open(self, path: Path) -> BinaryIO:
        try:
            file = path.open("rb")
        except OSError as error:
            raise InputError(f"can't read {path}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise InputError(f"{path} is not a regular file")
        return file

    def _refuse(self, what: str, hint: str = "make one with: dmabuf-trace record") -> NoReturn:
        self._file.close()
        raise InputError(f"{self.path} {what}", hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _stop(self, offset: int, reason: str) -> None:
        self.cut = Cut(offset, reason)

    def _next(self) -> tuple[int, bytes] | None:
        """Kind and payload of the next whole block; None, with ``cut`` set, where there is none."""
        offset = self._file.tell()
        head = self._file.read(BLOCK.size)
        if len(head) < BLOCK.size:
            self._stop(offset, "ends within a block" if head else "ends without its end block")
            return None
        magic, kind, flags, length, crc = BLOCK.unpack(head)
        if magic != BLOCK_MAGIC or flags or length > MAX_PAYLOAD:
            self._stop(offset, "a block has a damaged head")
            return None
        payload = self._file.read(length)
        padding = -length % 8
        if len(payload) < length or len(self._file.read(padding)) < padding:
            self._stop(offset, "ends within a block")
            return None
        if _checksum(kind, payload) != crc:
            self._stop(offset, "a block has a wrong checksum")
            return None
        return kind, payload

    def _decode_json(self, payload: bytes) -> Any:
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            raise InputError(f"{self.path} has a block that is not what it claims to be") from None

    def blocks(self) -> Iterator[Block]:
        """The blocks after the header, in file order, up to the end block or the cut."""
        while (found := self._next()) is not None:
            kind, payload = found
            try:
                block = self._decode(kind, payload)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise InputError(
                    f"{self.path} has a block that is not what it claims to be"
                ) from None
            if block is not None:
                yield block
            if isinstance(block, EndBlock):
                return

    def _decode(self, kind: int, payload: bytes) -> Block | None:
        match kind:
            case BlockKind.EVENTS:
                return EventBlock(np.frombuffer(payload, schema.EVENT_DTYPE))
            case BlockKind.NAMES:
                return NameBlock(np.frombuffer(payload, schema.NAME_DTYPE))
            case BlockKind.LOSSES:
                return LossBlock(np.frombuffer(payload, "<u8").reshape(schema.LOSS_SHAPE))
            case BlockKind.SNAPSHOT:
                values = self._decode_json(payload)
                found = tuple(_row(Found, row) for row in values.pop("buffers"))
                holders = tuple(_row(Holder, row) for row in values.pop("holders"))
                return _row(SnapshotBlock, {**values, "buffers": found, "holders": holders})
            case BlockKind.STACKS:
                stacks = self._decode_json(payload)
                return StackBlock({int(key): _texts(frames) for key, frames in stacks.items()})
            case BlockKind.END:
                return _row(EndBlock, self._decode_json(payload))
            case _:
                return None
