# SPDX-License-Identifier: Apache-2.0
"""What befalls the system while a recorder watches: NAME.dbt of each, and what was counted."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from examples import clients
from tests import oracle
from tests.cycle import cycles
from tests.kmod.client import Ref, load, unload
from tests.weather.watch import TRACE, Recorder, Result, run, wait_until

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
PROCESSOR: Final = Path("/sys/devices/system/cpu/cpu1/online")
LOADS: Final = 3
LOAD_CYCLES: Final = 200
BATCH: Final = 100
PROCESSES: Final = 5_000
"""That many with a buffer's fd, and as many without."""

FORKS: Final = f"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{{
	pid_t children[{BATCH}];
	int i, left;

	for (left = {PROCESSES}; left; left -= {BATCH}) {{
		for (i = 0; i < {BATCH}; i++) {{
			children[i] = fork();
			if (children[i] < 0)
				return 1;
			while (!children[i])
				pause();
		}}
		for (i = 0; i < {BATCH}; i++)
			kill(children[i], SIGKILL);
		for (i = 0; i < {BATCH}; i++)
			waitpid(children[i], 0, 0);
	}}
	return 0;
}}
"""


def counted(out: Path, name: str, storm: Callable[[], None], *options: str) -> dict[str, Result]:
    """Record a storm; ftrace's counts are beside what the recorder said."""
    oracle.start()
    recorder = Recorder(out / f"{name}.dbt", *options)
    storm()
    result = recorder.end()
    result["ftrace"] = oracle.hits()
    oracle.stop()
    return {name: result}


def reloads() -> None:
    """The exporter goes and comes back, at another address perhaps."""
    for _ in range(LOADS):
        cycles(LOAD_CYCLES)
        unload()
        load(MODULE)


def processor_away() -> None:
    """A processor goes offline and comes back, while eight processes are busy."""
    with Ref() as ref, subprocess.Popen(["python3", "-m", "tests.scenarios", "racing"]) as busy:

        def more_events() -> None:
            before = ref.counters().map_ok
            wait_until(
                "events", lambda: ref.counters().map_ok > before + 200 or busy.poll() is not None
            )

        more_events()
        PROCESSOR.write_text("0")
        more_events()
        PROCESSOR.write_text("1")
    if busy.returncode:
        raise RuntimeError("the racers failed")


def processes() -> None:
    """Many are forked and killed, half of them with a buffer that their parent had open."""
    with tempfile.TemporaryDirectory() as directory:
        forks = Path(directory, "forks")
        compiler = ["gcc", "-O", "-x", "c", "-o", str(forks), "-"]
        subprocess.run(compiler, input=FORKS, text=True, check=True)
        with clients.closing(clients.heap_alloc(4096)) as fd:
            for inherited in ((fd,), ()):
                subprocess.run([forks], pass_fds=inherited, check=True)


def three_recorders(out: Path) -> dict[str, Result]:
    """One of the whole system, within its time one in a container's processes, and one in that."""
    inner: dict[str, Result] = {}

    def others() -> None:
        contained = ("unshare", "--pid", "--fork", "--mount-proc")
        second = (*contained, TRACE, "record", "-o", f"{out}/second.dbt", "--")
        third = (TRACE, "record", "-o", f"{out}/third.dbt", "--")
        inner["second"] = run(*second, *third, "python3", "-m", "tests.scenarios", "blocked")

    return {**counted(out, "first", others), **inner}


def storms(out: Path) -> dict[str, Result]:
    """All of them."""
    return {
        **counted(out, "reloads", reloads),
        **counted(out, "processor", processor_away),
        **counted(out, "processes", processes),
        **three_recorders(out),
    }
