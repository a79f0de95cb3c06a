# SPDX-License-Identifier: Apache-2.0
"""What comes again, and what goes on under another name: pids, programs, fds, addresses.

Runs in a guest: ``python3 -m tests.identity record DIR`` leaves ``identity.dbt`` and the pids of
its processes in ``identity.json``. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.cycle import PAGE
from tests.findings import named
from tests.kmod.client import Importer, Ref, load
from tests.kmod.harness import in_child, wait_until

LOCAL: Final = Path("/tmp/identity.dbt")  # noqa: S108 - the guest's own
LAST_PID: Final = Path("/proc/sys/kernel/ns_last_pid")
AGAIN: Final = 64
INHERITED: Final = 8
"""Number of the fd that stays open in another program."""

COPIED: Final = 9
"""Number of the one that the other program makes of it."""


def call_me(comm: str) -> None:
    """Give the main thread a name."""
    Path("/proc/self/comm").write_text(comm)


def _child_with(pid: int, call: Callable[[], None]) -> int:
    """A child with that pid, which nobody has; one with any, for 0."""
    while True:
        if pid:
            LAST_PID.write_text(str(pid - 1))
        child = in_child(lambda: call() if pid in (0, os.getpid()) else None)
        if pid in (0, child):
            return child
        os.waitpid(child, 0)


def _export_and_send(ref: Ref, comm: str, receiver: socket.socket) -> None:
    call_me(comm)
    socket.send_fds(receiver, [b"x"], [named(ref, f"of-{comm}").fd])


def pids(ref: Ref) -> int:
    """Two processes have one pid, one after the other; their parent keeps what they made."""
    pid = 0
    for comm in ("first", "second"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = _child_with(pid, partial(_export_and_send, ref, comm, theirs))
            socket.recv_fds(ours, 1, 1)
            os.waitpid(pid, 0)
    return pid


def _become_another(ref: Ref) -> None:
    call_me("before-exec")
    kept = named(ref, "kept")
    os.dup2(kept.fd, INHERITED, inheritable=True)
    named(ref, "shut")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):  # the recorder would wait for who has its ends of pipes
        os.dup2(null, fd)
    script = f"exec {COPIED}<&{INHERITED}; exec sleep infinity"
    os.execv("/bin/sh", ["sh", "-c", script])  # noqa: S606


def programs(ref: Ref) -> int:
    """A process that becomes another program, twice, and lives longer than the recording."""
    released = ref.counters().op_release
    pid = in_child(lambda: _become_another(ref))
    comm = Path(f"/proc/{pid}/comm")
    wait_until(lambda: comm.read_text() == "sleep\n", "the last program runs")
    wait_until(lambda: ref.counters().op_release > released, "what exec shuts is released")
    return pid


def numbers(ref: Ref) -> None:
    """Buffers whose fds have one number, and whose objects have few addresses."""
    for turn in range(AGAIN):
        with ref.export(PAGE << turn % 2) as buffer:
            importer = list(Importer)[turn % 2]
            ref.detach(ref.attach(buffer, importer))


def work() -> None:
    """What is recorded; prints pids."""
    call_me("keeper")
    with Ref() as ref:
        own = named(ref, "own")
        found = {"keeper": os.getpid(), "program": programs(ref), "reused": pids(ref)}
        numbers(ref)
        own.close()
    print(json.dumps(found))


def main() -> None:
    """Work | record DIR."""
    match sys.argv[1:]:
        case ["record", directory]:
            load(Path("/opt/kmod/dmabuf_ref.ko"))
            recorder = ["dmabuf-trace", "record", "-o", str(LOCAL), "--"]
            command = [*recorder, "python3", "-m", "tests.identity", "work"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            os.kill(json.loads(done.stdout)["program"], signal.SIGKILL)
            Path(directory, "identity.json").write_bytes(done.stdout)
            Path(directory, LOCAL.name).write_bytes(LOCAL.read_bytes())
        case ["work"]:
            work()
        case _:
            sys.exit("usage: python3 -m tests.identity work | record DIR")


if __name__ == "__main__":
    main()
