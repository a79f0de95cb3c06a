# SPDX-License-Identifier: Apache-2.0
"""Which kernel function gives which event, and what is lost without it.

Owns the table and nothing else: a probe that does not attach is recorded as missing, and the
columns it would have filled are not observed. Must not know how a program is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Probe:
    """One kernel function, the programs on it, and the events that come from it.

    ``entry`` and ``returned`` name BPF programs; ``returned`` is "" where the entry says all.
    ``needed`` marks the probes without which no lifecycle can be told.
    """

    symbol: str
    kinds: tuple[str, ...]
    entry: str
    returned: str
    without: str
    needed: bool = False


PROBES: Final = (
    Probe(
        "dma_buf_export",
        ("export",),
        "export_entry",
        "export_return",
        "no buffer is known",
        needed=True,
    ),
    Probe(
        "dma_buf_file_release",
        ("release",),
        "release_entry",
        "",
        "no buffer is ever seen to end, so every one would look leaked",
        needed=True,
    ),
    Probe(
        "fd_install", ("fd_install",), "fd_install_entry", "", "fds are known from snapshots only"
    ),
    Probe(
        "dma_buf_dynamic_attach",
        ("attach",),
        "attach_entry",
        "attach_return",
        "importer devices and their attachments are not seen",
    ),
    Probe("dma_buf_detach", ("detach",), "detach_entry", "", "attachments are never seen to end"),
    Probe("dma_buf_map_attachment", ("map",), "map_entry", "map_return", "mappings are not seen"),
    Probe(
        "dma_buf_unmap_attachment", ("unmap",), "unmap_entry", "", "mappings are never seen to end"
    ),
    Probe(
        "dma_buf_ioctl",
        ("cpu_begin", "cpu_end", "set_name"),
        "ioctl_entry",
        "ioctl_return",
        "CPU access from user space and buffer names are not seen",
    ),
    Probe(
        "dma_buf_mmap_internal",
        ("mmap",),
        "mmap_entry",
        "mmap_return",
        "mmap on the fd is not seen",
    ),
    Probe(
        "dma_buf_mmap",
        ("mmap_importer",),
        "mmap_importer_entry",
        "mmap_importer_return",
        "mmap through an importer is not seen",
    ),
)
