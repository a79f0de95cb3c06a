# SPDX-License-Identifier: Apache-2.0
"""``python3 -m tests.gate windows | runs DIR``, in a guest with the reference exporter."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.gate import runs, windows


def main() -> None:
    """Windows | runs DIR."""
    match sys.argv[1:]:
        case ["windows", directory]:
            windows.record(Path(directory))
        case ["runs", directory]:
            runs.judge(Path(directory))
        case _:
            sys.exit("usage: python3 -m tests.gate windows | runs DIR")


if __name__ == "__main__":
    main()
