# SPDX-License-Identifier: Apache-2.0
"""Kernel addresses to names, by /proc/kallsyms.

The file has some 200,000 lines and is not sorted throughout (modules follow the kernel), so it is
read in pieces and only the best symbol so far for each wanted address is kept: memory does not
grow with the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

KALLSYMS: Final = Path("/proc/kallsyms")
PIECE: Final = 1 << 20
_DIGITS: Final = 16
_FAR: Final = 1 << 20
"""No function is larger: an address further than this behind a symbol is none of it."""


def _pieces(path: Path) -> Iterator[bytes]:
    """The file in pieces of whole lines."""
    with path.open("rb") as file:
        rest = b""
        while piece := file.read(PIECE):
            cut = piece.rfind(b"\n") + 1
            yield rest + piece[:cut]
            rest = piece[cut:]


def _line_addresses(piece: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Offset of each line and the address in its first 16 digits."""
    text = np.frombuffer(piece, np.uint8)
    starts = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(text == ord("\n"))[:-1] + 1])
    digits = text[starts[:, None] + np.arange(_DIGITS)]
    # '0'..'9' are 0x30..0x39, 'a'..'f' 0x61..0x66: the low nibble, plus 9 for letters
    nibbles = (digits & 0xF) + np.where(digits > ord("9"), 9, 0).astype(np.uint8)
    addresses: NDArray[np.uint64] = np.zeros(len(starts), np.uint64)
    for column in range(_DIGITS):
        addresses <<= np.uint64(4)
        addresses |= nibbles[:, column]
    return starts, addresses


def _name(piece: bytes, start: int) -> str:
    """Symbol and module of the line at ``start``: ``ffff... t name [module]``."""
    fields = piece[start : piece.index(b"\n", start)].decode().split()
    return " ".join(fields[2:4])


def extent(function: str, path: Path = KALLSYMS) -> tuple[int, int]:
    """Where a function of the kernel itself begins and the next one does; (0, 0): not known.

    Reads no further than that: such functions are ahead of the modules', in order of address.
    """
    line_end = f" {function}\n".encode()
    begin = 0
    for piece in _pieces(path):
        at = piece.find(line_end)
        if not begin and at < 0:
            continue
        starts, addresses = _line_addresses(piece)
        if not begin:
            begin = int(addresses[np.searchsorted(starts, at) - 1])
            if not begin:  # hidden
                break
        behind = addresses[addresses > begin]
        if len(behind):
            return begin, int(behind.min())
    return 0, 0


def resolve(addresses: Iterable[int], path: Path = KALLSYMS) -> dict[int, str]:
    """Text for each address: ``name+0x1f [module]``, or the bare address where nothing fits.

    Hidden addresses (kptr_restrict) leave everything bare.
    """
    wanted = np.unique(np.fromiter(addresses, np.uint64))
    if not len(wanted):
        return {}
    best = np.zeros(len(wanted), np.uint64)
    names = [""] * len(wanted)
    for piece in _pieces(path):
        starts, symbols = _line_addresses(piece)
        order = np.argsort(symbols, kind="stable")
        below = np.searchsorted(symbols[order], wanted, side="right") - 1
        candidate = symbols[order[np.maximum(below, 0)]]
        for at in np.flatnonzero((below >= 0) & (candidate > best)):
            best[at] = candidate[at]
            names[at] = _name(piece, int(starts[order[below[at]]]))
    return {
        int(address): _text(int(address), int(symbol), name)
        for address, symbol, name in zip(wanted, best, names, strict=True)
    }


def without_programs(frames: Iterable[str]) -> tuple[str, ...]:
    """A stack without the BPF programs and trampolines it begins with: what was traced called none.

    Programs that are called as functions (fentry) find themselves on the stack.
    """
    return tuple(dropwhile(lambda frame: frame.endswith(" [bpf]"), frames))


def _text(address: int, symbol: int, name: str) -> str:
    if not symbol or address - symbol > _FAR:
        return f"{address:#x}"
    function, _, module = name.partition(" ")
    return f"{function}+{address - symbol:#x}{' ' + module if module else ''}"
