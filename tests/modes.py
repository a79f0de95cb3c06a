# SPDX-License-Identifier: Apache-2.0
"""The same work, recorded in every attach mode and by both loaders.

Runs in a guest: ``python3 -m tests.modes DIR`` leaves ``NAME.dbt`` for each of :data:`RECORDINGS`
that this kernel doesn't refuse, and ``results.json``: status and stderr of each, and what the
module and ftrace counted meanwhile. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests import oracle
from tests.cycle import PAGE
from tests.kmod.client import (
    Importer,
    Op,
    Ref,
    export_sync_file,
    load,
    set_name,
    sync_end,
    sync_start,
)
from tests.scenarios import blocked, cycles, movable, racing

CYCLES: Final = 500
RACER_CYCLES: Final = 150
VARIED: Final = 20

RELEASE: Final = os.uname().release
NO_BTF: Final = (
    "mount -t tmpfs none /sys/kernel/btf;"
    f" ! test -e /lib/modules/{RELEASE}/build/vmlinux ||"
    f" mount --bind /dev/null /lib/modules/{RELEASE}/build/vmlinux"
)
NO_HEADERS: Final = "mount -t tmpfs none /usr/src"
NO_BCC: Final = "mount -t tmpfs none /usr/lib/python3/dist-packages/bcc"

RECORDINGS: Final[dict[str, tuple[str, ...]]] = {
    "auto": (),
    "kprobe": ("--attach", "kprobe"),
    "multi": ("--attach", "multi"),
    "fentry": ("--attach", "fentry"),
    "bcc": (),
}
"""Name, and options; ``bcc`` is what is left to choose where the kernel has no BTF."""


def varied() -> None:
    """Every operation that the busy scenarios don't make, some of them failing."""
    with Ref() as ref:
        for count in range(VARIED):
            with ref.export(PAGE * (count % 3 + 1)) as buffer:
                set_name(buffer.fd, f"varied-{count}")
                sync_start(buffer.fd)
                sync_end(buffer.fd)
                os.close(export_sync_file(buffer.fd))
                vma = buffer.mmap()
                handle = ref.attach(buffer, Importer.SEG)
                ref.inject(Op.MAP, errno.ENOMEM)
                try:
                    ref.map(handle)
                except OSError:
                    ref.map(handle)
                ref.unmap(handle)
                ref.vmap(handle)
                ref.vunmap(handle)
                ref.detach(handle)
                vma.close()


def work() -> None:
    """What is recorded: in one process at full speed, racing, blocked in one call."""
    cycles(CYCLES)
    racing(RACER_CYCLES)
    blocked()
    movable()
    varied()


def run(*command: str) -> dict[str, Any]:
    """Status and stderr of a command."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stderr": done.stderr}


def hidden(what: str, *command: str) -> dict[str, Any]:
    """The same, in mounts of its own that hide something."""
    return run("unshare", "-m", "sh", "-ec", f'{what}; exec "$@"', "sh", *command)


def record(name: str, directory: Path) -> dict[str, Any]:
    """Make a recording; the counts are of the time that it took."""
    output = str(directory / f"{name}.dbt")
    command = ["dmabuf-trace", "record", "-o", output, *RECORDINGS[name], "--"]
    command += ["python3", "-m", "tests.modes", "work"]
    oracle.start()
    with Ref() as ref:
        before = asdict(ref.counters())
        done = hidden(NO_BTF, *command) if name == "bcc" else run(*command)
        after = asdict(ref.counters())
    counted = {key: after[key] - before[key] for key in after}
    done |= {"module": counted, "ftrace": oracle.hits()}
    oracle.stop()
    return done


def refusals(directory: Path) -> dict[str, dict[str, Any]]:
    """Loaders that can't be had."""
    into = ("-o", str(directory / "refused.dbt"), "true")
    bcc = ("dmabuf-trace", "record", "--loader", "bcc", *into)
    return {
        "no bcc": hidden(NO_BCC, *bcc),
        "no headers": hidden(NO_HEADERS, *bcc),
        "neither": hidden(f"{NO_BTF}; {NO_BCC}", "dmabuf-trace", "record", *into),
    }


def main() -> None:
    """Work | DIR [NAME...]."""
    if sys.argv[1:] == ["work"]:
        work()
        return
    directory = Path(sys.argv[1])
    load(Path("/opt/kmod/dmabuf_ref.ko"))
    results = {name: record(name, directory) for name in sys.argv[2:] or RECORDINGS}
    results |= refusals(directory)
    (directory / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
