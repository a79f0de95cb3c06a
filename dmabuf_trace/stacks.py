# SPDX-License-Identifier: Apache-2.0
"""Kernel stacks of recordings: frames ``function+0x1c/0x40 [module]``, innermost first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

CORE: Final = re.compile(r"_*dma_buf_\w+|fd_install|do_dup2")
"""Functions of the kernel itself in which an event is seen, and not what made it happen."""


def is_core(frame: str) -> bool:
    """Whether a frame is of :data:`CORE`; a module's never is."""
    name, _, rest = frame.partition("+")
    return "[" not in rest and CORE.fullmatch(name) is not None


def function(frame: str) -> str:
    """A frame without offset and module, which differ from build to build."""
    return frame.partition("+")[0]


def maker(frames: Sequence[str] | None) -> str:
    """The function that called the dma-buf core; "": not known."""
    return next((function(frame) for frame in frames or () if not is_core(frame)), "")
