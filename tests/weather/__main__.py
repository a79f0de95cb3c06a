# SPDX-License-Identifier: Apache-2.0
"""``python3 -m tests.weather DIR [KIND...]`` leaves recordings and ``results.json`` in DIR.

For each case the results have the exit status, stdout and stderr of the command, and more; for each
kind of weather what it left in the kernel.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.kmod.client import load
from tests.weather.endings import commands, deleted, disk_full, killed, out_of_memory
from tests.weather.refused import lesser, refusals, traces
from tests.weather.storms import MODULE, storms
from tests.weather.watch import Left, Result, run

KINDS: Final[dict[str, Callable[[Path], dict[str, Result]]]] = {
    "refusals": refusals,
    "less": lesser,
    "traces": traces,
    "commands": commands,
    "full disk": disk_full,
    "SIGKILL": killed,
    "out of memory": out_of_memory,
    "deletions": deleted,
    "storms": storms,
}


def main(directory: str, *kinds: str) -> None:
    """Those kinds, or all."""
    out = Path(directory)
    load(MODULE)
    results: dict[str, Result] = {}
    try:
        for kind in kinds or KINDS:
            left = Left()
            results |= KINDS[kind](out)
            results[f"left by {kind}"] = left.behind()
        run("dmabuf-trace", "record", "-o", str(out / "next.dbt"), "true")
        results["left by the next one"] = left.behind()
    finally:
        (out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
