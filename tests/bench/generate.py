# SPDX-License-Identifier: Apache-2.0
"""Events as a busy device makes them, without a kernel: frames that pass through pipelines.

:mod:`tests.bench.mix` says what happens per frame, by whom and how long each call takes; the rest
is drawn from a seeded generator: jitter of frames, gaps and durations with a long tail, migrations
between processors. What begins also ends, on the same object, so the events mean something to every
consumer; a few are lost, as they are where a ring is full. Which steps are in a frame and which
events are lost depends on the frame alone: slices of any length give as many events. Vectorised: no
Python object per event, memory bounded per slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Probed, SnapshotBlock
from tests.bench.mix import PIPELINES, Part, Pipeline, Step
from tests.bench.objects import Column, Objects, calls

__all__ = ["PIPELINES", "Generator", "Part", "Pipeline", "Step"]

US, S = 1_000, 1_000_000_000
CPUS: Final = 8
LOST: Final = 1 / 5_000
LOST_ENDS: Final = 1 / 100_000
"""Share of events that are lost: fewer of those that end something, as what they leave open stays
open, and a recording of any size has few of these."""
ENDS: Final = ("release", "detach", "unmap", "fd_close", "unpin", "vunmap", "cpu_end", "kernel_end")

_SPREADS: Final = 3.5
"""No time is further from its median: a frame is over before its addresses come again."""
_LOSSES: Final = np.full(schema.KIND_SLOTS, LOST)
_LOSSES[[schema.KIND[kind] for kind in ENDS]] = LOST_ENDS


def _chances(number: int, places: Column) -> NDArray[np.float64]:
    """For each place a number from 0 to 1 that looks random and depends on nothing else."""
    bits = places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits += np.uint64(number * 0xD1342543DE82EF95 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ bits >> np.uint64(shift)) * np.uint64(factor)
    return np.asarray((bits ^ bits >> np.uint64(31)) / 2.0**64)


class _Player:
    """Makes the events of one pipeline, frame by frame in order."""

    def __init__(
        self, pipeline: Pipeline, number: int, rng: np.random.Generator, *, lossy: bool
    ) -> None:
        self.pipeline = pipeline
        self.objects = Objects(pipeline, number)
        self.losses = np.zeros(schema.LOSS_SHAPE, np.uint64)
        self._lossy = lossy
        self._rng = rng
        self._number = number
        self._phase = int(rng.integers(int(S / pipeline.hz)))
        self._home = rng.integers(CPUS, size=len(pipeline.processes))

    def setup(self, ts: int) -> NDArray[np.void]:
        """The buffers that all frames share: exported, installed, attached.

        Where that was ahead of the trace there are frames under way when it begins.
        """
        if self.pipeline.before:
            earlier = self.frames(int(-2 * self.pipeline.hz), 0, ts + S)
            begun: NDArray[np.void] = earlier[earlier["ts"] >= ts]
            return begun
        steps = [Step("export", dur=300, detail=0x80002), Step("fd_install", detail=20)]
        steps.append(Step("set_name", dur=1.5))
        for device in range(len(self.pipeline.devices)):
            who = min(device, len(self.pipeline.processes) - 1)
            if device not in self.objects.attaching:
                steps.append(Step("attach", who, device, dur=40))
            if device in self.objects.cached:
                steps.append(Step("map", who, device, dur=30, detail=1))
                steps.append(Step("unmap", who, device, detail=1 | schema.MAP_CACHED))
        slots = self.objects.shared
        return self._events(tuple(steps), slots, ts + slots * S // 100, lossy=False)

    def frames(self, first: int, last: int, start: int) -> NDArray[np.void]:
        """Events of the frames ``first`` to ``last`` (exclusive); ``start``: ns of frame 0."""
        numbers = np.arange(first, last)
        due = start + self._phase + (numbers * (S / self.pipeline.hz)).astype(np.int64)
        late = self._rng.exponential(150 * US, len(numbers)).astype(np.int64)
        return self._events(self.pipeline.steps, numbers, due + late, lossy=self._lossy)

    def _events(
        self, steps: tuple[Step, ...], frames: Column, begin: Column, *, lossy: bool
    ) -> NDArray[np.void]:
        """``steps`` for every frame, as one array in no particular order."""
        events = np.zeros((len(frames), len(list(calls(steps)))), schema.EVENT_DTYPE)
        events["stack"] = events["user_stack"] = schema.UNKNOWN_STACK
        there = np.empty(events.shape, np.bool_)
        chances = _chances(self._number, frames)
        columns = iter(range(events.shape[1]))
        now = begin
        for step in steps:
            happens = chances < step.share
            start = now + self._times(step.gap, 0.6, len(frames))
            own = self._times(step.dur, 0.35, len(frames))
            end = start + own // 4
            for part in step.parts:
                inside = happens & (chances < part.share)
                dur = self._times(part.dur, 0.35, len(frames)) * inside
                end = end + dur
                column = next(columns)
                self._call(step, part, events[:, column], frames, end, dur)
                there[:, column] = inside
            end = end + own - own // 4
            column = next(columns)
            self._call(step, step, events[:, column], frames, end, end - start)
            there[:, column] = happens
            now = np.where(happens, end, now)
        if lossy:
            self._lose(events["kind"], there, frames)
        made: NDArray[np.void] = events[there]
        return made

    def _call(
        self,
        step: Step,
        what: Step | Part,
        column: NDArray[np.void],
        frames: Column,
        end: Column,
        dur: Column,
    ) -> None:
        """``what`` is the call of a step, or a part of it."""
        column["ts"], column["dur"] = end, dur
        column["kind"], column["detail"] = schema.KIND[what.kind], what.detail
        column["pid"] = self.objects.pids[step.who]
        column["tid"] = self.objects.tids[step.who, step.thread]
        column["cpu"] = self._processors(step.who, len(end))
        self.objects.fill(step, what, column, frames)

    def _lose(self, kinds: NDArray[np.uint16], there: NDArray[np.bool_], frames: Column) -> None:
        """Take some of the events that are there away, and count them."""
        places = frames[:, None] * kinds.shape[1] + np.arange(kinds.shape[1])
        lost = there & (_chances(~self._number % 2**32, places) < _LOSSES[kinds])
        counts = np.bincount(kinds[lost], minlength=schema.KIND_SLOTS)
        self.losses[:, schema.CAUSE["ring_full"]] += counts.astype(np.uint64)
        there &= ~lost

    def _times(self, median: float, spread: float, count: int) -> Column:
        """Times in ns around a median in us, one of a hundred ten times as long."""
        if not median:
            return np.zeros(count, np.int64)
        spreads = np.clip(self._rng.standard_normal(count), -_SPREADS, _SPREADS)
        times = median * US * np.exp(spread * spreads)
        times[self._rng.random(count) < 0.01] *= 10
        return times.astype(np.int64)

    def _processors(self, who: int, count: int) -> Column:
        moved = np.where(self._rng.random(count) < 0.15, self._rng.integers(CPUS, size=count), 0)
        processors: Column = (self._home[who] + moved) % CPUS
        return processors


class Generator:
    """A trace of ``seconds``; ``scale`` runs so many of each pipeline side by side.

    ``lossy``: some events are lost; :attr:`losses` counts those of the slices made so far.
    """

    def __init__(
        self,
        seconds: float,
        *,
        seed: int = 1,
        scale: int = 1,
        start: int = 100 * S,
        pipelines: Sequence[Pipeline] = PIPELINES,
        lossy: bool = True,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.start, self.seconds = start, seconds
        self._players = [
            _Player(pipeline, number, rng, lossy=lossy)
            for number, pipeline in enumerate(pipe for _ in range(scale) for pipe in pipelines)
        ]

    @classmethod
    def sized(cls, events: int, *, seed: int = 1) -> Self:
        """A trace of so many events, to a hundredth."""
        return cls(events / sum(pipe.events_a_second for pipe in PIPELINES), seed=seed)

    @property
    def losses(self) -> NDArray[np.uint64]:
        """Counters of :data:`schema.LOSS_SHAPE`."""
        return np.asarray(sum(player.losses for player in self._players))

    def names(self) -> NDArray[np.void]:
        """All names; :data:`schema.NAME_DTYPE`."""
        rows = {row["id"]: row for player in self._players for row in player.objects.names()}
        names = np.zeros(len(rows), schema.NAME_DTYPE)
        names["ts"] = self.start
        for name, row in zip(names, rows.values(), strict=True):
            for field, value in row.items():
                name[field] = value
        return names

    def cgroups(self) -> dict[int, str]:
        """Paths of all cgroups by id."""
        return dict(item for player in self._players for item in player.objects.cgroups().items())

    def stacks(self) -> dict[int, tuple[str, ...]]:
        """All kernel stacks by id."""
        return dict(item for player in self._players for item in player.objects.stacks().items())

    def probed(self) -> tuple[Probed, ...]:
        """All functions of exporters that were probed, when buffers and attachments were there."""
        rows = (row for player in self._players for row in player.objects.probed(self.start + S))
        return tuple({row.symbol: row for row in rows}.values())

    def snapshot(self, when: str, ts: int) -> SnapshotBlock:
        """A look at the "start" or, all frames being over, at the "end" of the trace."""
        alive = [
            player.objects.held()
            for player in self._players
            if when == "end" or player.pipeline.before
        ]
        found = tuple(buffer for buffers, _ in alive for buffer in buffers)
        holders = tuple(holder for _, held in alive for holder in held)
        return SnapshotBlock(when, ts, found, holders, 0, "iterators", complete=True)

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
