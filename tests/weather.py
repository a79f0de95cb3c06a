# SPDX-License-Identifier: Apache-2.0
"""Bad weather: what goes wrong for users, done on purpose in a guest.

``python3 -m tests.weather DIR`` (module loaded) leaves recordings and ``results.json`` in DIR: for
each case the exit status, stdout and stderr of the command. Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.kmod.client import load

TRACE: Final = "dmabuf-trace"
KPROBE_EVENTS: Final = Path("/sys/kernel/tracing/kprobe_events")
Result = dict[str, int | str]
NOBODY: Final = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def run(*command: str) -> Result:
    """Status and output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def shell(script: str) -> Result:
    """The same for a script, in mounts of its own."""
    return run("unshare", "-m", "sh", "-ec", script)


def refusals(out: Path) -> dict[str, Result]:
    """Kernels and users that can't trace."""
    into = f"-o {out}/refused.dbt -- touch {out}/was-run"
    hide_tracefs = "mount -t tmpfs none /sys/kernel/tracing; mount -t tmpfs none /sys/kernel/debug"
    hide_events = f"{hide_tracefs}; mkdir /sys/kernel/tracing/events"
    hide_libbpf = "for f in /usr/lib/*/libbpf.so.1; do mount --bind /dev/null $f; done"
    return {
        "no root": run(*NOBODY, TRACE, "record", "-o", "/tmp/refused.dbt", "true"),  # noqa: S108
        "no root, doctor": run(*NOBODY, TRACE, "doctor"),
        "no tracefs": shell(f"{hide_tracefs}; {TRACE} record {into}"),
        "no kprobe events": shell(f"{hide_events}; {TRACE} record {into}"),
        "no libbpf": shell(f"{hide_libbpf}; {TRACE} record {into}"),
        "no libbpf, trace": shell(f"{hide_libbpf}; {TRACE} trace true"),
        "doctor": run(TRACE, "doctor"),
        "doctor, JSON": run(TRACE, "doctor", "--json"),
    }


def commands(out: Path) -> dict[str, Result]:
    """Commands that fail by themselves: their status is passed on."""
    return {
        "fails": run(TRACE, "record", "-o", f"{out}/fails.dbt", "--", "sh", "-c", "exit 3"),
        "killed": run(TRACE, "record", "-o", f"{out}/killed.dbt", "--", "sh", "-c", "kill -9 $$"),
    }


def disk_full(out: Path) -> dict[str, Result]:
    """A file system that fills up while events pour in; the command must not suffer."""
    small = Path("/tmp/small")  # noqa: S108
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=True)
    done = f"python3 -m tests.scenarios cycles && touch {out}/ran-to-its-end"
    result = run(TRACE, "record", "-o", f"{small}/full.dbt", "--", "sh", "-c", done)
    shutil.copy(small / "full.dbt", out)
    return {"disk full": result}


class Recorder:
    """``record`` of the whole system, in the background and attached."""

    def __init__(self, output: Path) -> None:
        command = [TRACE, "record", "-o", str(output)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        if self.process.stderr is None or "recording" not in self.process.stderr.readline():
            raise RuntimeError("the recorder did not start")

    def end(self, number: signal.Signals) -> Result:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate()
        return {"status": self.process.returncode, "stdout": "", "stderr": stderr}


def wait_for_growth(path: Path, size: int) -> None:
    """Return when a file being written has at least ``size`` bytes."""
    while path.stat().st_size < size:
        os.sched_yield()


def endings(out: Path) -> dict[str, Result]:
    """Recorders that end by a signal, the rudest one while events pour in."""
    results = {"interrupted": Recorder(out / "interrupted.dbt").end(signal.SIGINT)}
    # on the guest's own tmpfs: a share by 9p loses what a killed process has written
    local = Path("/tmp/sigkill.dbt")  # noqa: S108
    recorder = Recorder(local)
    busy = subprocess.Popen(["python3", "-m", "tests.scenarios", "cycles"])
    wait_for_growth(local, 200_000)
    results["SIGKILL"] = recorder.end(signal.SIGKILL)
    busy.wait()
    shutil.copy(local, out)
    results["left by SIGKILL"] = run("cat", str(KPROBE_EVENTS))
    results["next one"] = run(TRACE, "record", "-o", f"{out}/next.dbt", "true")
    results["left in the end"] = run("cat", str(KPROBE_EVENTS))
    return results


def traces() -> dict[str, Result]:
    """The live view: text, JSON, and a reader that goes away."""
    client = ("python3", "-c", "from examples.clients import *; os.close(heap_alloc(4096))")
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


def main(arguments: Sequence[str]) -> None:
    """All cases."""
    out = Path(arguments[0])
    load(Path("/opt/kmod/dmabuf_ref.ko"))
    results = refusals(out) | commands(out) | disk_full(out) | endings(out) | traces()
    (out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
