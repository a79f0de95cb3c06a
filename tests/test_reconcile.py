# SPDX-License-Identifier: Apache-2.0
"""The events' open buffers against the kernel's list at the end: every difference is a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dmabuf_trace import trace
from dmabuf_trace.analysis import records
from dmabuf_trace.cli.app import app
from tests.build import MS, Build


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.dbt"


@pytest.fixture
def k() -> Build:
    """A kernel with the dma-buf iterator."""
    return Build(lists_all=True)


def rows(file: Path) -> list[tuple[Any, ...]]:
    quality = records(trace.open(file).quality)
    return [
        (row["kind"], row["count"], row["whole_event"])
        for row in quality
        if row["what"] == "reconcile"
    ]


def leaked(file: Path) -> list[int]:
    table = trace.open(file).buffers
    return [row["inode"] for row in records(table) if row["open"]]


def test_where_both_agree_there_is_no_row(k: Build, file: Path) -> None:
    k.existing()
    k.snapshot("start")
    k.export(fd=3)
    gone = k.export()
    k.wait(MS)
    k.release(gone)

    k.write(file)

    assert rows(file) == []
    assert leaked(file) == [41, 42]


def test_a_lost_release_is_a_row_and_no_leak(k: Build, file: Path) -> None:
    k.snapshot("start")
    kept, vanished = k.export(), k.export()
    k.wait(MS)
    k.vanish(vanished)

    k.write(file)

    assert rows(file) == [("release", 1, True)]
    assert leaked(file) == [kept.inode]
    table = records(trace.open(file).buffers)
    assert [(row["inode"], row["end_lost"]) for row in table] == [(41, False), (42, True)]


def test_a_buffer_that_was_there_before_and_vanished(k: Build, file: Path) -> None:
    old = k.existing()
    k.snapshot("start")
    k.wait(MS)
    k.vanish(old)

    assert rows(k.write(file)) == [("release", 1, True)]


def test_a_lost_export_is_a_row(k: Build, file: Path) -> None:
    k.snapshot("start")
    k.wait(MS)
    k.existing()

    assert rows(k.write(file)) == [("export", 1, True)]


def test_without_a_full_list_at_the_start_a_buffer_may_be_older(k: Build, file: Path) -> None:
    k.existing()

    assert rows(k.write(file)) == []


def test_what_began_after_the_look_is_not_gone(k: Build, file: Path) -> None:
    k.snapshot("start")
    k.wait(MS)
    k.snapshot("end")
    k.wait(MS)
    k.export()

    k.write(file, cut=True)

    assert rows(file) == []
    assert leaked(file) == [41]


def test_a_list_of_held_buffers_only_tells_nothing(file: Path) -> None:
    k = Build()
    k.snapshot("start")
    k.export()

    k.write(file)

    assert rows(file) == []
    assert leaked(file) == [41]


def test_the_report_names_the_buffers_and_doubts_the_leaks(k: Build, file: Path) -> None:
    k.snapshot("start")
    k.export(fd=3)
    k.vanish(k.export())
    k.wait(MS)

    result = CliRunner().invoke(app, ["leaks", str(k.write(file))])

    assert result.exit_code == 0, result.output
    assert "gone from the kernel's list: buffer 42" in result.output
    assert "Leaks (1)" in result.output
