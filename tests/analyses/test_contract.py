# SPDX-License-Identifier: Apache-2.0
"""Rules of the contract: each broken on purpose, each kept by a clean twin, each spoilt by loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dmabuf_trace.analysis import Result, records
from tests.analyses.conftest import Ask, rows
from tests.build import APP, MS, Build, Process, S

Do = Callable[[Build], object]


def rule(result: Result, name: str, *columns: str) -> tuple[Any, ...]:
    """Some columns of one rule's row."""
    found = next(row for row in records(result.answer.tables[0].rows) if row["rule"] == name)
    return tuple(found[column] for column in columns)


def map_after_detach(k: Build) -> None:
    attachment = k.attach(k.export(), "gpu")
    k.detach(attachment)
    k.unmap(k.map(attachment))


def unmap_twice(k: Build) -> None:
    mapping = k.map(k.attach(k.export(), "gpu"))
    k.unmap(mapping)
    k.unmap(mapping)


def unmap_otherwise(k: Build) -> None:
    attachment = k.attach(k.export(), "gpu")
    first, second = k.map(attachment, "to_device"), k.map(attachment, "from_device")
    k.unmap(second, "from_device")
    k.unmap(first, "from_device")


def leave_mapped(k: Build) -> None:
    attachment = k.attach(k.export(), "gpu")
    k.map(attachment)
    k.detach(attachment)


def leave_attached(k: Build) -> None:
    buffer = k.export()
    k.attach(buffer, "gpu")
    k.release(buffer)


def leave_vmapped(k: Build) -> None:
    buffer = k.export()
    k.vmap(buffer)
    k.release(buffer)


def vunmap_twice(k: Build) -> None:
    buffer = k.export()
    k.vmap(buffer)
    k.vunmap(buffer)
    k.vunmap(buffer)


def pin_static(k: Build) -> None:
    k.pin(k.attach(k.export(), "gpu"))


def leave_pinned(k: Build) -> None:
    attachment = k.attach(k.export(), "gpu", dynamic=True)
    k.pin(attachment)
    k.detach(attachment)


def unpin_twice(k: Build) -> None:
    attachment = k.attach(k.export(), "gpu", dynamic=True)
    k.pin(attachment)
    k.unpin(attachment)
    k.unpin(attachment)


def ignore_move(k: Build) -> None:
    attachment = k.attach(k.export(), "gpu", dynamic=True)
    mapping = k.map(attachment)
    k.wait(MS)
    k.move(attachment.buffer)
    k.wait(1001 * MS)
    k.unmap(mapping)


def hold(k: Build) -> None:
    k.map(k.attach(k.export(), "gpu", driver="npu"))
    k.wait(S)


def leave_begun(k: Build) -> None:
    buffer = k.export()
    k.begin(buffer)
    k.release(buffer)


def end_twice(k: Build) -> None:
    buffer = k.export()
    k.begin(buffer, 2)
    k.end(buffer, 2)
    k.end(buffer, 2)


def end_otherwise(k: Build) -> None:
    buffer = k.export()
    k.begin(buffer, 1)
    k.wait(MS)
    k.end(buffer, 2)


def give_up(k: Build) -> None:
    buffer = k.export()
    k.begin(buffer, errno=4)
    k.wait(MS)
    k.mmap(buffer)


def wait_for_long(k: Build) -> None:
    attachment = k.attach(k.export(), "gpu")
    k.wait(11 * S)
    k.fence_wait(attachment.buffer, 10 * S)
    k.wait(MS)
    k.unmap(k.map(attachment, dur=10 * S + 2 * MS))


BROKEN = [
    ("map_attached", map_after_detach, "mapped after its detach", "gpu"),
    ("unmap_once", unmap_twice, "unmapped what was not mapped", "gpu"),
    ("unmap_direction", unmap_otherwise, "unmapped with another direction", "gpu"),
    ("unmap_before_detach", leave_mapped, "mapped at its detach", "gpu"),
    ("detach_before_release", leave_attached, "attached at the release", "gpu"),
    ("vmap_balanced", leave_vmapped, "vmapped at the release", None),
    ("vmap_balanced", vunmap_twice, "no vmap before", None),
    ("static_never_pins", pin_static, "pinned by a static importer", "gpu"),
    ("pin_balanced", leave_pinned, "pinned at its detach", "gpu"),
    ("pin_balanced", unpin_twice, "no pin before", "gpu"),
    ("unmap_after_move", ignore_move, "still mapped after the move", "gpu"),
    ("mapping_not_held", hold, "mapping held too long", "gpu"),
    ("cpu_access_bracketed", leave_begun, "no end before the release", None),
    ("cpu_access_bracketed", end_twice, "ended what was not begun", None),
    ("cpu_access_bracketed", end_otherwise, "ended with another direction", None),
    ("sync_restarted", give_up, "interrupted and not restarted", None),
    ("fence_signalled", wait_for_long, "fence not signalled", "gpu"),
]


def clean(k: Build) -> None:
    """Keep every rule that can be seen, next to where it could be broken."""
    buffer = k.export()
    static = k.attach(buffer, "gpu", driver="npu")
    mapping = k.map(static, "to_device")
    k.wait(999 * MS)
    k.unmap(mapping, "to_device")
    dynamic = k.attach(buffer, "nic", dynamic=True)
    k.pin(dynamic)
    k.unpin(dynamic)
    mapping = k.map(dynamic)
    k.wait(2 * S)
    k.move(buffer)
    k.wait(S)
    k.unmap(mapping)
    k.vmap(buffer)
    k.vunmap(buffer)
    k.wait(10 * S)
    k.fence_wait(buffer, 10 * S - 1)
    k.begin(buffer, 3, errno=4)
    k.begin(buffer, 3)
    k.end(buffer, 3, errno=11)
    k.end(buffer, 3)
    for attachment in (static, dynamic):
        k.detach(attachment)
    k.release(buffer)
    again = k.attach(k.export(), "gpu", driver="npu", address=static.address)
    k.unmap(k.map(again))


@pytest.mark.parametrize(("name", "do", "what", "device"), BROKEN)
def test_what_is_broken_is_found(ask: Ask, name: str, do: Do, what: str, device: str) -> None:
    k = Build()
    do(k)

    result = ask("contract", k)

    columns = ("rule", "inode", "what", "device", "comm")
    found = rows(result, "violations", *columns)
    assert [row for row in found if row[0] == name] == [(name, 41, what, device, "app")]
    assert rule(result, name, "verdict", "violations", "first_inode") == ("violated", 1, 41)
    assert result.answer.inodes == (41,)


def test_what_is_kept_passes(ask: Ask) -> None:
    k = Build()
    clean(k)

    result = ask("contract", k)

    assert rows(result, "violations") == []
    verdicts = dict(rows(result, "rules", "rule", "verdict"))
    assert {name: verdicts[name] for name, *_ in BROKEN} == {name: "passed" for name, *_ in BROKEN}
    cases = dict(rows(result, "rules", "rule", "cases"))
    assert [cases[name] for name in ("map_attached", "detach_before_release")] == [3, 2]
    assert [cases[name] for name in ("sync_restarted", "unmap_after_move")] == [2, 1]
    assert [cases[name] for name in ("fence_signalled", "export_complete")] == [1, 2]
    assert verdicts["export_complete"] == "passed"


def test_what_has_no_case_is_not_observed(ask: Ask) -> None:
    result = ask("contract", Build())

    assert {verdict for (verdict,) in rows(result, "rules", "verdict")} == {"not observed"}
    assert rule(result, "unmap_once", "cases", "violations", "reason") == (
        *(0, 0),
        "no case in the trace",
    )
    assert rows(result, "violations") == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("lock_held", "who owns the reservation lock is not recorded"),
        ("detach_own", "the event has the attachment's own buffer, not the one that was told"),
        ("fences_awaited", "what a device waits for is not recorded"),
        ("references_balanced", "get_dma_buf() and fput() make no events"),
        ("fd_closed_on_exec", "whether an fd is closed on exec does not pass fd_install()"),
    ],
)
def test_what_no_trace_shows_is_not_observed(ask: Ask, name: str, why: str) -> None:
    k = Build()
    clean(k)

    found = rule(ask("contract", k), name, "verdict", "cases", "violations", "reason")
    assert found == ("not observed", None, None, why)


@pytest.mark.parametrize(("lost", "verdict"), [("unmap", "not observed"), ("map", "violated")])
def test_a_violation_stands_where_no_loss_explains_it(ask: Ask, lost: str, verdict: str) -> None:
    k = Build()
    leave_mapped(k)
    k.lose(lost, "ring_full", 1)

    result = ask("contract", k)

    assert rule(result, "unmap_before_detach", "verdict", "violations") == (verdict, 1)
    assert len(rows(result, "violations")) == (verdict == "violated")


def test_a_violation_stands_where_there_are_more_than_lost_events(ask: Ask) -> None:
    k = Build()
    leave_mapped(k)
    leave_mapped(k)
    k.lose("unmap", "ring_full", 1)

    columns = ("verdict", "violations", "reason")
    more = rule(ask("contract", k), "unmap_before_detach", *columns)
    k.lose("unmap", "no_entry", 1)
    all_lost = rule(ask("contract", k), "unmap_before_detach", *columns)

    assert more == ("violated", 2, "1 unmap lost")
    assert all_lost == ("not observed", 2, "2 unmap lost")


@pytest.mark.parametrize(
    ("lost", "cause", "verdict", "reason"),
    [
        ("map", "ring_full", "not observed", "1 map lost"),
        ("map", "stack_lost", "passed", ""),
        ("vmap", "ring_full", "passed", ""),
        ("export", "unwatched", "not observed", "buffers went unwatched"),
    ],
)
def test_a_pass_stands_where_no_loss_hides_a_violation(
    ask: Ask, lost: str, cause: str, verdict: str, reason: str
) -> None:
    k = Build()
    clean(k)
    k.lose(lost, cause, 1)

    assert rule(ask("contract", k), "unmap_before_detach", "verdict", "reason") == (verdict, reason)


def test_kinds_that_were_not_observed(ask: Ask) -> None:
    k = Build(unobserved=("kernel_end",))
    clean(k)

    result = ask("contract", k)

    assert rule(result, "cpu_access_bracketed", "verdict", "reason") == (
        "not observed",
        "kernel_end was not observed",
    )
    assert rule(result, "sync_restarted", "verdict") == ("passed",)


@pytest.mark.parametrize(
    ("release", "before_6_2", "from_7_1"),
    [
        ("6.1.0-56-amd64", "does not apply", "not observed"),
        ("6.12.107+deb13-amd64", "not observed", "not observed"),
        ("7.2.13", "not observed", "does not apply"),
    ],
)
def test_rules_of_other_kernels_do_not_apply(
    ask: Ask, release: str, before_6_2: str, from_7_1: str
) -> None:
    result = ask("contract", Build(), header={"host": {"release": release}})

    assert rule(result, "lock_not_held", "verdict") == (before_6_2,)
    assert rule(result, "move_notify_given", "verdict") == (from_7_1,)
    assert result.answer.notes == ()


def test_all_rules_apply_to_an_unknown_kernel(ask: Ask) -> None:
    result = ask("contract", Build(), header={"host": 0})

    assert rule(result, "lock_not_held", "verdict") == ("not observed",)
    assert result.answer.notes == (
        "the kernel's version is not known: all rules are taken to apply",
    )


def test_what_began_before_the_trace_is_no_case(ask: Ask) -> None:
    k = Build()
    buffer = k.existing()
    k.holding(buffer, fd=3)
    k.snapshot("start")
    k.event("unmap", buffer=41, object=0x9000, value=0x9100)
    k.event("unpin", buffer=41, object=0x9000)
    k.vunmap(buffer)
    k.end(buffer)

    result = ask("contract", k)

    assert rows(result, "violations") == []
    assert {cases for (cases,) in rows(result, "rules", "cases")} == {0, None}


def test_the_mapping_that_the_core_keeps_is_its_own(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export())
    mapping = k.map(attachment)
    k.unmap(mapping)
    k.map(attachment, sgt=mapping.sgt)
    k.detach(attachment)

    assert rule(ask("contract", k), "unmap_before_detach", "verdict", "cases", "reason") == (
        *("passed", 1),
        "1 that the core keeps until the detach: not judged",
    )


def test_mappings_held_by_design(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.map(k.attach(buffer, "vivid.0"))
    k.map(k.attach(buffer, "csi", driver="isp", stack=("dma_buf_attach", "vb2_dc_attach_dmabuf")))
    k.map(k.attach(buffer, "gpu", driver="npu", dynamic=True))
    k.wait(5 * S)

    assert rule(ask("contract", k), "mapping_not_held", "verdict", "cases", "reason") == (
        *("not observed", 0),
        "no case in the trace; 2 held by design (videobuf2, DRM imports): not judged",
    )


def test_limits_are_options(ask: Ask) -> None:
    k = Build()
    ignore_move(k)
    hold(k)

    result = ask("contract", k, unmap_within="2s", min_age="2s")

    assert rows(result, "violations") == []
    assert rule(result, "unmap_after_move", "verdict", "cases") == ("passed", 1)
    assert rule(result, "mapping_not_held", "cases") == (0,)


def test_accesses_that_overlap_have_no_direction_of_their_own(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    for sync in (1, 2):
        k.begin(buffer, sync)
        k.wait(MS)
    for sync in (2, 1):
        k.end(buffer, sync)
        k.wait(MS)

    assert rule(ask("contract", k), "cpu_access_bracketed", "verdict", "cases") == ("passed", 2)


def test_a_thread_that_an_interrupt_may_have_killed_is_no_case(ask: Ask) -> None:
    k = Build()
    buffer = k.export(fd=3)
    k.wait(MS)
    k.end(buffer, errno=4)
    k.wait(MS)
    k.close_fd(buffer, 3)
    k.release(buffer)

    assert rule(ask("contract", k), "sync_restarted", "cases", "violations") == (0, 0)


def test_an_sync_by_another_thread_is_no_restart(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.begin(buffer, errno=4)
    k.wait(MS)
    k.by(Process(7, "cam")).begin(buffer)
    k.wait(MS)
    k.by(APP).end(buffer)

    assert rule(ask("contract", k), "sync_restarted", "verdict", "violations") == ("violated", 1)


def test_of_one_exporter(ask: Ask) -> None:
    k = Build()
    for exporter in ("heap", "drm"):
        buffer = k.export(exporter=exporter)
        attachment = k.attach(buffer, "gpu")
        mapping = k.map(attachment, "to_device")
        k.unmap(mapping, "to_device")
        if exporter == "drm":
            k.unmap(mapping)
        k.detach(attachment)
        k.release(buffer)

    heap, drm = ask("contract", k, exporter="heap"), ask("contract", k, exporter="drm")

    assert rule(heap, "unmap_once", "verdict", "cases") == ("passed", 1)
    assert rule(heap, "unmap_direction", "verdict", "cases") == ("passed", 1)
    assert rule(drm, "unmap_once", "verdict", "cases") == ("violated", 2)
    assert ask("contract", k, exporter="vb2").answer.notes == (
        "no buffer of exporter vb2; exporters here: drm, heap",
    )


def test_an_export_that_the_core_refuses(ask: Ask) -> None:
    k = Build()
    k.export(exporter="heap", errno=22)
    k.release(k.export(exporter="drm"))

    result, drm = ask("contract", k), ask("contract", k, exporter="drm")

    columns = ("verdict", "cases", "violations", "first_inode")
    assert rule(result, "export_complete", *columns) == ("violated", 2, 1, None)
    assert rows(result, "violations", "rule", "inode", "what", "comm") == [
        ("export_complete", None, "export refused", "app")
    ]
    assert result.answer.inodes == ()
    assert rule(drm, "export_complete", *columns) == ("passed", 1, 0, None)


def test_an_export_that_fails_for_want_of_memory_is_no_case(ask: Ask) -> None:
    k = Build()
    k.export(errno=12)

    result = ask("contract", k)

    assert rule(result, "export_complete", "verdict", "cases") == ("not observed", 0)


def test_a_wait_that_was_broken_off_tells_nothing_of_its_fence(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.wait(20 * S)
    k.fence_wait(buffer, S, timed_out=True)
    k.event("fence_wait", buffer=buffer.inode, dur=S, ret=-512)
    k.lock_wait(buffer, 20 * S)
    few = ask("contract", k)
    k.fence_wait(buffer, 15 * S, timed_out=True)
    more, later = ask("contract", k), ask("contract", k, signal_within="16s")

    columns = ("verdict", "cases", "violations")
    assert rule(few, "fence_signalled", *columns) == ("not observed", 0, 0)
    assert rule(more, "fence_signalled", *columns) == ("violated", 1, 1)
    assert rows(more, "violations", "begin_ns") == [(15 * S,)]
    assert rule(later, "fence_signalled", *columns) == ("not observed", 0, 0)


def test_detached_in_any_order_after_the_release(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    gpu, nic = k.attach(buffer, "gpu"), k.attach(buffer, "nic")
    k.attach(buffer, "npu")
    k.wait(MS)
    k.release(buffer)
    for attachment in (nic, gpu):
        k.wait(MS)
        k.detach(attachment)

    result = ask("contract", k)

    assert rule(result, "detach_before_release", "cases", "violations") == (3, 3)
    assert rows(result, "violations", "device", "begin_ns") == [
        (device, MS) for device in ("gpu", "nic", "npu")
    ]


def test_only_moves_within_a_mapping_are_told_to_it(ask: Ask) -> None:
    k = Build()
    attachment = k.attach(k.export(), "gpu", dynamic=True)
    mappings = []
    for _ in range(2):
        mappings.append(k.map(attachment))
        k.wait(MS)
        k.move(attachment.buffer)
        k.wait(MS)
    k.unmap(mappings[1])
    k.move(attachment.buffer)
    k.wait(S)
    k.unmap(mappings[0])
    k.unmap(k.map(attachment))

    result = ask("contract", k)

    assert rule(result, "unmap_after_move", "cases", "violations") == (2, 1)
    assert rows(result, "violations", "begin_ns") == [(MS,)]


def test_accesses_one_after_the_other_are_judged_each(ask: Ask) -> None:
    k = Build()
    buffer, other = k.export(), k.export()
    for sync in (1, 2, 1):
        for each in (buffer, other):
            k.begin(each, sync)
            k.wait(MS)
            k.end(each, 1)
            k.wait(MS)
    k.release(buffer)

    result = ask("contract", k)

    assert rule(result, "cpu_access_bracketed", "cases", "violations") == (6, 2)
    assert rows(result, "violations", "inode", "begin_ns") == [(41, 5 * MS), (42, 7 * MS)]


def test_an_interrupted_sync_is_restarted_however_late(ask: Ask) -> None:
    k = Build()
    buffer, other = k.export(), k.export()
    for each in (buffer, other):
        k.begin(each, errno=4)
        k.wait(MS)
    k.mmap(buffer)
    k.wait(MS)
    k.begin(buffer, errno=4)
    k.wait(MS)
    k.begin(buffer)
    k.wait(MS)

    result = ask("contract", k)

    assert rule(result, "sync_restarted", "cases", "violations") == (3, 1)
    assert rows(result, "violations", "rule", "inode") == [("sync_restarted", 42)]


def test_an_address_that_another_buffer_had_in_between_tells_nothing(ask: Ask) -> None:
    k = Build()
    buffer, other = k.export(), k.export()
    attachment = k.attach(buffer, "gpu")
    k.detach(attachment)
    k.detach(k.attach(other, "gpu", address=attachment.address))
    k.release(other)
    k.unmap(k.map(attachment))

    assert rule(ask("contract", k), "map_attached", "cases", "violations") == (0, 0)


def test_the_first_violations_are_listed(ask: Ask) -> None:
    k = Build()
    mapping = k.map(k.attach(k.export()))
    for _ in range(102):
        k.unmap(mapping)
        k.wait(MS)

    result = ask("contract", k)

    times = [at for (at,) in rows(result, "violations", "begin_ns")]
    assert times == [MS * at for at in range(1, 101)]
    assert rule(result, "unmap_once", "violations") == (101,)
    assert result.answer.notes == ("the first 100 of 101 violations are listed",)
