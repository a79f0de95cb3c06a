# SPDX-License-Identifier: Apache-2.0
"""Texts of the stacks of a capture that goes on.

Imports neither pandas nor rich. Must not know what becomes of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.capture import Capture


class KernelStacks:
    """Of the kernel, each looked up once."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._known: dict[int, tuple[str, ...]] = {schema.UNKNOWN_STACK: ()}

    def know(self, events: NDArray[np.void]) -> None:
        """Look up those of events, all at once: the list of symbols is long."""
        new = set(events["stack"].tolist()) - self._known.keys()
        self._known |= self._capture.stacks(new)

    def texts(self, stack_id: int) -> Sequence[str]:
        """Frames of one of them, innermost first."""
        return self._known[stack_id]
