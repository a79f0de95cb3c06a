# SPDX-License-Identifier: Apache-2.0
"""Foreign text made safe to print: names of threads, buffers and devices come from anyone."""

from __future__ import annotations

import unicodedata
from typing import Final

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move the cursor, turn the writing direction, or show as nothing."""


def printable(text: str) -> str:
    """``text`` with every unsafe character written as an escape, on one line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ascii(char)[1:-1] if unicodedata.category(char) in _UNSAFE else char for char in text
    )
