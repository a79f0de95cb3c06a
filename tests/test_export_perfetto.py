# SPDX-License-Identifier: Apache-2.0
"""Perfetto traces, read by Perfetto's own protobufs: tracks, slices, counters, flows, clocks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BUILTIN_CLOCK_BOOTTIME,
    BUILTIN_CLOCK_MONOTONIC,
    BUILTIN_CLOCK_REALTIME,
    CounterDescriptor,
)

from dmabuf_trace import gather, schema, trace
from dmabuf_trace.errors import InputError
from dmabuf_trace.exports.formats import Request, export
from dmabuf_trace.recording import Writer
from tests.build import KIB, MIB, MS, START, US, Build, Process, S, header
from tests.merged import EXPORTS
from tests.strategies import any_events
from tests.timeline import Seen
from tests.vm import run_guest

APP: Final = "app"
CAM: Final = Process(7, "cam")
LANES: Final = {"buffers", "attached", "mapped", "pinned", "vmaps", "CPU accesses"}
DEVICE: Final = "device vivid-000 (vivid, platform)"


def seen(path: Path, **more: Any) -> Seen:
    out = path.with_name("out")
    export(Request(path, "perfetto", out, force=True, **more))
    return Seen(out)


def shared(tmp_path: Path) -> Path:
    """A buffer that app exports and cam maps, and one that is never released."""
    k = Build()
    buffer = k.export(size=MIB, dur=US)
    k.name(buffer, "frame")
    k.wait(MS)
    k.by(CAM)
    attachment = k.attach(buffer, dur=2 * US)
    k.wait(MS)
    k.lock_wait(buffer, 2 * US)
    k.wait(5 * US)
    k.operation(buffer, "map", 3 * US)
    k.wait(US)
    mapping = k.map(attachment, "to_device", dur=6 * US)
    k.wait(MS)
    k.unmap(mapping)
    k.wait(MS)
    k.detach(attachment)
    k.release(buffer)
    k.wait(MS)
    k.export(size=4 * KIB, exporter="udmabuf", fd=5)
    k.wait(MS)
    return k.write(tmp_path / "x.dbt")


def test_lives_of_buffers_by_process_and_of_attachments_by_device(tmp_path: Path) -> None:
    found = seen(shared(tmp_path))
    end = START + 4 * MS + 6 * US

    assert found.on("app", "buffers") == [("41 frame 1 MiB", START, end)]
    assert found.on("cam", "buffers") == [("42 4 KiB (never released)", end + MS, None)]
    assert found.on(DEVICE, "attached") == [("41 system", START + MS, end)]
    assert found.on(DEVICE, "mapped") == [
        ("41 system to_device", START + 2 * MS + 6 * US, end - MS)
    ]


def test_calls_of_a_thread_with_their_parts_within(tmp_path: Path) -> None:
    calls = [each for each in seen(shared(tmp_path)).slices if each.track == ("cam", "cam")]
    mapped = START + 2 * MS + 6 * US

    assert [(each.name, each.begin, each.end, each.depth) for each in calls] == [
        ("attach", START + MS - 2 * US, START + MS, 0),
        ("lock wait", START + 2 * MS - 2 * US, START + 2 * MS, 0),
        ("map", mapped - 6 * US, mapped, 0),
        ("system: map", mapped - 4 * US, mapped - US, 1),
        ("export", *[START + 5 * MS + 6 * US] * 2, 0),
    ]
    assert calls[2].args == {
        "inode": 41,
        "exporter": "system",
        "device": "vivid-000",
    }


def test_processes_and_threads_are_those_of_the_system(tmp_path: Path) -> None:
    tracks = seen(shared(tmp_path)).tracks.values()

    assert {(t.process.pid, t.process.process_name) for t in tracks if t.HasField("process")} == {
        (100, "app"),
        (7, "cam"),
    }
    assert {
        (t.thread.pid, t.thread.tid, t.thread.thread_name) for t in tracks if t.HasField("thread")
    } == {
        (100, 100, "app"),
        (7, 7, "cam"),
    }


def test_flows_lead_from_the_exporter_to_the_importer(tmp_path: Path) -> None:
    found = seen(shared(tmp_path))
    flows: dict[int, list[tuple[str, ...]]] = {}
    for each in sorted(found.slices, key=lambda each: each.begin):
        for flow in each.flows:
            flows.setdefault(flow, []).append(each.track)

    assert list(flows.values()) == [
        [("app", "buffers"), (DEVICE, "attached")],
        [("cam", "buffers")],
    ]


def test_counters_of_bytes(tmp_path: Path) -> None:
    found = seen(shared(tmp_path))
    end = START + 4 * MS + 6 * US

    assert found.counter("all buffers", "alive") == [(START, MIB), (end, 0), (end + MS, 4 * KIB)]
    assert found.counter("all buffers", "alive of system") == [(START, MIB), (end, 0)]
    assert found.counter("app", "alive") == [(START, MIB), (end, 0)]
    assert found.counter("cam", "alive") == [(end + MS, 4 * KIB)]
    assert found.counter(DEVICE, "mapped") == [(START + 2 * MS + 6 * US, MIB), (end - MS, 0)]
    units = {t.name: t.counter.unit for t in found.tracks.values() if t.HasField("counter")}
    assert units["alive"] == units["mapped"] == CounterDescriptor.UNIT_SIZE_BYTES
    assert units["export"] == CounterDescriptor.UNIT_COUNT


def test_counters_of_rates(tmp_path: Path) -> None:
    k = Build()
    for _ in range(3):
        k.release(k.export())
    k.wait(S)
    k.export()

    found = seen(k.write(tmp_path / "x.dbt"))

    assert found.counter("events per second", "export") == [
        (START, 30),
        (START + 100 * MS, 0),
        (START + S, 10),
        (START + S + 100 * MS, 0),
    ]


def test_one_moment_by_all_clocks(tmp_path: Path) -> None:
    began = {"monotonic_ns": START, "realtime_ns": 1_760_000_000 * S, "boottime_ns": 5 * START}
    (snapshot,) = [
        packet.clock_snapshot
        for packet in seen(Build().write(tmp_path / "x.dbt", start=began)).packets
        if packet.HasField("clock_snapshot")
    ]

    assert snapshot.primary_trace_clock == BUILTIN_CLOCK_MONOTONIC
    assert {clock.clock_id: clock.timestamp for clock in snapshot.clocks} == {
        BUILTIN_CLOCK_MONOTONIC: START,
        BUILTIN_CLOCK_REALTIME: 1_760_000_000 * S,
        BUILTIN_CLOCK_BOOTTIME: 5 * START,
    }


def test_what_overlaps_is_on_as_many_lanes_as_it_takes(tmp_path: Path) -> None:
    k = Build()
    waves = []
    for _ in range(4):
        wave = [k.export() for _ in range(5)]
        k.wait(US)
        waves.append(wave)
        for buffer in wave:
            k.release(buffer)
            k.wait(US)
    found = seen(k.write(tmp_path / "x.dbt"))

    lives = [each for each in found.slices if each.track == ("app", "buffers")]
    assert len(lives) == 20
    assert {each.depth for each in lives} == {0}
    assert len({each.lane for each in lives}) == 5
    assert {found.tracks[each.lane].parent_uuid for each in lives} == {
        uuid for uuid, track in found.tracks.items() if track.HasField("process")
    }


def test_made_before_and_held_at_the_end(tmp_path: Path) -> None:
    k = Build()
    k.holding(k.existing(size=KIB, exporter="drm"), fd=9)
    k.snapshot("start")
    k.wait(MS)
    k.export(size=MIB, fd=3)
    found = seen(k.write(tmp_path / "x.dbt"))

    (old,) = [
        each
        for each in found.slices
        if each.track == ("buffers whose export was not seen", "buffers")
    ]
    (new,) = [each for each in found.slices if each.track == ("app", "buffers")]
    assert (old.begin, old.end, old.args["origin"]) == (START, None, "before")
    assert (old.args["held by"], new.args["held by"]) == ("app-100 fd 9", "app-100 fd 3")


def test_failures_moves_and_marks(tmp_path: Path) -> None:
    k = Build()
    buffer = k.export()
    k.wait(US)
    k.attach(buffer, dur=US, errno=16)
    k.move(buffer)
    k.mark("half", 3)
    found = seen(k.write(tmp_path / "x.dbt"))

    (refused,) = [each for each in found.slices if each.name == "attach"]
    assert refused.args["error"] == "EBUSY"
    assert found.moments("app", "app") == [("move", START + US)]
    assert found.moments("recording") == [("half", START + US)]


def test_loss_is_shown_and_counted(tmp_path: Path) -> None:
    k = Build(unobserved=["poll"])
    k.export()
    k.wait(MS)
    k.lose("map", "ring_full", 3)
    found = seen(k.write(tmp_path / "x.dbt", cut=True))

    missing = found.on("lost or not observed")
    assert (
        "loss: map: ring_full",
        START,
        START + MS,
    ) not in missing  # cut: the end is the last event
    assert {name for name, _, _ in missing} >= {
        "loss: map: ring_full",
        "probe: poll: not asked for",
    }
    stats = [p.trace_stats for p in found.packets if p.HasField("trace_stats")]
    assert [each.trace_writer_packet_loss for stat in stats for each in stat.buffer_stats] == [3]


def test_a_lost_release_is_no_leak(tmp_path: Path) -> None:
    k = Build(lists_all=True)
    buffer = k.export(size=KIB)
    k.wait(MS)
    k.vanish(buffer)
    found = seen(k.write(tmp_path / "x.dbt"))

    assert found.on("app", "buffers") == [("41 1 KiB (its end was lost)", START, START + MS)]


def test_without_an_end_is_said_as_far_as_it_is_known(tmp_path: Path) -> None:
    def told(name: str, *, window: tuple[int, int] | None = None, **how: Any) -> list[str]:
        k = Build(**how)
        k.export(size=KIB)
        k.wait(MS)
        if name == "lost":
            k.lose("release", "ring_full", 1)
        path = k.write(tmp_path / f"{name}.dbt")
        return [text for text, _, _ in seen(path, window=window).on("app", "buffers")]

    assert told("whole") == ["41 1 KiB (never released)"]
    assert told("lost") == ["41 1 KiB (never released, as far as is known)"]
    assert told("blind", unobserved=["release"]) == ["41 1 KiB (its end is not observed)"]
    assert not seen(tmp_path / "blind.dbt").counter("app", "alive")
    assert told("part", window=(0, MS)) == ["41 1 KiB (no end in this time)"]


def test_stretch_by_stretch_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    k = Build()
    alive = []
    for number in range(45):
        k.by(Process(100 + number % 3, "app"))
        buffer = k.export(size=KIB)
        k.wait(US)
        mapping = k.map(k.attach(buffer), dur=US // 2)
        k.wait(US)
        alive.append((buffer, mapping))
        if number % 4 == 3:
            buffer, mapping = alive.pop(0)
            k.unmap(mapping)
            k.detach(mapping.attachment)
            k.release(buffer)
    monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
    path = k.write(tmp_path / "x.dbt")
    whole = seen(path)
    monkeypatch.setattr(trace, "STRETCH_EVENTS", 20)
    assert sum(1 for _ in trace.stretches(path)) > 5
    parts = seen(path)

    assert parts.slices == whole.slices
    assert {each.depth for each in parts.slices if each.track[-1] in LANES} == {0}
    for track in (("all buffers", "alive"), ("events per second", "map"), ("app", "alive")):
        assert parts.counter(*track) == whole.counter(*track)


@settings(max_examples=25, deadline=None)
@given(any_events())
def test_whatever_the_events_slices_end_behind_their_begin(events: NDArray[np.void]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dbt"
        with Writer(path) as writer:
            writer.begin(header())
            writer.write_events(events)
            writer.finish(int(events["ts"].max(initial=0)), "duration over")
        found = seen(path)

    timed = [kind.id for kind in schema.KINDS if kind.timed]
    assert len(found.slices) >= np.isin(events["kind"], timed).sum()
    for each in found.slices:
        assert each.end is None or each.begin <= each.end
        assert each.depth == 0 or each.track[-1] not in LANES


NASTY: Final = "\x1b[2J\u202egnp.exe<script>\n[red]"


def test_no_name_does_harm(tmp_path: Path) -> None:
    k = Build(process=Process(100, NASTY))
    buffer = k.export(exporter=NASTY)
    k.name(buffer, NASTY)
    k.map(k.attach(buffer, NASTY, driver=NASTY, bus="x"))
    k.operation(buffer, "map", US)
    k.mark(NASTY)
    text = tmp_path / "ftrace"
    text.write_text(f"  {NASTY[:5]}-1   [000] .....     1.000000: {NASTY[:9]}: {NASTY[:9]}\n")

    texts = set(seen(k.write(tmp_path / "x.dbt", command=[NASTY]), ftrace=text).texts())

    assert [each for each in texts if not each.isprintable()] == []
    assert any("\\x1b[2J\\u202egnp" in each for each in texts)


def test_numbers_that_no_kernel_writes_do_no_harm(tmp_path: Path) -> None:
    big = (1 << 64) - 1
    k = Build(process=Process((1 << 32) - 1, "app"))
    k.event("export", buffer=big, object=big, value=big, ts=big, dur=big)
    k.event("map", buffer=big, object=big, value=big, ts=1, dur=big, ret=-4096)
    start = {"monotonic_ns": -1, "realtime_ns": "x", "boottime_ns": 1 << 70}

    seen(k.write(tmp_path / "x.dbt", cut=True, start=start))


TEXT: Final = """\
# tracer: nop
#                                _-----=> irqs-off/BH-disabled
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
             cam-7       [001] .....     1.002001: dma_fence_wait_start: driver=vgem seqno=3
          <idle>-0       [003] d.h2.     1.002500: dma_fence_signaled: driver=vgem seqno=3
CPU:2 [LOST 12 EVENTS]
 a b-c-7 (   7) [001] d..1     1.003000: sched_switch: prev_comm=a b-c prev_pid=7 ==> next_pid=0
        worker-99      [000]      1.003500123: print: x: y: z
             cam-7       [001] .....     9.000000: late: x
what is this?
"""


def test_an_ftrace_recording_is_merged_on_the_same_clock(tmp_path: Path) -> None:
    text = tmp_path / "trace.txt"
    text.write_text(TEXT)
    out = tmp_path / "out"

    _, notes = export(Request(shared(tmp_path), "perfetto", out, ftrace=text))

    found = Seen(out)
    assert found.moments("cam", "cam") == [
        ("dma_fence_wait_start", START + 2 * MS + US),
        ("sched_switch", START + 3 * MS),
    ]
    assert found.moments("ftrace", "cpu 3") == [("dma_fence_signaled", START + 2 * MS + 500 * US)]
    assert found.moments("ftrace", "cpu 0") == [("print", START + 3 * MS + 500 * US + 123)]
    assert notes == (
        f"{text}: 1 event of another time left out",
        f"{text}: 1 line left out: no events",
        f"{text}: 12 events lost by ftrace",
    )
    assert [name for name, _ in found.moments("lost or not observed")] == [
        "12 events lost by ftrace"
    ]


@pytest.mark.parametrize("text", ["", "garbage\n", "  a-1  [000] ..... 99.000000: x: y\n"])
def test_an_ftrace_recording_of_another_time_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace.txt"
    file.write_text(text)

    path, out = shared(tmp_path), tmp_path / "out"

    with pytest.raises(InputError, match="no event of the time of the recording"):
        export(Request(path, "perfetto", out, ftrace=file))
    with pytest.raises(InputError, match="can't read"):
        export(Request(path, "perfetto", out, ftrace=tmp_path / "no"))
    assert not out.exists()


@pytest.mark.guest
def test_ftrace_and_we_give_the_same_times(tmp_path: Path) -> None:
    """Both lie within the caller's own clock readings around each call; ftrace prints us."""
    command = ["python3", "-m", "tests.merged", "record", "/out"]
    done = run_guest("6.12", command, timeout=300, shares={"/out": tmp_path}, module=True)
    assert done.returncode == 0, done.stderr
    around = json.loads((tmp_path / "moments.json").read_text())

    found = seen(tmp_path / "x.dbt", ftrace=tmp_path / "trace.txt")

    (track,) = {each.track for each in found.slices if each.name == "export"}
    ours = [(begin, end) for name, begin, end in found.on(*track) if name == "export"]
    theirs = [ts for name, ts in found.moments(*track) if name.startswith("exported")]
    assert len(ours) == len(theirs) == len(around) == EXPORTS
    for (begin, end), ts, (before, after) in zip(sorted(ours), theirs, around, strict=True):
        assert end is not None
        assert before <= begin <= end <= after
        assert before - US <= ts <= after + US
