# SPDX-License-Identifier: Apache-2.0
"""Who exported buffers, which processes and devices got them."""

from __future__ import annotations

from pathlib import Path

from dmabuf_trace import trace
from dmabuf_trace.analysis import registry
from tests.analyses.conftest import Ask, rows
from tests.build import APP, KIB, MIB, MS, US, Build, Process, header

CAM, KID = Process(7, "cam"), Process(101, "kid")
TREE = ("who", "role", "buffers", "size_bytes", "open")
EDGE = ("exporter", "from_comm", "comm", "buffers")


def test_a_tree_of_exporters_processes_and_devices(ask: Ask) -> None:
    k = Build()
    k.holding(k.existing(size=KIB, exporter="drm"), fd=9)
    k.snapshot("start")
    first, second = (k.export(size=MIB, fd=fd) for fd in (3, 4))
    k.attach(first, "csi", driver="isp")
    k.attach(first, "csi", driver="isp")
    k.detach(k.attach(second, "gpu"))
    k.by(CAM).fd(first, 8)
    k.export(size=8 * KIB, exporter="drm", fd=12)
    k.by(APP).close_fd(second, 4)
    k.release(second)

    result = ask("sharing", k)

    assert rows(result, "tree", *TREE) == [
        ("drm", "exporter", 2, 9 * KIB, 2),
        ("  cam-7", "exported", 1, 8 * KIB, 1),
        ("  (export not seen)", None, 1, KIB, None),
        ("    app-100", "got", 1, KIB, 1),
        ("system", "exporter", 2, 2 * MIB, 1),
        ("  app-100", "exported", 2, 2 * MIB, 1),
        ("    cam-7", "got", 1, MIB, 1),
        ("  csi", "device", 1, MIB, 1),
        ("  gpu", "device", 1, MIB, 0),
    ]
    assert rows(result, "devices", "exporter", "device", "driver", "attachments", "buffers") == [
        ("system", "csi", "isp", 2, 1),
        ("system", "gpu", "vivid", 1, 1),
    ]
    assert result.answer.notes == ()


def test_a_pid_that_comes_again_is_another_process(ask: Ask) -> None:
    k = Build()
    old, new = Process(KID.pid, "old"), Process(KID.pid, "new")
    k.by(old).export(size=KIB, exporter="drm", fd=3)
    mine = k.by(APP).export(size=MIB, exporter="drm", fd=4)
    k.wait(US)
    k.fork(new)
    k.wait(US)
    k.by(new).mmap(mine)
    k.export(size=2 * KIB, exporter="drm", fd=5)

    result = ask("sharing", k, cut=True)

    assert rows(result, "tree", "who", "role", "buffers", "size_bytes") == [
        ("drm", "exporter", 3, MIB + 3 * KIB),
        ("  app-100", "exported", 1, MIB),
        ("    new-101", "got", 1, MIB),
        ("  old-101", "exported", 1, KIB),
        ("  new-101", "exported", 1, 2 * KIB),
    ]


def test_what_a_process_had_stays_its_own_when_its_pid_comes_again(ask: Ask) -> None:
    k = Build()
    k.export(fd=3)
    lives = [Process(KID.pid, name) for name in ("first", "next", "last")]
    exported = []
    for nth, life in enumerate(lives):
        k.wait(US)
        if nth:
            k.by(APP).fork(life)
            k.wait(US)
        k.by(life)
        exported.append(k.export(size=KIB << nth, exporter="drm"))
    for buffer in exported:
        k.wait(US)
        k.release(buffer)

    columns = ("exporter", "from_comm", "comm", "pid", "size_bytes", "forked")
    assert rows(ask("sharing", k, cut=True), "processes", *columns) == [
        ("drm", "first", "first", 101, KIB, 0),
        ("drm", "next", "next", 101, 2 * KIB, 0),
        ("drm", "last", "last", 101, 4 * KIB, 0),
        ("system", "app", "app", 100, 4 * KIB, 0),
        ("system", "app", "next", 101, 4 * KIB, 1),
        ("system", "app", "last", 101, 4 * KIB, 1),
    ]


def test_what_is_not_shared_has_one_process(ask: Ask) -> None:
    k = Build()
    k.export(fd=3)

    assert rows(ask("sharing", k), "tree", *TREE) == [
        ("system", "exporter", 1, 4 * KIB, 1),
        ("  app-100", "exported", 1, 4 * KIB, 1),
    ]


def test_how_a_process_got_them(ask: Ask) -> None:
    k = Build()
    buffer = k.export(fd=3)
    k.by(CAM).fd(buffer, 8)
    k.event(
        "fd_install", buffer=41, object=buffer.address + 256, value=k.table(CAM), detail=9, aux=1
    )
    k.mmap(buffer)
    k.by(APP).fork(KID)
    k.by(KID).mmap(buffer)
    k.munmap(buffer)

    counts = ("comm", "installed", "dup2", "forked", "mmaps", "fds_held", "vmas_held", "open")
    assert rows(ask("sharing", k), "processes", *counts) == [
        ("app", 1, 0, 0, 0, 1, 0, 1),
        ("cam", 1, 1, 0, 1, 1, 1, 1),
        ("kid", 0, 0, 1, 1, 0, 0, 0),
    ]


def test_a_process_that_only_closed_one_had_it(ask: Ask) -> None:
    k = Build()
    buffer = k.existing()
    k.holding(buffer, fd=5)
    k.snapshot("start")
    k.by(CAM).close_fd(buffer, 5)

    assert rows(ask("sharing", k), "processes", *EDGE) == [
        ("system", None, None, 1),
        ("system", None, "app", 1),
    ]
    assert rows(ask("sharing", k), "tree", "who")[2:] == [("    pid-7",), ("    app-100",)]


def test_of_one_exporter(ask: Ask) -> None:
    k = Build()
    for exporter in ("system", "drm"):
        k.attach(k.export(exporter=exporter, fd=3), "gpu")

    result = ask("sharing", k, exporter="drm")

    assert rows(result, "tree", "who") == [("drm",), ("  app-100",), ("  gpu",)]
    assert rows(result, "processes", *EDGE) == [("drm", "app", "app", 1)]
    assert rows(result, "devices", "exporter") == [("drm",)]


def test_what_was_not_observed_is_a_gap(tmp_path: Path) -> None:
    k = Build()
    k.attach(k.export(fd=3))
    probes = header()["probes"]
    for probe in probes:
        if probe["kind"] in ("fork", "mmap"):
            probe |= {"attached": False, "reason": "not asked for"}

    opened = trace.open(k.write(tmp_path / "x.dbt", cut=True, probes=probes))
    result = registry()["sharing"](opened)

    counts = ("installed", "dup2", "forked", "mmaps", "fds_held", "vmas_held", "open")
    assert rows(result, "processes", *counts) == [(1, 0, None, None, None, None, None)]
    assert rows(result, "tree", "open") == [(1,), (None,), (1,)]
    assert result.answer.notes == (
        "the processes were not looked into at the end: what they hold now is not known",
        "fork was not observed (not asked for): processes may have got buffers unseen",
        "mmap was not observed (not asked for): processes may have got buffers unseen",
    )


def test_losses_are_doubts(ask: Ask) -> None:
    k = Build()
    k.export(fd=3)
    k.lose("fd_install", "ring_full", 2)
    k.unreadable = 1

    result = ask("sharing", k)

    assert result.doubts == ("may be wrong: 2 events lost (fd_install 2)",)
    assert result.answer.notes == (
        "1 process could not be looked into: a buffer may be held there, unseen",
    )


def test_of_nothing_there_is_nothing_to_say(ask: Ask) -> None:
    result = ask("sharing", Build())

    assert [len(table.rows) for table in result.answer.tables] == [0, 0, 0]
    assert result.answer.notes == ()


def test_what_comes_after_a_buffer_is_gone_is_still_its_own(ask: Ask) -> None:
    k = Build()
    buffer = k.export(fd=3)
    again = k.attach(buffer, "gpu")
    k.wait(MS)
    k.by(CAM).fd(buffer, 8)
    k.wait(MS)
    k.release(buffer)
    k.wait(MS)
    k.by(APP).export(size=MIB, fd=4)
    k.wait(MS)
    k.fork(KID)
    k.wait(MS)
    k.by(KID).export(fd=5)
    k.wait(MS)
    k.by(APP).detach(again)

    result = ask("sharing", k)

    assert rows(result, "processes", *EDGE, "forked") == [
        ("system", "app", "app", 2, 0),
        ("system", "app", "cam", 1, 0),
        ("system", "app", "kid", 2, 2),
        ("system", "kid", "kid", 1, 0),
    ]
    assert rows(result, "devices", "device", "attachments", "open") == [("gpu", 1, 0)]


def test_a_process_goes_by_the_last_look_else_by_what_its_own_thread_last_was(ask: Ask) -> None:
    k = Build()
    k.event("fd_install", buffer=k.export().inode, object=5, value=6, detail=9, tid=101)
    for name in ("first", "later"):
        k.wait(MS)
        k.by(Process(100, name)).export(fd=3)
        k.by(Process(7, f"{name} cam")).export(fd=4)
    k.wait(MS)
    k.close(4)
    k.by(Process(100, "later")).close(3)
    k.by(Process(7, "looked at")).holding(k.export(), fd=5)
    k.snapshot("during")
    k.close(5)

    found = rows(ask("sharing", k), "processes", "pid", "comm")
    assert found == [(7, "looked at"), (100, "later")]
