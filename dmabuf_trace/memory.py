# SPDX-License-Identifier: Apache-2.0
"""For commands that read long recordings: memory and texts as they are quickest.

The C library gives large pieces back at once, and the system clears each page that is taken anew:
for arrays that come and go this takes longer than much of what is done with them. A thread's own
heap gives back still more, so all threads use one. And pandas keeps texts as Arrow's where pyarrow
happens to be installed, which takes longer to group by.
"""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""malloc.h"""


def prepare() -> None:
    """For this process, from now on; where the C library can't be told, it stays as it is."""
    import pandas as pd

    pd.set_option("mode.string_storage", "python")
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_ARENA_MAX, 1)
