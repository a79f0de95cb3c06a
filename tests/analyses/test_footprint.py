# SPDX-License-Identifier: Apache-2.0
"""How much was alive, when, and what made it."""

from __future__ import annotations

import pytest

from dmabuf_trace.errors import InputError
from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MIB, MS, Attachment, Build, Process, S

LEVEL = ("moment", "time_ns", "buffers", "size_bytes")
PART = ("buffers", "size_bytes", "share")
CAMERA = Process(7, "camera", cgroup=70)
WESTON = Process(8, "weston", cgroup=80)


def test_the_high_water_mark_and_what_made_it(ask: Ask) -> None:
    k = Build()
    k.holding(k.existing(size=2 * MIB), fd=9)
    k.snapshot("start")
    k.cgroup(70, "/camera.service")
    k.cgroup(80, "/weston.service")
    k.wait(S)
    frame = k.by(CAMERA).export(size=4 * MIB, exporter="vgem")
    scanout = k.by(WESTON).export(size=2 * MIB)
    for buffer in (frame, scanout):
        k.attach(buffer, "gpu", driver="amdgpu", bus="pci")
    k.attach(frame, "gpu", driver="amdgpu", bus="pci")
    gone = k.attach(frame, "isp")
    k.wait(S)
    k.detach(gone)
    k.wait(S)
    k.export(size=0)
    k.release(frame)
    k.wait(S)
    late = k.export(size=MIB, exporter="vgem")
    k.attach(late, "codec")
    k.wait(S)

    result = ask("footprint", k)

    assert rows(result, "levels", *LEVEL) == [
        ("start", 0, 1, 2 * MIB),
        ("high-water mark", S, 3, 8 * MIB),
        ("end", 5 * S, 4, 5 * MIB),
    ]
    assert rows(result, "peak_exporters", "exporter", *PART) == [
        ("system", 2, 4 * MIB, 0.5),
        ("vgem", 1, 4 * MIB, 0.5),
    ]
    assert rows(result, "peak_processes", "comm", "pid", *PART) == [
        ("camera", 7, 1, 4 * MIB, 0.5),
        ("weston", 8, 1, 2 * MIB, 0.25),
        (None, None, 1, 2 * MIB, 0.25),
    ]
    assert rows(result, "peak_devices", "device", "driver", "bus", *PART) == [
        ("gpu", "amdgpu", "pci", 2, 6 * MIB, 0.75),
        ("isp", "vivid", "platform", 1, 4 * MIB, 0.5),
    ]
    assert rows(result, "peak_cgroups", "cgroup", "size_bytes") == [
        ("/camera.service", 4 * MIB),
        ("/weston.service", 2 * MIB),
        (None, 2 * MIB),
    ]
    assert result.answer.notes == (
        "1 buffer at the high-water mark whose export was not seen: process and cgroup are not "
        "known",
    )


def test_what_was_there_before_counts_though_it_comes_to_light_late(ask: Ask) -> None:
    k = Build()
    sized, unsized = k.existing(size=2 * MIB), k.existing(size=MIB, exporter="vgem")
    k.holding(sized, fd=9)
    k.attach(sized, "isp")
    k.wait(10 * S)
    frame = k.export(size=4 * MIB)
    k.wait(10 * S)
    k.release(frame)
    k.wait(10 * S)
    k.detach(Attachment(sized, 0xFFFF_8880_1000_0000, "gpu"))
    k.detach(k.attach(unsized, "codec"))
    k.wait(10 * S)

    result = ask("footprint", k)

    assert rows(result, "levels", *LEVEL) == [
        ("start", 0, 2, 2 * MIB),
        ("high-water mark", 10 * S, 3, 6 * MIB),
        ("end", 40 * S, 2, 2 * MIB),
    ]
    assert rows(result, "peak_exporters", "exporter", "buffers", "size_bytes") == [
        ("system", 2, 6 * MIB),
        ("<unknown>", 1, 0),
    ]
    assert rows(result, "peak_devices", "device", "buffers", "size_bytes") == [
        ("gpu", 1, 2 * MIB),
        ("isp", 1, 2 * MIB),
    ]
    assert rows(result, "timeline", "time_ns", "buffers", "size_bytes", "peak_bytes") == [
        (0, 2, 2 * MIB, 2 * MIB),
        (9 * S, 2, 2 * MIB, 6 * MIB),
        (10 * S, 3, 6 * MIB, 6 * MIB),
        (20 * S, 2, 2 * MIB, 2 * MIB),
    ]


def test_a_lost_detach_is_attached_from_then_on(ask: Ask) -> None:
    k = Build()
    frame = k.export(size=4 * MIB)
    address = k.attach(frame, "isp").address
    k.wait(S)
    k.attach(frame, "gpu", address=address)
    k.wait(S)
    k.export(size=MIB)

    assert rows(ask("footprint", k), "peak_devices", "device", "buffers", "size_bytes") == [
        ("gpu", 1, 4 * MIB),
        ("isp", 1, 4 * MIB),
    ]


def test_the_timeline_has_a_row_where_something_changes(ask: Ask) -> None:
    k = Build()
    k.wait(10 * S)
    first = k.export(size=4 * KIB)
    k.wait(250 * MS)
    brief = k.export(size=8 * KIB)
    k.wait(250 * MS)
    k.release(brief)
    k.wait(9_500 * MS)
    k.release(first)
    k.wait(20 * S)

    columns = ("time_ns", "buffers", "size_bytes", "peak_bytes")
    assert rows(ask("footprint", k), "timeline", *columns) == [
        (0, 0, 0, 0),
        (9 * S, 0, 0, 4 * KIB),
        (10 * S, 1, 4 * KIB, 12 * KIB),
        (11 * S, 1, 4 * KIB, 4 * KIB),
        (20 * S, 0, 0, 0),
    ]


def test_a_long_trace_has_forty_points(ask: Ask) -> None:
    k = Build()
    for _ in range(100):
        k.export()
        k.wait(S)

    found = rows(ask("footprint", k), "timeline", "time_ns", "buffers")

    assert len(found) == 40
    assert found[:3] == [(0, 1), (2_500 * MS, 3), (5 * S, 6)]


def test_rss_pss_and_kernel_only_as_android_counts(ask: Ask) -> None:
    k = Build()
    shared = k.by(CAMERA).export(size=6 * KIB, fd=3)
    k.fd(shared, 4)
    k.mmap(shared)
    k.by(WESTON).fd(shared, 5)
    k.by(Process(9, "viewer")).mmap(shared)
    k.by(CAMERA).export(size=64 * KIB, fd=6)
    k.export(size=MIB)
    k.release(k.export(size=2 * MIB))
    k.wait(S)

    result = ask("footprint", k)

    assert rows(
        result, "holders", "comm", "pid", "rss_bytes", "pss_bytes", "buffers", "fds", "vmas"
    ) == [
        ("camera", 7, 70 * KIB, 66 * KIB, 2, 3, 1),
        ("weston", 8, 6 * KIB, 2 * KIB, 1, 1, 0),
        ("viewer", 9, 6 * KIB, 2 * KIB, 1, 0, 1),
    ]
    assert rows(result, "held", "held", "buffers", "size_bytes") == [
        ("processes", 2, 70 * KIB),
        ("kernel only", 1, MIB),
    ]
    assert result.answer.notes == ()


def test_all_held_leaves_nothing_to_the_kernel(ask: Ask) -> None:
    k = Build()
    k.export(size=4 * KIB, fd=3)
    k.wait(S)

    assert rows(ask("footprint", k), "held", "held", "buffers", "size_bytes") == [
        ("processes", 1, 4 * KIB),
        ("kernel only", 0, 0),
    ]


def test_what_is_not_known_is_a_gap_and_a_note(ask: Ask) -> None:
    k = Build(unreadable=2)
    k.attach(k.existing(), "gpu")
    k.export(fd=3)
    k.snapshot("end")
    k.wait(S)
    k.export()

    result = ask("footprint", k, cut=True)

    assert rows(result, "held", "held", "buffers", "size_bytes") == [
        ("processes", 1, 4 * KIB),
        ("kernel only", None, None),
    ]
    assert rows(result, "levels", "moment", "buffers", "size_bytes") == [
        ("start", 1, 0),
        ("high-water mark", 3, 8 * KIB),
        ("end", 3, 8 * KIB),
    ]
    assert result.answer.notes == (
        "1 buffer at the high-water mark whose export was not seen: process and cgroup are not "
        "known",
        "1 buffer of unknown size: counted, but not in sizes",
        "1 buffer made after the last look at the processes",
        "2 processes could not be looked into: kernel-only is not known",
    )


def test_nobody_looked_at_the_end(ask: Ask) -> None:
    k = Build()
    k.export(fd=3)

    result = ask("footprint", k, cut=True)

    assert rows(result, "held") == rows(result, "holders") == []
    assert result.answer.notes == (
        "who holds what was not looked up at the end: RSS, PSS, kernel-only are not known",
    )


def test_a_lost_release_is_not_alive_at_the_end(ask: Ask) -> None:
    k = Build(lists_all=True)
    k.vanish(k.export(size=4 * KIB))
    k.export(size=8 * KIB, fd=3)
    k.lose("release", "ring_full", 1)
    k.wait(S)

    result = ask("footprint", k)

    assert rows(result, "levels", *LEVEL) == [
        ("start", 0, 0, 0),
        ("high-water mark", 0, 2, 12 * KIB),
        ("end", S, 1, 8 * KIB),
    ]
    assert rows(result, "held", "held", "buffers") == [("processes", 1), ("kernel only", 0)]
    assert result.answer.notes == ("1 buffer with a lost end: taken as alive to the end",)
    assert result.doubts[0] == "may be wrong: 1 event lost (release 1)"


def test_not_observed_is_not_nothing(ask: Ask) -> None:
    k = Build(unobserved=("release", "attach"))
    k.export(fd=3)
    k.wait(S)

    unseen, empty = ask("footprint", k), ask("footprint", Build())

    assert rows(unseen, "levels") == rows(empty, "levels") == []
    assert unseen.answer.tables[0].empty == "not observed: release"
    assert empty.answer.tables[0].empty == "no buffer was seen"
    assert rows(unseen, "holders", "comm", "rss_bytes") == [("app", 4 * KIB)]
    assert rows(unseen, "held", "held", "buffers") == [("processes", 1), ("kernel only", None)]
    devices = next(each for each in unseen.answer.tables if each.name == "peak_devices")
    assert devices.empty == ""


def test_no_device_and_devices_not_observed_differ(ask: Ask) -> None:
    seen, unseen = Build(), Build(unobserved=("attach",))
    for k in (seen, unseen):
        k.export()
        k.wait(MS)

    empty = [
        next(each.empty for each in ask("footprint", k).answer.tables if "devices" in each.name)
        for k in (seen, unseen)
    ]

    assert empty == ["none", "not observed: attach"]


def test_as_many_points_as_are_asked_for(ask: Ask) -> None:
    k = Build()
    for _ in range(8):
        k.export(size=KIB)
        k.wait(S)

    result = ask("footprint", k, points="4")

    alive = rows(result, "timeline", "time_ns", "buffers")
    assert alive == [(0, 1), (2 * S, 3), (4 * S, 5), (6 * S, 7)]
    with pytest.raises(InputError, match="--points: 0 is not 1 to 10,000"):
        ask("footprint", k, points="0")
