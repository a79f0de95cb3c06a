# SPDX-License-Identifier: Apache-2.0
"""The demo: records the scripted session in a lab guest, then reports on it.

Ends with the proof: what the reference exporter and ftrace counted, beside the recording.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.counts import Recorded, Row
from tests.vm import LabError, run_guest

SESSION = """
set -e
python3 -m examples.workload prepare
dmabuf-trace record --force -o /out/demo.dbt -- python3 -m examples.workload run
python3 -m examples.workload finish /out/counted.json
"""
TIMEOUT = 600


def say(text: str) -> None:
    """A line of progress."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def dmabuf_trace(*arguments: str) -> None:
    """Run the installed command, as a user would."""
    print(f"\n$ dmabuf-trace {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "dmabuf_trace", *arguments], check=True)


def compare(title: str, rows: list[Row]) -> bool:
    """Print counted beside recorded; whether all are equal."""
    print(f"\n{title:<28}{'counted':>9}{'recorded':>10}")
    for row in rows:
        verdict = "" if row.counted == row.recorded else "  DIFFERENT"
        print(f"  {row.counter:<26}{row.counted:>9}{row.recorded:>10}{verdict}")
    return all(row.counted == row.recorded for row in rows)


def main() -> int:
    """Run the demo; the exit status is 0 when every count agrees."""
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument("--kernel", default="6.12", help="a kernel of the lab (default: 6.12)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"), metavar="DIR")
    options = parser.parse_args()
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    say(f"booting kernel {options.kernel} and recording vivid, vgem, the system heap, udmabuf and")
    say("the reference exporter, which leaks a buffer in each shape and holds a map for long")
    try:
        done = run_guest(
            options.kernel,
            ["sh", "-c", SESSION],
            timeout=TIMEOUT,
            shares={"/out": out},
            module=True,
            stream=True,
        )
    except LabError as error:
        say(f"the lab failed: {error}")
        return 1
    if done.returncode:
        say(f"the session failed with status {done.returncode}")
        return 1
    recording = out / "demo.dbt"
    dmabuf_trace("report", str(recording))
    counted = json.loads((out / "counted.json").read_text())
    recorded = Recorded(recording)
    equal = compare("reference exporter", recorded.against_module(counted["module"]))
    equal &= compare("ftrace kprobe_profile", recorded.against_ftrace(counted["ftrace"]))
    print("\nevery count agrees" if equal else "\nCOUNTS DIFFER")
    print(f"look further: .venv/bin/dmabuf-trace leaks {recording}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
