# SPDX-License-Identifier: Apache-2.0
"""``python3 -m tests.gate.command WHAT``: commands for ``check`` to run. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from tests.cycle import PAGE, cycles
from tests.kmod.client import Ref

CACHED: Final = 3


def clean() -> None:
    """Use a buffer, and give it back."""
    cycles(1)


def leak() -> None:
    """The kernel keeps a buffer."""
    with Ref() as ref, ref.export(PAGE) as buffer:
        ref.leak_ref(buffer)


def cache() -> None:
    """The first run fills a cache in the kernel, which stays."""
    with Ref() as ref:
        for _ in range(0 if ref.counters().leaked_refs else CACHED):
            with ref.export(PAGE) as buffer:
                ref.leak_ref(buffer)
    cycles(1)


WHAT: Final[dict[str, Callable[[], None]]] = {"clean": clean, "leak": leak, "cache": cache}

if __name__ == "__main__":
    WHAT[sys.argv[1]]()
