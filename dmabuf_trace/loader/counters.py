# SPDX-License-Identifier: Apache-2.0
"""The programs' loss counters, read from memory shared with them.

Not by system calls: while one looks an entry up the kernel runs no BPF program on that processor
(``bpf_disable_instrumentation()``), also while the caller is preempted in it: reading would lose.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema


class Counters:
    """The map ``losses``, mapped for as long as this lives; it keeps no ``fd``."""

    def __init__(self, fd: int) -> None:
        self._count = math.prod(schema.LOSS_SHAPE)
        self._memory = mmap.mmap(fd, 8 * self._count, mmap.MAP_SHARED, mmap.PROT_READ)

    def read(self) -> NDArray[np.uint64]:
        """A copy; shape :data:`schema.LOSS_SHAPE`."""
        return np.frombuffer(self._memory, "<u8", self._count).reshape(schema.LOSS_SHAPE).copy()
