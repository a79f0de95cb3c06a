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
FUNCTIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("dma_buf_export",),
    ("dma_buf_file_release",),
    ("dma_buf_dynamic_attach",),
    ("dma_buf_detach",),
    ("dma_buf_map_attachment",),
    ("dma_buf_unmap_attachment",),
    ("dma_buf_ioctl",),
    ("dma_buf_mmap_internal",),
    ("dma_buf_mmap",),
    ("dma_buf_get",),
    ("dma_buf_pin",),
    ("dma_buf_unpin",),
    ("dma_buf_move_notify", "dma_buf_invalidate_mappings"),
    ("dma_buf_begin_cpu_access",),
    ("dma_buf_end_cpu_access",),
    ("dma_buf_vmap",),
    ("dma_buf_vunmap",),
    ("dma_buf_poll",),
)
"""Functions that are counted, each with its names through the kernel's versions."""

OF_FILES: Final[dict[tuple[str, ...], int]] = {("fd_install",): 2, ("filp_flush", "filp_close"): 1}
"""Functions that every file passes, and which argument it is: counted by a filtered histogram."""


def write(file: Path, line: str) -> None:
    """Append a line to a file of tracefs; a buffered open for appending is refused there."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def dmabuf_fops() -> int:
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


def _events() -> list[str]:
    return [names[0] for names in (*FUNCTIONS, *OF_FILES)]


def _add(names: tuple[str, ...], arguments: str = "") -> None:
    """An event, called by the first name, on whichever function the kernel has."""
    for name in names:
        try:
            write(TRACEFS / "kprobe_events", f"p:{GROUP}/{names[0]} {name} {arguments}")
        except OSError:
            continue
        return
    raise LookupError(f"the kernel has none of {names}")


def _trigger(event: str) -> Path:
    return TRACEFS / "events" / GROUP / event / "trigger"


def start() -> None:
    """Count from now on."""
    for names in FUNCTIONS:
        _add(names)
        write(TRACEFS / "events" / GROUP / names[0] / "enable", "1")
    offset, fops = _offset("file", "f_op"), dmabuf_fops()
    for files, argument in OF_FILES.items():
        _add(files, f"fops=+{offset}($arg{argument}):x64")
        write(_trigger(files[0]), f"hist:keys=fops if fops == {fops:#x}")


def hits() -> dict[str, int]:
    """Calls since :func:`start`, by the function's first name.

    Raises:
        RuntimeError: the oracle itself missed calls.
    """
    counts = {}
    plain = {names[0] for names in FUNCTIONS}
    for line in (TRACEFS / "kprobe_profile").read_text().splitlines():
        name, hit, missed = line.split()
        # other tracers have events of other names: theirs end in _entry and _return
        if name in plain:
            if int(missed):
                raise RuntimeError(f"the oracle missed {missed} calls of {name}")
            counts[name] = int(hit)
    return counts | {names[0]: _histogram(names[0]) for names in OF_FILES}


def _histogram(event: str) -> int:
    text = (TRACEFS / "events" / GROUP / event / "hist").read_text()
    total = re.search(r"^\s*Hits: (\d+)$", text, re.MULTILINE)
    dropped = re.search(r"^\s*Dropped: (\d+)$", text, re.MULTILINE)
    if not total or not dropped or int(dropped[1]):
        raise RuntimeError(f"the oracle's histogram of {event} can't be read: {text}")
    return int(total[1])


def stop() -> None:
    """Remove the events."""
    for names in OF_FILES:
        for line in _trigger(names[0]).read_text().splitlines():
            if line.startswith("hist:"):
                write(_trigger(names[0]), f"!{line.split(' [')[0]}")
    for names in FUNCTIONS:
        write(TRACEFS / "events" / GROUP / names[0] / "enable", "0")
    for event in _events():
        write(TRACEFS / "kprobe_events", f"-:{GROUP}/{event}")
