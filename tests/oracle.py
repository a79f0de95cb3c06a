# SPDX-License-Identifier: Apache-2.0
"""The kernel's own count of calls: ftrace kprobe events beside ours, read from kprobe_profile.

Runs in a guest, needs the standard library only, and shares no code with what it judges.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

TRACEFS: Final = Path("/sys/kernel/tracing")
BTF: Final = "/sys/kernel/btf/vmlinux"
GROUP: Final = "oracle"
FUNCTIONS: Final = (
    "dma_buf_export",
    "dma_buf_file_release",
    "dma_buf_dynamic_attach",
    "dma_buf_detach",
    "dma_buf_map_attachment",
    "dma_buf_unmap_attachment",
    "dma_buf_ioctl",
    "dma_buf_mmap_internal",
    "dma_buf_mmap",
)
FD_INSTALL: Final = "fd_install"
"""Every file passes it, so its hits are counted by a histogram that a filter restricts."""


def _write(file: Path, line: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def _fops() -> int:
    """Address of dma_buf_fops, which tells a dma-buf's file from others."""
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, name = line.split()[:3]
        if name == "dma_buf_fops":
            return int(address, 16)
    raise LookupError("dma_buf_fops is not in /proc/kallsyms")


def _offset(struct: str, member: str) -> int:
    """Where a member lies in a kernel struct, as pahole reads it from the kernel's BTF."""
    shown = subprocess.run(
        ["pahole", "-C", struct, BTF], capture_output=True, text=True, check=True
    )
    found = re.search(rf"\b{member};\s+/\*\s+(\d+)\s", shown.stdout)
    if not found:
        raise LookupError(f"{struct}.{member} is not in {BTF}")
    return int(found[1])


def start() -> None:
    """Count from now on."""
    for name in FUNCTIONS:
        _write(TRACEFS / "kprobe_events", f"p:{GROUP}/{name} {name}")
        _write(TRACEFS / "events" / GROUP / name / "enable", "1")
    fops = f"fops=+{_offset('file', 'f_op')}($arg2):x64"
    _write(TRACEFS / "kprobe_events", f"p:{GROUP}/{FD_INSTALL} {FD_INSTALL} {fops}")
    trigger = f"hist:keys=fops if fops == {_fops():#x}"
    _write(TRACEFS / "events" / GROUP / FD_INSTALL / "trigger", trigger)


def hits() -> dict[str, int]:
    """Calls since :func:`start`, by function.

    Raises:
        RuntimeError: the oracle itself missed calls.
    """
    counts = {}
    for line in (TRACEFS / "kprobe_profile").read_text().splitlines():
        name, hit, missed = line.split()
        # other tracers have events of other names: theirs end in _entry and _return
        if name in FUNCTIONS:
            if int(missed):
                raise RuntimeError(f"the oracle missed {missed} calls of {name}")
            counts[name] = int(hit)
    histogram = (TRACEFS / "events" / GROUP / FD_INSTALL / "hist").read_text()
    match = re.search(r"^\s*Hits: (\d+)$", histogram, re.MULTILINE)
    dropped = re.search(r"^\s*Dropped: (\d+)$", histogram, re.MULTILINE)
    if not match or not dropped or int(dropped[1]):
        raise RuntimeError(f"the oracle's histogram can't be read: {histogram}")
    counts[FD_INSTALL] = int(match[1])
    return counts


def stop() -> None:
    """Remove the events."""
    trigger = (TRACEFS / "events" / GROUP / FD_INSTALL / "trigger").read_text().splitlines()
    for line in trigger:
        if line.startswith("hist:"):
            _write(TRACEFS / "events" / GROUP / FD_INSTALL / "trigger", f"!{line.split(' [')[0]}")
    for name in FUNCTIONS:
        _write(TRACEFS / "events" / GROUP / name / "enable", "0")
    for name in (*FUNCTIONS, FD_INSTALL):
        _write(TRACEFS / "kprobe_events", f"-:{GROUP}/{name}")
