# SPDX-License-Identifier: Apache-2.0
"""Events as a busy device makes them, without a kernel: frames that pass through pipelines.

A pipeline says what happens per frame, by whom and how long each call takes; the rest is drawn from
a seeded generator: jitter of frames, gaps and durations with a long tail, migrations between
processors, addresses out of slabs. What begins also ends, on the same object, so the events mean
something to every consumer. Vectorised: no Python object per event, memory bounded per slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema

US, S = 1_000, 1_000_000_000
CPUS: Final = 8
SLAB: Final = 42
"""Objects of 96 bytes in a page: where an allocator puts the next one of a kind."""

Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Step:
    """One call: its kind, who makes it (index of a process), on which device, for how long.

    ``gap`` and ``dur`` are medians in us: since the step before, and within the call.
    """

    kind: str
    who: int = 0
    device: int = -1
    gap: float = 40.0
    dur: float = 0.0
    detail: int = 0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Frames at ``hz``, each on the next of ``buffers`` buffers; ``fresh``: on a new buffer."""

    name: str
    hz: float
    size: int
    exporter: str
    processes: tuple[str, ...]
    devices: tuple[str, ...]
    steps: tuple[Step, ...]
    buffers: int = 4
    fresh: bool = False


def _importing(device: int, who: int, direction: int, cost: float) -> tuple[Step, Step]:
    return (
        Step("map", who, device, dur=cost, detail=direction),
        Step("unmap", who, device, gap=4_000, detail=direction),
    )


_CPU_READ: Final = (Step("cpu_begin", dur=25, detail=1), Step("cpu_end", gap=900, dur=6, detail=5))
_HANDED_OVER: Final = (Step("fd_install", 1, detail=31), Step("get", 1, dur=1.2, detail=31))

PIPELINES: Final = (
    Pipeline(
        *("camera", 60, 3 << 20, "system", ("camerad", "encoder")),
        ("isp0", "venc0"),
        (*_importing(0, 0, 2, 9), *_HANDED_OVER, *_importing(1, 1, 1, 12), Step("fd_close", 1)),
        buffers=6,
    ),
    Pipeline(
        *("game", 60, 8 << 20, "drm", ("game", "compositor")),
        ("gpu0", "display0"),
        (
            *(*_HANDED_OVER, Step("export_sync_file", 1, dur=3, detail=1)),
            *(*_importing(0, 1, 1, 5), Step("import_sync_file", 1, dur=4, detail=2)),
            *(*_importing(1, 1, 1, 7), Step("fd_close", 1)),
        ),
        buffers=3,
    ),
    Pipeline(
        *("video", 60, 6 << 20, "vb2", ("player", "compositor")),
        ("vdec0", "display0"),
        (*_importing(0, 0, 2, 8), *_importing(1, 1, 1, 7)),
        buffers=8,
    ),
    Pipeline(
        *("inference", 30, 1 << 20, "system", ("detector",)),
        ("npu0",),
        (*_CPU_READ, *_importing(0, 0, 0, 30), *_CPU_READ),
    ),
    Pipeline(
        *("preview", 60, 2 << 20, "system", ("camerad", "compositor")),
        ("isp0", "gpu0"),
        (*_importing(0, 0, 2, 9), *_CPU_READ, *_importing(1, 1, 1, 5)),
    ),
    Pipeline(
        *("tiles", 60, 1 << 18, "udmabuf", ("browser", "gpu-process")),
        ("gpu0",),
        (
            *(Step("export", dur=18, detail=0x80002), Step("fd_install", detail=40)),
            *(Step("set_name", dur=1.5), Step("mmap", dur=4), *_CPU_READ, *_HANDED_OVER),
            *(Step("attach", 1, 0, dur=6, detail=1), *_importing(0, 1, 1, 22)),
            *(Step("detach", 1, 0), Step("fd_close", 1), Step("fd_close"), Step("release", 1)),
        ),
        fresh=True,
    ),
)
"""A phone or a car's head unit: about 4,000 events a second."""


class _Player:
    """Makes the events of one pipeline, frame by frame in order."""

    def __init__(self, pipeline: Pipeline, number: int, rng: np.random.Generator) -> None:
        self.pipeline = pipeline
        self._rng = rng
        self._number = number
        self._phase = int(rng.integers(int(S / pipeline.hz)))
        self._pages = rng.integers(1 << 20, 1 << 24, size=(len(pipeline.steps) + 64)) << 12
        self._home = rng.integers(CPUS, size=len(pipeline.processes))
        self._pids = 1_000 * (number + 1) + 150 * np.arange(len(pipeline.processes))

    def names(self) -> Iterator[dict[str, int | bytes]]:
        """Fields of :data:`schema.NAME_DTYPE`, those that are not empty, for what events name."""
        texts = [("exporter", self.pipeline.exporter), ("buffer", self.pipeline.name)]
        for kind, text in [*texts, *(("device", device) for device in self.pipeline.devices)]:
            yield {"id": _string(text), "type": schema.NAME_TYPES[kind], "text": text.encode()}
        comm = schema.NAME_TYPES["comm"]
        for pid, text in zip(self._pids.tolist(), self.pipeline.processes, strict=True):
            yield {"id": pid, "type": comm, "pid": pid, "text": text.encode()}

    def setup(self, ts: int) -> NDArray[np.void]:
        """The buffers that all frames share: exported, installed, attached."""
        if self.pipeline.fresh:
            return np.zeros(0, schema.EVENT_DTYPE)
        begin = [Step("export", dur=300, detail=0x80002), Step("fd_install", detail=20)]
        begin.append(Step("set_name", dur=1.5))
        attached = [
            Step("attach", min(device, len(self._pids) - 1), device, dur=40)
            for device in range(len(self.pipeline.devices))
        ]
        slots = np.arange(self.pipeline.buffers)
        return self._events([*begin, *attached], slots, ts + slots * S // 100)

    def frames(self, first: int, last: int, start: int) -> NDArray[np.void]:
        """Events of the frames ``first`` to ``last`` (exclusive); ``start``: ns of frame 0."""
        numbers = np.arange(first, last)
        due = start + self._phase + (numbers * (S / self.pipeline.hz)).astype(np.int64)
        late = self._rng.exponential(150 * US, len(numbers)).astype(np.int64)
        return self._events(self.pipeline.steps, numbers, due + late)

    def _events(self, steps: Sequence[Step], frames: Column, begin: Column) -> NDArray[np.void]:
        """``steps`` for every frame, as one array in no particular order."""
        events = np.zeros((len(frames), len(steps)), schema.EVENT_DTYPE)
        events["stack"] = events["user_stack"] = schema.UNKNOWN_STACK
        slot = frames if self.pipeline.fresh else frames % self.pipeline.buffers
        now = begin
        given: dict[int, Column] = {}
        for index, step in enumerate(steps):
            column = events[:, index]
            dur = self._times(step.dur, 0.35, len(frames))
            now = now + self._times(step.gap, 0.6, len(frames)) + dur
            column["ts"], column["dur"] = now, dur
            column["kind"] = schema.KIND[step.kind]
            column["buffer"] = 1_000 * (self._number + 1) + slot + (self._number << 24)
            column["pid"] = column["tid"] = self._pids[step.who]
            column["cpu"] = self._processors(step.who, len(frames))
            column["detail"] = step.detail
            self._about(step, column, slot, given)
        return events.reshape(-1)

    def _about(
        self, step: Step, column: NDArray[np.void], slot: Column, given: dict[int, Column]
    ) -> None:
        """The objects that a step is about; ``given``: the sg_table of each device's map."""
        attachment = self._object(step.device, slot)
        match step.kind:
            case "export" | "release" | "get":
                column["object"] = self._object(40, slot)
            case "fd_install" | "fd_close":
                column["object"] = self._object(41, slot)
            case "mmap":
                column["object"] = 0x7F00_0000_0000 + (slot % 997 << 20)
            case _ if step.device >= 0:
                column["object"] = attachment
                column["aux"] = _string(self.pipeline.devices[step.device])
        match step.kind:
            case "export":
                column["value"] = self.pipeline.size
                column["aux"] = _string(self.pipeline.exporter)
                column["stack"] = 100 + self._number
            case "set_name":
                column["aux"] = _string(self.pipeline.name)
            case "mmap":
                column["value"] = self.pipeline.size
            case "fd_install" | "fd_close":
                column["value"] = self._object(42 + step.who, np.zeros_like(slot))
            case "export_sync_file" | "import_sync_file":
                column["value"] = 50 + self._rng.integers(8, size=len(slot))
            case "attach":
                column["value"] = self._object(50 + step.device, np.zeros_like(slot))
                column["stack"] = 200 + self._number
            case "map":
                page = self._pages[20 + step.device]
                given[step.device] = _KERNEL + page + 96 * self._rng.integers(SLAB, size=len(slot))
                column["value"] = given[step.device].view(np.uint64)
            case "unmap":
                column["value"] = given[step.device].view(np.uint64)

    def _object(self, which: int, slot: Column) -> NDArray[np.uint64]:
        """Address of the object of a sort that belongs to a buffer: slots of a few pages."""
        place = slot * 29 % (SLAB * 4)  # an allocator's free list is no sequence
        pages = self._pages[which] + (place // SLAB << 12)
        addresses: Column = _KERNEL + pages + place % SLAB * 96
        return addresses.view(np.uint64)

    def _times(self, median: float, spread: float, count: int) -> Column:
        """Times in ns around a median in us, one of a hundred ten times as long."""
        if not median:
            return np.zeros(count, np.int64)
        times = self._rng.lognormal(np.log(median * US), spread, count)
        times[self._rng.random(count) < 0.01] *= 10
        return times.astype(np.int64)

    def _processors(self, who: int, count: int) -> Column:
        moved = np.where(self._rng.random(count) < 0.15, self._rng.integers(CPUS, size=count), 0)
        processors: Column = (self._home[who] + moved) % CPUS
        return processors


_KERNEL: Final = np.int64(0xFFFF_8880_0000_0000 - (1 << 64))
"""Where the kernel maps all memory, on x86-64."""


def _string(text: str) -> int:
    """A string id: 64 bits that look like a hash."""
    return (
        int.from_bytes(text.encode().ljust(8, b"\x9d")[:8], "little") * 0x9E3779B97F4A7C15 % 2**64
    )


class Generator:
    """A trace of ``seconds``; ``scale`` runs so many of each pipeline side by side."""

    def __init__(
        self,
        seconds: float,
        *,
        seed: int = 1,
        scale: int = 1,
        start: int = 100 * S,
        pipelines: Sequence[Pipeline] = PIPELINES,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.start, self.seconds = start, seconds
        self._players = [
            _Player(pipeline, number, rng)
            for number, pipeline in enumerate(pipe for _ in range(scale) for pipe in pipelines)
        ]

    def names(self) -> NDArray[np.void]:
        """All names; :data:`schema.NAME_DTYPE`."""
        rows = {row["id"]: row for player in self._players for row in player.names()}
        names = np.zeros(len(rows), schema.NAME_DTYPE)
        names["ts"] = self.start
        for name, row in zip(names, rows.values(), strict=True):
            for field, value in row.items():
                name[field] = value
        return names

    def slices(self, length: float = 1.0) -> Iterator[NDArray[np.void]]:
        """The events in order of time, about ``length`` seconds at a time; EVENT_DTYPE."""
        rest = np.concatenate([player.setup(self.start) for player in self._players])
        first = self.start + S  # frames begin when all is set up
        done = [0] * len(self._players)
        edges = np.arange(length, self.seconds + length, length)
        for edge in np.minimum(edges, self.seconds):
            parts = [rest]
            for index, player in enumerate(self._players):
                until = int(edge * player.pipeline.hz)
                parts.append(player.frames(done[index], until, first))
                done[index] = until
            made = np.concatenate(parts)
            made = made[np.argsort(made["ts"], kind="stable")]
            end = np.searchsorted(made["ts"], np.uint64(first + int(edge * S)))
            yield made[:end]
            rest = made[end:]
        yield rest
