# SPDX-License-Identifier: Apache-2.0
"""Kernels and users that can't trace, and those that can with less."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.weather.watch import TRACE, Result, run, shell

NOBODY: Final = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
NO_TRACEFS: Final = "mount -t tmpfs none /sys/kernel/tracing; mount -t tmpfs none /sys/kernel/debug"
ALLOCATE: Final = "import os; from examples.clients import heap_alloc; os.close(heap_alloc(4096))"
LACKING: Final = {
    "no CAP_BPF": "-bpf,-sys_admin",
    "no CAP_PERFMON": "-perfmon,-sys_admin",
    "no capabilities": "-bpf,-perfmon,-sys_admin",
}
"""Root whose bounding set has been cut."""


def refusals(out: Path) -> dict[str, Result]:
    """Nothing is recorded, and the command does not run."""
    into = f"-o {out}/refused.dbt -- touch {out}/was-run"
    hide_events = f"{NO_TRACEFS}; mkdir /sys/kernel/tracing/events"
    hide_libbpf = "for f in /usr/lib/*/libbpf.so.1; do mount --bind /dev/null $f; done"
    refused = {
        "no root": run(*NOBODY, TRACE, "record", "-o", "/tmp/refused.dbt", "true"),  # noqa: S108
        "no root, doctor": run(*NOBODY, TRACE, "doctor"),
        "no tracefs": shell(f"{NO_TRACEFS}; {TRACE} record {into}"),
        "no kprobe events": shell(f"{hide_events}; {TRACE} record {into}"),
        "no libbpf": shell(f"{hide_libbpf}; {TRACE} record {into}"),
        "no libbpf, trace": shell(f"{hide_libbpf}; {TRACE} trace true"),
    }
    for name, cut in LACKING.items():
        refused[name] = shell(f"exec setpriv --bounding-set={cut} {TRACE} record {into}")
    lacking = f"exec setpriv --bounding-set={LACKING['no CAP_BPF']}"
    refused["no CAP_BPF, doctor"] = shell(f"{lacking} {TRACE} doctor")
    refused["no CAP_BPF, snapshot"] = shell(f"{lacking} {TRACE} snapshot")
    return refused


def lesser(out: Path) -> dict[str, Result]:
    """Something is missing that can be done without."""
    client = f"python3 -c '{ALLOCATE}'"
    hide_debugfs = "mount -t tmpfs none /sys/kernel/debug"
    hide_btf = "mount -t tmpfs none /sys/kernel/btf"
    return {
        "doctor": run(TRACE, "doctor"),
        "doctor, JSON": run(TRACE, "doctor", "--json"),
        "no debugfs": shell(f"{hide_debugfs}; {TRACE} record -o {out}/no-debugfs.dbt -- {client}"),
        "no debugfs, bufinfo": shell(f"{hide_debugfs}; {TRACE} snapshot --bufinfo"),
        "no BTF, no headers": shell(
            f"{hide_btf}; mount -t tmpfs none /usr/src; {TRACE} record -o {out}/refused.dbt -- "
            f"touch {out}/was-run"
        ),
        "no BTF, snapshot": shell(f"{hide_btf}; {TRACE} snapshot"),
    }


def traces(_: Path) -> dict[str, Result]:
    """The live view: text, JSON, and a reader that goes away."""
    client = ("python3", "-c", ALLOCATE)
    return {
        "trace": run(TRACE, "trace", *client),
        "trace, JSON": run(TRACE, "trace", "--json", *client),
        "trace, reader gone": broken_pipe(TRACE, "trace", *client),
    }


def broken_pipe(*command: str) -> Result:
    """A command whose stdout nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    _, stderr = process.communicate()
    return {"status": process.returncode, "stdout": "", "stderr": stderr}
