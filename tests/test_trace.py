# SPDX-License-Identifier: Apache-2.0
"""The tables of a recording: values, gaps, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dmabuf_trace import trace
from dmabuf_trace.analysis import records
from dmabuf_trace.columns import TABLES
from dmabuf_trace.errors import InputError
from tests.build import KIB, MIB, MS, P2P, START, US, Attachment, Build, Mapping, Process, header

CAM = Process(200, "cam")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.dbt"


def only(table: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    """Some columns of all rows, gaps as None."""
    return [tuple(row[column] for column in columns) for row in records(table)]


def test_a_cgroup_is_that_of_the_thread_then_or_not_known(file: Path) -> None:
    k = Build().by(Process(7, "app", cgroup=9))
    k.cgroup(9, "/user.slice")
    k.export()
    k.wait(MS)
    k.by(Process(7, "app", cgroup=10)).export()

    opened = trace.open(k.write(file, no_cgroups="no cgroup v2 hierarchy is mounted"))

    assert opened.buffers["cgroup"].fillna("not known").tolist() == ["/user.slice", "not known"]
    assert opened.events["cgroup"].isna().tolist() == [False, True]
    row = opened.quality.iloc[0]
    assert (row["what"], row["cause"]) == ("cgroups", "no cgroup v2 hierarchy is mounted")


def test_entries_and_cached_mappings(file: Path) -> None:
    k = Build()
    attachment = k.attach(k.export())
    first = k.map(attachment, "to_device", entries=4)
    k.map(attachment, "to_device", sgt=first.sgt, entries=4)
    k.unmap(first, "bidirectional")
    k.unmap(Mapping(attachment, 1234), "from_device")

    table = trace.open(k.write(file)).mappings

    assert table["entries"].tolist() == [4, 4, pd.NA]
    assert table["cached"].tolist() == [False, True, pd.NA]
    assert table["direction"].tolist() == ["to_device", "to_device", "from_device"]
    assert table["end_direction"].tolist() == ["bidirectional", pd.NA, "from_device"]


def test_functions_that_were_probed_while_recording(file: Path) -> None:
    k = Build()
    k.wait(MS)
    k.probed("map", "vgem:vgem_map")
    k.probed("pin", "vgem:vgem_pin", "no room")

    opened = trace.open(k.write(file))

    assert opened.probed["symbol"].tolist() == ["vgem:vgem_map", "vgem:vgem_pin"]
    doubted = opened.quality[opened.quality["kind"] == "operation"]
    assert doubted["cause"].tolist() == ["vgem:vgem_pin: no room"]


def test_names_sizes_and_times_of_a_buffer(file: Path) -> None:
    k = Build()
    k.wait(MS)
    k.by(CAM)
    buffer = k.export(size=64 * KIB, exporter="system", fd=5, dur=7 * US)
    k.name(buffer, "frame")
    k.wait(3 * MS)
    k.release(buffer)

    opened = trace.open(k.write(file))

    assert only(opened.buffers, "inode", "exporter", "name", "size_bytes", "comm", "pid") == [
        (41, "system", "frame", 64 * KIB, "cam", 200)
    ]
    assert only(opened.buffers, "begin", "end", "age_ns", "export_ns", "open", "origin") == [
        (START + MS, START + 4 * MS, 3 * MS, 7 * US, False, "exported")
    ]
    assert (opened.start, opened.end, opened.cut) == (START, START + 4 * MS, None)


def test_gaps_are_na_and_integers_stay_integers(file: Path) -> None:
    k = Build()
    k.existing()
    k.by(CAM).holding(k.existing(name="old"), fd=3)
    k.snapshot("start")
    k.export()

    buffers = trace.open(k.write(file)).buffers

    assert only(buffers, "inode", "name", "size_bytes", "begin", "pid", "comm", "origin") == [
        (42, "old", 4 * KIB, None, None, None, "before"),
        (43, "", 4 * KIB, START, 200, "cam", "exported"),
    ]
    assert str(buffers["begin"].dtype) == "Int64"


def test_every_table_has_the_documented_columns_and_no_numbers_as_objects(file: Path) -> None:
    k = Build()
    buffer = k.export(fd=3)
    attachment = k.attach(buffer)
    k.map(attachment)
    k.map(attachment, errno=12)
    k.pin(attachment)
    k.vmap(buffer)
    k.begin(buffer)
    k.mmap(buffer)
    k.move(buffer)
    k.lock_wait(buffer, US)
    k.operation(buffer, "map", US)
    k.lose("map", "ring_full", 1)
    k.probed("map", "heap:heap_map")
    k.mark("run")

    opened = trace.open(k.write(file))

    for name, columns in TABLES.items():
        table = getattr(opened, name)
        assert list(table.columns) == list(columns), name
        assert len(table), name
        assert "object" not in {str(dtype) for dtype in table.dtypes}, name


def test_tables_of_an_empty_recording(file: Path) -> None:
    opened = trace.open(Build().write(file))

    for name, columns in TABLES.items():
        assert list(getattr(opened, name).columns) == list(columns), name
        assert len(getattr(opened, name)) == 0, name
    assert (opened.start, opened.end, opened.lost_events) == (START, START, 0)


def test_devices_and_importers(file: Path) -> None:
    k = Build()
    buffer = k.export()
    static = k.attach(buffer, "vivid-000", driver="vivid", bus="platform", dur=2 * US)
    k.attach(buffer, "0000:01:00.0", driver="amdgpu", bus="pci", dynamic=True)
    k.map(static, "to_device", dur=9 * US)

    opened = trace.open(k.write(file))

    assert only(opened.attachments, "device", "driver", "bus", "importer", "attach_ns") == [
        ("vivid-000", "vivid", "platform", "static", 2 * US),
        ("0000:01:00.0", "amdgpu", "pci", "dynamic", 0),
    ]
    assert only(
        opened.mappings, "inode", "device", "importer", "direction", "map_ns", "size_bytes"
    ) == [(41, "vivid-000", "static", "to_device", 9 * US, 4 * KIB)]


def test_an_attachment_that_outlives_its_buffer(file: Path) -> None:
    k = Build()
    buffer, clean = k.export(), k.export()
    k.attach(buffer)
    k.detach(k.attach(clean))
    k.wait(MS)
    k.release(buffer)
    k.release(clean)

    attachments = trace.open(k.write(file)).attachments

    assert only(attachments, "inode", "open", "outlived") == [(41, True, True), (42, False, False)]


def test_a_name_that_was_lost_is_shown_as_unknown(file: Path) -> None:
    k = Build()
    k.event("export", buffer=41, object=0x1000, value=4096, aux=77)
    k.event("attach", buffer=41, object=0x2000, aux=78, tid=999)

    opened = trace.open(k.write(file))

    assert only(opened.buffers, "exporter", "comm") == [("<unknown>", "app")]
    assert only(opened.attachments, "device", "driver", "comm") == [("<unknown>", "", "<unknown>")]


def test_a_thread_is_named_as_it_was_called_then(file: Path) -> None:
    k = Build()
    k.by(Process(7, "sh")).export()
    k.wait(MS)
    k.by(Process(7, "v4l2-ctl")).export()
    k.wait(MS)
    k.by(Process(8, "other")).export()

    assert only(trace.open(k.write(file)).buffers, "comm") == [("sh",), ("v4l2-ctl",), ("other",)]


def test_peer_to_peer_asked_for_and_granted(file: Path) -> None:
    k = Build()
    buffer = k.export()
    k.attach(buffer)
    for p2p in P2P:
        k.attach(buffer, dynamic=True, p2p=p2p)
    k.detach(Attachment(buffer, 0xDEAD_0000, "nic"))

    opened = trace.open(k.write(file))

    answers = only(opened.attachments, "importer", "p2p")
    assert answers == [
        ("static", "not asked"),  # there is nothing that it could ask with
        ("dynamic", "granted"),
        ("dynamic", "refused"),
        ("dynamic", "not asked"),
        ("dynamic", "granted"),
        ("dynamic", None),
        (None, None),  # its attach was not seen
    ]


def test_text_that_is_not_utf8_is_escaped(file: Path) -> None:
    k = Build()
    k.name(k.export(), "caf\udce9")

    assert only(trace.open(k.write(file)).buffers, "name") == [("caf\\xe9",)]


def test_errors_with_their_names(file: Path) -> None:
    k = Build()
    k.export(exporter="vgem", errno=12)
    buffer = k.export(exporter="system")
    k.attach(buffer, "gpu", errno=16, dur=5 * US)
    for number in (4, 512, 515):
        k.event("cpu_begin", buffer=buffer.inode, ret=-number)

    assert only(
        trace.open(k.write(file)).errors, "kind", "error", "exporter", "device", "inode", "call_ns"
    ) == [
        ("export", "ENOMEM", "vgem", None, None, 0),
        ("attach", "EBUSY", "system", "gpu", 41, 5 * US),
        ("cpu_begin", "EINTR", "system", None, 41, 0),
        ("cpu_begin", "ERESTARTSYS", "system", None, 41, 0),
        ("cpu_begin", "515", "system", None, 41, 0),
    ]


def test_holders_of_the_end(file: Path) -> None:
    k = Build()
    buffer = k.export(fd=3)
    k.by(CAM).mmap(buffer, start=0x7000)
    k.by(CAM).fd(buffer, 9)
    k.close(9)

    assert only(
        trace.open(k.write(file)).holders, "inode", "pid", "comm", "fd", "start", "length_bytes"
    ) == [(41, 100, "app", 3, None, None), (41, 200, "cam", None, 0x7000, 4 * KIB)]


def test_quality_says_what_is_missing_and_how_much(file: Path) -> None:
    k = Build(unreadable=2)
    attachment = k.attach(k.export())
    for _ in range(3):
        k.map(attachment)
    k.lose("map", "ring_full", 1)
    k.lose("export", "stack_lost", 4)
    probes = [{"kind": "mmap", "symbol": "dma_buf_mmap", "attached": False, "reason": "no symbol"}]

    opened = trace.open(k.write(file, probes=probes))

    assert only(opened.quality, "what", "kind", "cause", "count", "share", "whole_event") == [
        ("loss", "export", "stack_lost", 4, None, False),
        ("loss", "map", "ring_full", 1, 0.25, True),
        ("probe", "mmap", "no symbol", None, None, True),
        ("processes", None, "could not be looked into", 2, None, False),
    ]
    assert opened.lost_events == 1
    assert only(opened.buffers, "mmaps", "fd_installs") == [(None, 0)]


def test_an_export_that_was_lost_is_known_by_its_inode(file: Path) -> None:
    k = Build()
    k.existing()
    k.export()
    k.fd(k.existing(), 4)
    k.event("fd_install", buffer=41, detail=3)

    assert only(trace.open(k.write(file)).buffers, "inode", "origin") == [
        (42, "exported"),
        (43, "lost"),
        (41, "before"),
    ]


def test_without_an_export_probe_nothing_tells_old_from_new(file: Path) -> None:
    k = Build()
    k.fd(k.existing(), 4)
    probes = [{"kind": "export", "attached": False, "reason": "refused"}]

    opened = trace.open(k.write(file, probes=probes))

    assert only(opened.buffers, "origin") == [("unknown",)]
    assert opened.missing == {"export": "refused"}


def test_wherever_it_is_cut_the_rest_is_read(file: Path) -> None:
    k = Build()
    for _ in range(4):
        k.detach(k.attach(k.export(fd=3)))
    whole = k.write(file).read_bytes()
    buffers = [0]
    for size in (*range(len(header_of(file)), len(whole), 5), len(whole) - 1):
        file.write_bytes(whole[:size])
        opened = trace.open(file)
        assert opened.cut is not None
        buffers.append(len(opened.buffers))
    assert buffers == sorted(buffers)
    assert buffers[-1] == 4


def header_of(file: Path) -> bytes:
    """The part of a recording without which nothing can be read."""
    empty = file.with_name("empty.dbt")
    Build().write(empty, cut=True)
    return empty.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{key: None} for key in header()] + [{"start": {}}, {"probes": [1, {}]}, {"host": "board"}],
)
def test_a_header_with_other_keys_is_read(file: Path, changes: dict[str, Any]) -> None:
    k = Build()
    k.export()

    opened = trace.open(k.write(file, **changes))

    assert len(opened.buffers) == 1
    assert opened.start == START


def test_what_is_not_a_recording_is_refused(file: Path) -> None:
    file.write_text("no")
    with pytest.raises(InputError, match="is not a dmabuf-trace recording"):
        trace.open(file)


def test_parts_name_the_call_that_they_are_part_of(file: Path) -> None:
    k = Build()
    buffer = k.export(exporter="heap")
    attachment = k.attach(buffer, "gpu")
    k.wait(MS)
    k.lock_wait(buffer, 3 * US)  # taken by the _unlocked variant, ahead of the call
    k.wait(2 * US)
    k.fence_wait(buffer, US, context=9, seqno=4)
    k.wait(4 * US)
    k.operation(buffer, "map", 3 * US)
    k.wait(US)
    k.map(attachment, dur=7 * US)
    k.wait(US)
    k.lock_wait(buffer, US, errno=4)
    k.by(CAM).lock_wait(buffer, US)

    opened = trace.open(k.write(file))

    columns = ("kind", "wait_ns", "exporter", "call", "device", "error", "fence_context")
    assert only(opened.waits, *columns) == [
        ("lock", 3 * US, "heap", "map", "gpu", None, None),
        ("fence", US, "heap", "map", "gpu", None, 9),
        ("lock", US, "heap", None, None, "EINTR", None),
        ("lock", US, "heap", None, None, None, None),
    ]
    assert only(opened.operations, "operation", "operation_ns", "call", "attachment_id") == [
        ("map", 3 * US, "map", 1)
    ]


def test_pins_vmaps_and_moves(file: Path) -> None:
    k = Build()
    buffer = k.export(size=MIB)
    attachment = k.attach(buffer, "nic", dynamic=True)
    k.pin(attachment, dur=2 * US)
    k.vmap(buffer)
    mapping = k.map(attachment)
    k.wait(MS)
    k.move(buffer)
    k.wait(US)
    k.unpin(attachment)
    k.unmap(mapping)
    k.wait(MS)
    k.move(buffer)
    k.vunmap(buffer)
    k.vunmap(buffer)
    k.wait(US)
    k.pin(attachment)
    k.detach(attachment)

    opened = trace.open(k.write(file))

    assert only(opened.pins, "device", "importer", "pin_ns", "age_ns", "open", "outlived") == [
        ("nic", "dynamic", 2 * US, MS + US, False, False),
        ("nic", "dynamic", 0, 0, True, True),
    ]
    assert only(opened.vmaps, "begin", "end", "open") == [
        (START, START + 2 * MS + US, False),
        (None, START + 2 * MS + US, False),
    ]
    assert only(opened.moves, "ts", "mappings", "pins", "size_bytes") == [
        (START + MS, 1, 1, MIB),
        (START + 2 * MS + US, 0, 0, MIB),
    ]


def test_cpu_accesses_of_processes_and_drivers(file: Path) -> None:
    k = Build()
    buffer = k.export()
    k.begin(buffer, 3, dur=5 * US)
    k.by(CAM).begin(buffer, 1)
    k.wait(MS)
    k.end(buffer, 2, dur=US)  # not what was announced
    k.begin(buffer, 1, errno=4)
    k.end(buffer, 1)
    k.event("kernel_begin", buffer=buffer.inode, detail=2)

    opened = trace.open(k.write(file))

    columns = ("by", "comm", "direction", "end_direction", "age_ns", "begin_ns", "end_ns", "open")
    assert only(opened.cpu_accesses, *columns) == [
        ("process", "app", "read and write", None, MS, 5 * US, None, True),
        ("process", "cam", "read", "write", MS, 0, US, False),
        ("process", "cam", None, "read", None, None, 0, False),
        ("driver", "cam", "read", None, 0, 0, None, True),
    ]


def test_fds_of_a_process_and_its_children(file: Path) -> None:
    k = Build()
    child = Process(101, "worker")
    buffer = k.export(fd=3)
    k.wait(MS)
    k.fork(child)
    k.wait(MS)
    k.close_fd(buffer, 3)
    k.by(child)
    k.wait(MS)
    k.close_fd(buffer, 3)
    k.close_fd(buffer, 9)  # copied before the trace, say

    opened = trace.open(k.write(file))

    assert only(opened.fds, "fd", "origin", "pid", "age_ns", "closed_by", "open") == [
        (3, "install", 100, 2 * MS, 100, False),
        (3, "fork", 101, 2 * MS, 101, False),
        (None, None, None, None, 101, False),
    ]


def test_a_window_has_what_lived_in_it(file: Path) -> None:
    k = Build()
    k.release(k.export())
    k.wait(10 * MS)
    buffer = k.export()
    attachment = k.attach(buffer)
    mapping = k.map(attachment, dur=US)
    k.wait(10 * MS)
    k.begin(buffer, errno=4)
    k.wait(10 * MS)
    k.unmap(mapping)
    k.wait(10 * MS)
    k.export()

    opened = trace.open(k.write(file))
    part = opened.window(START + 15 * MS, START + 25 * MS)

    assert only(part.buffers, "id", "inode", "end") == [(2, 42, None)]
    assert only(part.mappings, "id", "attachment_id", "end") == [(1, 1, START + 30 * MS)]
    assert only(part.errors, "ts", "buffer_id", "error") == [(START + 20 * MS, 2, "EINTR")]
    assert only(part.events, "kind", "buffer_id") == [("cpu_begin", 2)]
    assert (part.start, part.end) == (START + 15 * MS, START + 25 * MS)
    assert len(part.holders) == 0
    assert len(opened.buffers) == 3, "the whole trace is as it was"
