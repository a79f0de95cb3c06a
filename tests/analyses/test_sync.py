# SPDX-License-Identifier: Apache-2.0
"""Brackets of CPU access: what is wrong with them, and what they cost."""

from __future__ import annotations

from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MIB, MS, US, Buffer, Build, Process, S

OTHER = Process(200, "other")
VM_WRITE, VM_SHARED = 2, 8
EINTR, EAGAIN, EIO, ERESTARTSYS = 4, 11, 5, 512


def mmap(k: Build, buffer: Buffer, flags: int, kind: str = "mmap") -> None:
    k.event(kind, buffer=buffer.inode, object=0x7F00_0000_0000, value=buffer.size, detail=flags)


def test_brackets_as_they_should_be_give_no_finding(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    mmap(k, buffer, VM_WRITE | VM_SHARED)
    for direction in (1, 2, 3):
        k.begin(buffer, direction)
        k.wait(MS)
        k.end(buffer, direction)
    for call in (k.begin, k.end):
        for errno in (EINTR, EAGAIN, ERESTARTSYS, 0):
            k.wait(MS)
            call(buffer, errno=errno)
    k.event("kernel_begin", buffer=buffer.inode, detail=2)
    k.event("kernel_end", buffer=buffer.inode, detail=2)

    result = ask("sync", k)

    assert rows(result, "findings") == []
    assert result.answer.tables[0].empty == "none"
    assert result.answer.notes == ()
    assert result.answer.inodes == ()
    assert result.doubts == ()


def test_ends_without_a_begin(ask: Ask) -> None:
    k = Build()
    buffer = k.export(exporter="vgem")
    k.wait(MS)
    for _ in range(2):
        k.end(buffer)
    k.by(OTHER).end(buffer, 2)
    k.event("kernel_end", buffer=buffer.inode, detail=1)

    columns = ("inode", "finding", "count", "by", "comm", "pid", "end_direction", "first_ns")
    result = ask("sync", k)

    assert rows(result, "findings", *columns) == [
        (41, "end without a begin", 2, "process", "app", 100, "read", MS),
        (41, "end without a begin", 1, "driver", "other", 200, "write", MS),
        (41, "end without a begin", 1, "process", "other", 200, "write", MS),
    ]
    assert rows(result, "findings", "exporter", "age_ns", "direction")[0] == ("vgem", None, None)


def test_ends_whose_begin_may_be_older_than_the_trace_are_a_note(ask: Ask) -> None:
    k = Build()
    older = k.existing()
    k.holding(older, fd=9)
    k.snapshot("start")
    k.end(older)

    result = ask("sync", k)

    assert rows(result, "findings") == []
    assert result.answer.notes == (
        "1 end without a begin, on buffers that may be older than the trace: not judged",
    )


def test_begins_left_open(ask: Ask) -> None:
    k = Build()
    first, second, third = k.export(), k.export(), k.export()
    k.begin(first, 3)
    k.begin(third)
    k.wait(S)
    k.begin(first)
    k.begin(second)
    k.wait(MS)
    k.release(third)
    k.wait(MS)

    columns = ("inode", "finding", "count", "age_ns")
    released = (43, "begin without an end, buffer released", 1, S + MS)
    assert rows(ask("sync", k), "findings", *columns) == [
        released,
        (41, "begin without an end", 2, S + 2 * MS),
        (42, "begin without an end", 1, 2 * MS),
    ]
    assert rows(ask("sync", k, min_age="1s"), "findings", *columns) == [
        released,
        (41, "begin without an end", 1, S + 2 * MS),
    ]


def test_an_end_in_another_direction(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.begin(buffer, 1)
    k.wait(MS)
    k.end(buffer, 3)
    k.wait(MS)
    k.begin(buffer, 1)
    k.wait(MS)
    k.end(buffer, 1)

    columns = ("inode", "finding", "count", "direction", "end_direction", "age_ns", "first_ns")
    assert rows(ask("sync", k), "findings", *columns) == [
        (41, "ends in another direction", 1, "read", "read and write", None, 0)
    ]


def test_overlapping_brackets_are_compared_as_a_set(ask: Ask) -> None:
    k = Build()
    mixed, wrong, half = k.export(), k.export(), k.export()
    for buffer, ends in ((mixed, (2, 1)), (wrong, (2, 3)), (half, (2,))):
        for direction in (1, 2):
            k.begin(buffer, direction)
            k.wait(MS)
        for direction in ends:
            k.end(buffer, direction)
            k.wait(MS)

    assert rows(ask("sync", k), "findings", "inode", "finding", "count") == [
        (43, "begin without an end", 1),
        (42, "ends in another direction", 1),
    ]


def test_what_overlaps_with_a_bracket_left_open_counts_at_the_end(ask: Ask) -> None:
    k = Build()
    mixed, wrong = k.export(), k.export()
    for buffer, ending in ((mixed, 2), (wrong, 3)):
        k.begin(buffer, 1)
        for _ in range(3):
            k.wait(MS)
            k.begin(buffer, 2)
            k.wait(MS)
            k.end(buffer, ending)
        k.release(buffer)
    k.wait(MS)

    columns = ("inode", "finding", "count", "age_ns", "direction", "end_direction")
    assert rows(ask("sync", k), "findings", *columns) == [
        (41, "begin without an end, buffer released", 1, MS, "write", None),
        (42, "begin without an end, buffer released", 1, MS, "write", None),
        (42, "ends in another direction", 3, None, "read", "read and write"),
    ]


def test_mmaped_then_bracketed_and_released(ask: Ask) -> None:
    k = Build()
    never, tried = k.export(), k.export()
    for buffer in (never, tried):
        mmap(k, buffer, VM_SHARED)
    k.begin(tried)
    for buffer in (never, tried):
        k.wait(MS)
        k.release(buffer)

    assert rows(ask("sync", k), "findings", "inode", "finding") == [
        (42, "begin without an end, buffer released"),
        (41, "mmap'ed, never bracketed"),
    ]


def test_mmaped_and_never_bracketed_by_anybody(ask: Ask) -> None:
    k = Build()
    never, driver, private, importer, tried = (k.export() for _ in range(5))
    mmap(k, never, VM_SHARED)
    mmap(k, never, VM_SHARED | VM_WRITE)
    mmap(k, driver, VM_SHARED)
    k.event("kernel_begin", buffer=driver.inode)
    k.event("kernel_end", buffer=driver.inode)
    mmap(k, private, VM_WRITE)
    mmap(k, importer, VM_SHARED, "mmap_importer")
    mmap(k, tried, VM_SHARED)
    k.begin(tried, errno=EIO)

    result = ask("sync", k)

    assert rows(result, "findings", "inode", "finding", "count", "comm") == [
        (41, "mmap'ed, never bracketed", 2, "app")
    ]
    assert result.answer.notes == (
        "mmap'ed, never bracketed: a heuristic, as access itself is not observed, nor whether a "
        "bracket before the trace covers it",
    )


def test_interrupted_and_not_tried_again(ask: Ask) -> None:
    k = Build()
    ended, begun, restarted, failed = (k.export() for _ in range(4))
    for buffer in (ended, restarted):
        k.begin(buffer)
        k.wait(MS)
    k.end(ended, errno=EINTR)
    k.begin(begun, errno=EAGAIN)
    k.wait(MS)
    k.by(OTHER).begin(begun)
    k.end(begun)
    k.begin(begun, errno=ERESTARTSYS)
    k.by(Process(100, "app")).end(restarted, errno=EINTR)
    k.wait(MS)
    k.end(restarted)
    k.begin(failed, errno=EIO)

    found = rows(ask("sync", k), "findings", "inode", "finding", "count", "comm", "first_ns")
    assert found[1:] == [
        (41, "interrupted, not tried again", 1, "app", 2 * MS),
        (42, "interrupted, not tried again", 1, "app", 2 * MS),
        (42, "interrupted, not tried again", 1, "other", 3 * MS),
    ]
    assert found[0] == (41, "begin without an end", 1, "app", 0)


def test_cost_by_exporter_call_direction_and_size(ask: Ask) -> None:
    k = Build()
    small, large, vgem = k.export(4 * KIB), k.export(MIB), k.export(KIB, "vgem")
    for dur in range(1, 101):
        k.begin(small, 1, dur=dur * 10)
        k.wait(MS)
        k.end(small, 1)
    k.begin(large, 2, dur=US)
    k.wait(MS)
    k.end(large, 2, dur=2 * US)
    k.begin(vgem, 3, dur=5, errno=EIO)

    keys = ("exporter", "call", "direction", "size_up_to_bytes", "count")
    parts = ("total_ns", "p50_ns", "p95_ns", "p99_ns", "max_ns", "bytes_per_second")
    assert rows(ask("sync", k), "cost", *keys, *parts) == [
        ("system", "begin", "read", 4 * KIB, 100, 50500, 500, 950, 990, 1000, 8_110_891_089),
        ("system", "begin", "write", MIB, 1, US, US, US, US, US, MIB * MS),
        ("system", "end", "read", 4 * KIB, 100, 0, 0, 0, 0, 0, None),
        ("system", "end", "write", MIB, 1, *[2 * US] * 5, MIB * MS // 2),
    ]


def test_only_one_exporter(ask: Ask) -> None:
    k = Build()
    for exporter in ("system", "vgem"):
        k.begin(k.export(exporter=exporter))

    result = ask("sync", k, exporter="vgem")

    assert rows(result, "findings", "inode", "exporter") == [(42, "vgem")]
    assert rows(result, "cost", "exporter") == [("vgem",)]


def test_a_half_that_was_not_observed_is_no_finding(ask: Ask) -> None:
    k = Build(unobserved=("cpu_begin", "kernel_end"))
    buffer = k.export()
    k.event("kernel_begin", buffer=buffer.inode)
    k.end(buffer)
    mmap(k, k.export(), VM_SHARED)

    result = ask("sync", k)

    assert rows(result, "findings") == []
    assert result.doubts == (
        "may be wrong: cpu_begin was not observed (not asked for)",
        "may be wrong: kernel_end was not observed (not asked for)",
    )


def test_lost_events_are_a_doubt(ask: Ask) -> None:
    k = Build()
    k.end(k.export())
    k.lose("cpu_begin", "ring_full", 1)

    assert ask("sync", k).doubts == ("may be wrong: 1 event lost (cpu_begin 1)",)


def test_nothing_happened_or_nothing_was_observed(ask: Ask) -> None:
    seen = ask("sync", Build())
    blind = ask("sync", Build(unobserved=("cpu_begin", "kernel_begin")))

    assert [(len(table.rows), table.empty) for table in seen.answer.tables] == [(0, "none")] * 2
    assert [table.empty for table in blind.answer.tables] == ["not observed"] * 2
