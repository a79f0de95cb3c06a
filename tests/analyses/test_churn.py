# SPDX-License-Identifier: Apache-2.0
"""Mappings and buffers that are made anew, and what keeps its own."""

from __future__ import annotations

import pytest

from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, US, Attachment, Build, Mapping, Process

MAPPED = ("device", "buffers", "maps", "remaps", "cached", "maps_per_s", "remap_ns", "remap_share")


def cycle(k: Build, attachment: Attachment, dur: int = 0, *, sgt: int = 0) -> None:
    """Map and unmap, 10 ms."""
    mapping = k.map(attachment, dur=dur, sgt=sgt)
    k.wait(4 * MS)
    k.unmap(mapping)
    k.wait(6 * MS)


def test_a_buffer_mapped_every_frame(ask: Ask) -> None:
    k = Build()
    for _ in range(2):
        attachment = k.attach(k.export(exporter="vgem"), "gpu", driver="amdgpu", bus="pci")
        for dur in (9 * US, 2 * US, 3 * US):
            cycle(k, attachment, dur)
    k.wait(40 * MS)

    result = ask("churn", k)

    assert rows(result, "mappings", *MAPPED) == [
        ("gpu", 2, 6, 4, 0, 100.0, 10 * US, pytest.approx(1e-4))
    ]
    assert rows(result, "mappings", "driver", "bus", "exporter", "direction", "importer") == [
        ("amdgpu", "pci", "vgem", "bidirectional", "static")
    ]


def test_what_is_mapped_once_or_side_by_side_is_no_remap(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    cycle(k, k.attach(buffer, "gpu"))
    cycle(k, k.attach(buffer, "isp"))
    first, second = (k.attach(k.export(), "codec") for _ in range(2))
    k.map(first)
    k.map(second)
    k.wait(MS)
    k.map(first)
    k.wait(MS)

    result = ask("churn", k)

    assert rows(result, "mappings") == rows(result, "buffers") == []
    assert [table.empty for table in result.answer.tables] == ["none", "none"]
    assert result.answer.notes == ()


def test_each_direction_and_each_device_has_mappings_of_its_own(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    gpu = k.attach(buffer, "gpu", dynamic=True)
    for direction in ("to_device", "from_device", "from_device"):
        k.unmap(k.map(gpu, direction, dur=US), direction)
        k.wait(MS)

    assert rows(ask("churn", k), "mappings", "direction", "importer", "maps", "remaps") == [
        ("from_device", "dynamic", 2, 1)
    ]


def test_a_new_attachment_for_each_map_is_one_pair(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    for _ in range(3):
        attachment = k.attach(buffer, "vivid-000")
        cycle(k, attachment, US)
        k.detach(attachment)

    assert rows(ask("churn", k), "mappings", "maps", "remaps", "remap_ns") == [(3, 2, 2 * US)]


def test_one_keeps_its_mapping_beside_one_that_does_not(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.map(k.attach(buffer, "gpu"))
    k.wait(MS)
    other = k.attach(buffer, "gpu")
    for _ in range(3):
        cycle(k, other, US)

    assert rows(ask("churn", k), "mappings", "maps", "remaps", "remap_ns") == [(4, 2, 2 * US)]


def test_cached_maps_are_counted_apart(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(), "gpu")
    cycle(k, attachment, 5 * US)
    for _ in range(3):
        cycle(k, attachment, 5 * US, sgt=0x9000)

    assert rows(ask("churn", k), "mappings") == []

    cycle(k, attachment, 5 * US)
    assert rows(ask("churn", k), "mappings", "maps", "remaps", "cached", "remap_ns") == [
        (5, 1, 3, 5 * US)
    ]


def test_a_mapping_from_before_the_trace_is_the_first(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(), "gpu")
    k.wait(MS)
    k.unmap(Mapping(attachment, 0x9000))
    k.wait(MS)
    cycle(k, attachment, 5 * US)

    assert rows(ask("churn", k), "mappings", "maps", "remaps", "remap_ns", "maps_per_s") == [
        (1, 1, 5 * US, None)
    ]


def test_the_most_costly_first_of_one_device_and_exporter(ask: Ask) -> None:
    k = Build()
    for exporter, device, dur in (
        ("system", "gpu", US),
        ("system", "isp", 9 * US),
        ("vgem", "isp", US),
    ):
        attachment = k.attach(k.export(exporter=exporter), device)
        for _ in range(2):
            cycle(k, attachment, dur)

    assert rows(ask("churn", k), "mappings", "device", "exporter") == [
        ("isp", "system"),
        ("gpu", "system"),
        ("isp", "vgem"),
    ]
    chosen = ask("churn", k, device="isp", exporter="vgem")
    assert rows(chosen, "mappings", "device", "exporter") == [("isp", "vgem")]


def test_buffers_made_anew_beyond_the_peak(ask: Ask) -> None:
    k = Build(process=Process(7, "cam"))
    for pair in range(5):
        first = k.export(size=64 * KIB, exporter="vgem", dur=3 * US)
        second = k.export(size=64 * KIB, exporter="vgem", dur=2 * US)
        k.wait(10 * MS)
        k.release(first)
        k.wait(10 * MS * pair)
        k.release(second)
        k.wait(10 * MS * (4 - pair) + 5 * MS)
    k.wait(725 * MS)

    result = ask("churn", k)

    assert rows(result, "buffers", "exporter", "size_bytes", "comm", "pid") == [
        ("vgem", 64 * KIB, "cam", 7)
    ]
    counts = ("exported", "released", "alive_max", "surplus", "lifetime_p50_ns")
    assert rows(result, "buffers", *counts) == [(10, 10, 2, 8, 10 * MS)]
    assert rows(result, "buffers", "exports_per_s", "export_ns", "surplus_ns", "surplus_share") == [
        (pytest.approx(9 / 0.22), 25 * US, 20 * US, pytest.approx(2e-5))
    ]


def test_a_pool_that_is_kept_and_unlike_buffers_are_no_surplus(ask: Ask) -> None:
    k = Build()
    k.release(k.export(size=4 * KIB))
    k.wait(MS)
    k.by(Process(7, "cam"))
    k.release(k.export(size=4 * KIB))
    k.wait(MS)
    k.release(k.export(size=8 * KIB))
    for _ in range(9):
        k.wait(MS)
        k.export(exporter="vgem")

    assert rows(ask("churn", k), "buffers") == []


def test_lost_ends_are_taken_as_held(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(), "gpu")
    k.map(attachment)
    k.wait(MS)
    again = k.attach(k.export(), "gpu", address=attachment.address)
    k.map(again)
    k.event("map", object=0x1000, value=0x2000)
    k.lose("unmap", "ring_full", 1)

    result = ask("churn", k)

    assert rows(result, "mappings") == []
    assert result.answer.notes == (
        "1 map of unknown buffers: not judged",
        "1 mapping with a lost end: taken as held to the end",
    )
    assert result.doubts == ("may be wrong: 1 event lost (unmap 1)",)


def test_not_observed_is_not_none(ask: Ask) -> None:
    empty = ask("churn", Build())

    assert [table.empty for table in empty.answer.tables] == [
        "no buffer was mapped",
        "no buffer was exported",
    ]

    unseen = ask("churn", Build(unobserved=("map", "release")))

    assert [table.empty for table in unseen.answer.tables] == [
        "not observed: map",
        "not observed: release",
    ]
    assert unseen.doubts == (
        "may be wrong: map was not observed (not asked for)",
        "may be wrong: release was not observed (not asked for)",
    )
