# SPDX-License-Identifier: Apache-2.0
"""A window of a recording: what is in it, and that no more is read than that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import extent, packing, trace
from dmabuf_trace.analysis import Asked, ask, records, registry
from tests.build import KIB, MS, START, US, Build, S
from tests.test_cli_offline import run
from tests.test_stretches import busy

__all__ = ["busy"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A buffer from before the trace, one of each second, maps in all of them."""
    k = Build(lists_all=True)
    old = k.existing(size=8 * KIB, exporter="drm")
    k.snapshot("start")
    shared = k.export(size=4 * KIB, exporter="system")
    gpu, isp = k.attach(old, "gpu"), k.attach(shared, "isp")
    for second in range(5):
        k.wait(100 * MS)
        made = k.export(size=(second + 1) * 4 * KIB, exporter="udmabuf")
        mapped = k.map(gpu), k.map(isp)
        k.wait(800 * MS)
        for mapping in mapped:
            k.unmap(mapping)
        if second != 2:
            k.release(made)
        k.wait(100 * MS)
    return k.write(tmp_path / "x.dbt")


def only(path: Path, window: tuple[int, int]) -> trace.Trace:
    (part,) = trace.stretches(path, window, at_once=True)
    return part


def test_what_is_older_counts_as_from_before(file: Path) -> None:
    part = only(file, (2 * S, 3 * S))

    found = records(part.buffers.sort_values("inode"))
    assert [(row["inode"], row["origin"], row["exporter"]) for row in found] == [
        (41, "before", "drm"),  # the look at the start knows it
        (42, "before", "<unknown>"),
        (45, "exported", "udmabuf"),
    ]
    assert part.mappings["map_ns"].notna().all()
    assert (part.end - part.start, len(part.mappings)) == (S, 2)
    assert part.window_ns == (2 * S, 3 * S)
    assert part.buffers["open"].all()


def test_a_window_to_the_end_has_who_holds_what_at_the_end(file: Path) -> None:
    part = only(file, (4 * S, 100 * S))

    assert "end" in part.snapshots
    assert part.window_ns == (4 * S, 5 * S)


def marked(path: Path, *, cut: bool = True) -> tuple[Path, list[int]]:
    """A test leaves one buffer, the next one none; then it goes on. Times of the marks."""
    k = Build(lists_all=True)
    k.snapshot("start")
    times = [k.mark("begin")]
    k.lose("map", "ring_full", 5)
    k.wait(MS)
    left, gone = k.export(exporter="first", fd=3), k.export()
    k.release(gone)
    k.wait(MS)
    k.lose("map", "ring_full", 2)
    k.snapshot("during")
    k.wait(US)
    times.append(k.mark("leaks"))
    k.wait(MS)
    other = k.export(exporter="second")
    k.attach(other, "gpu")
    k.wait(MS)
    k.snapshot("during")
    k.wait(US)
    times.append(k.mark("attached"))
    k.wait(MS)
    k.release(left)
    return k.write(path, cut=cut), [time - START for time in times]


def leaks(part: trace.Trace) -> list[tuple[Any, ...]]:
    (table,) = (table for table in registry()["leaks"](part).answer.tables if table.name == "leaks")
    return [(row["inode"], row["shape"], row["exporter"]) for row in records(table.rows)]


def test_what_is_still_being_written_can_be_asked_up_to_a_mark(tmp_path: Path) -> None:
    path, (first, second, third) = marked(tmp_path / "x.dbt")

    part = only(path, (first, second))
    later = only(path, (second, third))

    assert (part.cut, later.cut) == (None, None)
    assert leaks(part) == [(41, "fd", "first")]
    assert leaks(later) == [(43, "attachment", "second")]
    assert part.quality["what"].tolist() == ["loss"]
    assert later.marks["label"].tolist() == ["leaks"]


def test_past_the_last_mark_it_is_cut(tmp_path: Path) -> None:
    path, (_, second, third) = marked(tmp_path / "x.dbt")

    assert only(path, (second, third + 1)).cut
    assert trace.open(path).cut


def test_only_what_was_lost_in_a_window_counts(tmp_path: Path) -> None:
    path, (first, second, third) = marked(tmp_path / "x.dbt", cut=False)

    assert only(path, (first, second)).lost_events == 7
    assert only(path, (second, third)).lost_events == 0
    assert trace.open(path).lost_events == 7


def test_a_look_at_the_end_is_not_replaced(tmp_path: Path) -> None:
    path, (_, second, _) = marked(tmp_path / "x.dbt", cut=False)

    part = only(path, (second, 100 * S))

    assert [look.when for look in part.looks] == ["during", "end"]
    assert leaks(part) == [(43, "attachment", "second")]


def test_only_blocks_of_that_time_are_read(busy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated: list[bytes] = []
    unpack = packing.unpack

    def counted(*payloads: bytes) -> Any:
        inflated.extend(payloads)
        return unpack(*payloads)

    monkeypatch.setattr(packing, "unpack", counted)
    whole = trace.open(busy)
    blocks = len(inflated) - 2 * extent.NEIGHBOURS  # that tell when it ends
    inflated.clear()
    part = only(busy, (6 * S, 7 * S))

    inside = (whole.raw["ts"] >= part.start) & (whole.raw["ts"] < part.end)
    assert part.raw.tobytes() == whole.raw[inside].tobytes()
    assert blocks > 40
    assert len(inflated) < blocks // 12 + 4 * extent.NEIGHBOURS + 2 * blocks.bit_length()


@pytest.mark.parametrize("name", [name for name, each in registry().items() if each.fold])
def test_analyses_answer_of_a_window(file: Path, name: str) -> None:
    last, (result,) = ask(file, [Asked(registry()[name])], (1 * S, 3 * S))

    assert last.end - last.start == 2 * S
    assert all(len(table.columns) == len(table.rows.columns) for table in result.answer.tables)


def test_the_command_line_takes_a_window(file: Path) -> None:
    text = run("report", file, "--window", "2s,3s")
    document = json.loads(run("mappings", file, "--window", "2s,3s", "--json").stdout)

    assert "  window   2s to 3s: what is older counts as made before\n" in text.stdout
    assert document["recording"]["window_ns"] == [2 * S, 3 * S]
    assert document["recording"]["duration_ns"] == 5 * S


@pytest.mark.parametrize(
    ("window", "line"),
    [
        ("5s", "--window 5s has not one comma"),
        ("3s,2s", "--window 3s,2s ends ahead of its begin"),
        ("a,b", "--window a,b: "),
        ("7s,8s", "has nothing of that time"),
    ],
)
def test_a_bad_window_is_one_line(file: Path, window: str, line: str) -> None:
    done = run("report", file, "--window", window)

    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert "Traceback" not in done.stderr
