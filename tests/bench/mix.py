# SPDX-License-Identifier: Apache-2.0
"""What runs on a busy device, as data: pipelines, and what happens in each of their frames.

Among them are the ways in which the tables of a trace get their rows: mappings made anew each
frame, held for long, or handed out again by the core; buffers made per frame; a device that
attaches anew each frame; buffers from before the trace; pins and moves; CPU access by processes and
by drivers; calls that wait, and calls that fail.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from dmabuf_trace import schema

SLAB: Final = 42
"""Objects of 96 bytes in a page: where an allocator puts the next one of a kind."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a call's time goes: a wait or an exporter's function, in so many of the frames."""

    kind: str
    dur: float
    detail: int = 0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One call: its kind, who makes it (index of a process), on which device, for how long.

    ``gap`` and ``dur`` are medians in us: since the step before, and within the call, without its
    ``parts``. ``thread`` names one other than the process's first. ``share``: in how many of the
    frames; steps of a pipeline with the same share happen in the same frames.
    """

    kind: str
    who: int = 0
    device: int = -1
    gap: float = 40.0
    dur: float = 0.0
    detail: int = 0
    thread: str = ""
    share: float = 1.0
    ret: int = 0
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Frames at ``hz``, each on the next of ``buffers`` buffers; ``fresh``: on a new buffer.

    ``before``: the buffers and their attachments are older than the trace. ``places``: so many
    addresses the allocator goes through until it hands one out again. ``importer`` has the
    ATTACH_* bits of its devices.
    """

    name: str
    hz: float
    size: int
    exporter: str
    processes: tuple[str, ...]
    devices: tuple[str, ...]
    steps: tuple[Step, ...]
    buffers: int = 4
    fresh: bool = False
    before: bool = False
    places: int = 4 * SLAB
    importer: int = 0

    @property
    def events_a_second(self) -> float:
        """Events that its frames make."""
        return self.hz * sum(
            step.share * (1 + sum(part.share for part in step.parts)) for step in self.steps
        )


def _function(operation: str, dur: float) -> Part:
    return Part("operation", dur, schema.OPERATIONS.index(operation) + 1)


def _importing(
    device: int,
    who: int,
    direction: int,
    cost: float,
    *,
    thread: str = "",
    held: float = 4_000,
    entries: int = 1,
    parts: tuple[Part, ...] = (),
) -> tuple[Step, Step]:
    detail = direction | entries << schema.MAP_ENTRIES_SHIFT
    return (
        Step("map", who, device, dur=cost, detail=detail, thread=thread, parts=parts),
        Step("unmap", who, device, gap=held, detail=direction, thread=thread),
    )


def _cached(device: int, who: int, direction: int) -> tuple[Step, Step]:
    """The core hands out the mapping that the attachment has."""
    detail = direction | schema.MAP_CACHED
    return (
        Step("map", who, device, dur=0.4, detail=detail | 1 << schema.MAP_ENTRIES_SHIFT),
        Step("unmap", who, device, gap=4_000, detail=detail),
    )


def _unmapped(device: int, who: int, thread: str = "") -> Step:
    """The exporter's part of an unmap: the event of the call itself is made at its entry."""
    detail = schema.OPERATIONS.index("unmap") + 1
    return Step("operation", who, device, gap=0.5, dur=4, detail=detail, thread=thread)


def _cpu_read(*parts: Part) -> tuple[Step, Step]:
    return (
        Step("cpu_begin", dur=25, detail=schema.SYNC_READ, parts=parts),
        Step("cpu_end", gap=900, dur=6, detail=schema.SYNC_READ | schema.SYNC_END),
    )


_HANDED_OVER: Final = (Step("fd_install", 1, detail=31), Step("get", 1, dur=1.2, detail=31))
_LOCKED: Final = Step("lock_wait", 1, 1, gap=10, dur=60, share=0.05)
"""Ahead of a map: the ``_unlocked`` variant takes the lock, then makes the call."""
_EXPORTED: Final = (
    *(Step("export", dur=18, detail=0x80002), Step("fd_install", detail=40)),
    Step("set_name", dur=1.5),
)
_GONE: Final = (Step("fd_close", 1), Step("fd_close"), Step("release", 1, detail=2))

_CAMERA: Final = Pipeline(
    *("camera", 60, 3 << 20, "system", ("camerad", "encoder")),
    ("isp0", "venc0"),
    (
        *_importing(0, 0, 2, 3, thread="isp-worker", entries=48, parts=(_function("map", 6),)),
        *(_unmapped(0, 0, "isp-worker"), *_HANDED_OVER),
        *_importing(1, 1, 1, 4, entries=48, parts=(_function("map", 8),)),
        *(_unmapped(1, 1), Step("fd_close", 1)),
    ),
    buffers=6,
)
_GAME: Final = Pipeline(
    *("game", 60, 8 << 20, "drm", ("game", "compositor")),
    ("gpu0", "display0"),
    (
        *(*_HANDED_OVER, Step("export_sync_file", 1, dur=3, detail=1)),
        *(*_cached(0, 1, 1), Step("import_sync_file", 1, dur=4, detail=2)),
        *(*_cached(1, 1, 1), Step("fd_close", 1)),
    ),
    buffers=3,
)
_VIDEO: Final = Pipeline(
    *("video", 60, 6 << 20, "vb2", ("player", "compositor")),
    ("vdec0", "display0"),
    (*_importing(0, 0, 2, 8), Step("poll", 1, dur=1), *_importing(1, 1, 1, 7)),
    buffers=8,
    before=True,
)
_INFERENCE: Final = Pipeline(
    *("inference", 30, 1 << 20, "system", ("detector",)),
    ("npu0",),
    (
        *_cpu_read(_function("begin", 20), Part("fence_wait", 700, share=0.3)),
        *_importing(0, 0, 0, 4, thread="npu-submit", parts=(_function("map", 26),)),
        *(_unmapped(0, 0, "npu-submit"), *_cpu_read(_function("begin", 20))),
    ),
)
_PREVIEW: Final = Pipeline(
    *("preview", 60, 2 << 20, "system", ("camerad", "compositor")),
    ("isp0", "gpu0"),
    (
        *(
            *_importing(0, 0, 2, 9),
            Step("cpu_begin", dur=9, detail=1, share=0.002, ret=-errno.EINTR),
        ),
        *(*_cpu_read(Part("fence_wait", 400, share=0.1)), _LOCKED, *_importing(1, 1, 1, 5)),
    ),
)
_TILES: Final = Pipeline(
    *("tiles", 60, 1 << 18, "udmabuf", ("browser", "gpu-process")),
    ("gpu0",),
    (
        *(Step("export", dur=5, share=0.001, ret=-errno.ENOMEM), *_EXPORTED),
        *(Step("mmap", dur=4, detail=0xFB), *_cpu_read(), *_HANDED_OVER),
        Step("get", 1, dur=0.4, detail=31, share=0.001, ret=-errno.EINVAL),
        Step("attach", 1, 0, dur=2, share=0.004, ret=-errno.EBUSY),
        *(Step("attach", 1, 0, dur=6), *_importing(0, 1, 1, 22, entries=64)),
        *(Step("detach", 1, 0), *_GONE),
    ),
    fresh=True,
)
_WINDOWS: Final = Pipeline(
    *("windows", 2, 4 << 20, "drm", ("shell", "compositor")),
    ("gpu0",),
    (
        *(*_EXPORTED, *_HANDED_OVER, Step("attach", 1, 0, dur=6)),
        *_importing(0, 1, 1, 30, held=3_000_000),
        *(Step("detach", 1, 0), *_GONE),
    ),
    fresh=True,
    places=16 * SLAB,
)
_TRAINING: Final = Pipeline(
    *("training", 30, 16 << 20, "amdgpu", ("trainer", "kworker/u16:2")),
    ("nic0",),
    (
        Step("pin", 0, 0, dur=3, parts=(_function("pin", 12), Part("lock_wait", 90, share=0.02))),
        *_importing(0, 0, 0, 4, entries=16, parts=(_function("map", 15),)),
        *(_unmapped(0, 0), Step("unpin", 0, 0), Step("move", 1, share=0.03)),
        *(Step("map", 0, 0, dur=40, share=0.03), Step("unmap", 0, 0, gap=2_000, share=0.03)),
    ),
    importer=schema.ATTACH_DYNAMIC | schema.ATTACH_PEER2PEER,
)
_TRANSCODER: Final = Pipeline(
    *("transcoder", 30, 2 << 20, "vb2", ("transcoder",)),
    ("scaler0",),
    (
        *(Step("attach", 0, 0, dur=9), Step("map", 0, 0, dur=4, share=0.002, ret=-errno.ENOMEM)),
        *(*_importing(0, 0, 0, 18), Step("detach", 0, 0)),
    ),
    places=SLAB,
)
_USB_DISPLAY: Final = Pipeline(
    *("usb-display", 30, 2 << 20, "drm", ("Xorg", "kworker/1:3")),
    ("gud0",),
    (
        *(Step("vmap", 1, dur=14), Step("kernel_begin", 1, dur=11, detail=2)),
        *(Step("kernel_end", 1, gap=2_500, dur=3, detail=2), Step("vunmap", 1)),
    ),
    buffers=2,
)

PIPELINES: Final = (
    *(_CAMERA, _GAME, _VIDEO, _INFERENCE, _PREVIEW, _TILES),
    *(_WINDOWS, _TRAINING, _TRANSCODER, _USB_DISPLAY),
)
"""A phone or a car's head unit with a few things more."""
