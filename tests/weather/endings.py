# SPDX-License-Identifier: Apache-2.0
"""Recorders that end before their time, and files that go away under them."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.weather.watch import TRACE, Recorder, Result, run, wait_for_growth

# on the guest's own tmpfs: a share by 9p loses what a killed process has written
LOCAL: Final = Path("/tmp")  # noqa: S108
CGROUPS: Final = LOCAL / "cgroup"
ENOUGH: Final = 50_000
"""Bytes of a recording that is well under way."""


@contextmanager
def load() -> Iterator[None]:
    """Within: events pour in; at the end the last of them is awaited."""
    with subprocess.Popen(["python3", "-m", "tests.scenarios", "cycles"]):
        yield


def commands(out: Path) -> dict[str, Result]:
    """Commands that fail by themselves: their status is passed on."""
    return {
        "fails": run(TRACE, "record", "-o", f"{out}/fails.dbt", "--", "sh", "-c", "exit 3"),
        "killed": run(TRACE, "record", "-o", f"{out}/killed.dbt", "--", "sh", "-c", "kill -9 $$"),
    }


def disk_full(out: Path) -> dict[str, Result]:
    """A file system that fills up while events pour in; the command must not suffer."""
    small = LOCAL / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=True)
    done = f"python3 -m tests.scenarios cycles && touch {out}/ran-to-its-end"
    result = run(TRACE, "record", "-o", f"{small}/full.dbt", "--", "sh", "-c", done)
    shutil.copy(small / "full.dbt", out)
    return {"disk full": result}


def killed(out: Path) -> dict[str, Result]:
    """An interrupt, which is a proper end; and SIGKILL while events pour in."""
    results = {"interrupted": Recorder(out / "interrupted.dbt").end()}
    file = LOCAL / "sigkill.dbt"
    recorder = Recorder(file)
    with load():
        wait_for_growth(file, ENOUGH)
        results["SIGKILL"] = recorder.end(signal.SIGKILL)
    shutil.copy(file, out)
    return results


def out_of_memory(out: Path) -> dict[str, Result]:
    """A cgroup whose limit is reached: the kernel kills the recorder in it."""
    CGROUPS.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", str(CGROUPS)], check=True)
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")
    group = CGROUPS / "recorder"
    group.mkdir()
    file = LOCAL / "oom.dbt"
    join = f'echo $$ >{group}/cgroup.procs; exec "$@"'
    recorder = Recorder(file, prefix=("sh", "-c", join, "sh"))
    with load():
        wait_for_growth(file, ENOUGH)
        (group / "memory.max").write_text("1M")
        result = recorder.ended()
    result["kills"] = (group / "memory.events").read_text()
    shutil.copy(file, out)
    return {"out of memory": result}


def deleted(out: Path) -> dict[str, Result]:
    """The output is removed, replaced, moved or loses its directory, under the recorder."""
    results: dict[str, Result] = {}
    for name in ("deleted", "replaced", "moved", "homeless"):
        directory = LOCAL / name
        directory.mkdir()
        file = directory / f"{name}.dbt"
        recorder = Recorder(file)
        run("python3", "-m", "tests.scenarios", "blocked")
        match name:
            case "deleted":
                file.unlink()
            case "replaced":
                file.unlink()
                file.write_text("somebody else's")
            case "moved":
                file.rename(directory / "away.dbt")
            case "homeless":
                shutil.rmtree(directory)
        results[name] = recorder.end()
    shutil.copy(LOCAL / "deleted" / "deleted.dbt", out)
    shutil.copy(LOCAL / "replaced" / "replaced.dbt.restored", out / "replaced.dbt")
    shutil.copy(LOCAL / "moved" / "away.dbt", out / "moved.dbt")
    results["replaced"]["kept"] = (LOCAL / "replaced" / "replaced.dbt").read_text()
    return results
