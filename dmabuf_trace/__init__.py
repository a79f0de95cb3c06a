# SPDX-License-Identifier: Apache-2.0
"""Tracing and profiling of Linux dma-buf activity.

``open(path)`` gives a recording as tables; everything else is the command ``dmabuf-trace``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmabuf_trace.trace import Trace


def open(path: str | Path) -> Trace:  # noqa: A001 dmabuf_trace.open reads as what it does
    """Open a recording as pandas tables; see :class:`dmabuf_trace.trace.Trace`.

    Raises:
        InputError: not a recording, or one of a newer schema.
    """
    from dmabuf_trace import trace

    return trace.open(Path(path))
