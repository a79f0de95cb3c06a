# SPDX-License-Identifier: Apache-2.0
"""What is said on stderr, a line each: notes, and what was lost."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema


def note(text: str) -> None:
    """One line on stderr; ``text`` is safe to print."""
    sys.stderr.write(f"dmabuf-trace: {text}\n")
    sys.stderr.flush()


def note_lost(losses: NDArray[np.uint64]) -> int:
    """Say what was lost, a line a cause; the number of whole events."""
    for cause in schema.CAUSES:
        counts = {
            schema.KIND_NAMES[kind]: int(losses[kind, cause.id]) for kind in schema.KIND_NAMES
        }
        parts = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count)
        if parts:
            note(f"LOST: {cause.doc} ({parts})" + (f"; {cause.hint}" if cause.hint else ""))
    return schema.lost_events(losses)
