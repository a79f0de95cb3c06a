# SPDX-License-Identifier: Apache-2.0
"""Memory that is free is given back: the C library keeps it in pieces, and takes more and more."""

from __future__ import annotations

import ctypes
import gc
from functools import cache
from typing import Any


@cache
def _trim() -> Any:
    """malloc_trim() of glibc; None: another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Let the system have what is free, and what is only held by itself."""
    gc.collect()
    if trim := _trim():
        trim(0)
