# SPDX-License-Identifier: Apache-2.0
"""Waits for fences, fences that were not seen to signal, sync_files."""

from __future__ import annotations

from dmabuf_trace.blocks import SyncFiles
from tests.analyses.conftest import Ask, rows
from tests.build import MS, US, Build, Process, S

EINTR, ENOENT = 4, 2
LIMITS = (
    "a wait is seen when it ends, within dma_resv_wait_timeout(): not observed are waits under way "
    "at the end, other ways to wait, and fences that nobody waited for"
)


def test_waits_by_exporter_device_call_and_context(ask: Ask) -> None:
    k = Build()
    buffer, other = k.export(exporter="amdgpu"), k.export(exporter="vgem")
    gpu = k.attach(buffer, "gpu")
    for nth in range(1, 101):
        k.wait(MS)
        k.fence_wait(buffer, nth * US, context=7, seqno=nth)
        k.wait(US)
        k.map(gpu, dur=500 * US)
    k.wait(300 * MS)
    k.fence_wait(other, 300 * MS, context=9, timed_out=True)
    k.event("fence_wait", buffer=other.inode, value=9, aux=1, dur=US, ret=-EINTR)
    k.lock_wait(buffer, S)
    k.wait(S - 400 * MS - 100 * US)

    keys = ("exporter", "device", "call", "fence_context", "count")
    result = ask("fences", k)

    assert rows(result, "waits", *keys, "wall_share", "timed_out", "failed") == [
        ("vgem", None, None, 9, 2, 0.300001, 1, 1),
        ("amdgpu", "gpu", "map", 7, 100, 0.00505, 0, 0),
    ]
    assert rows(result, "waits", "total_ns", "p50_ns", "p95_ns", "p99_ns", "max_ns") == [
        (300 * MS + US, US, *[300 * MS] * 3),
        (5050 * US, 50 * US, 95 * US, 99 * US, 100 * US),
    ]


def test_longest_waits(ask: Ask) -> None:
    k = Build()
    buffer = k.export(exporter="amdgpu")
    for nth in range(25):
        k.wait(S)
        k.by(Process(nth, f"app{nth}")).fence_wait(buffer, nth * MS, seqno=nth)
    k.fence_wait(buffer, 50 * MS, context=8, timed_out=True)
    k.event("fence_wait", buffer=41, value=8, aux=2, dur=40 * MS, ret=-EINTR)

    columns = ("wait_ns", "inode", "fence_context", "fence_seqno", "result", "comm", "begin_ns")
    found = rows(ask("fences", k), "longest", *columns)

    assert len(found) == 20
    assert found[:3] == [
        (50 * MS, 41, 8, 1, "timed out", "app24", 25 * S - 50 * MS),
        (40 * MS, 41, 8, 2, "EINTR", "app24", 25 * S - 40 * MS),
        (24 * MS, 41, 7, 24, "signalled", "app24", 25 * S - 24 * MS),
    ]


def test_timed_out_and_not_seen_to_signal(ask: Ask) -> None:
    k = Build()
    hung, late, passed = k.export(), k.export(), k.export()
    for buffer, context in ((hung, 1), (late, 2), (passed, 3)):
        k.wait(S)
        k.fence_wait(buffer, S, context=context, seqno=5, timed_out=True)
    k.fence_wait(hung, US, context=1, seqno=4)
    k.wait(2 * S)
    k.by(Process(9, "shell")).fence_wait(hung, 2 * S, context=1, seqno=5, timed_out=True)
    k.event("fence_wait", buffer=41, value=1, aux=5, dur=US, ret=-EINTR)
    k.fence_wait(late, US, context=2, seqno=5)
    k.fence_wait(passed, US, context=3, seqno=6)

    columns = ("fence_context", "fence_seqno", "timed_out", "total_ns", "inode", "comm")
    result = ask("fences", k)

    assert rows(result, "unsignalled", *columns) == [(1, 5, 2, 3 * S, 41, "shell")]
    assert rows(result, "unsignalled", "first_ns", "last_ns") == [(0, 5 * S)]
    assert result.answer.inodes == (41,)
    assert result.answer.notes == (
        LIMITS,
        "not seen to signal: a fence that has signalled makes no wait, so it may have done so "
        "since",
    )


def test_only_a_later_wait_shows_that_a_fence_signalled(ask: Ask) -> None:
    k = Build()
    before, after, again = k.export(), k.export(), k.export(exporter="vgem")
    k.wait(S)
    k.fence_wait(before, US, context=1, seqno=9)
    k.wait(S)
    for buffer, context in ((before, 1), (after, 2), (again, 3)):
        k.fence_wait(buffer, S, context=context, seqno=5, timed_out=True)
    k.wait(S)
    k.fence_wait(after, US, context=2, seqno=9)
    k.fence_wait(after, US, context=3, seqno=5)
    k.wait(S)
    k.fence_wait(again, S, context=3, seqno=6, timed_out=True)

    keys = ("fence_context", "fence_seqno", "timed_out")
    assert rows(ask("fences", k), "unsignalled", *keys) == [(1, 5, 1), (3, 6, 1)]
    # who shows it does not matter
    assert rows(ask("fences", k, exporter="vgem"), "unsignalled", *keys) == [(3, 6, 1)]


def test_sync_files_per_process(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.event("import_sync_file", buffer=buffer.inode, value=6)
    k.by(Process(200, "compositor"))
    for _ in range(3):
        k.event("export_sync_file", buffer=buffer.inode, value=5)
    k.event("export_sync_file", buffer=buffer.inode, ret=-ENOENT)
    k.event("import_sync_file", buffer=buffer.inode, ret=-ENOENT)

    columns = ("comm", "pid", "exports", "exports_failed", "imports", "imports_failed")
    result = ask("fences", k)

    assert rows(result, "sync_files", *columns) == [
        ("compositor", 200, 3, 1, 0, 1),
        ("app", 100, 0, 0, 1, 0),
    ]
    assert rows(result, "unsignalled") == []
    assert result.answer.notes == (
        LIMITS,
        "fds of sync_files are none of a dma-buf: whether they were closed is not observed",
        "fds in use: numbers given to exported sync_files that were taken at the last export, as "
        "the lowest free one is given out; some may be of other files by now",
    )


def test_sync_files_that_are_never_closed(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    for frame in range(100):
        k.wait(MS)
        k.by(Process(1, "leaks")).event("export_sync_file", buffer=buffer.inode, value=9 + frame)
        k.by(Process(2, "closes")).event(
            "export_sync_file", buffer=buffer.inode, value=9 + frame % 3
        )
        k.by(Process(3, "done")).event(
            "export_sync_file", buffer=buffer.inode, value=9 + frame % 99
        )
    k.by(Process(4, "imports")).event("import_sync_file", buffer=buffer.inode, value=9)

    assert rows(ask("fences", k), "sync_files", "comm", "exports", "fds_in_use") == [
        ("leaks", 100, 100),
        ("closes", 100, 1),
        ("done", 100, 1),
        ("imports", 0, 0),
    ]


def test_of_one_device_and_one_exporter(ask: Ask) -> None:
    k = Build()
    for exporter in ("system", "vgem"):
        for device in ("gpu", "isp"):
            buffer = k.export(exporter=exporter)
            attachment = k.attach(buffer, device)
            k.wait(MS)
            k.fence_wait(buffer, US)
            k.map(attachment, dur=MS)
            k.event("export_sync_file", buffer=buffer.inode)

    result = ask("fences", k, device="isp", exporter="vgem")

    assert rows(result, "waits", "exporter", "device", "count") == [("vgem", "isp", 1)]
    assert rows(result, "longest", "inode") == [(44,)]
    assert rows(result, "sync_files", "exports") == [(2,)]


def test_what_was_not_observed_is_not_none(ask: Ask) -> None:
    k = Build(unobserved=("fence_wait", "import_sync_file"))
    empty = ask("fences", k)
    k.event("export_sync_file", buffer=k.export().inode)
    result = ask("fences", k)

    assert {table.empty for table in empty.answer.tables} == {
        "not observed: fence_wait",
        "not observed: import_sync_file",
        "not looked up at the end",
    }
    assert rows(result, "sync_files", "exports", "exports_failed") == [(1, 0)]
    assert rows(result, "sync_files", "imports", "imports_failed") == [(None, None)]
    assert empty.answer.notes == ()
    assert empty.doubts == (
        "may be wrong: import_sync_file was not observed (not asked for)",
        "may be wrong: fence_wait was not observed (not asked for)",
    )


def test_lost_waits_are_a_doubt(ask: Ask) -> None:
    k = Build()
    k.lose("fence_wait", "ring_full", 2)

    assert ask("fences", k).doubts == ("may be wrong: 2 events lost (fence_wait 2)",)


def test_an_empty_recording(ask: Ask) -> None:
    result = ask("fences", Build(sync_files=()))

    assert [(len(table.rows), table.empty) for table in result.answer.tables] == [(0, "none")] * 5
    assert result.answer.notes == (LIMITS,)


def test_who_holds_more_sync_files_than_before_comes_first(ask: Ask) -> None:
    k = Build(sync_files=(SyncFiles(1, "idle", 90), SyncFiles(2, "gone", 5)))
    k.snapshot("start")
    k.sync_files = (SyncFiles(1, "idle", 90), SyncFiles(3, "app", 40), SyncFiles(4, "ok", 1))

    held = rows(ask("fences", k), "held", "comm", "at_start", "at_end", "grown")

    assert held == [("app", 0, 40, 40), ("ok", 0, 1, 1), ("idle", 90, 90, 0), ("gone", 5, 0, -5)]


def test_sync_files_that_nobody_counted_are_not_zero(ask: Ask) -> None:
    k = Build()
    k.snapshot("start")
    k.sync_files = (SyncFiles(3, "app", 40),)

    result = ask("fences", k)
    assert rows(result, "held", "comm", "at_start", "at_end", "grown") == [("app", None, 40, None)]
    cut = ask("fences", Build(), cut=True)
    (held,) = (table for table in cut.answer.tables if table.name == "held")
    assert (len(held.rows), held.empty) == (0, "not looked up at the end")
