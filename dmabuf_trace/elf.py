# SPDX-License-Identifier: Apache-2.0
"""What a kernel or a module says of itself as an ELF file: its build, its functions and their size.

Source lines are not read here. Only 64-bit files; any may be damaged or hostile.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.errors import InputError

_HEADER: Final = "HHIQQQIHHHHHH"  # from e_type on, behind 16 bytes that tell byte order and width
_IDENT: Final = 16
_SECTION: Final = (
    *(("name", "u4"), ("type", "u4"), ("flags", "u8"), ("address", "u8"), ("offset", "u8")),
    *(("size", "u8"), ("link", "u4"), ("info", "u4"), ("align", "u8"), ("entry", "u8")),
)
_SYMBOL: Final = (
    *(("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2")),
    *(("value", "u8"), ("size", "u8")),
)
_RELOCATABLE: Final = 1
_SYMTAB, _NOTE, _NOBITS = 2, 7, 8
_FUNCTION: Final = 2
_LAST_SECTION: Final = 0xFF00
_BUILD_ID: Final = 3
_LINES: Final = (b".debug_line", b".zdebug_line")


@dataclass(frozen=True, slots=True)
class Function:
    """A function: the section that has it, and where in that; bytes."""

    section: str
    offset: int
    size: int


class Elf:
    """An ELF file, read and closed.

    ``module`` is the name of the module that it is, "" for the kernel itself; ``machine`` is
    e_machine; ``build_id`` in hex, "" where it has none; ``has_lines``: it tells source lines.

    Raises:
        InputError: it can't be read, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._file = file
                self._size = os.fstat(file.fileno()).st_size
                self._read(file.read(_IDENT + struct.calcsize(_HEADER)), path)
        except OSError as error:
            raise InputError(f"can't read {path}: {error.strerror}") from None
        except (ValueError, IndexError, struct.error, OverflowError, MemoryError):
            raise InputError(f"{path} is a damaged ELF file") from None

    def _read(self, head: bytes, path: Path) -> None:
        if head[:4] != b"\x7fELF" or head[4:5] != b"\2":
            raise InputError(f"{path} is not an ELF file of 64 bits", "give vmlinux or a MODULE.ko")
        order = "<" if head[5] == 1 else ">"
        kind, self.machine, *rest = struct.unpack_from(order + _HEADER, head, _IDENT)
        sections_at, count, names_in = rest[3], rest[9], rest[10]
        self._sections = self._table(order, _SECTION, sections_at, count)
        names = self._content(self._sections[names_in])
        self._names = [_text(names, int(at)) for at in self._sections["name"]]
        self.has_lines = any(
            name in _LINES and section["type"] != _NOBITS and section["size"]
            for name, section in zip(self._names, self._sections, strict=True)
        )
        notes = [self._content(each) for each in self._sections if each["type"] == _NOTE]
        self.build_id = next(filter(None, (build_id(each, order) for each in notes)), "")
        self.module = self._module() if kind == _RELOCATABLE else ""
        self._symbols, self._texts = self._read_symbols(order)
        del self._file

    def _table(
        self, order: str, fields: tuple[tuple[str, str], ...], at: int, count: int
    ) -> NDArray[np.void]:
        dtype: np.dtype[Any] = np.dtype([(name, order + code) for name, code in fields])
        return np.frombuffer(self._bytes(at, count * dtype.itemsize), dtype)

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > self._size:
            raise ValueError("beyond the end of the file")
        self._file.seek(at)
        return self._file.read(size)

    def _content(self, section: np.void) -> bytes:
        if section["type"] == _NOBITS:
            return b""
        return self._bytes(int(section["offset"]), int(section["size"]))

    def _module(self) -> str:
        """As it says itself; a file with debug information alone says nothing."""
        for name, section in zip(self._names, self._sections, strict=True):
            if name == b".modinfo":
                for entry in self._content(section).split(b"\0"):
                    if entry.startswith(b"name="):
                        return entry[5:].decode(errors="replace")
        return self.path.name.partition(".")[0].replace("-", "_")

    def _read_symbols(self, order: str) -> tuple[NDArray[np.void], bytes]:
        """Its symbols and their names, where it has any."""
        for section in self._sections:
            if section["type"] == _SYMTAB:
                size = np.dtype(list(_SYMBOL)).itemsize
                table = self._table(
                    order, _SYMBOL, int(section["offset"]), int(section["size"]) // size
                )
                return table, self._content(self._sections[int(section["link"])])
        return np.zeros(0, list(_SYMBOL)), b""

    def named(self, name: str) -> list[Function]:
        """The functions of that name: static ones may be several; of size 0 if it is no function.

        Empty: nothing here has the name.
        """
        at = list(_found(self._texts, name.encode(errors="surrogateescape") + b"\0"))
        mine = self._symbols[np.isin(self._symbols["name"], at)]
        mine = mine[(mine["section"] > 0) & (mine["section"] < _LAST_SECTION)]
        return [
            Function(
                self._names[int(symbol["section"])].decode(errors="surrogateescape"),
                int(symbol["value"]) - int(self._sections[int(symbol["section"])]["address"]),
                int(symbol["size"]) if symbol["info"] & 0xF == _FUNCTION else 0,
            )
            for symbol in mine
            if symbol["section"] < len(self._sections)
        ]


def _text(names: bytes, at: int) -> bytes:
    return names[at : names.index(b"\0", at)]


def _found(texts: bytes, wanted: bytes) -> Iterator[int]:
    """Where a text stands, also at the end of another one: both then share it."""
    at = texts.find(wanted)
    while at >= 0:
        yield at
        at = texts.find(wanted, at + 1)


def build_id(notes: bytes, order: str = "=") -> str:
    """The build id among notes, in hex, as in an ELF file or in /sys; "": there is none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(order + "III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        at += 12 + (name_size + 3 & ~3)
        if kind == _BUILD_ID and name == b"GNU\0":
            return notes[at : at + size].hex()
        at += size + 3 & ~3
    return ""
