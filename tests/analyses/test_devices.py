# SPDX-License-Identifier: Apache-2.0
"""Counts, bytes and latencies per device and per exporter."""

from __future__ import annotations

from pathlib import Path

from dmabuf_trace import trace
from dmabuf_trace.analysis import registry
from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, US, Build, Process, header


def test_counts_and_bytes_per_device(ask: Ask) -> None:
    k = Build()
    buffer = k.export(size=64 * KIB)
    vivid = k.attach(buffer, "vivid-000")
    for _ in range(3):
        k.unmap(k.map(vivid))
    k.map(vivid)
    k.map(vivid, errno=12)
    k.attach(buffer, "gpu", driver="amdgpu", bus="pci", errno=16)
    k.detach(k.attach(buffer, "gpu", driver="amdgpu", bus="pci"))

    counts = ("attaches", "attaches_failed", "attachments_open", "maps", "maps_failed")
    assert rows(ask("devices", k), "devices", "device", *counts, "mappings_open") == [
        ("gpu", 1, 1, 0, 0, 0, 0),
        ("vivid-000", 1, 0, 1, 4, 1, 1),
    ]
    assert rows(ask("devices", k), "devices", "device", "driver", "bus", "mapped_bytes") == [
        ("gpu", "amdgpu", "pci", 0),
        ("vivid-000", "vivid", "platform", 256 * KIB),
    ]


def test_percentiles_are_values_that_were_observed(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(), "isp", dur=5)
    for dur in range(1, 101):
        k.unmap(k.map(attachment, dur=dur * 10))
    k.map(attachment, dur=9999, errno=4)

    parts = ("total", "p50", "p95", "p99", "max")
    result = ask("devices", k)

    assert rows(result, "map", *(f"map_{part}_ns" for part in parts)) == [
        (50500, 500, 950, 990, 1000)
    ]
    assert rows(result, "attach", *(f"attach_{part}_ns" for part in parts)) == [(5, 5, 5, 5, 5)]


def test_exporters(ask: Ask) -> None:
    k = Build()
    k.holding(k.existing(size=KIB, exporter="system"), fd=9)
    k.snapshot("start")
    first = k.export(size=4 * KIB, exporter="system", fd=3, dur=8)
    k.mmap(first)
    k.wait(MS)
    k.export(size=8 * KIB, exporter="system", dur=4)
    k.wait(MS)
    k.release(first)
    k.wait(MS)
    k.export(size=2 * KIB, exporter="system", errno=12)
    k.export(size=2 * KIB, exporter="vgem")

    numbers = ("buffers", "exported_bytes", "exports_failed", "alive", "alive_bytes", "peak_bytes")
    result = ask("devices", k)

    assert rows(result, "exporters", "exporter", *numbers) == [
        ("system", 2, 12 * KIB, 1, 2, 9 * KIB, 13 * KIB),
        ("vgem", 1, 2 * KIB, 0, 1, 2 * KIB, 2 * KIB),
    ]
    assert rows(result, "exporters", "fd_installs", "mmaps") == [(1, 1), (0, 0)]
    assert rows(result, "export", "exporter", "export_max_ns") == [("system", 8), ("vgem", 0)]


def test_only_one_device_and_one_exporter(ask: Ask) -> None:
    k = Build()
    k.attach(k.export(exporter="system"), "gpu")
    k.attach(k.export(exporter="vgem"), "isp")

    result = ask("devices", k, device="isp", exporter="system")

    assert rows(result, "devices", "device") == [("isp",)]
    assert rows(result, "exporters", "exporter") == [("system",)]


PARTS = ("calls", "total_ns", "lock_wait_ns", "fence_wait_ns", "pin_operation_ns")
MAP_PARTS = (*PARTS, "map_operation_ns", "rest_ns")
ATTACH_PARTS = (*PARTS, "attach_operation_ns", "map_operation_ns", "rest_ns")


def test_a_map_is_split_into_its_parts(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer, "gpu")
    k.map(k.attach(buffer, "isp"), dur=4 * US)
    k.wait(MS)
    k.lock_wait(buffer, 30 * US)  # ahead of the call, by the _unlocked variant
    k.wait(5 * US)
    k.fence_wait(buffer, 3 * US)
    k.wait(2 * US)
    k.operation(buffer, "pin", 2 * US)
    k.wait(6 * US)
    k.fence_wait(buffer, US)  # within the exporter's map
    k.wait(US)
    k.lock_wait(buffer, US)
    k.operation(buffer, "map", 6 * US)
    k.wait(4 * US)
    k.map(attachment, dur=16 * US)

    result = ask("devices", k)

    assert rows(result, "map_parts", "device", *MAP_PARTS) == [
        ("gpu", 1, 16 * US, 31 * US, 4 * US, 2 * US, 4 * US, 5 * US),
        ("isp", 1, 4 * US, 0, 0, 0, 0, 4 * US),
    ]
    shares = ("lock_wait_share", "fence_wait_share", "map_operation_share", "rest_share")
    assert rows(result, "map_parts", *shares)[0] == (31 / 16, 0.25, 0.25, 5 / 16)
    assert result.answer.notes == ()


def test_an_attach_is_split_into_its_parts(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.wait(MS)
    k.lock_wait(buffer, 2 * US)
    for operation in ("attach", "pin", "map"):
        k.wait(3 * US)
        k.operation(buffer, operation, 3 * US)
    k.wait(US)
    k.attach(buffer, "gpu", dur=15 * US)
    k.wait(MS)
    k.attach(buffer, "gpu", dur=5 * US, errno=16)

    assert rows(ask("devices", k), "attach_parts", *ATTACH_PARTS) == [
        (2, 20 * US, 2 * US, 0, 3 * US, 3 * US, 3 * US, 9 * US)
    ]


def test_a_lock_wait_ahead_of_an_attach_is_not_in_it(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.wait(MS)
    k.lock_wait(buffer, 20 * US)
    k.wait(10 * US)
    k.attach(buffer, "gpu", dur=5 * US)

    assert rows(ask("devices", k), "attach_parts", "lock_wait_ns", "rest_ns") == [(20 * US, 5 * US)]


def test_the_parts_of_one_thread_are_not_those_of_another(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer, "gpu")
    k.wait(MS)
    k.by(Process(7, "cam")).operation(buffer, "map", 900 * US)
    k.by(Process(8, "ui")).fence_wait(buffer, 500 * US)
    k.wait(US)
    k.map(attachment, dur=600 * US)

    assert rows(ask("devices", k), "map_parts", *MAP_PARTS) == [
        (1, 600 * US, 0, 500 * US, 0, 0, 100 * US)
    ]


def test_parts_that_were_not_observed_are_gaps(ask: Ask) -> None:
    k = Build()
    heap, drm = k.export(exporter="heap"), k.export(exporter="drm")
    k.wait(MS)
    k.operation(heap, "map", US)
    k.map(k.attach(heap, "gpu"), dur=2 * US)
    k.wait(MS)
    k.map(k.attach(drm, "isp"), dur=2 * US)

    result = ask("devices", k)

    assert rows(result, "map_parts", "device", "pin_operation_ns", "map_operation_ns") == [
        ("gpu", 0, US),
        ("isp", None, None),
    ]
    assert rows(result, "map_parts", "map_operation_share", "rest_ns") == [
        (0.5, US),
        (None, 2 * US),
    ]
    assert result.answer.notes == (
        "no function of these exporters was observed, its time is in the rest: drm",
    )

    k.probed("pin", "heap:heap_pin", "no such function")
    assert rows(ask("devices", k), "map_parts", "pin_operation_ns") == [(None,), (None,)]


def test_kinds_that_were_not_observed_are_gaps(tmp_path: Path) -> None:
    k = Build()
    k.map(k.attach(k.export()), dur=US)
    probes = header()["probes"]
    for probe in probes:
        if probe["kind"] in ("lock_wait", "fence_wait", "operation"):
            probe |= {"attached": False, "reason": "not asked for"}

    result = registry()["devices"](trace.open(k.write(tmp_path / "x.dbt", probes=probes)))

    assert rows(result, "map_parts", *MAP_PARTS) == [(1, US, None, None, None, None, US)]
    assert result.answer.notes == tuple(
        f"{kind} was not observed (not asked for): its time is in the rest"
        for kind in ("lock_wait", "fence_wait", "operation")
    )


def test_shares_of_the_traced_time(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(dur=MS), dur=2 * MS)
    for _ in range(2):
        k.map(attachment, dur=4 * MS)
    k.wait(10 * MS)

    result = ask("devices", k)

    assert rows(result, "attach", "attach_share") == [(0.2,)]
    assert rows(result, "map", "map_share") == [(0.8,)]
    assert rows(result, "export", "export_share") == [(0.1,)]


def test_errors_by_errno(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(), "gpu")
    for errno in (4, 12, 4):
        k.map(attachment, dur=US, errno=errno)
    k.attach(attachment.buffer, "isp", errno=16)
    k.export(errno=12)

    columns = ("device", "kind", "error", "calls", "total_ns")
    assert rows(ask("devices", k), "device_errors", *columns) == [
        ("gpu", "map", "EINTR", 2, 2 * US),
        ("gpu", "map", "ENOMEM", 1, US),
        ("isp", "attach", "EBUSY", 1, 0),
    ]


def test_a_histogram_by_powers_of_two(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(), "gpu")
    for dur in (4, 5, 7, 8, 32):
        k.map(attachment, dur=dur)
    k.map(k.attach(attachment.buffer, "isp"), dur=0)

    assert rows(ask("devices", k), "map_histogram", "device", "below_ns", "calls", "bar") == [
        ("gpu", 8, 3, "*" * 30),
        ("gpu", 16, 1, "*" * 10),
        ("gpu", 32, 0, ""),
        ("gpu", 64, 1, "*" * 10),
        ("isp", 1, 1, "*" * 30),
    ]


def test_of_nothing_there_is_nothing_to_say(ask: Ask) -> None:
    result = ask("devices", Build())

    assert [len(table.rows) for table in result.answer.tables] == [0] * 9
    assert result.answer.notes == ()


def test_calls_ahead_of_the_probes_are_not_split(ask: Ask) -> None:
    k = Build()
    buffer = k.export(exporter="heap")
    attachment = k.attach(buffer, "gpu", dur=US)
    k.wait(MS)
    k.unmap(k.map(attachment, dur=90 * US))  # whose operation nobody saw
    k.wait(MS)
    k.probed("map", "heap_module:heap_map")
    k.wait(MS)
    k.operation(buffer, "map", 3 * US)
    k.wait(US)
    k.unmap(k.map(attachment, dur=5 * US))

    result = ask("devices", k)

    columns = ("calls", "total_ns", "map_operation_ns", "rest_ns")
    assert rows(result, "map_parts", *columns) == [(1, 5 * US, 3 * US, 2 * US)]
    assert rows(result, "devices", "maps") == [(2,)]
    ahead = "ahead of the probes on the exporter's functions: not split"
    assert [note for note in result.answer.notes if ahead in note] == [
        f"1 attach call {ahead}",
        f"1 map call {ahead}",
    ]
