# SPDX-License-Identifier: Apache-2.0
"""The scripted session of the demo: real clients, and a reference exporter that leaks on purpose.

Runs in a lab guest, in three steps around a recording::

    python3 -m examples.workload prepare
    dmabuf-trace record -o session.dbt -- python3 -m examples.workload run
    python3 -m examples.workload finish oracle.json

``finish`` writes what the module and ftrace counted meanwhile, undoes the leaks and shows by the
kernel's own list that nothing is left.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from examples import clients
from tests import oracle
from tests.kmod.client import (
    Access,
    Direction,
    ExportFlag,
    Importer,
    Op,
    Ref,
    export_sync_file,
    import_sync_file,
    load,
    set_name,
    sync_end,
    sync_start,
    unload,
)

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
STATE: Final = Path("/tmp/workload")  # noqa: S108 a guest's own tmpfs
CYCLES: Final = 50
FRAMES: Final = 60
KIB: Final = 1024
SIZES: Final = {
    "fd": 64 * KIB,
    "mapping": 128 * KIB,
    "attachment": 256 * KIB,
    "in-flight": 32 * KIB,
    "kernel": 512 * KIB,
}
"""Bytes of the buffer leaked in each shape: the report must name them."""


def prepare() -> None:
    """Load what is needed, and begin to count."""
    subprocess.run(["modprobe", "vivid", "n_devs=2", "allocators=1,1"], check=True)
    subprocess.run(["modprobe", "vgem"], check=True)
    load(MODULE)
    subprocess.run(["udevadm", "settle"], check=True)
    STATE.mkdir()
    with Ref() as ref:
        (STATE / "counters.json").write_text(json.dumps(asdict(ref.counters())))
    oracle.start()


def cycle(ref: Ref, importer: Importer) -> None:
    """What a well-behaved driver does with one buffer."""
    with ref.export(64 * KIB) as buffer:
        handle = ref.attach(buffer, importer)
        ref.map(handle, Direction.TO_DEVICE)
        ref.unmap(handle)
        ref.detach(handle)
        with buffer.mmap() as vma:
            sync_start(buffer.fd, Access.WRITE)
            vma.write(0, b"written by the processor")
            sync_end(buffer.fd, Access.WRITE)


def drivers(ref: Ref) -> None:
    """What drivers do beside mapping for a device, and fences passed by user space."""
    with ref.export(64 * KIB) as buffer:
        handle = ref.attach(buffer, Importer.IMP64)
        for _ in range(CYCLES):
            ref.vmap(handle)
            ref.vunmap(handle)
        ref.detach(handle)
        with clients.closing(export_sync_file(buffer.fd)) as fences:
            import_sync_file(buffer.fd, fences)


def failures(ref: Ref) -> None:
    """What an exporter may refuse."""
    with ref.export(256 * KIB, ExportFlag.EAGER) as scattered:
        refused(errno.EBUSY, lambda: ref.attach(scattered, Importer.CONTIG))
    with ref.export(4 * KIB) as buffer:
        handle = ref.attach(buffer, Importer.IMP64)
        ref.inject(Op.MAP, errno.ENOMEM)
        refused(errno.ENOMEM, lambda: ref.map(handle))
        ref.detach(handle)


def refused(number: int, call: Callable[[], object]) -> None:
    """Call what must fail with this errno."""
    try:
        call()
    except OSError as error:
        if error.errno == number:
            return
        raise
    raise RuntimeError(f"expected {errno.errorcode[number]}")


def real_clients(ref: Ref) -> None:
    """The system heap, udmabuf, vgem and vivid, as applications use them."""
    with clients.closing(clients.heap_alloc(1 << 20)) as heap:
        set_name(heap, "camera-frame")
        os.close(os.dup(heap))
        sync_start(heap)
        sync_end(heap)
        vgem = clients.Prime(clients.drm_device("vgem"))
        vgem.release(vgem.adopt(heap))
        gem = vgem.create(256, 256)
        with clients.closing(vgem.export(gem)) as prime:
            handle = ref.attach(prime, Importer.IMP64)
            ref.map(handle, Direction.FROM_DEVICE)
            ref.unmap(handle)
            ref.detach(handle)
        vgem.release(gem)
        vgem.close()
    with clients.closing(clients.udmabuf_create(128 * KIB)) as udmabuf:
        handle = ref.attach(udmabuf, Importer.IMP32)
        ref.map(handle)
        ref.unmap(handle)
        ref.detach(handle)
    capture = clients.video_node("vivid-000-vid-cap")
    clients.stream(capture, clients.video_node("vivid-001-vid-out"), FRAMES)


def stay_behind(name: str, hold: Callable[[], None]) -> None:
    """Fork a process of this name that acquires something and never gives it back."""
    ready, told = os.pipe()
    if pid := os.fork():
        os.close(told)
        if os.read(ready, 1) != b"+":
            raise RuntimeError(f"{name} did not come up")
        os.close(ready)
        (STATE / f"{name}.pid").write_text(str(pid))
        return
    os.setsid()
    Path("/proc/self/comm").write_text(name)
    hold()
    os.write(told, b"+")
    os.close(told)
    while True:
        signal.pause()


def leak_fd() -> None:
    """An fd that nobody closes."""
    with Ref() as ref:
        ref.export(SIZES["fd"])  # a Buffer closes its fd when asked to, not when forgotten


def leak_mapping() -> None:
    """A VMA that outlives its fd."""
    with Ref() as ref, ref.export(SIZES["mapping"]) as buffer:
        buffer.mmap()


def leak_in_flight() -> None:
    """An fd that was sent, and that nobody receives."""
    ours, theirs = socket.socketpair()
    with Ref() as ref, ref.export(SIZES["in-flight"]) as buffer:
        socket.send_fds(ours, [b"x"], [buffer.fd])
    for each in (ours, theirs):
        each.detach()  # stays open


def leak_in_kernel(ref: Ref) -> None:
    """An importer that never detaches, and a reference that is never put."""
    with ref.export(SIZES["attachment"]) as buffer:
        ref.attach(buffer, Importer.IMP32, leak=True)
    with ref.export(SIZES["kernel"]) as buffer:
        ref.leak_ref(buffer)


def run() -> None:
    """The session itself."""
    with Ref() as ref:
        for _ in range(CYCLES):
            cycle(ref, Importer.IMP64)
        drivers(ref)
        failures(ref)
        held = ref.export(256 * KIB)
        long_held = ref.attach(held, Importer.SEG)
        ref.map(long_held)
        real_clients(ref)  # the map is held while all of this goes on
        ref.unmap(long_held)
        ref.detach(long_held)
        held.close()
        leak_in_kernel(ref)
    stay_behind("leaks-an-fd", leak_fd)
    stay_behind("leaks-a-mapping", leak_mapping)
    stay_behind("leaks-a-message", leak_in_flight)


def end(pid: int) -> None:
    """Kill a process that is not our child, and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)


def finish(result: Path) -> None:
    """Write down what was counted, undo the leaks, and show that nothing is left."""
    calls = oracle.hits()
    oracle.stop()
    before = json.loads((STATE / "counters.json").read_text())
    with Ref() as ref:
        after = asdict(ref.counters())
        module = {name: after[name] - before[name] for name in after}
        result.write_text(json.dumps({"module": module, "ftrace": calls}))
        for file in STATE.glob("*.pid"):
            end(int(file.read_text()))
        ref.undo_leaks()
    unload()
    left = Path("/sys/kernel/debug/dma_buf/bufinfo").read_text().splitlines()[-1]
    print(f"after undoing the leaks the kernel says: {left}")


def main() -> None:
    """prepare | run | finish FILE."""
    match sys.argv[1:]:
        case ["prepare"]:
            prepare()
        case ["run"]:
            run()
        case ["finish", path]:
            finish(Path(path))
        case _:
            sys.exit("usage: python3 -m examples.workload prepare | run | finish FILE")


if __name__ == "__main__":
    main()
