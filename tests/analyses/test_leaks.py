# SPDX-License-Identifier: Apache-2.0
"""Each shape of a leak is found with its holder, and its clean twin is clean."""

from __future__ import annotations

import pytest

from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, Build, Process, S

CAM = Process(200, "cam")
NEVER_TAKEN = (
    "1 buffer never taken by dma_buf_get(): the reference is the exporter's own, or was taken by "
    "get_dma_buf(), which shows nowhere"
)
MANY_PLACES = "of several places that took references, which one never put its own can't be told"


def test_an_fd_that_is_still_open(ask: Ask) -> None:
    k = Build()
    k.export(size=8 * KIB, exporter="system", fd=3, stack=("dma_buf_export", "heap_ioctl"))
    k.wait(2 * S)

    result = ask("leaks", k)

    assert rows(result, "leaks", "inode", "shape", "age_ns", "size_bytes", "exporter", "comm") == [
        (41, "fd", 2 * S, 8 * KIB, "system", "app")
    ]
    assert rows(result, "leaks", "holders", "export_stack") == [
        ([{"kind": "fd", "pid": 100, "comm": "app", "fds": [3]}], ["dma_buf_export", "heap_ioctl"])
    ]
    assert rows(result, "shapes", "shape", "buffers", "size_bytes") == [("fd", 1, 8 * KIB)]
    assert result.answer.inodes == (41,)
    assert result.doubts == ()


def test_a_vma_that_remains_after_the_fd_was_closed(ask: Ask) -> None:
    k = Build()
    buffer = k.export(fd=3)
    k.by(CAM).mmap(buffer, start=0x7000)
    k.by(Process(100, "app")).close(3)

    vma = {"kind": "mapping", "pid": 200, "comm": "cam", "start": 0x7000, "length_bytes": 4096}
    assert rows(ask("leaks", k), "leaks", "shape", "holders") == [("mapping", [vma])]


@pytest.mark.parametrize("maps", [0, 2])
def test_a_device_that_never_detached(ask: Ask, maps: int) -> None:
    k = Build()
    buffer = k.export(fd=3)
    attachment = k.attach(buffer, "vivid-000", stack=("dma_buf_dynamic_attach", "vb2_prepare"))
    for _ in range(maps):
        k.map(attachment)
    k.close(3)

    device = {"kind": "device", "device": "vivid-000", "driver": "vivid", "bus": "platform"}
    assert rows(ask("leaks", k), "leaks", "shape", "holders", "attach_stack") == [
        ("attachment", [{**device, "mappings": maps}], ["dma_buf_dynamic_attach", "vb2_prepare"])
    ]


def test_an_fd_that_was_sent_and_not_received(ask: Ask) -> None:
    k = Build(sees_queues=True)
    k.send(k.export(fd=3), to=CAM, socket=9)
    k.close(3)
    received = k.export(fd=3)
    k.send(received, to=CAM)
    k.by(CAM).fd(received, 4)
    k.by(Process(100, "app")).close(3)

    result = ask("leaks", k)

    queue = {"kind": "in-flight", "pid": 200, "comm": "cam", "socket": 9}
    assert rows(result, "leaks", "shape", "holders")[0] == (
        "in-flight",
        [{**queue, "sender_pid": 100, "sender_comm": "app"}],
    )
    assert rows(result, "shapes", "shape", "buffers") == [("fd", 1), ("in-flight", 1)]
    assert result.answer.notes == ()


def test_an_attachment_outranks_a_socket(ask: Ask) -> None:
    k = Build(sees_queues=True)
    buffer = k.export(fd=3)
    k.attach(buffer, "gpu")
    k.send(buffer, to=CAM)
    k.close(3)

    assert rows(ask("leaks", k), "leaks", "shape") == [("attachment",)]


@pytest.mark.parametrize("sees_queues", [True, False])
def test_a_buffer_that_nothing_visible_holds(ask: Ask, sees_queues: bool) -> None:
    k = Build(sees_queues=sees_queues)
    attachment = k.attach(k.export(fd=3))
    k.unmap(k.map(attachment))
    k.detach(attachment)
    k.close(3)

    result = ask("leaks", k)

    assert rows(result, "leaks", "shape", "holders") == [("kernel", [])]
    unseen = (
        "sockets were not looked into: what is called kernel may be an fd under way in a socket"
    )
    assert result.answer.notes == (() if sees_queues else (unseen,)) + (NEVER_TAKEN,)


def driver(name: str) -> tuple[str, ...]:
    return "dma_buf_get", f"{name}_import", f"{name}_ioctl"


def test_a_reference_that_a_driver_never_put(ask: Ask) -> None:
    k = Build(sees_queues=True)
    leaked, put = k.export(fd=3), k.export(fd=4)
    for buffer in (leaked, put):
        k.get(buffer, stack=driver("npu"))
    k.close(3)
    k.close(4)
    k.release(put)
    k.get(k.export(fd=5), stack=driver("gpu"))

    result = ask("leaks", k)

    assert rows(result, "leaks", "inode", "shape", "get_stacks", "get_user_stacks") == [
        (41, "kernel", [[*driver("npu")]], None),
        (43, "fd", None, None),
    ]
    assert result.answer.notes == ()


def test_of_many_references_the_latest_places_are_shown_once_each(ask: Ask) -> None:
    k = Build(sees_queues=True)
    buffer, other = k.export(fd=3), k.export(fd=3)
    for name in ("isp", "gpu", "npu", "vpu", "gpu", "vpu", "gpu"):
        k.wait(MS)
        k.get(buffer, stack=driver(name))
        k.get(other, stack=driver("isp"))
    k.close(3)

    result = ask("leaks", k)

    latest = [[*driver(name)] for name in ("gpu", "vpu", "npu")]
    assert rows(result, "leaks", "get_stacks") == [(latest,), ([[*driver("isp")]],)]
    assert result.answer.notes == (
        MANY_PLACES,
        "only the latest 3 places that took references to a buffer are shown",
    )


def test_a_reference_to_a_buffer_from_before_the_trace(ask: Ask) -> None:
    k = Build(lists_all=True, sees_queues=True)
    buffer = k.existing()
    k.snapshot("start")
    k.get(buffer, stack=driver("npu"))

    result = ask("leaks", k)

    assert rows(result, "born_before", "shape", "get_stacks") == [("kernel", [[*driver("npu")]])]
    assert result.answer.notes == ()


def test_references_without_a_stack_and_references_not_observed(ask: Ask) -> None:
    k = Build(sees_queues=True)
    k.get(k.export())
    result = ask("leaks", k)
    assert rows(result, "leaks", "shape", "get_stacks") == [("kernel", None)]
    assert result.answer.notes == ()

    k = Build(sees_queues=True, unobserved=("get",))
    k.export()
    assert ask("leaks", k).answer.notes == (
        "get was not observed: where references were taken is not known",
    )


def test_the_first_shape_wins_and_all_holders_are_listed(ask: Ask) -> None:
    k = Build()
    buffer = k.export(fd=3)
    k.attach(buffer, "gpu")
    k.by(CAM).mmap(buffer)
    k.fd(buffer, 9)
    k.fd(buffer, 8)

    ((shape, holders),) = rows(ask("leaks", k), "leaks", "shape", "holders")

    assert shape == "fd"
    assert [(each["kind"], each.get("comm"), each.get("fds")) for each in holders] == [
        ("fd", "app", [3]),
        ("fd", "cam", [8, 9]),
        ("mapping", "cam", None),
        ("device", None, None),
    ]


def test_a_clean_run_is_clean(ask: Ask) -> None:
    k = Build()
    for _ in range(3):
        buffer = k.export(fd=3)
        attachment = k.attach(buffer)
        k.unmap(k.map(attachment))
        k.detach(attachment)
        k.mmap(buffer)
        k.munmap(buffer)
        k.close(3)
        k.release(buffer)

    result = ask("leaks", k)

    assert [len(table.rows) for table in result.answer.tables] == [0, 0, 0, 0]
    assert (result.doubts, result.answer.notes, result.answer.inodes) == ((), (), ())


def test_a_buffer_from_before_the_trace_is_not_a_leak(ask: Ask) -> None:
    k = Build()
    k.holding(k.existing(), fd=3)
    k.snapshot("start")

    result = ask("leaks", k)

    assert rows(result, "leaks") == []
    assert rows(result, "born_before", "inode", "shape", "exporter") == [(41, "fd", "system")]


def test_a_cut_recording_has_unknown_shapes_never_guessed_ones(ask: Ask) -> None:
    k = Build()
    k.attach(k.export(fd=3), "gpu")
    k.export(fd=4, stack=("dma_buf_export",))

    result = ask("leaks", k, cut=True)

    device = {"kind": "device", "device": "gpu", "driver": "vivid", "bus": "platform"}
    assert rows(result, "leaks", "inode", "shape", "holders") == [
        (41, "unknown", [{**device, "mappings": 0}]),
        (42, "unknown", None),
    ]
    assert result.answer.notes == (
        "who holds what was not looked up at the end: shapes are unknown",
        "1 stack of exports did not make it into the recording",
    )
    assert result.doubts == ("may be wrong: the recording was cut (ends without its end block)",)


def test_loss_makes_the_verdict_uncertain(ask: Ask) -> None:
    k = Build()
    k.lose("release", "ring_full", 3)
    k.lose("fd_install", "ring_full", 9)
    k.lose("export", "stack_lost", 9)

    assert ask("leaks", k).doubts == ("may be wrong: 3 events lost (release 3)",)


def test_an_export_that_was_lost_leaves_a_leak_of_unknown_age(ask: Ask) -> None:
    k = Build()
    k.release(k.export())
    k.fd(k.existing(), 4)
    k.lose("export", "ring_full", 1)
    k.wait(S)

    result = ask("leaks", k, min_age="1s")

    assert rows(result, "leaks", "inode", "shape", "age_ns", "size_bytes") == [
        (42, "fd", None, 4 * KIB)
    ]
    assert result.answer.notes == ("1 export made no event: age, exporter and stack are not known",)


def test_only_what_is_old_enough_and_of_one_exporter(ask: Ask) -> None:
    k = Build()
    k.export(exporter="system", fd=3)
    k.export(exporter="vgem", fd=4)
    k.wait(500 * MS)
    k.export(exporter="system", fd=5)
    k.wait(500 * MS)

    assert rows(ask("leaks", k, min_age="1s", exporter="system"), "leaks", "inode") == [(41,)]
    assert ask("leaks", k, exporter="cma").answer.notes == (
        "no buffer of exporter cma; exporters here: system, vgem",
    )


def test_what_was_left_behind_against_the_contract(ask: Ask) -> None:
    k = Build()
    first, second = k.export(), k.export()
    k.attach(first, "gpu")
    attachment = k.attach(second, "isp")
    k.map(attachment)
    k.wait(MS)
    k.detach(attachment)
    k.release(first)
    k.release(second)

    assert rows(ask("leaks", k), "outlived", "inode", "what", "device") == [
        (41, "attached, though the buffer was released", "gpu"),
        (42, "mapped, though its attachment was detached", "isp"),
    ]


def test_processes_that_could_not_be_looked_into_are_told(ask: Ask) -> None:
    k = Build(unreadable=1, sees_queues=True)
    k.export()

    result = ask("leaks", k)

    assert rows(result, "leaks", "shape") == [("kernel",)]
    assert result.answer.notes == (
        "1 process could not be looked into: a buffer may be held there, unseen",
        NEVER_TAKEN,
    )
