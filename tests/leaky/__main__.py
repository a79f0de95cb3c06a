# SPDX-License-Identifier: Apache-2.0
"""Runs :mod:`tests.leaky.cases` under pytest in a guest: ``python3 -m tests.leaky DIR``.

Leaves in DIR, for each run, NAME.xml (JUnit) and NAME.dbt, and in results.json the statuses and
output. Also ``cycles.dbt``: a command that keeps a kernel reference, run three times. Standard
library only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.kmod.client import Ref, load
from tests.weather import watch
from tests.weather.storms import MODULE
from tests.weather.watch import TRACE, Left, Result, wait_until

CASES: Final = "tests/leaky/cases.py"
LOCAL: Final = Path("/tmp/leaky")  # noqa: S108 - the guest's own: a share is slow and may lag
PYTEST: Final = (
    *("python3", "-m", "pytest", "-c", "/dev/null", "--rootdir", "/src", "--noconftest"),
    *("-p", "no:cacheprovider", "-p", "no:warnings", "--strict-markers"),
)
ONCE: Final = ("python3", "-m", "tests.leaky", "once")
FAILED: Final = 7
FEW: Final = (
    *("leaks_an_fd", "leaks_a_kernel_reference", "leaks_in_a_child"),
    *("passes_clean", "passes_with_what_the_module_holds", "passes_as_it_may_leave_so_many_bytes"),
)
"""Cases that two workers run: judging a leak takes an emulated processor tens of seconds."""
RUNS: Final[dict[str, tuple[str, ...]]] = {
    "one": (),
    "two": ("-n", "2", "-k", " or ".join(FEW)),
    "lost": ("--dmabuf-record-options", "--ring 4K", "-k", "lost or clean"),
    "unmarked": ("-k", "no_such_test"),
}


def run(name: str, *options: str, prefix: tuple[str, ...] = ()) -> Result:
    """All cases, or those that the options choose."""
    print(f"pytest: {name}", file=sys.stderr, flush=True)
    kept = ["--junitxml", f"{LOCAL}/{name}.xml", "--dmabuf-recording", f"{LOCAL}/{name}.dbt"]
    return watch.run(*prefix, *PYTEST, *kept, *options, CASES)


def killed() -> Result:
    """pytest is killed in the midst of a test, while a child of it lives on."""
    left, ready = Left(), LOCAL / "ready"
    command = [*PYTEST, "-k", "test_is_killed", CASES]
    with subprocess.Popen(command, env={**os.environ, "READY": str(ready)}) as process:
        wait_until("the test is under way", lambda: ready.exists() and bool(ready.read_text()))
        process.send_signal(signal.SIGKILL)
    recorder, child = ready.read_text().split()
    wait_until("the recorder is gone", lambda: not Path(f"/proc/{recorder}").exists())
    os.kill(int(child), signal.SIGKILL)
    return left.behind()


def once() -> int:
    """Leave a buffer behind; every second time with a status that tells of failure."""
    runs = LOCAL / "runs"
    count = int(runs.read_text()) if runs.exists() else 0
    runs.write_text(str(count + 1))
    with Ref() as ref, ref.export(4096) as buffer:
        ref.leak_ref(buffer)
    return FAILED * (count % 2)


def main() -> None:
    """DIR | once"""
    if sys.argv[1] == "once":
        sys.exit(once())
    out = Path(sys.argv[1])
    LOCAL.mkdir(mode=0o777)
    LOCAL.chmod(0o777)
    load(MODULE)
    nobody = ("setpriv", "--reuid", "65534", "--clear-groups")
    results = {name: run(name, *options) for name, options in RUNS.items()}
    results["nobody"] = run("nobody", "-k", "clean", prefix=nobody)
    results["skipped"] = run("skipped", "-k", "clean", "--dmabuf-skip", prefix=nobody)
    results["killed"] = killed()
    cycles = ["--cycles", "3", "-o", f"{LOCAL}/cycles.dbt"]
    results["cycles"] = watch.run(TRACE, "record", *cycles, "--", *ONCE)
    for file in [*LOCAL.glob("*.xml"), *LOCAL.glob("*.dbt")]:
        shutil.copy(file, out)
    (out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
