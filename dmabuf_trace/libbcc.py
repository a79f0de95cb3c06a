# SPDX-License-Identifier: Apache-2.0
"""The part of libbcc.so.0 that is used, through ctypes: symbols of ELF files.

The library alone is enough, so that no Python package has to match this interpreter; it maps some
70 MB, so it is opened when it is needed. Nothing here may raise inside a callback.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_left
from collections.abc import Iterable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Final

from dmabuf_trace.errors import UntraceableError

SONAME: Final = "libbcc.so.0"
FUNCTIONS: Final = 1 << 2 | 1 << 10
"""STT_FUNC and STT_GNU_IFUNC (elf.h), a bit each."""

_SYMBOL = CFUNCTYPE(c_int, c_char_p, c_uint64, c_uint64, c_void_p)
_SEGMENT = CFUNCTYPE(c_int, c_uint64, c_uint64, c_uint64, c_void_p)


class _Options(ctypes.Structure):
    """``struct bcc_symbol_option`` (src/cc/bcc_syms.h)."""

    _fields_ = (
        ("use_debug_file", c_int),
        ("check_debug_file_crc", c_int),
        ("lazy_symbolize", c_int),
        ("use_symbol_type", c_uint32),
    )


class Libbcc:
    """libbcc.so.0 with its prototypes.

    Raises:
        UntraceableError: the library is not installed.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(SONAME)
        except OSError:
            raise UntraceableError(f"{SONAME} not found", "apt-get install libbpfcc") from None
        self._library.bcc_elf_foreach_sym.argtypes = (
            *(c_char_p, _SYMBOL, POINTER(_Options), c_void_p),
        )
        self._library.bcc_elf_foreach_load_section.argtypes = (c_char_p, _SEGMENT, c_void_p)
        # of the C++ library that libbcc depends on
        self._demangle = getattr(self._library, "__cxa_demangle")
        self._demangle.restype = c_void_p
        self._demangle.argtypes = (c_char_p, c_void_p, POINTER(c_size_t), POINTER(c_int))
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = (c_void_p,)

    def functions(self, fd: int, offsets: Iterable[int]) -> dict[int, str]:
        """``name+0x1f`` for each offset in an open ELF file at which a function lies."""
        path = f"/proc/self/fd/{fd}".encode()
        addresses = self._addresses(path, offsets)
        wanted = sorted(addresses)
        best: dict[int, tuple[bytes, int]] = {}

        def look(name: bytes, start: int, size: int, _: int | None) -> int:
            for at in range(bisect_left(wanted, start), bisect_left(wanted, start + size)):
                known = best.get(wanted[at])
                if known is None or _better(name, start, *known):
                    best[wanted[at]] = (name, start)
            return 0

        options = _Options(1, 1, 0, FUNCTIONS)
        self._library.bcc_elf_foreach_sym(path, _SYMBOL(look), ctypes.byref(options), None)
        return {
            addresses[address]: f"{self._plain(name)}+{address - start:#x}"
            for address, (name, start) in best.items()
        }

    def _addresses(self, path: bytes, offsets: Iterable[int]) -> dict[int, int]:
        """File offsets by the address at which symbols count them."""
        segments: list[tuple[int, int, int]] = []

        def look(address: int, size: int, offset: int, _: int | None) -> int:
            segments.append((address, size, offset))
            return 0

        self._library.bcc_elf_foreach_load_section(path, _SEGMENT(look), None)
        return {
            address + at - begin: at
            for at in offsets
            for address, size, begin in segments
            if begin <= at < begin + size
        }

    def _plain(self, name: bytes) -> str:
        """A C++ name as its source has it."""
        found = self._demangle(name, None, None, None) if name.startswith(b"_Z") else None
        if not found:
            return name.decode(errors="backslashreplace")
        text = ctypes.string_at(found).decode(errors="backslashreplace")
        self._free(found)
        return text


def _better(name: bytes, start: int, other: bytes, begin: int) -> bool:
    """Of two symbols at an address: the one that begins later, else the plainer name."""
    return (-start, name.startswith(b"_"), len(name), name) < (
        *(-begin, other.startswith(b"_"), len(other), other),
    )
