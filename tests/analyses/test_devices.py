# SPDX-License-Identifier: Apache-2.0
"""Counts, bytes and latencies per device and per exporter."""

from __future__ import annotations

from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, Build


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
