# SPDX-License-Identifier: Apache-2.0
"""Pins of importers and of the core, and moves."""

from __future__ import annotations

import pytest

from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, US, Build, Process, S


def test_pins_held_open_first_then_longest(ask: Ask) -> None:
    k = Build()
    buffer = k.export(64 * KIB, "vgem")
    gpu = k.attach(buffer, "gpu", driver="amdgpu", bus="pci", dynamic=True)
    nic = k.attach(buffer, "nic", driver="mlx5", bus="pci", dynamic=True)
    k.pin(gpu)
    k.wait(3 * S)
    k.unpin(gpu)
    k.by(Process(7, "rdma")).pin(nic, dur=5 * US)
    k.wait(MS)
    k.pin(gpu)
    k.wait(2 * S)
    k.detach(nic)
    brief = k.attach(buffer, "brief", dynamic=True)
    k.pin(brief)
    k.wait(999 * MS)
    k.unpin(brief)

    columns = ("age_ns", "state", "device", "importer", "exporter", "size_bytes", "comm")
    result = ask("pins", k)

    assert rows(result, "pins", "inode", *columns) == [
        (41, 3000 * MS, "left behind", "nic", "dynamic", "vgem", 64 * KIB, "rdma"),
        (41, 2999 * MS, "pinned", "gpu", "dynamic", "vgem", 64 * KIB, "rdma"),
        (41, 3000 * MS, "unpinned", "gpu", "dynamic", "vgem", 64 * KIB, "app"),
    ]
    assert rows(result, "pins", "begin_ns", "pin_ns", "driver", "bus", "pid")[0] == (
        *(3 * S, 5 * US),
        *("mlx5", "pci", 7),
    )
    assert result.answer.inodes == (41,)
    assert result.answer.notes == ()
    assert result.doubts == ()


def test_pins_given_back_in_time_are_not_listed(ask: Ask) -> None:
    k = Build()
    gpu = k.attach(k.export(), "gpu", dynamic=True)
    k.pin(gpu)
    k.wait(MS)
    k.unpin(gpu)
    k.wait(2 * S)

    assert rows(ask("pins", k), "pins") == []
    assert rows(ask("pins", k, min_age="1ms"), "pins", "age_ns", "state") == [(MS, "unpinned")]


def test_bytes_pinned_at_most_at_once_count_a_buffer_once(ask: Ask) -> None:
    k = Build()
    first, second = k.export(4 * KIB), k.export(8 * KIB)
    one, again = (k.attach(first, "gpu", dynamic=True) for _ in range(2))
    other = k.attach(second, "gpu", dynamic=True)
    nic = k.attach(second, "nic", dynamic=True)
    for attachment in (one, again, one):
        k.pin(attachment)
        k.wait(MS)
    k.unpin(one)
    k.pin(other)
    k.wait(MS)
    for attachment in (one, again, other):
        k.unpin(attachment)
    k.wait(MS)
    k.pin(other)
    k.pin(nic)
    k.wait(MS)

    columns = ("device", "pins", "open", "peak_bytes", "pinned_ns")
    assert rows(ask("pins", k), "devices", *columns) == [
        ("gpu", 5, 1, 12 * KIB, (3 + 3 + 2 + 1 + 1) * MS),
        ("nic", 1, 1, 8 * KIB, MS),
    ]


def test_orphan_unpins_and_lost_ends_are_notes_not_ages(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    first = k.attach(buffer, dynamic=True)
    k.unpin(first)
    k.pin(first)
    k.wait(2 * S)
    k.attach(buffer, address=first.address, dynamic=True)

    result = ask("pins", k)

    assert rows(result, "pins") == []
    assert rows(result, "devices", "pins", "open", "peak_bytes", "pinned_ns") == [
        (1, 0, 4 * KIB, None)
    ]
    assert result.answer.notes == (
        "1 unpin without a pin in the trace: pinned before it, or the pin was lost; "
        "how long they were held is not known",
        "1 pin with a lost end: not judged",
    )


def test_a_static_attach_that_forces_a_move(ask: Ask) -> None:
    k = Build()
    buffer = k.export(exporter="amdgpu")
    k.move(buffer)
    k.wait(MS)
    k.move(buffer)
    k.wait(US)
    k.operation(buffer, "pin", 5 * US)
    k.wait(US)
    isp = k.attach(buffer, "isp", dur=10 * US)
    k.wait(MS)
    k.operation(buffer, "pin", 5 * US)
    k.wait(US)
    k.map(isp, dur=10 * US)

    columns = ("call", "device", "importer", "count", "moves")
    assert rows(ask("pins", k), "core_pins", *columns) == [
        ("attach", "isp", "static", 1, 1),
        ("map", "isp", "static", 1, 0),
    ]


def test_pins_of_the_core(ask: Ask) -> None:
    k = Build()
    buffer = k.export(exporter="amdgpu")
    static = k.attach(buffer, "isp")
    dynamic = k.attach(buffer, "gpu", dynamic=True)
    for nth in range(1, 4):
        k.wait(MS)
        k.operation(buffer, "pin", nth * US, errno=12 if nth == 3 else 0)
        k.wait(US)
        k.map(static, dur=10 * US)
    k.wait(MS)
    k.operation(buffer, "pin", US)
    k.wait(US)
    k.pin(dynamic, dur=10 * US)
    k.wait(MS)
    k.operation(buffer, "pin", US)
    k.operation(buffer, "unpin", US)

    columns = ("exporter", "device", "importer", "call", "count", "failed", "total_ns", "max_ns")
    result = ask("pins", k)

    assert rows(result, "core_pins", *columns) == [
        ("amdgpu", "isp", "static", "map", 3, 1, 6 * US, 3 * US)
    ]
    assert result.answer.notes == (
        "1 pin by an exporter's function within no call that was seen: the core's own or an "
        "importer's, which is not known",
        "an exporter's pin is observed from some milliseconds after its first buffer was seen: "
        "the core may have made more",
    )


def test_moves_and_moves_of_what_is_pinned(ask: Ask) -> None:
    k = Build()
    clean, pinned = k.export(4 * KIB, "vgem"), k.export(8 * KIB, "amdgpu")
    mapped = k.map(k.attach(clean, "gpu", dynamic=True))
    k.wait(MS)
    k.move(clean)
    k.wait(MS)
    k.unmap(mapped)
    k.wait(MS)
    k.move(clean)
    nic = k.attach(pinned, "nic", dynamic=True)
    for _ in range(2):
        k.pin(nic)
    k.wait(MS)
    k.by(Process(9, "kworker")).move(pinned)
    k.wait(MS)
    for _ in range(2):
        k.unpin(nic)
    k.wait(MS)
    k.move(pinned)
    k.move(pinned)

    result = ask("pins", k)

    parts = ("moves", "moves_mapped", "mappings_max", "moves_pinned", "pins_max")
    assert rows(result, "moves", "inode", "exporter", "size_bytes", *parts, "last_ns") == [
        (42, "amdgpu", 8 * KIB, 3, 0, 0, 1, 2, 6 * MS),
        (41, "vgem", 4 * KIB, 2, 1, 1, 0, 0, 3 * MS),
    ]
    assert rows(result, "moved_pinned", "inode", "pins", "mappings", "at_ns", "comm") == [
        (42, 2, 0, 4 * MS, "kworker")
    ]
    assert result.answer.inodes == (42,)
    assert result.answer.notes == (
        "moved while pinned: from kernel 7.1 on it may be a revocation, which pins permit",
    )


def test_of_one_device_and_one_exporter(ask: Ask) -> None:
    k = Build()
    for exporter in ("system", "vgem"):
        for device in ("gpu", "isp"):
            buffer = k.export(exporter=exporter)
            k.pin(k.attach(buffer, device, dynamic=True))
            k.move(buffer)
    k.wait(S)

    result = ask("pins", k, device="isp", exporter="vgem")

    assert rows(result, "pins", "inode", "device", "exporter") == [(44, "isp", "vgem")]
    assert rows(result, "devices", "device", "pins") == [("isp", 1)]
    assert rows(result, "moves", "inode") == [(43,), (44,)]


def test_what_was_not_observed_is_neither_none_nor_zero(ask: Ask) -> None:
    k = Build(unobserved=("pin", "unpin", "operation"))
    k.move(k.export())

    result = ask("pins", k)

    assert {table.name: table.empty for table in result.answer.tables} == {
        "pins": "not observed: pin",
        "devices": "not observed: pin",
        "core_pins": "not observed: operation",
        "moves": "none",
        "moved_pinned": "not observed: pin, unpin",
        "p2p": "none",
    }
    assert rows(result, "moves", "moves_mapped", "mappings_max") == [(0, 0)]
    assert rows(result, "moves", "moves_pinned", "pins_max") == [(None, None)]
    assert result.answer.notes == (
        "exporters' functions were not observed (not asked for): the core's own pins are not seen",
    )
    assert result.doubts == (
        "may be wrong: pin was not observed (not asked for)",
        "may be wrong: unpin was not observed (not asked for)",
    )


def test_peer_to_peer_by_exporter_and_device(ask: Ask) -> None:
    k = Build()
    gpu, udmabuf = k.export(exporter="amdgpu"), k.export(exporter="udmabuf")
    for buffer, p2p in ((gpu, "granted"), (gpu, "granted"), (gpu, "refused"), (udmabuf, "refused")):
        k.attach(buffer, "nic", driver="mlx5", bus="pci", dynamic=True, p2p=p2p)
    k.attach(gpu, "other", dynamic=True)
    k.attach(gpu, "camera")
    k.attach(udmabuf, "nic", dynamic=True, p2p="refused", errno=16)  # nobody knows the answer

    columns = ("exporter", "device", "driver", "bus", "attaches", "granted", "refused")
    result = ask("pins", k)

    assert rows(result, "p2p", *columns) == [
        ("amdgpu", "nic", "mlx5", "pci", 3, 2, 1),
        ("udmabuf", "nic", "mlx5", "pci", 1, 0, 1),
    ]
    assert result.answer.notes == ()
    assert rows(ask("pins", k, exporter="udmabuf"), "p2p", "attaches") == [(1,)]
    assert rows(ask("pins", k, device="other"), "p2p") == []


def test_recordings_from_before_the_question_have_the_answer_only(ask: Ask) -> None:
    k = Build()
    for p2p in ("granted, old", "not known, old", "not known, old"):
        k.attach(k.export(), "nic", dynamic=True, p2p=p2p)
    k.attach(k.export(), "camera")

    result = ask("pins", k)

    assert rows(result, "p2p", "device", "attaches", "granted", "refused") == [("nic", 1, 1, 0)]
    assert result.answer.notes == (
        "2 attaches of dynamic importers without peer-to-peer: whether they asked for it was not "
        "recorded",
    )


def test_an_empty_recording(ask: Ask) -> None:
    result = ask("pins", Build())

    assert [len(table.rows) for table in result.answer.tables] == [0] * 6
    assert [table.empty for table in result.answer.tables] == ["none"] * 6
    assert result.answer.notes == ()


def test_peaks_of_more_pins_than_are_looked_at_together(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = Build()
    kept, *others = (k.export(size * KIB) for size in (64, 1, 2, 4, 2, 1))
    nic = k.attach(kept, "nic", dynamic=True)
    k.pin(nic)
    for buffer in others:
        both = [k.attach(buffer, device, dynamic=True) for device in ("nic", "gpu", "nic")]
        for attachment in both:
            k.pin(attachment)
        k.wait(MS)
        for attachment in both:
            k.unpin(attachment)
        k.wait(MS)
    k.detach(nic)
    k.pin(k.attach(others[0], "nic", dynamic=True))

    monkeypatch.setattr("dmabuf_trace.analyses.pins.EXACT", 2)
    assert rows(ask("pins", k), "devices", "device", "pins", "open", "peak_bytes") == [
        ("gpu", 5, 0, 4 * KIB),
        ("nic", 12, 2, 68 * KIB),
    ]
