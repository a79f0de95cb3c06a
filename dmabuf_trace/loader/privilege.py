# SPDX-License-Identifier: Apache-2.0
"""What the kernel asks of whoever traces it, told apart before it only says that it refuses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from dmabuf_trace.errors import UntraceableError

STATUS: Final = Path("/proc/self/status")
SYS_ADMIN: Final = 21
NEEDED: Final = {"CAP_BPF": 39, "CAP_PERFMON": 38}
"""Capabilities and their numbers (include/uapi/linux/capability.h); CAP_SYS_ADMIN has both."""


def lacking(status: Path = STATUS) -> list[str]:
    """Capabilities that this process needs and has not."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    held = int(found[1], 16) if found else 0
    if held >> SYS_ADMIN & 1:
        return []
    return [name for name, number in NEEDED.items() if not held >> number & 1]


def require() -> None:
    """Raise UntraceableError where this process may not trace."""
    missing = lacking()
    if missing and os.geteuid():
        raise UntraceableError("tracing needs root", "run it with sudo")
    if missing:
        raise UntraceableError(
            f"this root has no {' and no '.join(missing)}",
            "run it outside of the container, or give that one these capabilities",
        )
