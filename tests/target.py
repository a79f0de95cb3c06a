# SPDX-License-Identifier: Apache-2.0
"""What a target's recording is about: good buffers, one that leaks, and a status of its own.

Runs in a guest, in a root that has nothing but Python's standard library.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.cycle import PAGE, cycle
from tests.kmod.client import Ref

CYCLES: Final = 100
LEAKED_BYTES: Final = 16 * PAGE
STATUS: Final = 7


def main() -> int:
    """Leak, and write down what the module counted."""
    with Ref() as ref:
        for _ in range(CYCLES):
            cycle(ref)
        with ref.export(LEAKED_BYTES) as buffer:
            ref.leak_ref(buffer)
        counted = asdict(ref.counters())
    Path("/tmp/counted.json").write_text(json.dumps(counted))  # noqa: S108 a guest's own tmpfs
    return STATUS


if __name__ == "__main__":
    sys.exit(main())
