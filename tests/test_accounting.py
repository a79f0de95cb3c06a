# SPDX-License-Identifier: Apache-2.0
"""RSS, PSS and what only the kernel holds: the rules of Android's dma-buf accounting."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rich.text import Text

from dmabuf_trace.accounting import Account, account
from dmabuf_trace.blocks import Found, Holder, SnapshotBlock
from dmabuf_trace.render.account import account_parts
from dmabuf_trace.render.machine import account_json
from dmabuf_trace.render.table import Grid, write
from tests.test_render import Screen

KIB = 1 << 10
BIG = Found(42, 256 * KIB, "drm", "scan out", 3)


def taken(*holders: Holder, found: tuple[Found, ...] = (BIG,), **more: Any) -> Account:
    return account(SnapshotBlock("now", 7, found, holders, more.pop("unreadable", 0), **more))


def fd(pid: int, number: int, buffer: int = 42) -> Holder:
    return Holder(buffer, pid, f"p{pid}", number)


def vma(pid: int, start: int, length: int, buffer: int = 42) -> Holder:
    return Holder(buffer, pid, f"p{pid}", -1, start, length)


def sums(made: Account) -> list[tuple[int, int, int]]:
    """Pid, RSS and PSS of each process."""
    return [(process.pid, process.rss, process.pss) for process in made.processes]


@pytest.mark.parametrize(
    "holders",
    [
        pytest.param((fd(1, 3),), id="an fd"),
        pytest.param((fd(1, 3), fd(1, 4)), id="dup"),
        pytest.param((vma(1, 0x1000, 256 * KIB),), id="closed, still mapped"),
        pytest.param((vma(1, 0x1000, 256 * KIB), vma(1, 0x100000, 256 * KIB)), id="mapped twice"),
        pytest.param((fd(1, 3), vma(1, 0x1000, 256 * KIB)), id="open and mapped"),
        pytest.param((vma(1, 0x1000, 4 * KIB),), id="a part mapped"),
        pytest.param((vma(1, 0x1000, 4 * KIB), vma(1, 0x9000, 4 * KIB)), id="a hole unmapped"),
    ],
)
def test_a_buffer_counts_in_full_and_once(holders: tuple[Holder, ...]) -> None:
    made = taken(*holders)

    assert sums(made) == [(1, 256 * KIB, 256 * KIB)]
    assert (made.held, made.held_bytes) == (1, 256 * KIB)


def test_nothing_held_is_nobodys() -> None:
    made = taken()

    assert made.processes == ()
    assert made.held_bytes == 0


def test_sharers_have_all_of_it_and_a_part_of_the_share() -> None:
    small = Found(43, 100, "drm", "")
    made = taken(
        fd(1, 3), fd(1, 4), fd(2, 3), vma(3, 0x1000, 4 * KIB), fd(3, 5, 43), found=(BIG, small)
    )

    third = 256 * KIB // 3
    assert sums(made) == [
        (3, 256 * KIB + 100, third + 100),
        (1, 256 * KIB, third),
        (2, 256 * KIB, third),
    ]
    assert made.held_bytes == 256 * KIB + 100
    assert [(each.fds, each.vmas, each.buffers) for each in made.processes] == [
        (1, 1, 2),
        (2, 0, 1),
        (1, 0, 1),
    ]


def test_what_no_process_holds_is_the_kernels() -> None:
    kernel = Found(50, 4 * KIB, "system", "", 1)
    made = taken(fd(1, 3), found=(BIG, kernel), complete=True)

    assert (made.kernel_only, made.kernel_only_bytes) == (1, 4 * KIB)
    assert made.held_bytes == 256 * KIB
    assert [(each.inode, each.processes) for each in made.buffers] == [(42, 1), (50, 0)]


def test_the_queue_of_a_socket_is_no_process() -> None:
    sent = Found(50, 4 * KIB, "system", "", 1)
    queue = Holder(50, 1, "p1", -1, socket=9, sender_pid=8)
    made = taken(fd(1, 3), queue, found=(BIG, sent), complete=True, queues=True)

    assert sums(made) == [(1, 256 * KIB, 256 * KIB)]
    assert (made.kernel_only, made.in_flight, made.in_flight_bytes) == (1, 1, 4 * KIB)
    assert (made.processes[0].fds, made.processes[0].vmas) == (1, 0)
    assert "    in sockets       4 KiB in 1 buffer" in text(made)
    assert "queue of socket 9 (p1-1), sent by pid 8" in text(made, by="buffer")
    assert "a socket     1q" in text(made)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"complete": False}, "only buffers that a process holds are listed"),
        ({"complete": True, "unreadable": 2}, "not every process could be looked into"),
        ({}, "sockets could not be looked into"),
    ],
)
def test_what_was_not_observed_is_not_zero(more: dict[str, Any], why: str) -> None:
    made = taken(fd(1, 3), **more)

    assert (made.kernel_only, made.kernel_only_bytes) == (None, None)
    assert json.loads(account_json(made))["totals"]["kernel_only_bytes"] is None
    assert f"not observed: {why}" in text(made)


def test_a_buffer_of_unknown_size_is_said_to_be() -> None:
    made = taken(vma(1, 0x1000, 4 * KIB, buffer=60), found=())

    assert [(each.rss, each.unsized) for each in made.processes] == [(0, 1)]
    assert (made.held, made.unsized) == (1, 1)
    assert "0 B+" in text(made)
    assert "and 1 of unknown size" in text(made)
    (buffer,) = json.loads(account_json(made))["buffers"]
    assert (buffer["size_bytes"], buffer["exporter"], buffer["references"]) == (None, None, None)


def text(made: Account, limit: int | None = None, by: str = "") -> str:
    parts = account_parts(made, limit, by)
    return "\n".join(part.plain if isinstance(part, Text) else part.plain() for part in parts)


def test_people_see_holders_and_foreign_text_is_escaped() -> None:
    evil = Found(42, 4 * KIB, "drm", "a\x1b[2J", 2)
    made = taken(fd(1, 3), fd(1, 4), vma(2, 0x1000, 4 * KIB), found=(evil,))
    shown = text(made, by="buffer") + text(made)

    assert "p1-1 fd 3,4; p2-2 VMA 4 KiB" in shown
    assert "a\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_more_rows_than_fit_are_counted() -> None:
    found = tuple(Found(number, 4 * KIB, "drm", "") for number in range(40, 45))
    shown = text(taken(*(fd(number, 3, number) for number in range(40, 45)), found=found), 2)

    assert shown.count("  and 3 more") == 2


def test_a_grid_of_buffers_and_processes() -> None:
    other, kernel = Found(43, 8 * KIB, "system", ""), Found(44, 4 * KIB, "system", "")
    made = account(
        SnapshotBlock(
            *("now", 7, (BIG, other, kernel)),
            (fd(1, 3), fd(1, 4), vma(1, 0x1000, KIB), vma(2, 0x1000, KIB), fd(2, 5, 43)),
            0,
            complete=True,
        ),
        devices={42: ("vivid-000", "gpu\x1b"), 43: ()},
        listed=(3, 268 * KIB),
    )

    grid = text(made).partition("Who holds what (3)\n")[2]

    assert grid.splitlines() == [
        "buffer     size  exporter  name      held by          devices             p2-2   p1-1",
        "    42  256 KiB  drm       scan out  2 processes      vivid-000, gpu\\x1b    1m  2f 1m",
        "    43    8 KiB  system    -         1 process        none                  1f",
        "    44    4 KiB  system    -         the kernel only  -",
    ]
    assert "  by bufinfo         268 KiB in 3 buffers\n" in text(made)
    told = json.loads(account_json(made))
    assert told["buffers"][0]["devices"] == ["vivid-000", "gpu\x1b"]
    assert told["totals"]["bufinfo_bytes"] == 268 * KIB


def test_a_narrow_terminal_shows_the_largest_processes_and_counts_the_others() -> None:
    found = tuple(Found(number, (50 - number) * KIB, "drm", "") for number in range(1, 41))
    made = taken(*(fd(number, 3, number) for number in range(1, 41)), found=found)
    *_, grid = (part for part in account_parts(made) if isinstance(part, Grid))

    fitted, left_out = grid.fitted(80)

    assert fitted.titles[:7] == ["buffer", "size", "exporter", "name", "held by", "p1-1", "p2-2"]
    assert left_out[-1] == "p40-40"
    assert len(fitted.titles) + len(left_out) == 5 + 40
    screen = Screen()
    write([grid], screen)
    assert re.search(r"too narrow for: (p\d+-\d+, ){7}p\d+-\d+ and \d+ more;", screen.getvalue())


def test_totals_by_exporter() -> None:
    system = Found(43, 8 * KIB, "system", "")
    made = taken(fd(1, 3), fd(2, 3), vma(1, 0, KIB, 60), found=(BIG, system))

    assert text(made, by="exporter").splitlines()[2:6] == [
        "Exporters (3)",
        "exporter  buffers     size  held  held size  processes",
        "drm             1  256 KiB     1    256 KiB          2",
        "system          1    8 KiB     0        0 B          0",
    ]
    unknown = json.loads(account_json(made))["exporters"][2]
    assert (unknown["exporter"], unknown["unsized"], unknown["processes"]) == (None, 1, 1)


def test_totals_that_differ_from_the_kernels_are_said_to() -> None:
    made = account(SnapshotBlock("now", 7, (BIG,), (), 0), {}, (2, 300 * KIB))

    assert "300 KiB in 2 buffers: others than these, as they come and go" in text(made)
