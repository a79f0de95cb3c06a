# SPDX-License-Identifier: Apache-2.0
"""The main path on any kernel of the lab: what it offers, real clients recorded, and counted.

``python3 -m tests.main_path DIR`` (in a guest) leaves in DIR ``features`` (names, a line each),
``doctor.json``, and ``clients.dbt`` beside ``clients.json``, ftrace's counts of the same calls.
Standard library only; needs no module of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from examples import clients
from tests import oracle
from tests.kmod.client import set_name, sync_end, sync_start
from tests.vm.kernels import FEATURES

FRAMES: Final = 20
SIZE: Final = 1 << 16


def use(fd: int) -> None:
    """What any buffer can be used for by user space and by another device."""
    set_name(fd, "a-frame")
    sync_start(fd)
    sync_end(fd)
    os.close(os.dup(fd))
    vgem = clients.Prime(clients.drm_device("vgem"))
    vgem.release(vgem.adopt(fd))
    vgem.close()


def work() -> None:
    """Every client that this kernel has."""
    if Path("/dev/dma_heap/system").exists():
        with clients.closing(clients.heap_alloc(SIZE)) as fd:
            use(fd)
    if Path("/dev/udmabuf").exists():
        with clients.closing(clients.udmabuf_create(SIZE)) as fd:
            use(fd)
    vgem = clients.Prime(clients.drm_device("vgem"))
    handle = vgem.create(64, 64)
    with clients.closing(vgem.export(handle)) as fd:
        use(fd)
    vgem.release(handle)
    vgem.close()
    capture = clients.video_node("vivid-000-vid-cap")
    clients.stream(capture, clients.video_node("vivid-001-vid-out"), FRAMES)


def prepare() -> None:
    """Load what real clients need."""
    subprocess.run(["modprobe", "vivid", "n_devs=2", "allocators=1,1"], check=True)
    subprocess.run(["modprobe", "vgem"], check=True)
    subprocess.run(["udevadm", "settle"], check=True)


def record(out: Path) -> None:
    """Record :func:`work`, and count its calls."""
    oracle.start()
    recorder = ["dmabuf-trace", "record", "-o", str(out / "clients.dbt"), "--"]
    subprocess.run([*recorder, "python3", "-m", "tests.main_path", "work"], check=True)
    (out / "clients.json").write_text(json.dumps(oracle.hits()))
    oracle.stop()


def offered() -> list[str]:
    """The lab's features that are there."""
    return [
        name
        for name, test in FEATURES.items()
        if not subprocess.run(["sh", "-c", test], capture_output=True, check=False).returncode
    ]


def main() -> None:
    """DIR | work."""
    match sys.argv[1:]:
        case ["work"]:
            work()
        case [directory]:
            prepare()
            out = Path(directory)
            (out / "features").write_text("\n".join(offered()))
            doctor = ["dmabuf-trace", "doctor", "--json"]
            told = subprocess.run(doctor, capture_output=True, text=True, check=False)
            (out / "doctor.json").write_text(told.stdout)
            record(out)
        case _:
            sys.exit("usage: python3 -m tests.main_path DIR | work")


if __name__ == "__main__":
    main()
