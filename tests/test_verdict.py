# SPDX-License-Identifier: Apache-2.0
"""A verdict as text and as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from dmabuf_trace.findings import Verdict
from dmabuf_trace.render.machine import verdict_json
from dmabuf_trace.render.table import write
from dmabuf_trace.render.text import printable
from dmabuf_trace.render.verdict import SCREEN, verdict_parts
from tests.verdicts import (
    COMMAND,
    DOUBTED,
    EVERYTHING,
    FAILED,
    HOSTILE,
    LEAK,
    OFF,
    PASSED,
    hostile,
    verdict,
)


def text(found: Verdict, limit: int | None = SCREEN) -> str:
    stream = io.StringIO()
    write(verdict_parts(found, limit), stream)
    return stream.getvalue()


def test_all_that_there_can_be() -> None:
    assert text(EVERYTHING) == (
        "1 finding (exit status 1)\n"
        "\n"
        "leaks.fd: 3 buffers stay open: 24 KiB\n"
        "  evidence  41, 42, 43 of exporter system\n"
        "            app-100 holds fds 3, 4, 5\n"
        "  about     shape=fd exporter=system comm=app\n"
        "  cause     the process never closes them\n"
        "  stack     dma_buf_export+0x10 < heap_ioctl+0x20\n"
        "  source    drivers/dma-buf/heaps/system_heap.c:12\n"
        "  next      dmabuf-trace show x.dbt 41\n"
        "\n"
        "inconclusive: waits.fence: 3 events were lost\n"
        "  perhaps: a fence took 2s\n"
        "\n"
        "contract.mapping_not_held: excused: 3 buffers stay open: 24 KiB (known, bug 7)\n"
        "\n"
        "5 cases: 2 passed, 1 failed, 1 inconclusive, 1 off\n"
        "the command itself failed: ./suite --all ended with status 3, 2 of 10 runs failed\n"
        "note: a policy was read\n"
    )


@pytest.mark.parametrize(
    ("found", "first", "counts"),
    [
        (verdict(PASSED, OFF), "clean (exit status 0)", "2 cases: 1 passed, 1 off"),
        (verdict(PASSED, DOUBTED), "inconclusive (exit status 3)", "1 passed, 1 inconclusive"),
        (
            verdict(PASSED, command=COMMAND),
            "clean, but the command failed (exit status 5)",
            "1 case: 1 passed",
        ),
        (verdict(FAILED, FAILED), "2 findings (exit status 1)", "2 cases: 2 failed"),
        (verdict(), "clean (exit status 0)", "0 cases: nothing was asked"),
    ],
)
def test_the_first_line_is_the_verdict(found: Verdict, first: str, counts: str) -> None:
    lines = text(found).splitlines()

    assert lines[0] == first
    assert any(counts in line for line in lines)


def test_many_findings_stay_on_a_screen() -> None:
    long = replace(LEAK, evidence=("x",) * 9, stack=("f",) * 9)
    many = verdict(
        replace(FAILED, findings=(long,) * 30),
        *[replace(DOUBTED, findings=(long,) * 30)] * 30,
    )

    told = text(many)

    assert "  and 25 more findings\n" in told
    assert "  and 25 more inconclusive cases\n" in told
    assert "            and 6 more lines\n" in told
    assert "f < f < f < f < f < f < ... 3 more frames\n" in told
    assert len(told.splitlines()) < 100
    assert text(many, None).count("leaks.fd: ") == 30


def test_uncertain_findings_come_last() -> None:
    perhaps = replace(LEAK, certain=False, summary="other")

    lines = text(verdict(replace(FAILED, findings=(perhaps, LEAK)))).splitlines()

    heads = [line for line in lines if line.startswith("leaks.fd")]
    assert heads == ["leaks.fd: 3 buffers stay open: 24 KiB", "leaks.fd: perhaps: other"]
    assert lines[0] == "1 finding (exit status 1)"


@pytest.mark.parametrize("name", [name for name in HOSTILE if name])
def test_a_name_moves_no_cursor_and_makes_no_line(name: str) -> None:
    lines = text(hostile(name)).splitlines()

    assert len(lines) == len(text(hostile("x")).splitlines())
    for line in lines:
        assert line == printable(line)


def test_json() -> None:
    document = json.loads(verdict_json(EVERYTHING))

    assert (document["schema"], document["verdict"], document["status"]) == (1, "findings", 1)
    assert document["recording"]["began_realtime_ns"] == 1_760_000_000 * 10**9
    assert document["command"] == {
        "command": ["./suite", "--all"],
        "status": 3,
        "cycles": 10,
        "failed": 2,
    }
    assert [case["outcome"] for case in document["cases"]] == [
        *("passed", "failed", "inconclusive", "off", "passed")
    ]
    assert document["cases"][1]["findings"] == [
        {
            "rule": "leaks.fd",
            "summary": "3 buffers stay open: 24 KiB",
            "evidence": ["41, 42, 43 of exporter system", "app-100 holds fds 3, 4, 5"],
            "cause": "the process never closes them",
            "next": "dmabuf-trace show x.dbt 41",
            "subject": {"shape": "fd", "exporter": "system", "comm": "app"},
            "stack": ["dma_buf_export+0x10", "heap_ioctl+0x20"],
            "inodes": [41, 42, 43],
            "count": 3,
            "numbers": {},
            "certain": True,
            "location": {"file": "drivers/dma-buf/heaps/system_heap.c", "line": 12},
            "amount_bytes": 24576,
            "key": ["leaks.fd", "fd", "system", "", "app", "", "", "heap_ioctl"],
        }
    ]
    assert document["cases"][2]["findings"][0]["amount_ns"] == 2 * 10**9
    assert document["cases"][4]["excused"][0]["reason"] == "known, bug 7"
    assert document["notes"] == ["a policy was read"]


@pytest.mark.parametrize("name", HOSTILE)
def test_json_keeps_names_as_they_are(name: str) -> None:
    document = json.loads(verdict_json(hostile(name)))

    assert document["cases"][1]["findings"][0]["evidence"] == [name]
