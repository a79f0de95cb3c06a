# SPDX-License-Identifier: Apache-2.0
"""Long-held mappings, open and closed."""

from __future__ import annotations

from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, US, Build, S


def test_held_long_open_or_closed_oldest_first(ask: Ask) -> None:
    k = Build()
    buffer = k.export(size=64 * KIB)
    vivid = k.attach(buffer, "vivid-000")
    gpu = k.attach(buffer, "gpu", driver="amdgpu", bus="pci", dynamic=True)
    closed = k.map(gpu, "to_device")
    k.wait(S)
    k.map(vivid, "from_device", dur=12 * US)
    k.wait(S)
    k.unmap(closed)
    brief = k.map(gpu)
    k.wait(999 * MS)
    k.unmap(brief)
    k.wait(2 * S)

    result = ask("mappings", k)

    assert rows(result, "mappings", "inode", "age_ns", "state", "device", "driver", "importer") == [
        (41, 3999 * MS, "mapped", "vivid-000", "vivid", "static"),
        (41, 2 * S, "unmapped", "gpu", "amdgpu", "dynamic"),
    ]
    assert rows(result, "mappings", "direction", "size_bytes", "comm", "begin_ns", "map_ns") == [
        ("from_device", 64 * KIB, "app", S, 12 * US),
        ("to_device", 64 * KIB, "app", 0, 0),
    ]
    assert result.answer.inodes == (41,)


def test_a_mapping_left_behind_at_detach(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export())
    k.map(attachment)
    k.detach(attachment)
    k.wait(2 * S)

    assert rows(ask("mappings", k), "mappings", "age_ns", "state") == [(2 * S, "left behind")]


def test_orphan_unmaps_and_lost_ends_are_notes_not_ages(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    first = k.attach(buffer)
    k.event("unmap", buffer=41, object=first.address, value=0x9000)
    k.map(first)
    k.wait(2 * S)
    k.attach(buffer, address=first.address)

    result = ask("mappings", k)

    assert rows(result, "mappings") == []
    assert result.answer.notes == (
        "1 unmap without a map in the trace: mapped before it, or the map was lost; "
        "how long they were held is not known",
        "1 mapping with a lost end: not judged",
    )


def test_of_one_device_and_one_exporter(ask: Ask) -> None:
    k = Build()
    for exporter in ("system", "vgem"):
        for device in ("gpu", "isp"):
            k.map(k.attach(k.export(exporter=exporter), device))
    k.wait(S)

    result = ask("mappings", k, min_age="1s", device="isp", exporter="vgem")

    assert rows(result, "mappings", "inode", "device", "exporter") == [(44, "isp", "vgem")]


def test_importers_are_judged_apart(ask: Ask) -> None:
    k = Build()
    camera, shared = k.export(size=8 * KIB, exporter="drm"), k.export(exporter="udmabuf")
    npu = k.attach(camera, "npu", driver="rocket")
    queue = k.attach(camera, "isp", driver="rkisp1", stack=("vb2_dc_attach_dmabuf+0x1c",))
    gpu = k.attach(shared, "gpu", driver="amdgpu", dynamic=True)
    k.move(shared)
    k.wait(MS)
    held = [k.map(each) for each in (npu, queue, gpu)]
    k.wait(MS)
    k.move(shared)
    k.wait(S)
    k.move(shared)
    k.unmap(held[2])
    k.wait(MS)
    k.move(shared)
    k.unmap(held[0])

    result = ask("mappings", k)

    assert rows(result, "mappings", "device", "state", "verdict", "moves") == [
        ("npu", "unmapped", "too long", 0),
        ("isp", "mapped", "by design", 0),
        ("gpu", "unmapped", "dynamic", 2),
    ]
    columns = ("exporter", "verdict", "buffers", "size_bytes", "longest_ns")
    assert rows(result, "unmovable", *columns) == [
        ("drm", "by design", 1, 8 * KIB, S + 2 * MS),
        ("drm", "too long", 1, 8 * KIB, S + 2 * MS),
    ]
    assert rows(ask("mappings", k, min_age="2s"), "unmovable", "exporter") == []


def test_an_importer_that_was_not_seen_to_attach_is_not_judged(ask: Ask) -> None:
    k = Build()
    k.event("map", buffer=k.export().inode, object=0x9000, value=0xA000)
    k.wait(S)

    assert rows(ask("mappings", k), "mappings", "verdict") == [("unknown",)]
