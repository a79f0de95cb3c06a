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

    ``symbols`` are its names through the kernel's versions: the first that can be probed is.
    ``entry`` and ``returned`` name BPF programs; ``returned`` is "" where the entry says all.
    ``needed`` marks the probes without which no lifecycle can be told. ``tracepoint`` says that the
    symbols are tracepoints; ``until`` is then the one on which ``returned`` runs. ``point`` names a
    program for the tracepoint that newer kernels have under the first symbol's name, where that
    carries all that the event needs. ``late`` marks the one whose functions are found while
    tracing: its programs go onto each of them, and ``symbols`` is no more than a text. ``skips``:
    its programs are also run for what is not ours, in interrupts within themselves too, so that the
    kernel's count of skipped runs says nothing about events.
    """

    symbols: tuple[str, ...]
    kinds: tuple[str, ...]
    entry: str
    returned: str
    without: str
    needed: bool = False
    tracepoint: bool = False
    until: str = ""
    point: str = ""
    late: bool = False
    skips: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Probes that are switched together, and what they cost while they are on."""

    name: str
    cost: str
    probes: tuple[Probe, ...]


GROUPS: Final = (
    Group(
        "buffers",
        "a few events per buffer; always on",
        (
            Probe(
                ("dma_buf_export",),
                ("export",),
                "export_entry",
                "export_return",
                "no buffer is known",
                needed=True,
            ),
            Probe(
                ("dma_buf_file_release",),
                ("release",),
                "release_entry",
                "",
                "no buffer is ever seen to end, so every one would look leaked",
                needed=True,
            ),
        ),
    ),
    Group(
        "fds",
        "a comparison for every file that anyone opens or closes",
        (
            Probe(
                ("fd_install",),
                ("fd_install",),
                "fd_install_entry",
                "",
                "fds are known from snapshots only",
            ),
            Probe(
                ("do_dup2",),
                ("fd_install",),
                "dup2_entry",
                "",
                "fds made by dup2 are known from snapshots only",
            ),
            Probe(
                ("filp_flush", "filp_close"),
                ("fd_close",),
                "fd_close_entry",
                "",
                "closed fds are known from snapshots only",
            ),
            Probe(
                ("sched_process_fork",),
                ("fork",),
                "fork_point",
                "",
                "fds that a fork copies are known from snapshots only",
                tracepoint=True,
            ),
        ),
    ),
    Group(
        "devices",
        "an event per call of a driver: look-up, attach, map, pin, move",
        (
            Probe(
                ("dma_buf_get",), ("get",), "get_entry", "get_return", "look-ups by fd are not seen"
            ),
            Probe(
                ("dma_buf_dynamic_attach",),
                ("attach",),
                "attach_entry",
                "attach_return",
                "importer devices and their attachments are not seen",
            ),
            Probe(
                ("dma_buf_detach",),
                ("detach",),
                "detach_entry",
                "",
                "attachments are never seen to end",
                point="detach_point",
            ),
            Probe(
                ("dma_buf_map_attachment",),
                ("map",),
                "map_entry",
                "map_return",
                "mappings are not seen",
            ),
            Probe(
                ("dma_buf_unmap_attachment",),
                ("unmap",),
                "unmap_entry",
                "",
                "mappings are never seen to end",
            ),
            Probe(("dma_buf_pin",), ("pin",), "pin_entry", "pin_return", "pins are not seen"),
            Probe(("dma_buf_unpin",), ("unpin",), "unpin_entry", "", "pins are never seen to end"),
            Probe(
                ("dma_buf_invalidate_mappings", "dma_buf_move_notify"),
                ("move",),
                "move_entry",
                "",
                "moves are not seen",
            ),
        ),
    ),
    Group(
        "cpu",
        "an event per access: brackets, mmap, vmap, poll, names, sync files",
        (
            Probe(
                ("dma_buf_ioctl",),
                ("cpu_begin", "cpu_end", "set_name", "export_sync_file", "import_sync_file"),
                "ioctl_entry",
                "ioctl_return",
                "CPU access from user space and buffer names are not seen",
            ),
            Probe(
                ("dma_buf_begin_cpu_access",),
                ("kernel_begin",),
                "kernel_begin_entry",
                "kernel_begin_return",
                "CPU access by drivers is not seen",
            ),
            Probe(
                ("dma_buf_end_cpu_access",),
                ("kernel_end",),
                "kernel_end_entry",
                "kernel_end_return",
                "CPU access by drivers is never seen to end",
            ),
            Probe(
                ("dma_buf_mmap_internal",),
                ("mmap",),
                "mmap_entry",
                "mmap_return",
                "mmap on the fd is not seen",
            ),
            Probe(
                ("dma_buf_mmap",),
                ("mmap_importer",),
                "mmap_importer_entry",
                "mmap_importer_return",
                "mmap through an importer is not seen",
            ),
            Probe(
                ("dma_buf_vmap",),
                ("vmap",),
                "vmap_entry",
                "vmap_return",
                "kernel mappings are not seen",
            ),
            Probe(
                ("dma_buf_vunmap",),
                ("vunmap",),
                "vunmap_entry",
                "",
                "kernel mappings are never seen to end",
            ),
            Probe(("dma_buf_poll",), ("poll",), "poll_entry", "poll_return", "polls are not seen"),
        ),
    ),
    Group(
        "waits",
        "a look-up for every contended lock of the system; an event per wait for a buffer",
        (
            Probe(
                ("contention_begin",),
                ("lock_wait",),
                "lock_begin",
                "lock_end",
                "waits for reservation locks are part of no call's length, and not seen",
                tracepoint=True,
                until="contention_end",
                skips=True,
            ),
            Probe(
                ("dma_resv_wait_timeout",),
                ("fence_wait",),
                "resv_wait_entry",
                "resv_wait_return",
                "waits for fences are not told from the other time of a call",
            ),
            Probe(
                ("dma_fence_wait_start",),
                ("fence_wait",),
                "fence_wait_start",
                "",
                "waits for fences are not told from the other time of a call",
                tracepoint=True,
            ),
        ),
    ),
    Group(
        "operations",
        "an event per call into an exporter: beside attach, map, sync and so on, one more for each",
        (
            Probe(
                ("dma_buf_ops",),
                ("operation",),
                "operation_entry",
                "operation_return",
                "the exporter's time is not told from the other time of a call",
                late=True,
            ),
        ),
    ),
)

PROBES: Final = tuple(probe for group in GROUPS for probe in group.probes)
"""All probes, of every group."""

ALWAYS: Final = "buffers"
"""The group without which no lifecycle can be told."""

FOLLOWING: Final = (
    Probe(
        ("sched_process_fork",),
        ("export",),
        "process_fork",
        "",
        "children of the processes that are followed would be missing",
        needed=True,
        tracepoint=True,
    ),
    Probe(
        ("sched_process_exit",),
        ("export",),
        "process_exit",
        "",
        "a pid that is given out again would be followed",
        needed=True,
        tracepoint=True,
    ),
)
"""Attached where processes are followed by pid; a miss costs what a child exports."""
