# SPDX-License-Identifier: Apache-2.0
"""Several processes at work on buffers of each other, while several recorders with filters watch.

Runs in a guest: ``python3 -m tests.watching DIR`` leaves a recording for each of :func:`filters`,
``user-stacks.dbt``, ``only-command.dbt``, and ``watching.json``: who did what.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dmabuf_trace.blocks import SnapshotBlock
from dmabuf_trace.recording import Reader
from examples.clients import heap_alloc
from tests.cycle import cycle
from tests.kmod.client import PAGE_SIZE, Buffer, Ref, load
from tests.weather.watch import Recorder, run, wait_for_growth

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
LOCAL: Final = Path("/tmp/watching")  # noqa: S108 - the guest's own: a share is slow and may lag
CYCLES: Final = 20
COMM: Final = "camera"
SIZE: Final = 4 * PAGE_SIZE

CLIENT: Final = """
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct allocation { uint64_t length; uint32_t fd, fd_flags; uint64_t heap_flags; };

static int __attribute__((noinline)) allocate(int heap)
{
	struct allocation wanted = { .length = 8192, .fd_flags = O_RDWR };
	volatile int failed = ioctl(heap, 0xc0184800, &wanted);

	return failed ? -1 : (int)wanted.fd;
}

int __attribute__((noinline)) make_frame(int heap)
{
	volatile int fd = allocate(heap);

	return fd;
}

int main(void)
{
	char go;
	volatile int fd = make_frame(open("/dev/dma_heap/system", O_RDWR));

	return fd < 0 || read(0, &go, 1) < 0;	/* the end of its input is its own */
}
"""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Actor:
    """A process that does what it is told, in the order in which it is told."""

    def __init__(self) -> None:
        self._socket, theirs = pair()
        self.pid = os.fork()
        if not self.pid:
            self._socket.close()
            Worker(theirs).work()
            os._exit(0)
        theirs.close()

    def begin(self, verb: str, *arguments: object) -> None:
        """Let it do something, without waiting."""
        self._socket.sendall(json.dumps([verb, *arguments]).encode() + b"\n")

    def done(self) -> Any:
        """Wait for the end of what was begun; what came of it."""
        return json.loads(self._socket.recv(1 << 16))

    def do(self, verb: str, *arguments: object) -> Any:
        """Let it do something, and wait."""
        self.begin(verb, *arguments)
        return self.done()

    def give(self, inode: int, to: Actor) -> None:
        """Hand one of its buffers to another process."""
        self.begin("give", inode)
        _, (fd,), _, _ = socket.recv_fds(self._socket, 1, 1)
        to.begin("take", inode)
        socket.send_fds(to._socket, [b"!"], [fd])
        to.done()
        os.close(fd)

    def end(self) -> None:
        """Let it end: actors that were made later have the socket as well."""
        self._socket.shutdown(socket.SHUT_RDWR)
        os.waitpid(self.pid, 0)


class Worker:
    """What an actor does; each method but :meth:`work` is a verb."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._ref = Ref()
        self._buffers: dict[int, Buffer] = {}

    def work(self) -> None:
        while line := self._socket.recv(1 << 12):
            verb, *arguments = json.loads(line)
            result = getattr(self, verb)(*arguments)
            if verb != "give":
                self._socket.sendall(json.dumps(result).encode())

    def cycles(self, count: int) -> list[int]:
        """Buffers from export to release; their inode numbers."""
        inodes = []
        for _ in range(count):
            with self._ref.export(SIZE) as buffer:
                inodes.append(buffer.ino)
                self._use(buffer)
        return inodes

    def child_cycles(self, count: int) -> list[int]:
        """The same in a child of a child of its own."""
        reader, writer = os.pipe()
        if pid := os.fork():
            os.close(writer)
            os.waitpid(pid, 0)
            with os.fdopen(reader) as file:
                inodes: list[int] = json.load(file)
            return inodes
        if pid := os.fork():
            os.waitpid(pid, 0)
            os._exit(0)
        os.write(writer, json.dumps(self.cycles(count)).encode())
        os._exit(0)

    def until_told(self) -> int:
        """Cycles until something else comes; how many."""
        count = 0
        self._socket.setblocking(False)
        while True:
            cycle(self._ref)
            count += 1
            try:
                self._socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            self._socket.setblocking(True)
            return count

    def nothing(self) -> None:
        pass

    def heap(self, count: int) -> None:
        """Buffers of another exporter."""
        for number in range(count):
            os.close(heap_alloc(PAGE_SIZE << number % 4))

    def export(self, size: int) -> int:
        buffer = self._ref.export(size)
        self._buffers[buffer.ino] = buffer
        return buffer.ino

    def use(self, inode: int) -> None:
        self._use(self._buffers[inode])

    def _use(self, buffer: Buffer) -> None:
        handle = self._ref.attach(buffer)
        self._ref.map(handle)
        self._ref.unmap(handle)
        self._ref.detach(handle)

    def close(self, inode: int) -> None:
        self._buffers.pop(inode).close()

    def rename(self, comm: str) -> None:
        Path("/proc/self/comm").write_text(comm)

    def give(self, inode: int) -> None:
        socket.send_fds(self._socket, [b"!"], [self._buffers[inode].fd])

    def take(self, inode: int) -> None:
        _, (fd,), _, _ = socket.recv_fds(self._socket, 1, 1)
        self._buffers[inode] = Buffer(fd, inode, 0)


def filters(watched: Actor) -> dict[str, list[str]]:
    """Options of each recorder, by the name of its recording."""
    return {
        "all": [],  # waits and operations depend on the moment: they are left out
        "pid": ["--pid", str(watched.pid)],
        "comm": ["--comm", COMM],
        "exporter": ["--exporter", "system"],
        "size": ["--min-size", "8K", "--max-size", str(SIZE)],
        "both": ["--pid", str(watched.pid), "--exporter", "system", "--max-size", "4K"],
    }


def scripted(out: Path) -> dict[str, Any]:
    """The processes at work, and what each of them made."""
    one, other, third = Actor(), Actor(), Actor()
    held = {"one": one.do("export", SIZE), "other": other.do("export", PAGE_SIZE)}
    held["never"] = other.do("export", PAGE_SIZE)
    local = {name: LOCAL / f"{name}.dbt" for name in filters(one)}
    groups = ("--events", "buffers,fds,devices,cpu")
    recorders = [Recorder(local[name], *groups, *more) for name, more in filters(one).items()]
    one.begin("cycles", CYCLES)
    other.begin("cycles", CYCLES)  # at the same time
    made = {"one": one.done(), "other": other.done()}
    made["one's child"] = one.do("child_cycles", CYCLES // 2)
    shared = one.do("export", SIZE)
    one.give(shared, other)
    one.do("close", shared)
    other.do("use", shared)
    other.do("close", shared)
    one.do("use", held["one"])
    other.do("use", held["other"])
    other.give(held["other"], one)  # from here on it is one's as well
    other.do("use", held["other"])
    other.do("use", held["never"])
    third.do("rename", COMM)
    made["renamed"] = third.do("cycles", CYCLES)
    one.do("heap", 8)
    other.do("heap", 8)
    results = [recorder.end(signal.SIGINT) for recorder in recorders]
    pids = {"one": one.pid, "other": other.pid, "renamed": third.pid}
    for actor in (one, other, third):
        actor.end()
    for path in local.values():
        shutil.copy(path, out)
    made |= {"shared": [shared]}
    return {"pids": pids, "held": held, "made": made, "results": results}


def only_command(out: Path) -> dict[str, Any]:
    """A command at work, and another process all the while."""
    other = Actor()
    other.begin("until_told")
    command = ["python3", "-m", "tests.watching", "command", str(LOCAL / "command.json")]
    options = ["-o", str(LOCAL / "only-command.dbt"), "--only-command", "--", *command]
    result = run("dmabuf-trace", "record", *options)
    other.begin("nothing")
    count = other.done()
    other.done()
    other.end()
    shutil.copy(LOCAL / "only-command.dbt", out)
    inodes = json.loads((LOCAL / "command.json").read_text())
    return {"result": result, "inodes": inodes, "cycles of another": count}


def command(result: Path) -> None:
    """What is recorded there: the command itself and a child of it."""
    worker = Worker(pair()[0])
    inodes = worker.cycles(CYCLES) + worker.child_cycles(CYCLES)
    result.write_text(json.dumps(inodes))


def wait_for_look(path: Path, found: Callable[[SnapshotBlock], bool]) -> None:
    """Return when a periodic look in a recording that grows is as ``found`` says."""
    while True:
        with Reader(path) as reader:
            looks = [block for block in reader.blocks() if isinstance(block, SnapshotBlock)]
        if looks[-1].when == "during" and found(looks[-1]):
            return


def user_stacks(out: Path) -> dict[str, Any]:
    """A client that ends long before the recording; its buffer shows in periodic looks."""
    (LOCAL / "client.c").write_text(CLIENT)
    client = LOCAL / "client"
    flags = ["-O1", "-g0", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]
    subprocess.run(["gcc", *flags, "-o", client, f"{client}.c"], check=True)
    path = LOCAL / "user-stacks.dbt"
    recorder = Recorder(path, "--stacks", "both", "--holders-every", "100ms")
    before = path.stat().st_size
    with subprocess.Popen([client], stdin=subprocess.PIPE) as process:
        wait_for_growth(path, before + 1)
        wait_for_look(path, lambda look: any(h.pid == process.pid for h in look.holders))
    client.unlink()
    wait_for_look(path, lambda look: all(h.pid != process.pid for h in look.holders))
    result = recorder.end(signal.SIGINT)
    shutil.copy(path, out)
    return {"pid": process.pid, "result": result}


def refusals() -> dict[str, Any]:
    """What can't be filtered by."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    into = ["-o", str(LOCAL / "refused.dbt")]
    return {"gone": run("dmabuf-trace", "record", *into, "--pid", str(gone.pid))}


def main() -> None:
    """DIR | command FILE"""
    match sys.argv[1:]:
        case ["command", result]:
            command(Path(result))
        case [directory]:
            out = Path(directory)
            LOCAL.mkdir()
            load(MODULE)
            found = {"scripted": scripted(out), "only command": only_command(out)}
            found |= {"user stacks": user_stacks(out), "refusals": refusals()}
            (out / "watching.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
