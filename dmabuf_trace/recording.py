# SPDX-License-Identifier: Apache-2.0
"""The recording: append-only blocks, each with kind, length and CRC.

Owns the blocks of a ``.dbt`` file and nothing about what they mean. A recording that was cut
anywhere is readable up to its last whole block; nothing in a file is ever executed, and a length
is bounded before it is believed. Must not know analyses or pandas.

The first block is the header, the last one the end; :mod:`framing` has the bytes around a block.
Events are in blocks of two kinds: as they came from the ring (``EVENTS``), or, where there was time
to, packed (``PACKED_EVENTS``, :mod:`packing`). Both may be in one file, in any order.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import framing, packing, progress, schema
from dmabuf_trace.blocks import (
    Block,
    BlockKind,
    BuildBlock,
    CgroupBlock,
    EndBlock,
    EventBlock,
    Found,
    Holder,
    LossBlock,
    Mark,
    NameBlock,
    Probed,
    ProbedBlock,
    SnapshotBlock,
    StackBlock,
    SyncFiles,
    UserStackBlock,
)
from dmabuf_trace.errors import InputError, OutputError
from dmabuf_trace.framing import MAGIC, Cut
from dmabuf_trace.gather import Gatherer, Piece

_Row = TypeVar(
    "_Row", Found, Holder, SyncFiles, SnapshotBlock, Probed, UserStackBlock, Mark, EndBlock
)


_TYPES: Final = {"int": int, "str": str, "bool": bool}
"""By a field's annotation: the type of its values."""


def _fit(values: Sequence[Any], kind: type) -> bool:
    """Whether values are what they are said to be; a number fits 63 bits, or is -1 for none."""
    if not set(map(type, values)) <= {kind}:
        return False
    return kind is not int or not values or (min(values) >= -1 and max(values) < 1 << 63)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("not a list of texts")
    return tuple(values)


def _stacks(values: Any) -> dict[int, tuple[str, ...]]:
    return {int(key): _texts(frames) for key, frames in values.items()}


def _losses(counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Counters in their shape; an earlier recording has fewer causes."""
    losses = np.zeros(schema.LOSS_SHAPE, np.uint64)
    found = counts.reshape(schema.KIND_SLOTS, -1)
    losses[:, : found.shape[1]] = found
    return losses


def _row(make: type[_Row], values: dict[str, Any]) -> _Row:
    """A dataclass of whole numbers, texts and flags, from what a file says it is."""
    return _rows(make, [values])[0]


def _rows(make: type[_Row], rows: list[dict[str, Any]]) -> tuple[_Row, ...]:
    """Several of them."""
    made: tuple[_Row, ...] = tuple(make(**values) for values in rows)
    for name, kind in [(field.name, str(field.type)) for field in fields(make)]:
        if kind in _TYPES and not _fit([getattr(row, name) for row in made], _TYPES[kind]):
            raise TypeError(f"{name} is not of type {kind}")
    return made


_DESCRIBED: Final = (
    *(BlockKind.SNAPSHOT, BlockKind.STACKS, BlockKind.USER_STACKS, BlockKind.CGROUPS),
    *(BlockKind.PROBED, BlockKind.MARK, BlockKind.BUILDS, BlockKind.END),
)
"""Kinds of block that are JSON."""


def _described(kind: int, values: Any) -> Block:
    """A block of a kind that is JSON."""
    match kind:
        case BlockKind.SNAPSHOT:
            found = _rows(Found, values.pop("buffers"))
            holders = _rows(Holder, values.pop("holders"))
            counted = values.pop("sync_files", None)
            if counted is not None:
                values["sync_files"] = _rows(SyncFiles, counted)
            return _row(SnapshotBlock, {**values, "buffers": found, "holders": holders})
        case BlockKind.STACKS:
            return StackBlock(_stacks(values))
        case BlockKind.USER_STACKS:
            stacks = _stacks(values.pop("stacks"))
            return _row(UserStackBlock, {**values, "stacks": stacks})
        case BlockKind.CGROUPS:
            (*texts,) = _texts(list(values.values()))
            return CgroupBlock(dict(zip(map(int, values), texts, strict=True)))
        case BlockKind.PROBED:
            return ProbedBlock(_rows(Probed, values))
        case BlockKind.MARK:
            return _row(Mark, values)
        case BlockKind.BUILDS:
            return BuildBlock(dict(zip(values, _texts(list(values.values())), strict=True)))
        case _:
            return _row(EndBlock, values)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Writer:
    """Writes one recording; every call leaves whole blocks in the file.

    Events wait in memory for others to be packed with, at most ``gather.WAIT_NS``: call
    :meth:`write_due` now and then.

    The file is created with mode 0600, never through a symbolic link. An existing one is replaced
    only with ``force``, and not before :meth:`begin`.

    Raises:
        OutputError: the file exists, can't be created, or can't be written any more.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path = path
        self.events = 0
        self.size = 0
        self._gatherer = Gatherer()
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
        self._write([MAGIC])
        self._write_block(BlockKind.HEADER, _json({"schema": schema.VERSION, **header}))

    def discard(self) -> None:
        """Give up before :meth:`begin`: leave nothing new behind."""
        self._close()
        if self._created:
            self.path.unlink(missing_ok=True)

    def _write_block(self, kind: BlockKind, payload: framing.Payload) -> None:
        self._write(framing.frame(kind, payload))

    def _write(self, buffers: list[framing.Payload]) -> None:
        try:
            written = os.writev(self._fd, buffers)
            for buffer in buffers:  # what a short write left over
                rest = memoryview(buffer)[written:]
                written = max(0, written - len(buffer))
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise OutputError(
                f"can't write {self.path}: {error.strerror}",
                "what was written so far can be read",
            ) from None

    def write_events(self, events: NDArray[np.void]) -> None:
        """Append events; ``events`` has :data:`schema.EVENT_DTYPE` and is not changed any more."""
        self.events += len(events)
        self._write_pieces(self._gatherer.add(events))

    def write_due(self, now: int) -> None:
        """Write the events that have waited long enough at ``now`` (ns, CLOCK_MONOTONIC)."""
        self._write_pieces(self._gatherer.due(now))

    def _write_rest(self) -> None:
        self._write_pieces(self._gatherer.rest())

    def _write_pieces(self, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            kind = BlockKind.PACKED_EVENTS if piece.packed else BlockKind.EVENTS
            self._write_block(kind, piece.payload)

    def write_names(self, names: NDArray[np.void]) -> None:
        """Append names; ``names`` has :data:`schema.NAME_DTYPE`.

        They overtake events that wait: a name may be ahead of what uses it, never behind.
        """
        self._write_block(BlockKind.NAMES, names.tobytes())

    def write_losses(self, losses: NDArray[np.uint64]) -> None:
        """Append the cumulative loss counters."""
        self._write_block(BlockKind.LOSSES, losses.astype("<u8").tobytes())

    def write_snapshot(self, snapshot: SnapshotBlock) -> None:
        """Append a snapshot of holders."""
        self._write_rest()
        self._write_block(BlockKind.SNAPSHOT, _json(asdict(snapshot)))

    def write_stacks(self, stacks: dict[int, tuple[str, ...]]) -> None:
        """Append symbolised stacks."""
        self._write_rest()
        self._write_block(BlockKind.STACKS, _json(stacks))

    def write_builds(self, ids: dict[str, str]) -> None:
        """Append build ids by module."""
        self._write_rest()
        self._write_block(BlockKind.BUILDS, _json(ids))

    def write_cgroups(self, paths: dict[int, str]) -> None:
        """Append paths of cgroups by id."""
        self._write_rest()
        self._write_block(BlockKind.CGROUPS, _json(paths))

    def write_probed(self, probed: tuple[Probed, ...]) -> None:
        """Append functions that were probed just now."""
        self._write_rest()
        self._write_block(BlockKind.PROBED, _json([asdict(row) for row in probed]))

    def write_user_stacks(self, block: UserStackBlock) -> None:
        """Append user stacks."""
        self._write_rest()
        self._write_block(BlockKind.USER_STACKS, _json(asdict(block)))

    def write_mark(self, mark: Mark) -> None:
        """Append a mark; nothing waits ahead of it."""
        self._write_rest()
        self._write_block(BlockKind.MARK, _json(asdict(mark)))

    def finish(self, ts: int, reason: str) -> None:
        """Append the end block and close the file; ``size`` is then what it has in bytes.

        Where somebody has deleted the file it is made again.
        """
        self._write_rest()
        end = {"ts": ts, "events": self.events, "reason": reason}
        self._write_block(BlockKind.END, _json(end))
        found = os.fstat(self._fd)
        self.size = found.st_size
        if not found.st_nlink:
            self._restore()
        self._close()

    def _restore(self) -> None:
        """Write the file, deleted meanwhile, once more; it is there as long as it is open.

        Beside what has taken its place, if anything has; ``path`` says where.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        if os.path.lexists(self.path):
            self.path = self.path.with_name(f"{self.path.name}.restored")
        try:
            with (
                Path(f"/proc/self/fd/{self._fd}").open("rb") as kept,
                os.fdopen(os.open(self.path, flags, 0o600), "wb") as again,
            ):
                shutil.copyfileobj(kept, again)
        except OSError as error:
            raise OutputError(
                f"{self.path} was deleted while it was written, and can't be made again: "
                f"{error.strerror}"
            ) from None

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write the events that wait and close; without :meth:`finish` the file counts as cut."""
        if self._fd >= 0:
            with suppress(OutputError):  # an error is on its way already, or all is written
                self._write_rest()
        self._close()


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
        self._size = os.fstat(self._file.fileno()).st_size
        progress.advance(path, 0, self._size)
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
        self._begin = self._file.tell()

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
        self.close()

    def close(self) -> None:
        """Read no more."""
        self._file.close()

    def _next(self) -> tuple[int, bytes] | None:
        """Kind and payload of the next whole block; None, with ``cut`` set, where there is none."""
        found = framing.read(self._file)
        progress.advance(self.path, self._file.tell(), self._size)
        if isinstance(found, Cut):
            self.cut = found
            return None
        return found

    def _block(self, kind: int, *payloads: bytes) -> Block | None:
        try:
            return self._decode(kind, *payloads)
        except (KeyError, TypeError, ValueError, AttributeError):
            self._refuse_block()

    def _refuse_block(self) -> NoReturn:
        raise InputError(f"{self.path} has a block that is not what it claims to be") from None

    def _decode_json(self, payload: bytes) -> Any:
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            self._refuse_block()

    def heads(self, *, checked: bool) -> Iterator[tuple[int, int]]:
        """Offset and kind of the whole blocks after the header; unchecked, no payload is read."""
        self._file.seek(self._begin)
        while True:
            offset = self._file.tell()
            if checked:
                found = framing.read(self._file)
                kind = None if isinstance(found, Cut) else found[0]
            else:
                kind = framing.skip(self._file)
            if kind is None:
                return
            yield offset, kind

    def block_at(self, offset: int) -> Block | None:
        """The block there; None: it is damaged, or of a kind that is not known."""
        self._file.seek(offset)
        found = framing.read(self._file)
        return None if isinstance(found, Cut) else self._block(*found)

    def blocks(
        self, unwanted: Collection[int] = (), events: int = 1, since: int | None = None
    ) -> Iterator[Block]:
        """The blocks after the header, in file order, up to the end block or the cut.

        Those at ``unwanted`` offsets are passed over. Packed events whose blocks follow each other
        come as one block, of so many ``events`` or some more. ``since``: from the offset of a cut
        on, where more may have been written.
        """
        self.cut = None
        self._file.seek(self._begin if since is None else since)
        for kind, payloads in self._together(unwanted, events):
            block = self._block(kind, *payloads)
            if block is not None:
                yield block
            if isinstance(block, EndBlock):
                return

    def _together(
        self, unwanted: Collection[int], events: int
    ) -> Iterator[tuple[int, list[bytes]]]:
        """Kind and payload of each block, or payloads where some come as one."""
        packed: list[bytes] = []
        waiting = 0
        while True:
            if unwanted and self._file.tell() in unwanted:
                framing.skip(self._file)
                continue
            found = self._next()
            is_packed = found is not None and found[0] == BlockKind.PACKED_EVENTS
            if found and is_packed:
                packed.append(found[1])
                waiting += packing.events_in(found[1])
            if packed and (not is_packed or waiting >= events):
                yield BlockKind.PACKED_EVENTS, packed
                packed, waiting = [], 0
            if not found:
                return
            if not is_packed:
                yield found[0], [found[1]]

    def _decode(self, kind: int, payload: bytes, *more: bytes) -> Block | None:
        match kind:
            case BlockKind.EVENTS:
                return EventBlock(np.frombuffer(payload, schema.EVENT_DTYPE))
            case BlockKind.PACKED_EVENTS:
                return EventBlock(packing.unpack(payload, *more))
            case BlockKind.NAMES:
                return NameBlock(np.frombuffer(payload, schema.NAME_DTYPE))
            case BlockKind.LOSSES:
                return LossBlock(_losses(np.frombuffer(payload, "<u8")))
            case _ if kind in _DESCRIBED:
                return _described(kind, self._decode_json(payload))
            case _:
                return None
