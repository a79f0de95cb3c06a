# SPDX-License-Identifier: Apache-2.0
"""Kernel stacks as recordings have them: frames ``function+0x1c/0x40 [module]``, innermost first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CORE: Final = ("dma_buf_", "__dma_buf_", "__map_dma_buf")
"""Functions of the dma-buf core begin so: there a call is observed, its maker is further out."""


def function(frame: str) -> str:
    """A frame without offset and module, which differ from build to build."""
    return frame.partition("+")[0]


def maker(frames: Sequence[str] | None) -> str:
    """The function that called the dma-buf core; "": not known."""
    outside = (function(frame) for frame in frames or () if not frame.startswith(CORE))
    return next(outside, "")
