# SPDX-License-Identifier: Apache-2.0
"""Foreign text made safe to print: names of threads, buffers and devices come from anyone."""

from __future__ import annotations

import unicodedata
from typing import Final

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move the cursor, turn the writing direction, or show as nothing."""

ELLIPSIS: Final = "\u2026"


def printable(text: str) -> str:
    """``text`` with every unsafe character written as an escape, on one line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ascii(char)[1:-1] if unicodedata.category(char) in _UNSAFE else char for char in text
    )


def cells(text: str) -> int:
    """Columns of a terminal that a printable text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, most: int) -> str:
    """A printable text in at most so many columns, with an ellipsis where some is left out."""
    if cells(text) <= most:
        return text
    while cells(text) >= most:
        text = text[:-1]
    return text + ELLIPSIS
