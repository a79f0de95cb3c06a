# SPDX-License-Identifier: Apache-2.0
"""The self-test of the gate on a real kernel: by each exporter, and blinded in each way.

``python3 -m tests.control DIR`` (in a guest) leaves ``results.json``: of each self-test its status
and output, and the buffers that the kernel lists afterwards. Beside it is ``exporters.dbt``, made
by the recorder for targets: known leaks by each exporter in turn, with ``NAME.json``, what each
says that it planted. Needs no module of ours.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from dmabuf_trace import bufinfo
from dmabuf_trace.control import Report
from tests.weather.refused import NOBODY
from tests.weather.watch import TRACE, run, shell

Result = dict[str, Any]

NODES: Final = {
    "heap": ("/dev/dma_heap", "mount -t tmpfs none /dev/dma_heap"),
    "udmabuf": ("/dev/udmabuf", "mount --bind /dev/null /dev/udmabuf"),
    "vgem": ("/dev/dri", "mount -t tmpfs none /dev/dri"),
    "vivid": ("/dev/video0", "mount --bind /dev/null /dev/video0"),
}
"""Exporters in the order in which they are tried: where they are, and what hides them."""

SELF_TEST: Final = f"{TRACE} check --self-test"
BLIND: Final = {
    "nothing passes the filter": "--exporter nothing",
    "attachments are not recorded": "--events buffers,fds,cpu",
}
"""Options that make the gate miss something."""


def look(command: str) -> Result:
    """A self-test, and what is left of it."""
    done = shell(command)
    return {**done, "left": [found.buffer for found in bufinfo.read().buffers]}


def without(names: Iterable[str]) -> str:
    """Shell that hides exporters in the mounts of its own process."""
    return "".join(f"test ! -e {NODES[name][0]} || {NODES[name][1]}; " for name in names)


def plant_by_each(out: Path) -> list[str]:
    """Record known leaks by one exporter after the other; those that this kernel has."""
    there = [name for name in NODES if Path(NODES[name][0]).exists()]
    steps = []
    for at, name in enumerate(there):  # $PPID is the recorder
        plant = f"python3 -m dmabuf_trace.control --until $0 --report {out}/{name}.json"
        steps.append(f"unshare -m sh -ec '{without(there[:at])}{plant}' $PPID")
    local = Path("/tmp/exporters.dbt")  # noqa: S108 - of a guest that lives for this
    recorder = ["python3", "-m", "dmabuf_trace.target", "-o", str(local), "--", "sh", "-ec"]
    subprocess.run([*recorder, "; ".join(steps)], check=True)
    reports = [Report.from_json((out / f"{name}.json").read_text()) for name in there]
    for pid in (each.pid for report in reports for each in report.planted):
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        select.select([process], [], [])  # it ends with the recorder
        os.close(process)
    (out / "exporters.dbt").write_bytes(local.read_bytes())
    return there


def main() -> None:
    """DIR"""
    out = Path(sys.argv[1])
    alone = without(NODES)
    results: dict[str, Any] = {
        "no exporter": look(f"{alone}exec {SELF_TEST}"),
        "no exporter, skipped": look(f"{alone}exec {SELF_TEST} --skip-untraceable"),
        "no root": run(*NOBODY, *SELF_TEST.split()),
    }
    subprocess.run(["modprobe", "vgem"], check=True)
    results["works"] = look(SELF_TEST)
    for name, options in BLIND.items():
        results[name] = look(f"{SELF_TEST} --json {options}")
    subprocess.run(["modprobe", "vivid", "n_devs=1"], check=True)
    subprocess.run(["udevadm", "settle"], check=True)
    results["exporters"] = plant_by_each(out)
    results["left"] = [found.buffer for found in bufinfo.read().buffers]
    (out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
