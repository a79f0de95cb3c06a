# SPDX-License-Identifier: Apache-2.0
"""The same exports, seen by a recording and by ftrace, and when their caller knows they were.

Runs in a guest: ``python3 -m tests.merged record DIR`` leaves ``x.dbt``, ``trace.txt``, and in
``moments.json`` the times just ahead of each call and just behind it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.cycle import PAGE
from tests.kmod.client import Ref, load
from tests.oracle import TRACEFS, write

EXPORTS: Final = 20
INSTANCE: Final = TRACEFS / "instances" / "merged"
EVENT: Final = "merged/exported"


def call(moments: Path) -> None:
    """Export some buffers, and release them."""
    times = []
    with Ref() as ref:
        for _ in range(EXPORTS):
            before = time.monotonic_ns()
            buffer = ref.export(PAGE)
            times.append((before, time.monotonic_ns()))
            buffer.close()
    moments.write_text(json.dumps(times))


def record(directory: Path) -> None:
    """Record it both ways at once."""
    load(Path("/opt/kmod/dmabuf_ref.ko"))
    INSTANCE.mkdir()
    write(INSTANCE / "trace_clock", "mono")
    write(TRACEFS / "kprobe_events", f"p:{EVENT} dma_buf_export")
    write(INSTANCE / "events" / EVENT / "enable", "1")
    with tempfile.TemporaryDirectory() as own:
        recording, moments = Path(own, "x.dbt"), Path(own, "moments.json")
        command = ["python3", "-m", "tests.merged", "call", str(moments)]
        subprocess.run(["dmabuf-trace", "record", "-o", str(recording), "--", *command], check=True)
        for each in (recording, moments):
            shutil.copy(each, directory)
    write(INSTANCE / "events" / EVENT / "enable", "0")
    (directory / "trace.txt").write_text((INSTANCE / "trace").read_text())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", directory]:
            record(Path(directory))
        case ["call", moments]:
            call(Path(moments))
