# SPDX-License-Identifier: Apache-2.0
"""A recording read in stretches comes to what it comes to at once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dmabuf_trace import gather, reading, report, trace
from dmabuf_trace.analysis import Asked, ask, registry
from dmabuf_trace.columns import TABLES
from dmabuf_trace.recording import Writer
from dmabuf_trace.render import machine
from tests.bench.generate import Generator
from tests.build import MS, Build, Process, header
from tests.strategies import any_events

OF_CALLS: Final = ["call", "attachment_id", "device", "driver", "bus"]
"""Columns of parts of calls that rest on the call's own event, which may be far away."""
FOLDED: Final = [name for name, analysis in registry().items() if analysis.fold]


def write(path: Path, parts: list[NDArray[np.void]], names: NDArray[np.void] | None = None) -> Path:
    with Writer(path) as writer:
        writer.begin(header())
        if names is not None:
            writer.write_names(names)
        for part in parts:
            writer.write_events(part)
            writer.write_due(1 << 62)
        last = max((int(part["ts"].max()) for part in parts if len(part)), default=0)
        writer.finish(last, "duration over")
    return path


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of a busy device, in many blocks."""
    generator = Generator(12, start=1_000_000_000)
    slices = list(generator.slices(0.25))
    return write(tmp_path_factory.mktemp("busy") / "x.dbt", slices, generator.names())


def tables(traces: Iterator[trace.Trace]) -> dict[str, pd.DataFrame]:
    """All rows of some stretches, in order."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES if name != "quality"}
    last = None
    for each in traces:
        last = each
        for name, found in parts.items():
            found.append(getattr(each, name))
    whole = {"quality": last.quality if last else pd.DataFrame()}
    for name, found in parts.items():
        table = pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)
        by = next(column for column in ("id", "ts", "begin") if column in table)
        whole[name] = table.sort_values(by, ignore_index=True, kind="stable")
    return whole


def in_stretches(monkeypatch: pytest.MonkeyPatch, events: int) -> None:
    monkeypatch.setattr(trace, "STRETCH_EVENTS", events)


@pytest.mark.parametrize("events", [700])
def test_each_row_comes_up_once(busy: Path, events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_stretches(monkeypatch, events)
    whole, parts = tables(iter([trace.open(busy)])), tables(trace.stretches(busy))

    assert sum(1 for _ in trace.stretches(busy)) > 5
    for name, table in whole.items():
        if name in ("marks", "probed"):
            continue  # each stretch has all that is known
        pd.testing.assert_frame_equal(parts[name], table, obj=name)


def test_events_of_one_thread_on_one_buffer(busy: Path) -> None:
    whole = trace.open(busy)
    syncs = whole.events[whole.events["kind"].isin(["cpu_begin", "cpu_end"])]
    tid, inode = (syncs[name].iloc[0] for name in ("tid", "inode"))
    mine = syncs[(syncs["tid"] == tid) & (syncs["inode"] == inode)]

    found = whole.events_of("cpu_begin", "cpu_end", tids=np.array([tid]), inodes=np.array([inode]))

    assert 0 < len(mine) < len(syncs)
    pd.testing.assert_frame_equal(found, mine.reset_index(drop=True))


@settings(max_examples=60, deadline=None)
@given(any_events(), st.integers(1, 12))
def test_each_row_comes_up_once_whatever_the_events(events: NDArray[np.void], size: int) -> None:
    cuts = range(0, len(events) + 1, size)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        path = write(Path(folder) / "x.dbt", [events[cut : cut + size] for cut in cuts])
        in_stretches(monkeypatch, size)
        whole, parts = tables(iter([trace.open(path)])), tables(trace.stretches(path))

    for name in ("buffers", "attachments", "mappings", "pins", "vmaps", "cpu_accesses", "fds"):
        # of a buffer whose export comes last of all, a stretch before can't know these
        known, theirs = (
            found[name].drop(columns=["exporter", "size_bytes"], errors="ignore")
            for found in (parts, whole)
        )
        pd.testing.assert_frame_equal(known, theirs, obj=name)
    for name in ("waits", "operations", "errors", "events"):
        assert len(parts[name]) == len(whole[name])


def test_events_of_some_kinds(busy: Path) -> None:
    whole = trace.open(busy)
    wanted = whole.events[whole.events["kind"].isin(["export", "cpu_end"])]

    assert 0 < len(wanted) < len(whole.events)
    found = whole.events_of("cpu_end", "export")
    pd.testing.assert_frame_equal(found, wanted.reset_index(drop=True))


def test_parts_come_up_with_their_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer)
    for pid in (7, 8):
        k.wait(MS)
        k.by(Process(pid, "cam")).fence_wait(buffer, MS)
    for _ in range(9):
        k.wait(MS)
        k.by(Process(9, "ui")).mmap(buffer)
    for pid in (7, 8):
        k.wait(MS)
        k.by(Process(pid, "cam")).map(attachment, dur=20 * MS)
    monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
    path = k.write(tmp_path / "x.dbt")
    in_stretches(monkeypatch, 1)

    def calls() -> list[Any]:
        waits = tables(trace.stretches(path))["waits"][["tid", "call", "call_begin"]]
        return waits.astype(object).where(waits.notna(), None).to_numpy().tolist()

    start = k.now - 20 * MS
    assert calls() == [[7, "map", start - MS], [8, "map", start]]

    monkeypatch.setattr(reading, "HELD_EVENTS", 1)
    assert calls() == [[7, None, None], [8, "map", start]]


def test_what_goes_on(busy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_stretches(monkeypatch, 3000)
    opened: set[int] = set()
    counts = []
    for stretch in trace.stretches(busy):
        settled = set(stretch.buffers["id"])
        going_on = set(stretch.going_on("buffers")["id"])

        assert opened <= settled | going_on
        assert settled.isdisjoint(going_on)
        opened = going_on
        counts.append(len(going_on))
    assert min(counts[:-1]) > 0
    assert counts[-1] == 0


def answered(path: Path, name: str, **texts: str) -> Any:
    last, (result,) = ask(path, [Asked(registry()[name], **texts)])
    return json.loads("".join(machine.result_json(result, report.recording(last))))


@pytest.mark.parametrize("events", [2500])
@pytest.mark.parametrize("name", FOLDED)
def test_answers_are_the_same(
    busy: Path, name: str, events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = answered(busy, name)
    in_stretches(monkeypatch, events)

    assert answered(busy, name) == at_once


def test_a_report_is_the_same(busy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = list(machine.report_json(report.report(trace.open(busy))))
    assert len(trace.open(busy).raw) < reading.STRETCH_EVENTS
    in_stretches(monkeypatch, 3000)

    assert list(machine.report_json(report.read(busy))) == at_once


def test_a_report_of_everything_has_no_mere_list(busy: Path) -> None:
    asked = {result.analysis.name for result in report.read(busy, every=True).results}

    assert {"errors", "fences"} < asked
    assert "buffers" not in asked
