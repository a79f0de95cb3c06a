# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the parts of calls, for fds and for releases, and the marks that they leave.

A mark is what the workload itself knows: who did something, between which two moments, and what the
module counted. Each scenario prints its marks as JSON; a wait that they tell of was seen to wait.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    Buffer,
    ExportFlag,
    Importer,
    Op,
    Ref,
    Usage,
    load,
    sync_end,
    sync_start,
    unload,
)
from tests.kmod.harness import wait_until, waits_in

PAGE: Final = 4096
FUNCTIONS: Final = 11
"""Functions of the module's two tables of operations, without their release."""

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
RECORDING: Final = "RECORDING"
"""Environment variable with the path of the recording that is being made."""

CGROUPS: Final = Path("/sys/fs/cgroup")
DYNAMIC: Final = ExportFlag.DYNAMIC | ExportFlag.EAGER

Marks = dict[str, Any]


def _until_probed(ref: Ref) -> None:
    """Show both tables of operations, and wait until the recorder has said that it probes all."""
    for flags in (0, DYNAMIC):
        ref.export(PAGE, flags).close()
    recording = Path(os.environ[RECORDING])

    def probed() -> bool:
        return recording.read_bytes().count(b'"symbol":"dmabuf_ref:') == FUNCTIONS

    wait_until(probed, "all operations are probed")


def _overlapped(
    call: Callable[[], object], waits: Callable[[threading.Thread], bool], end: Callable[[], object]
) -> Marks:
    """Let a thread make a call, see it wait, end the wait: who, and from when to when at least."""
    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: waits(thread), "the call waits")
    mark = {"tid": thread.native_id, "since": time.monotonic_ns()}
    mark["until"] = time.monotonic_ns()
    end()
    thread.join()
    return mark


def _gated(ref: Ref, op: Op, call: Callable[[], object]) -> Marks:
    """A call that finds the exporter slow."""
    with Ref() as gate:
        gate.gate(True, op)

        def waits(_: threading.Thread) -> bool:
            return ref.counters().gate_waiters == 1

        return _overlapped(call, waits, lambda: gate.gate(False, op))


def _locked(ref: Ref) -> Marks:
    """Two maps of one buffer: the second waits for the lock that the first holds at the gate."""
    with Ref() as gate, ref.export(PAGE) as buffer:
        first, second = (ref.attach(buffer, Importer.IMP64) for _ in range(2))
        gate.gate(True, Op.MAP)
        holder = threading.Thread(target=ref.map, args=(first,))
        holder.start()
        wait_until(lambda: ref.counters().gate_waiters == 1, "the first map holds the lock")
        mark = _overlapped(
            lambda: ref.map(second),
            lambda thread: waits_in(thread.native_id, "dma_buf_map_attachment_unlocked"),
            lambda: gate.gate(False, Op.MAP),
        )
        holder.join()
        for handle in (first, second):
            ref.unmap(handle)
            ref.detach(handle)
        return {**mark, "buffer": buffer.ino}


def _slow_map(ref: Ref) -> Marks:
    with ref.export(PAGE) as buffer:
        handle = ref.attach(buffer, Importer.IMP64)
        mark = _gated(ref, Op.MAP, lambda: ref.map(handle))
        ref.unmap(handle)
        ref.detach(handle)
        return {**mark, "buffer": buffer.ino}


def _slow_pin(ref: Ref) -> Marks:
    """The importer asks for the pin."""
    with ref.export(PAGE, DYNAMIC) as buffer:
        handle = ref.attach(buffer, Importer.IMP64, flags=DYNAMIC_IMPORTER)
        mark = _gated(ref, Op.PIN, lambda: ref.pin(handle))
        ref.unpin(handle)
        ref.detach(handle)
        return {**mark, "buffer": buffer.ino}


def _slow_own_pin(ref: Ref) -> Marks:
    """The core pins for a static importer: up to 6.15 in the attach, later in the map."""
    with ref.export(PAGE, DYNAMIC) as buffer:

        def use() -> None:
            handle = ref.attach(buffer, Importer.IMP64)
            ref.map(handle)
            ref.unmap(handle)
            ref.detach(handle)

        return {**_gated(ref, Op.PIN, use), "buffer": buffer.ino}


def _fenced(ref: Ref, buffer: Buffer, usage: Usage, call: Callable[[], object]) -> Marks:
    fence = ref.fence(buffer, usage)
    mark = _overlapped(
        call, lambda thread: waits_in(thread.native_id, "dma_fence"), lambda: ref.signal(fence)
    )
    return {**mark, "buffer": buffer.ino}


def _fence_in_map(ref: Ref) -> Marks:
    with ref.export(PAGE, ExportFlag.EAGER) as buffer:
        handle = ref.attach(buffer, Importer.IMP64)
        mark = _fenced(ref, buffer, Usage.KERNEL, lambda: ref.map(handle))
        ref.unmap(handle)
        ref.detach(handle)
        return mark


def _fence_in_sync(ref: Ref) -> Marks:
    with ref.export(PAGE, ExportFlag.EAGER) as buffer:
        mark = _fenced(ref, buffer, Usage.WRITE, lambda: sync_start(buffer.fd))
        sync_end(buffer.fd)
        return mark


def _polled(ref: Ref) -> Marks:
    """Ask twice: while a writer's fence is pending, and after it has signalled."""
    with ref.export(PAGE, ExportFlag.EAGER) as buffer:
        fence = ref.fence(buffer, Usage.WRITE)
        poll = select.poll()
        poll.register(buffer.fd, select.POLLIN)
        poll.poll(0)
        ref.signal(fence)
        poll.poll(0)
        return {"buffer": buffer.ino}


def parts() -> Marks:
    """Everything that a call can wait for, once each."""
    with Ref() as ref:
        _until_probed(ref)
        before, since = asdict(ref.counters()), time.monotonic_ns()
        marks: Marks = {
            "locked": _locked(ref),
            "slow_map": _slow_map(ref),
            "slow_pin": _slow_pin(ref),
            "slow_own_pin": _slow_own_pin(ref),
            "fence_in_map": _fence_in_map(ref),
            "fence_in_sync": _fence_in_sync(ref),
            "polled": _polled(ref),
        }
        return {**marks, "since": since, "before": before, "after": asdict(ref.counters())}


def calm() -> Marks:
    """Every operation, and nothing to wait for."""
    with Ref() as ref:
        _until_probed(ref)
        before, since = asdict(ref.counters()), time.monotonic_ns()
        with ref.export(2 * PAGE) as buffer:
            handle = ref.attach(buffer, Importer.IMP64)
            for _ in range(3):
                ref.map(handle)
                ref.unmap(handle)
            ref.vmap(handle)
            ref.vunmap(handle)
            sync_start(buffer.fd)
            sync_end(buffer.fd)
            buffer.mmap().close()
            ref.detach(handle)
        with ref.export(PAGE, DYNAMIC) as buffer:
            static = ref.attach(buffer, Importer.IMP64)
            ref.map(static)
            ref.unmap(static)
            ref.detach(static)
            handle = ref.attach(buffer, Importer.IMP64, flags=DYNAMIC_IMPORTER)
            ref.pin(handle)
            ref.unpin(handle)
            ref.detach(handle)
        return {"since": since, "before": before, "after": asdict(ref.counters())}


def reloaded() -> Marks:
    """The exporter goes while it is probed, and comes back."""
    with Ref() as ref:
        _until_probed(ref)
    unload()
    load(MODULE)
    with Ref() as ref:
        before, since = asdict(ref.counters()), time.monotonic_ns()
        with ref.export(PAGE, DYNAMIC) as buffer:
            handle = ref.attach(buffer, Importer.IMP64)
            ref.map(handle)
            ref.unmap(handle)
            ref.detach(handle)
        return {"since": since, "before": before, "after": asdict(ref.counters())}


def _child(call: Callable[[], object]) -> int:
    """Run a call in a child and wait for it; its pid."""
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            call()
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def _copy_by_socket(fd: int) -> int:
    """A copy of an fd that went through a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [fd])
        return socket.recv_fds(theirs, 1, 1)[1][0]


def fds() -> Marks:
    """Each way for an fd to come and to go."""
    _child(lambda: None)  # no buffer yet: no event
    with Ref() as ref:
        buffer, other = ref.export(PAGE), ref.export(PAGE)
        installed = [(buffer.ino, buffer.fd, False), (other.ino, other.fd, False)]

        def came(fd: int, dup2: bool = False) -> int:
            installed.append((buffer.ino, fd, dup2))
            return fd

        copies = [came(os.dup(buffer.fd)), came(_copy_by_socket(buffer.fd))]
        came(os.dup2(buffer.fd, 100, inheritable=False), dup2=True)
        came(os.dup2(buffer.fd, 101), dup2=True)
        came(os.dup2(buffer.fd, other.fd, inheritable=False), dup2=True)  # other's last fd goes
        forks = [(os.getpid(), _child(lambda: None))]  # exit closes all
        forks.append((os.getpid(), _child(lambda: os.execv("/bin/true", ["true"]))))  # noqa: S606
        thread = threading.Thread(target=lambda: None)  # shares the table: no event
        thread.start()
        thread.join()
        grandchild, told = os.pipe()
        parent = _child(lambda: os.write(told, b"%d" % _child(lambda: None)))
        forks += [(os.getpid(), parent), (parent, int(os.read(grandchild, 16)))]
        os.closerange(100, 102)
        for fd in (*copies, other.fd, buffer.fd):
            os.close(fd)
        _child(lambda: None)  # none left: no event
        return {"pid": os.getpid(), "installed": installed, "forks": forks}


def held_before() -> Marks:
    """A fork of a process that has held its buffer since before another recording began."""
    ready, go = Path("/tmp/ready"), Path("/tmp/go")  # noqa: S108 - of a guest that lives for this
    for fifo in (ready, go):
        os.mkfifo(fifo)
    inner = Path(os.environ[RECORDING]).with_name("inner.dbt")
    command = ["dmabuf-trace", "record", "-o", str(inner), "--"]
    with Ref() as ref, ref.export(PAGE):
        recorder = subprocess.Popen([*command, "sh", "-c", f"echo > {ready}; cat {go}"])
        ready.read_text()
        child = _child(lambda: None)
        go.write_text("")
        if status := recorder.wait():
            raise RuntimeError(f"the inner recorder failed: {status}")
    return {"pid": os.getpid(), "child": child}


def releases() -> Marks:
    """A last reference dropped by close, by munmap, and by the collector of sockets' garbage."""
    with Ref() as ref:
        closed = ref.export(PAGE)
        closed.close()
        mapped = ref.export(PAGE)
        vma = mapped.mmap()
        mapped.close()
        vma.close()
        lost = ref.export(PAGE)
        ours, theirs = socket.socketpair()
        # a socket in its own queue, and with it the buffer: nobody can ever receive them
        ours.sendmsg(
            [b"x"],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno(), lost.fd]))],
        )
        lost.close()
        before = ref.counters().op_release
        ours.close()
        theirs.close()

        def collected() -> bool:
            for each in socket.socketpair():  # whoever closes one starts the collector
                each.close()
            return ref.counters().op_release > before

        wait_until(collected, "garbage is collected")
        return {"closed": closed.ino, "mapped": mapped.ino, "lost": lost.ino}


def moved() -> Marks:
    """A process that changes its cgroup between two exports."""
    place = CGROUPS / "moved-here"
    place.mkdir(exist_ok=True)
    with Ref() as ref:
        ref.export(PAGE).close()
        home = Path("/proc/self/cgroup").read_text()
        (place / "cgroup.procs").write_text(str(os.getpid()))
        ref.export(PAGE).close()
        (CGROUPS / "cgroup.procs").write_text(str(os.getpid()))
    return {"pid": os.getpid(), "home": home, "place": "/moved-here"}


SCENARIOS: Final[dict[str, Callable[[], Marks]]] = {
    scenario.__name__: scenario
    for scenario in (fds, releases, moved, held_before, calm, parts, reloaded)
}


def show(name: str) -> None:
    """Run a scenario and print its marks."""
    print(json.dumps(SCENARIOS[name]()))
