# SPDX-License-Identifier: Apache-2.0
"""What top counts: alive, rates, lengths, what grows; batch by batch and in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmabuf_trace import schema
from dmabuf_trace.blocks import EventBlock, NameBlock
from dmabuf_trace.recording import Reader
from dmabuf_trace.tables import together
from dmabuf_trace.top.activity import Activity, Moment
from dmabuf_trace.top.floors import GROUPS, POINTS, Floors
from dmabuf_trace.top.listing import Row
from dmabuf_trace.top.listings import LISTINGS
from dmabuf_trace.top.recent import SPAN_NS, Recent, bucket_of, percentile
from dmabuf_trace.top.replay import Replay
from tests.bench.generate import Generator
from tests.bench.recorded import record
from tests.build import KIB, MS, START, US, Build, Process, S

CAM, GPU = Process(200, "camera"), Process(300, "gpu")


@pytest.fixture
def k() -> Build:
    return Build(lists_all=True)


def moments(k: Build, path: Path, interval: int = S) -> list[Moment]:
    """Of a recording of what was built, played without waiting."""
    return [*Replay(k.write(path / "x.dbt"), interval, 1, lambda _: False).moments()]


def last(k: Build, path: Path) -> Moment:
    return moments(k, path)[-1]


def rows(of: Moment, name: str, *columns: str) -> list[tuple[Any, ...]]:
    """Columns of a listing in its order."""
    listing = LISTINGS[name](of)
    found: list[Row] = listing.rows(
        listing.sorted(listing.find(""), listing.order, ascending=False)
    )
    return [tuple(row[column] for column in columns) for row in found]


def test_buffers_from_before_are_there_at_the_first_frame(k: Build, tmp_path: Path) -> None:
    with_fd, kept = k.existing(8 * KIB, name="old"), k.existing(4 * KIB, "gem")
    k.by(CAM).holding(with_fd, 5)
    k.snapshot("start")
    k.wait(S)
    k.release(kept)

    first, *_, end = moments(k, tmp_path)

    assert first.ts == START
    columns = ("inode", "exporter", "name", "size_bytes", "process", "age_ns")
    assert rows(first, "buffers", *columns) == [
        (with_fd.inode, "system", "old", 8 * KIB, "camera-200", None),
        (kept.inode, "gem", "", 4 * KIB, "<unknown>", None),
    ]
    assert rows(end, "buffers", "inode") == [(with_fd.inode,)]
    assert rows(first, "processes", "process", "fds") == [("camera-200", 1), ("<unknown>", 0)]


def test_groups_count_what_is_alive_and_what_goes_on(k: Build, tmp_path: Path) -> None:
    k.snapshot("start")
    gone, kept = k.by(CAM).export(4 * KIB, fd=3), k.export(64 * KIB, "gem", fd=4)
    attachment = k.by(GPU).attach(kept, "gpu0")
    for _ in range(20):
        k.unmap(k.map(attachment, dur=10 * US))
    k.map(attachment, dur=10 * US)
    k.by(CAM).attach(gone, "isp0", errno=16)
    k.wait(10 * S)
    k.release(gone)

    found = last(k, tmp_path)

    assert rows(found, "exporters", "exporter", "buffers", "size_bytes", "map_per_s") == [
        ("gem", 1, 64 * KIB, 2.1),
        ("system", 0, 0, 0),
    ]
    assert rows(found, "processes", "process", "buffers", "fds", "export_per_s", "map_per_s") == [
        ("camera-200", 1, 2, 0.2, 0),
        ("gpu-300", 0, 0, 0, 2.1),
    ]
    assert rows(found, "devices", "device", "buffers", "mappings", "map_per_s", "failed_per_s") == [
        ("gpu0", 1, 1, 2.1, 0),
        ("isp0", 0, 0, 0, 0.1),
    ]
    ((length,),) = rows(found, "exporters", "map_p99_ns")[:1]
    assert length == pytest.approx(10 * US, rel=0.05)
    assert (found.failed, found.events) == (1, len(k.events()))


def test_what_is_not_observed_is_not_zero(k: Build, tmp_path: Path) -> None:
    k.unobserved = ("map", "fd_close")
    k.snapshot("start")
    k.attach(k.export())

    found = last(k, tmp_path)

    assert found.per_second("map") is None
    assert rows(found, "exporters", "mappings", "map_per_s", "map_p99_ns") == [(None, None, None)]
    assert rows(found, "processes", "fds", "map_per_s") == [(None, None)]
    assert rows(found, "devices", "mappings", "map_per_s") == [(None, None)]


def test_mappings_are_sorted_by_how_long_they_are_held(k: Build, tmp_path: Path) -> None:
    k.snapshot("start")
    long, short = k.attach(k.export(), "gpu0"), k.attach(k.export(), "isp0")
    k.map(long)
    k.wait(3 * S)
    k.unmap(k.map(short))
    k.map(short)
    k.wait(S)
    k.release(k.export())

    held = rows(last(k, tmp_path), "mappings", "device", "held_ns")

    assert held == [("gpu0", 4 * S), ("isp0", S)]


def test_a_leak_grows_and_what_comes_and_goes_does_not(k: Build, tmp_path: Path) -> None:
    k.snapshot("start")
    cache = [k.by(GPU).export(exporter="gem") for _ in range(8)]
    for _ in range(60):
        k.by(CAM).export(64 * KIB)
        for _ in range(3):
            k.release(k.by(GPU).export(exporter="gem"))
            k.wait(300 * MS)
    k.wait(S)
    k.release(cache.pop())

    ((*who, count, slope),) = rows(
        last(k, tmp_path), "growing", "exporter", "process", "buffers", "slope_per_s"
    )

    assert (who, count) == (["system", "camera-200"], 60)
    assert slope == pytest.approx(1 / 0.9, rel=0.1)


def test_rates_are_of_the_last_seconds_only(k: Build, tmp_path: Path) -> None:
    k.snapshot("start")
    attachment = k.attach(k.export())
    k.unmap(k.map(attachment))
    k.wait(2 * SPAN_NS)
    k.begin(attachment.buffer)

    found = last(k, tmp_path)

    assert found.per_second("map") == 0
    assert rows(found, "devices", "device", "map_per_s") == [("vivid-000", 0)]


def test_batches_of_any_size_come_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.dbt"
    record(path, Generator.sized(20_000))
    with Reader(path) as reader:
        blocks = [*reader.blocks()]
    names = together([block.names for block in blocks if isinstance(block, NameBlock)])
    events = together([block.events for block in blocks if isinstance(block, EventBlock)])
    end = int(events["ts"].max())

    def played(size: int) -> list[object]:
        activity = Activity(0, {})
        activity.feed_names(names)
        for at in range(0, len(events), size):
            activity.feed(events[at : at + size])
        found = activity.moment(end)
        return [
            rows(found, name, *(c.name for c in LISTINGS[name](found).columns)) for name in LISTINGS
        ]

    assert played(997) == played(len(events))


def test_what_was_released_is_forgotten() -> None:
    k = Build()
    for _ in range(1_000):
        k.release(k.export())
    events, activity = k.events(), Activity(START, {})
    for turn in range(100):
        again = events.copy()
        again["buffer"] += turn * 1_000
        activity.feed(again)
        found = activity.moment(START + turn * S)

    assert len(found.rows.buffers) == 0
    assert found.events == 100 * 2_000
    assert sum(len(batch.events) for batch in found.latest) < (1 << 17) + 2_000


def test_recent_sums_forget_keys() -> None:
    recent = Recent(2, START)
    recent.add(np.array([7, 7, 8]), np.array([0, 1, 1]))

    assert {key: row.tolist() for key, row in recent.step(START).items()} == {7: [1, 1], 8: [0, 1]}
    assert recent.step(START + SPAN_NS) == {}
    assert recent.since == START


def test_percentiles_are_of_the_nearest_rank() -> None:
    lengths = np.array([1_000] * 98 + [50_000] * 2)
    counts = np.bincount(bucket_of(lengths), minlength=400)

    assert percentile(counts, 50) == pytest.approx(1_000, rel=0.05)
    assert percentile(counts, 99) == pytest.approx(50_000, rel=0.05)
    assert percentile(counts * 0, 50) == percentile(None, 50) == -1


def test_floors_stay_few_however_long_it_takes() -> None:
    floors = Floors()
    for at in range(10_000):
        floors.take(START + at * S, {(1, pid): at for pid in range(3)} | {(2, at): 1})

    assert len(floors._times) < POINTS
    assert len(floors._floors) < GROUPS
    assert set(floors.growing()) == {(1, 0), (1, 1), (1, 2)}


def test_losses_are_in_every_moment(k: Build, tmp_path: Path) -> None:
    k.snapshot("start")
    k.export()
    k.lose("map", "ring_full", 5)
    k.lose("map", "stack_lost", 5)

    assert last(k, tmp_path).lost == 5
    assert schema.lost_events(k.losses) == 5
