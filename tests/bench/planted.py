# SPDX-License-Identifier: Apache-2.0
"""The soak's workloads: real ones that leak nothing, and one leak among many good buffers.

Runs in a guest: ``python3 -m tests.bench.planted record RUNS SEED DIR`` leaves recordings of
several runs, and ``windows.json`` (see :mod:`tests.gate.windows`): the windows are named by the run
and what it was. Standard library only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from examples import clients
from examples.workload import MODULE, STATE, end, stay_behind
from tests.cycle import PAGE
from tests.gate.windows import LOCAL, Windows, steered
from tests.kmod.client import Access, Buffer, Importer, Ref, load, sync_end, sync_start
from tests.vm.selftests import GUEST_SELFTESTS_DIR, TESTS

GOOD: Final = 1000
FRAMES: Final = 30
MOST_PAGES: Final = 16
RUNS_PER_RECORDING: Final = 10
LOG: Final = Path("/tmp/soak.log")  # noqa: S108
PLANTED: Final = Path("/tmp/planted.json")  # noqa: S108


@dataclass(frozen=True, slots=True)
class Planted:
    """The one buffer that was leaked."""

    shape: str
    inode: int


# good buffers: each does something with a buffer, and gives all of it back


def _plain(_: Ref, __: Buffer, ___: random.Random) -> None:
    """Nothing but export and close."""


def _mapped(ref: Ref, buffer: Buffer, chance: random.Random) -> None:
    handle = ref.attach(buffer, chance.choice((Importer.IMP64, Importer.IMP32)))
    for _ in range(chance.randint(1, 3)):
        ref.map(handle)
        ref.unmap(handle)
    ref.detach(handle)


def _written(_: Ref, buffer: Buffer, __: random.Random) -> None:
    with buffer.mmap() as vma:
        sync_start(buffer.fd, Access.WRITE)
        vma.write(0, b"frame")
        sync_end(buffer.fd, Access.WRITE)


def _vmapped(ref: Ref, buffer: Buffer, _: random.Random) -> None:
    handle = ref.attach(buffer, Importer.IMP64)
    ref.vmap(handle)
    ref.vunmap(handle)
    ref.detach(handle)


def _passed(_: Ref, buffer: Buffer, __: random.Random) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [buffer.fd])
        os.close(socket.recv_fds(theirs, 1, 1)[1][0])


def _duplicated(_: Ref, buffer: Buffer, __: random.Random) -> None:
    os.close(os.dup(buffer.fd))


USES: Final = (_plain, _mapped, _written, _vmapped, _passed, _duplicated)

# leaks: each is left with a buffer whose fd this process closes afterwards


def _leak_fd(_: Ref, __: Buffer) -> None:
    stay_behind("leaks-an-fd", lambda: None)


def _leak_mapping(_: Ref, buffer: Buffer) -> None:
    def hold() -> None:
        buffer.mmap()
        buffer.close()

    stay_behind("leaks-a-mapping", hold)


def _leak_in_flight(_: Ref, buffer: Buffer) -> None:
    def hold() -> None:
        ours, theirs = socket.socketpair()
        socket.send_fds(ours, [b"x"], [buffer.fd])
        buffer.close()
        for each in (ours, theirs):
            each.detach()  # stays open

    stay_behind("leaks-a-message", hold)


def _leak_attachment(ref: Ref, buffer: Buffer) -> None:
    ref.attach(buffer, Importer.IMP32, leak=True)


def _leak_reference(ref: Ref, buffer: Buffer) -> None:
    ref.leak_ref(buffer)


LEAKS: Final[dict[str, Callable[[Ref, Buffer], None]]] = {
    "fd": _leak_fd,
    "mapping": _leak_mapping,
    "attachment": _leak_attachment,
    "in-flight": _leak_in_flight,
    "kernel": _leak_reference,
}


def plant(chance: random.Random) -> Planted:
    """Use many buffers in any way there is, and leak one of them."""
    shape, position = chance.choice(list(LEAKS)), chance.randint(0, GOOD)
    inode = 0
    with Ref() as ref:
        for number in range(GOOD + 1):
            with ref.export(chance.randint(1, MOST_PAGES) * PAGE) as buffer:
                chance.choice(USES)(ref, buffer, chance)
                if number == position:
                    LEAKS[shape](ref, buffer)
                    inode = buffer.ino
    return Planted(shape, inode)


def selftests() -> None:
    """The kernel's own; whether they pass is not the question here."""
    for test in TESTS:
        path = Path(GUEST_SELFTESTS_DIR, test)
        subprocess.run([f"./{path.name}"], cwd=path.parent, check=False)


def stream() -> None:
    """From one V4L2 device to another, without a copy."""
    capture = clients.video_node("vivid-000-vid-cap")
    clients.stream(capture, clients.video_node("vivid-001-vid-out"), FRAMES)


def undo() -> None:
    """Give back what was leaked, so that the next run begins with nothing."""
    for file in STATE.glob("*.pid"):
        end(int(file.read_text()))
        file.unlink()
    with Ref() as ref:
        ref.undo_leaks()


WORKLOADS: Final = {"selftests": "the kernel's own tests", "stream": "V4L2 streaming"}
"""That leak nothing, and what they are."""
UNDONE: Final = "undone"


def run_one(workload: str, seed: str) -> None:
    """In a process of its own, as the next one is another one's."""
    command = [sys.executable, "-m", "tests.bench.planted", workload, seed]
    with LOG.open("w") as log:  # a pipe would stay open with whoever stays behind
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
    if done.returncode:
        sys.exit(f"{workload}, seed {seed}: {LOG.read_text(errors='replace')}")


def record(runs: int, seed: str, to: Path) -> None:
    """Each workload so many times, each time in a window of its own."""
    for module in (["vgem"], ["vivid", "n_devs=2", "allocators=1,1"]):
        subprocess.run(["modprobe", *module], check=True)
    subprocess.run(["udevadm", "settle"], check=True)
    load(MODULE)
    STATE.mkdir()
    LOCAL.mkdir()
    windows: dict[str, Windows] = {}
    for first in range(0, runs, RUNS_PER_RECORDING):
        with steered(f"soak-{first:04}", windows) as recorder:
            for run in range(first, min(first + RUNS_PER_RECORDING, runs)):
                for workload, what in WORKLOADS.items():
                    run_one(workload, f"{seed}-{run}")
                    recorder.done(f"{run:04} {what}", 0)
                run_one("planted", f"{seed}-{run}")
                planted = Planted(**json.loads(PLANTED.read_text()))
                recorder.done(f"{run:04} {planted.shape}", planted.inode)
                undo()
                recorder.done(f"{run:04} {UNDONE}", 0)
                print(f"run {run + 1} of {runs}", file=sys.stderr, flush=True)
        shutil.copy(recorder.path, to)
        (to / "windows.json").write_text(json.dumps(windows))


def main() -> None:
    """Record RUNS SEED DIR | selftests SEED | stream SEED | planted SEED."""
    match sys.argv[1:]:
        case ["record", runs, seed, directory]:
            record(int(runs), seed, Path(directory))
        case ["selftests", _]:
            selftests()
        case ["stream", _]:
            stream()
        case ["planted", seed]:
            planted = plant(random.Random(seed))  # noqa: S311 - to be repeated, not to be secret
            PLANTED.write_text(json.dumps(asdict(planted)))
        case _:
            sys.exit("usage: python3 -m tests.bench.planted record RUNS SEED DIR")


if __name__ == "__main__":
    main()
