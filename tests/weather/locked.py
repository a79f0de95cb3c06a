# SPDX-License-Identifier: Apache-2.0
"""``python3 -m tests.weather.locked DIR``: a kernel that is locked down, first for integrity.

Leaves ``clients.dbt`` and ``clients.json`` of a session of real clients, and ``results.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests import main_path
from tests.weather.storms import MODULE
from tests.weather.watch import TRACE, Left, Result, run

LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")


def main(directory: str) -> None:
    """Integrity, as it was booted; then confidentiality, from which there is no way back."""
    out = Path(directory)
    if not LOCKDOWN.exists():
        subprocess.run(["mount", "-t", "securityfs", "none", "/sys/kernel/security"], check=True)
    left = Left()
    results: dict[str, Result] = {
        "booted": {"lockdown": LOCKDOWN.read_text()},
        "insmod": run("insmod", str(MODULE)),
        "doctor": run(TRACE, "doctor"),
    }
    main_path.prepare()
    main_path.record(out)
    results["left"] = left.behind()
    LOCKDOWN.write_text("confidentiality")
    results["confidential"] = run(TRACE, "record", "-o", f"{out}/refused.dbt", "true")
    results["confidential, doctor"] = run(TRACE, "doctor")
    results["confidential, snapshot"] = run(TRACE, "snapshot", "--json")
    (out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
