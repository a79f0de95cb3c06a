# SPDX-License-Identifier: Apache-2.0
"""Our side of a pseudo-terminal."""

from __future__ import annotations

import os


def read_all(ours: int) -> str:
    """What is written on the other side until the last one who could has closed it; closes ours."""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        found = b""
        while True:
            try:
                piece = terminal.read(1 << 12)
            except OSError:  # EIO: so it is with a terminal
                return found.decode()
            if not piece:
                return found.decode()
            found += piece
