# SPDX-License-Identifier: Apache-2.0
"""Two recordings beside each other: what is worse in the second, and a clean twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dmabuf_trace import gather, trace
from dmabuf_trace.analysis import Result, records
from dmabuf_trace.cli.app import app
from dmabuf_trace.diff import diff, read
from tests.analyses.conftest import alike
from tests.build import KIB, MS, US, Build, Process


def session(
    k: Build, *, map_us: int = 10, leaks: int = 0, refusals: int = 0, rounds: int = 30
) -> Build:
    """Frames through one device; what is left alive has the stack and name of a cache."""
    k.existing(size=64 * KIB)
    for number in range(rounds):
        buffer = k.export(exporter="system", dur=5 * US)
        attachment = k.attach(buffer, "gpu", dur=US)
        k.wait(MS)
        mapping = k.map(attachment, dur=(map_us + number % 3) * US)
        k.unmap(mapping)
        k.detach(attachment)
        k.release(buffer)
    for _ in range(leaks):
        k.name(k.export(stack=("heap_alloc+0x1f", "ioctl+0x2"), size=8 * KIB), "frame")
    for _ in range(refusals):
        k.attach(k.existing(), "nic", errno=16)
    return k


def compare(tmp_path: Path, a: Build, b: Build) -> Result:
    """The diff of two built recordings."""
    return diff(trace.open(a.write(tmp_path / "a.dbt")), trace.open(b.write(tmp_path / "b.dbt")))


def rows(result: Result, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Some columns of a table."""
    found = next(each for each in result.answer.tables if each.name == table)
    return [tuple(row[column] for column in columns) for row in records(found.rows)]


def test_the_same_twice_is_the_same(tmp_path: Path) -> None:
    result = compare(tmp_path, session(Build(), leaks=2), session(Build(), leaks=2))

    assert rows(result, "alive", "verdict", "buffers_a", "buffers_b") == [("same", 2, 2)]
    assert rows(result, "calls", "verdict", "call") == [
        ("same", "attach"),
        ("same", "export"),
        ("same", "map"),
    ]
    assert rows(result, "errors", "verdict") == []
    assert result.doubts == ()


def test_what_is_alive_is_matched_by_where_it_comes_from(tmp_path: Path) -> None:
    after = session(Build(process=Process(999, "app")), leaks=5)
    after.export(exporter="udmabuf", stack=("udmabuf_create+0x40",), size=16 * KIB)

    result = compare(tmp_path, session(Build(), leaks=2), after)

    columns = ("verdict", "exporter", "name", "comm", "at", "buffers_a", "buffers_b")
    assert rows(result, "alive", *columns, "size_bytes_a", "size_bytes_b") == [
        ("new", "udmabuf", "", "app", "udmabuf_create", 0, 1, 0, 16 * KIB),
        ("grew", "system", "frame", "app", "heap_alloc", 2, 5, 16 * KIB, 40 * KIB),
    ]


def test_a_call_that_got_slower(tmp_path: Path) -> None:
    result = compare(tmp_path, session(Build()), session(Build(), map_us=20))

    columns = ("verdict", "call", "device", "exporter", "calls_a", "p50_ns_a", "p50_ns_b")
    assert rows(result, "calls", *columns)[0] == (
        *("slower", "map", "gpu", "system", 30, 11 * US, 21 * US),
    )
    back = compare(tmp_path / "..", session(Build(), map_us=20), session(Build()))
    assert ("faster", "map") in rows(back, "calls", "verdict", "call")


def test_of_a_few_calls_nothing_is_said(tmp_path: Path) -> None:
    result = compare(tmp_path, session(Build(), rounds=5), session(Build(), rounds=5, map_us=90))

    assert {verdict for (verdict,) in rows(result, "calls", "verdict")} == {"too few"}


def test_errors_by_their_number_per_second(tmp_path: Path) -> None:
    result = compare(
        tmp_path, session(Build(), refusals=1), session(Build(), refusals=4, rounds=60)
    )

    columns = ("verdict", "kind", "error", "device", "errors_a", "errors_b")
    assert rows(result, "errors", *columns) == [("more", "attach", "EBUSY", "nic", 1, 4)]


def test_what_one_of_them_could_not_see_is_said(tmp_path: Path) -> None:
    probes = [{"kind": "map", "symbol": "x", "attached": False, "reason": "no such function"}]
    after = session(Build())
    after.lose("export", "ring_full", 3)
    a = trace.open(session(Build()).write(tmp_path / "a.dbt", probes=probes))
    b = trace.open(after.write(tmp_path / "b.dbt"))

    result = diff(a, b)

    assert any("map was not observed in A" in note for note in result.answer.notes)
    assert [doubt for doubt in result.doubts if doubt.startswith("A: ")]
    assert "B: may be wrong: 3 events lost (export 3)" in result.doubts


def test_the_command(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.dbt", "b.dbt")]
    session(Build()).write(Path(paths[0]))
    session(Build(), leaks=3).write(Path(paths[1]))

    shown = CliRunner().invoke(app, ["diff", *paths])
    assert shown.exit_code == 0, shown.output
    assert "new" in shown.stdout
    made = json.loads(CliRunner().invoke(app, ["diff", *paths, "--json"]).stdout)
    assert (made["a"]["path"], made["b"]["path"]) == tuple(paths)
    assert made["tables"]["alive"][0]["buffers_b"] == 3


def test_two_empty_recordings(tmp_path: Path) -> None:
    result = compare(tmp_path, Build(), Build())

    assert all(not len(table.rows) for table in result.answer.tables)


def test_recordings_in_stretches_compare_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
    monkeypatch.setattr(trace, "STRETCH_EVENTS", 1)
    paths = tmp_path / "a.dbt", tmp_path / "b.dbt"
    session(Build(), refusals=1, leaks=1).write(paths[0])
    session(Build(), map_us=20, leaks=3, refusals=4, rounds=60).write(paths[1])

    result, traces = read(*paths)

    whole = diff(*map(trace.open, paths))
    alike(result, whole)
    assert [len(table.rows) for table in result.answer.tables] == [2, 3, 1]
    assert [each.events_read for each in traces] == [len(trace.open(path).raw) for path in paths]
