# SPDX-License-Identifier: Apache-2.0
"""Memory that is free is kept for what comes next.

The C library gives large pieces back at once, and the system clears each page that is taken anew:
for arrays that come and go this takes longer than much of what is done with them.
"""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""malloc.h"""


def keep_free() -> None:
    """From now on; where the C library can't be told, all stays as it is."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
