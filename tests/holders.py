# SPDX-License-Identifier: Apache-2.0
"""Holders of every kind, and what each source of snapshots says about them.

Runs in a guest with the module loaded: ``python3 -m tests.holders DIR`` leaves ``holders.json``,
``idle.dbt``, ``sockets.dbt`` and ``fences.dbt``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

from dmabuf_trace import bufinfo, snapshot
from dmabuf_trace.blocks import SnapshotBlock
from tests.kmod.client import PAGE_SIZE, Ref, export_sync_file, load, map_user, set_name

TRACE: Final = "dmabuf-trace"
MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
NOBODY: Final = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
STAYING: Final = Path("/tmp/staying")  # noqa: S108 - of a guest that lives for this
"""Pids of processes that outlive what is recorded."""

SYNC_FILES: Final = 7
HOARDED: Final = 50
Inodes = dict[str, int]


@contextmanager
def child() -> Iterator[int]:
    """A process that has what this one has, until the end of the block; its pid."""
    ready, tell = os.pipe()
    gate, opener = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(opener)
        os.close(tell)
        os.read(gate, 1)  # returns when the last writing end is closed
        os._exit(0)
    os.close(tell)
    os.read(ready, 1)  # the child runs on: it has closed its end
    try:
        yield pid
    finally:
        os.close(opener)
        os.waitpid(pid, 0)
        os.close(gate)
        os.close(ready)


@contextmanager
def scripted(ref: Ref) -> Iterator[tuple[Inodes, int]]:
    """A buffer of each kind, by what holds it, and the pid of the child that shares one.

    Sizes are 1, 2, 4, ... pages in the order of the kinds.
    """
    kinds = ("fd", "mapped", "twice", "partial", "both", "in flight", "kernel")
    with ExitStack() as stack:
        made = {kind: ref.export(PAGE_SIZE << number) for number, kind in enumerate(kinds)}
        for buffer in made.values():
            stack.callback(buffer.close)
        set_name(made["both"].fd, "scan out")
        for kind in ("mapped", "twice", "twice", "partial", "both"):
            size = PAGE_SIZE if kind == "partial" else made[kind].size
            stack.enter_context(map_user(made[kind].fd, size))
        stack.callback(os.close, os.dup(made["fd"].fd))
        sender, receiver = stack.enter_context(pair())
        socket.send_fds(sender, [b"x"], [made["in flight"].fd])
        del receiver
        stack.callback(ref.detach, ref.attach(made["fd"]))
        ref.leak_ref(made["kernel"])
        stack.callback(ref.undo_leaks)
        for kind in ("mapped", "twice", "partial", "in flight", "kernel"):
            made[kind].close()
        for _ in range(SYNC_FILES):
            stack.callback(os.close, export_sync_file(made["fd"].fd))
        pid = stack.enter_context(child())
        yield {kind: buffer.ino for kind, buffer in made.items()}, pid


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    one, two = socket.socketpair()
    with one, two:
        yield one, two


def as_json(block: SnapshotBlock) -> dict[str, Any]:
    """A snapshot in an order that does not depend on its source."""
    rows = asdict(block)
    rows["buffers"] = sorted(rows["buffers"], key=lambda row: int(row["buffer"]))
    rows["holders"] = sorted(rows["holders"], key=lambda row: list(map(str, row.values())))
    return rows


def run(*command: str) -> dict[str, Any]:
    """Status and output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def looks(out: Path) -> dict[str, Any]:
    """All sources, and the command."""
    with snapshot.Looker() as looker:
        found = {
            "without": looker.without,
            "iterators": as_json(looker.take("start")),
            "proc": as_json(snapshot.from_proc("start")),
            "bufinfo": as_json(snapshot.with_all(looker.take("start"), bufinfo.read().buffers)),
        }
    commands = {
        "command": run(TRACE, "snapshot"),
        "command, JSON": run(TRACE, "snapshot", "--json"),
        "command, bufinfo": run(TRACE, "snapshot", "--json", "--bufinfo"),
        "no root": run(*NOBODY, TRACE, "snapshot", "--json"),
        "no root, bufinfo": run(*NOBODY, TRACE, "snapshot", "--bufinfo"),
    }
    # nothing happens but the looks of the recorder, and of another one beside it
    local = Path("/tmp/idle.dbt")  # noqa: S108
    idle = run(TRACE, "record", "-o", str(local), "--", TRACE, "snapshot")
    shutil.copy(local, out)
    return {**found, **commands, "idle": idle}


def _rename(comm: str) -> None:
    Path("/proc/self/comm").write_text(comm)


def _remain(comm: str) -> None:
    """Be a process that outlives the command: who waits for the end of its output must not wait."""
    _rename(comm)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)
    os.close(nowhere)


def _receive(socket_in: socket.socket, told: int) -> NoReturn:
    """Receive two fds, close one of them, and stay."""
    _remain("receiver")
    (first,) = socket.recv_fds(socket_in, 1, 1)[1]
    socket.recv_fds(socket_in, 1, 1)
    os.close(first)
    os.write(told, b"%d" % os.getpid())
    signal.pause()
    os._exit(0)


def send() -> None:
    """Send an fd that nobody receives, one that is received and closed, one that is kept.

    Whoever sent them ends, the receiver stays: its pid is left for who ends it.
    """
    _rename("sender")
    out, queue = socket.socketpair()
    read_out, read_in = socket.socketpair()
    told_out, told_in = os.pipe()
    if not os.fork():
        out.close()
        read_out.close()
        os.close(told_out)
        _receive(read_in, told_in)
    with Ref() as ref:
        for name, through in {"sent": out, "closed": read_out, "kept": read_out}.items():
            buffer = ref.export(PAGE_SIZE)
            set_name(buffer.fd, name)
            socket.send_fds(through, [b"x"], [buffer.fd])
            buffer.close()
        STAYING.write_bytes(os.read(told_out, 16))
    queue.close()


def export() -> None:
    """A process that closes no sync_file, and one that closes all but one; both stay."""
    pids = []
    for comm, keeps in {"hoarder": HOARDED, "tidy": 1}.items():
        ready, told = os.pipe()
        pid = os.fork()
        if not pid:
            _remain(comm)
            with Ref() as ref, ref.export(PAGE_SIZE) as buffer:
                files = [export_sync_file(buffer.fd) for _ in range(HOARDED)]
            for fd in files[keeps:]:
                os.close(fd)
            os.write(told, b"+")
            signal.pause()
        os.close(told)
        os.read(ready, 1)
        pids.append(pid)
    STAYING.write_text(" ".join(map(str, pids)))


def recorded(what: str, out: Path) -> dict[str, Any]:
    """A recording of one of :data:`SCENARIOS`; who stays behind is ended after it."""
    local = Path(f"/tmp/{what}.dbt")  # noqa: S108
    done = run(TRACE, "record", "-o", str(local), "--", "python3", "-m", "tests.holders", what)
    for pid in STAYING.read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    shutil.copy(local, out)
    return done


SCENARIOS: Final = {"sockets": send, "fences": export}


def main() -> None:
    """DIR, or a scenario"""
    if sys.argv[1] in SCENARIOS:
        SCENARIOS[sys.argv[1]]()
        return
    out = Path(sys.argv[1])
    load(MODULE)
    with Ref() as ref, scripted(ref) as (inodes, pid):
        found = {"inodes": inodes, "pids": [os.getpid(), pid], **looks(out)}
        found |= {what: recorded(what, out) for what in SCENARIOS}
    (out / "holders.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
