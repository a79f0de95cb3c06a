# SPDX-License-Identifier: Apache-2.0
"""Options that say how much room there is in the kernel."""

from __future__ import annotations

import os
import re

from dmabuf_trace.capture import TABLES
from dmabuf_trace.errors import InputError
from dmabuf_trace.units import parse_size

MAX_RING = 1 << 30


def ring_bytes(option: str, text: str) -> int:
    """Size of a ring, given by this option."""
    size = parse_size(text)
    page = os.sysconf("SC_PAGE_SIZE")
    if size < page or size & (size - 1) or size > MAX_RING:
        raise InputError(
            f"{option} {text} is not a power of two from {page} bytes to 1G", "try 16M"
        )
    return size


def table_sizes(texts: list[str] | None) -> dict[str, int]:
    """Sizes of tables, of NAME=SIZE."""
    sizes = {}
    for text in texts or ():
        name, _, number = text.partition("=")
        if name not in TABLES:
            raise InputError(f"no table {name!r}", f"there are: {', '.join(TABLES)}")
        if name == "names":
            sizes[name] = ring_bytes("--table names", number)
        elif re.fullmatch(r"[1-9][0-9]{0,6}", number) and int(number) <= TABLES[name]:
            sizes[name] = int(number)
        else:
            raise InputError(f"--table {text} is not {name}=N, N from 1 to {TABLES[name]}")
    return sizes
