# SPDX-License-Identifier: Apache-2.0
"""Use and misuse of buffers, each of a name of its own, for the analyses to tell apart.

Runs in a guest: ``python3 -m tests.findings record DIR`` leaves ``misuse.dbt`` and ``clean.dbt``;
in the latter the same is done as it should be. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from tests.cycle import PAGE
from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    P2P,
    Access,
    Buffer,
    ExportFlag,
    Importer,
    Ref,
    Usage,
    load,
    set_name,
    sync_end,
    sync_start,
)
from tests.kmod.harness import wait_until, waits_in

FRAMES: Final = 60
FENCE_US: Final = 20_000
DISTURBED: Final = {"interrupted": False, "restarted": True}
"""Buffers whose CPU access gets a signal, and whether the kernel makes the call again by itself."""
LOCAL: Final = Path("/tmp/findings")  # noqa: S108 - the guest's own: a share is slow and may lag


def named(ref: Ref, name: str, flags: int = 0) -> Buffer:
    """A buffer that a test finds again."""
    buffer = ref.export(PAGE, flags)
    set_name(buffer.fd, name)
    return buffer


def brackets(ref: Ref, *, clean: bool) -> None:
    """CPU access: begun and not ended, ended and not begun, ended another way, without any."""
    buffer = named(ref, "open-bracket")
    sync_start(buffer.fd)
    if clean:
        sync_end(buffer.fd)
    buffer = named(ref, "stray-end")
    if clean:
        sync_start(buffer.fd)
    sync_end(buffer.fd)
    buffer = named(ref, "wrong-way")
    sync_start(buffer.fd, Access.READ)
    sync_end(buffer.fd, Access.READ if clean else Access.WRITE)
    buffer = named(ref, "never-synced")
    vma = buffer.mmap()
    if clean:
        sync_start(buffer.fd)
    vma.write(0, b"frame")
    if clean:
        sync_end(buffer.fd)
    vma.close()


class Interrupted(Exception):  # noqa: N818 - no error
    """Raised by a handler, so that Python does not make the call again by itself."""


def _interrupt(*_: object) -> None:
    raise Interrupted


def disturbed(call: Callable[[], object], after: Callable[[], object], *, restart: bool) -> None:
    """A call that waits for a fence gets a signal, and fails with EINTR; ``after`` comes next.

    With ``restart`` (SA_RESTART) the kernel makes it again by itself.
    """
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGUSR1, (lambda *_: None) if restart else _interrupt)
    signal.siginterrupt(signal.SIGUSR1, not restart)
    main = threading.get_ident(), threading.get_native_id()

    def disturb() -> None:
        wait_until(lambda: waits_in(main[1], "dma_fence"), "the call waits")
        signal.pthread_kill(main[0], signal.SIGUSR1)
        os.read(woken, 1)
        after()

    thread = threading.Thread(target=disturb)
    thread.start()
    with suppress(Interrupted):
        call()
    thread.join()


def signals(ref: Ref, *, clean: bool) -> None:
    """CPU access that a signal interrupts, and that is not begun again."""
    for name, restart in DISTURBED.items():
        buffer = named(ref, name)
        fence = ref.fence(buffer)
        begin = partial(sync_start, buffer.fd)
        disturbed(begin, partial(ref.signal, fence), restart=restart)
        if clean and not restart:
            sync_start(buffer.fd)
        if clean or restart:
            sync_end(buffer.fd)


def devices(ref: Ref, *, clean: bool) -> None:
    """A pin that is kept, a mapping that nobody gives back, a map for every frame, a fence."""
    buffer = named(ref, "pinned", ExportFlag.DYNAMIC | ExportFlag.EAGER)
    handle = ref.attach(buffer, Importer.IMP64, flags=DYNAMIC_IMPORTER)
    ref.pin(handle)
    if clean:
        ref.unpin(handle)
        ref.move(buffer)
    else:
        ref.leak(handle)
    buffer = named(ref, "moved", ExportFlag.DYNAMIC | ExportFlag.EAGER | ExportFlag.CARELESS)
    handle = ref.attach(buffer, Importer.IMP64, flags=DYNAMIC_IMPORTER)
    ref.pin(handle)
    if clean:
        ref.unpin(handle)
        ref.move(buffer)
    else:
        ref.move(buffer)
        ref.unpin(handle)
    ref.detach(handle)
    flag = 0 if clean else ExportFlag.NO_P2P
    buffer = named(ref, "peer", ExportFlag.DYNAMIC | flag)
    ref.detach(ref.attach(buffer, Importer.SEG, flags=DYNAMIC_IMPORTER | P2P))
    buffer = named(ref, "left-mapped")
    handle = ref.attach(buffer, Importer.IMP64)
    ref.map(handle)
    if clean:
        ref.unmap(handle)
        ref.detach(handle)
    else:
        ref.leak(handle)
    buffer = named(ref, "every-frame")
    handle = ref.attach(buffer, Importer.SEG)
    for _ in range(1 if clean else FRAMES):
        ref.map(handle)
        ref.unmap(handle)
    ref.detach(handle)
    buffer = named(ref, "fenced")
    handle = ref.attach(buffer, Importer.IMP32)
    if not clean:
        ref.fence(buffer, Usage.KERNEL, FENCE_US)
    ref.map(handle)
    ref.unmap(handle)
    ref.detach(handle)


def frames(ref: Ref, *, clean: bool) -> None:
    """A buffer for every frame, every other one kept; clean: a pool that fills, and stands."""
    kept: list[Buffer] = []
    for number in range(16 * FRAMES):
        buffer = named(ref, "frame")
        if len(kept) < FRAMES // 4 if clean else number % 2:
            kept.append(buffer)
        else:
            buffer.close()


def work(*, clean: bool) -> None:
    """What is recorded; buffers are given back when this process ends."""
    with Ref() as ref:
        brackets(ref, clean=clean)
        signals(ref, clean=clean)
        devices(ref, clean=clean)
        frames(ref, clean=clean)


def main() -> None:
    """Misuse | clean | record DIR."""
    match sys.argv[1:]:
        case ["record", directory]:
            load(Path("/opt/kmod/dmabuf_ref.ko"))
            LOCAL.mkdir()
            for name in ("clean", "misuse"):
                recording = LOCAL / f"{name}.dbt"
                recorder = ["dmabuf-trace", "record", "-o", str(recording), "--"]
                subprocess.run([*recorder, "python3", "-m", "tests.findings", name], check=True)
                Path(directory, recording.name).write_bytes(recording.read_bytes())
        case ["misuse"]:
            work(clean=False)
        case ["clean"]:
            work(clean=True)
        case _:
            sys.exit("usage: python3 -m tests.findings misuse | clean | record DIR")


if __name__ == "__main__":
    main()
