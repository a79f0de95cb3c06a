# SPDX-License-Identifier: Apache-2.0
"""What the checks share: exact counter changes, refusals, waiting, what the kernel shows."""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kmod.client import EXPORTER, PAGE_SIZE, Ref, Vma

BUFINFO: Final = Path("/sys/kernel/debug/dma_buf/bufinfo")
DEADLINE_S: Final = 60  # for a condition that holds at once on an idle machine
COMPLAINT: Final = re.compile(
    r"BUG:|WARNING:|Oops|general protection|refcount_t|UBSAN|INFO: task .* blocked|kernel panic"
)


class SkipError(Exception):
    """This machine lacks what the check needs."""


@contextmanager
def counted(ref: Ref, **changes: int) -> Iterator[None]:
    """The block changes exactly these counters, by exactly as much."""
    before = ref.counters()
    yield
    seen = ref.counters() - before
    assert seen == changes, f"counters changed by {seen}, not by {changes}"


@contextmanager
def refused(number: int) -> Iterator[None]:
    """The block raises OSError with this errno."""
    seen: OSError | None = None
    try:
        yield
    except OSError as error:
        seen = error
    assert seen is not None, f"succeeded, not {errno.errorcode[number]}"
    assert seen.errno == number, f"not {errno.errorcode[number]}: {seen}"


def seeded(seed: int) -> random.Random:
    """Random numbers that are the same in every run (and guard no secret)."""
    return random.Random(seed)  # noqa: S311


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until `condition` holds; a condition that never does is a failure, not a hang."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        os.sched_yield()


def waits_in(tid: int | None, function: str) -> bool:
    """Does a thread of this process wait in that function of the kernel?"""
    return Path(f"/proc/self/task/{tid}/wchan").read_text().startswith(function)


def in_child(call: Callable[[], object]) -> int:
    """Start `call` in a process of its own; its exit status is 0 if the call returned."""
    child = os.fork()
    if not child:
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    return child


def page_frames(vma: Vma) -> list[int]:
    """Page frame numbers behind a mapping: what the kernel says, not what the module says."""
    present = 1 << 63
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(vma.address // PAGE_SIZE * 8)
        entries = memoryview(pagemap.read(vma.size // PAGE_SIZE * 8)).cast("Q")
    assert all(entry & present for entry in entries), "a page of the mapping is not present"
    return [entry & ((1 << 55) - 1) for entry in entries]


@dataclass(frozen=True, slots=True)
class Listed:
    """A buffer of this exporter in debugfs bufinfo."""

    ino: int
    size: int
    devices: tuple[str, ...]


def listed_buffers() -> list[Listed]:
    """This exporter's buffers that the kernel lists: size flags mode count exp_name ino name."""
    found: list[Listed] = []
    for block in BUFINFO.read_text(errors="replace").split(" devices attached\n"):
        row = re.search(rf"^(\d+)\t\S+\t\S+\t\d+\t{EXPORTER}\t(\d+)\t", block, re.MULTILINE)
        if row:
            devices = block.partition("Attached Devices:\n")[2].split("\n")
            names = tuple(line.strip() for line in devices if line.startswith("\t"))
            found.append(Listed(int(row[2]), int(row[1]), names))
    return found


class KernelLog:
    """The kernel's messages since this object was made."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def complaints(self) -> list[str]:
        """New messages that say that the kernel met a bug."""
        lines: list[str] = []
        while True:
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                return [line for line in lines if COMPLAINT.search(line)]
            # A record overwritten before it was read is EPIPE: an OSError, and so a failure.
            lines.append(record.decode(errors="replace").partition(";")[2].strip())


def idle(ref: Ref) -> list[str]:
    """Why the module is not at rest: empty when nothing is left behind."""
    now = ref.counters()
    left = {
        name: getattr(now, name)
        for name in (
            "live_buffers",
            "live_attachments",
            "live_maps",
            "live_pages",
            "live_handles",
            "pending_fences",
            "live_fences",
            "gate_waiters",
            "leaked_attachments",
            "leaked_refs",
        )
    }
    reasons = [f"{name} = {value}" for name, value in left.items() if value]
    for made, undone in (
        ("export_ok", ["op_release"]),
        ("attach_ok", ["detach", "forgotten"]),
        ("map_ok", ["unmap", "left_maps"]),
        ("vmap_ok", ["vunmap"]),
        ("pin_ok", ["unpin", "left_pins"]),
        ("op_pin_ok", ["op_unpin", "left_pins"]),
        ("fence_created", ["fence_signalled"]),
        ("op_attach_ok", ["op_detach", "forgotten"]),
        ("op_map_ok", ["op_unmap", "op_left_maps"]),
        ("op_vmap_ok", ["op_vunmap"]),
    ):
        have, want = getattr(now, made), sum(getattr(now, name) for name in undone)
        if have != want:
            reasons.append(f"{made} = {have}, but {' + '.join(undone)} = {want}")
    # Each get is put; a buffer that got no fd is put as well.
    if now.get_ok != now.put - (now.export_ok - now.fd_ok):
        reasons.append(f"get_ok = {now.get_ok}, but put = {now.put}")
    reasons += [f"bufinfo lists {buffer}" for buffer in listed_buffers()]
    return reasons
