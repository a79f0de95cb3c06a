# SPDX-License-Identifier: Apache-2.0
"""The examples of the tables: each is run, and says what its trace is known to hold."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from dmabuf_trace import trace
from dmabuf_trace.columns import TABLES
from dmabuf_trace.trace import Trace
from examples import tables
from tests.build import KIB, MIB, MS, START, US, Build, Process


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """One of everything."""
    k = Build()
    buffer = k.export(size=MIB, exporter="heap", fd=3)
    k.name(buffer, "frame")
    attachment = k.attach(buffer, "gpu", dur=9 * US)
    k.lock_wait(buffer, 2 * US)
    k.wait(10 * US)
    k.operation(buffer, "map", 3 * US)
    mapping = k.map(attachment, dur=4 * US)
    k.move(buffer)
    k.wait(MS)
    k.unmap(mapping)
    k.pin(attachment)
    k.vmap(buffer)
    k.begin(buffer, dur=5 * US)
    k.end(buffer, dur=US)
    k.by(Process(200, "cam")).mmap(buffer)
    k.map(attachment, errno=12)
    k.probed("map", "heap:heap_map")
    k.mark("run", 7)
    k.lose("map", "ring_full", 2)
    k.wait(20 * MS)
    k.release(k.export(size=4 * KIB))
    return trace.open(k.write(tmp_path_factory.mktemp("examples") / "x.dbt"))


def plain(answer: pd.DataFrame | pd.Series[Any]) -> list[tuple[Any, ...]]:
    """Rows with their index, gaps as None."""
    frame = answer.reset_index() if isinstance(answer, pd.Series) else answer
    named = frame.index.names != [None]
    rows = frame.reset_index() if named else frame
    return [tuple(row) for row in rows.astype(object).where(rows.notna(), None).to_numpy()]


EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "buffers": [("heap", 1, MIB)],
    "attachments": [("gpu", 9 * US, "frame", "app")],
    "mappings": [("gpu", "static", 1, MS, MS)],
    "pins": [(41, MIB, "gpu", "app", 20 * MS)],
    "vmaps": [(41, 20 * MS)],
    "cpu_accesses": [(MIB, 1, 6 * US, 6 * US)],
    "fds": [("app", 1)],
    "vmas": [("cam", 41, MIB, MIB, False)],
    "waits": [("map", "lock", 1, 2 * US, 2 * US)],
    "operations": [("heap", "map", 1, 3 * US)],
    "moves": [(START + 10 * US, 41, 1, 0)],
    "errors": [("map", "ENOMEM", 1)],
    "holders": [("app", 1, 0), ("cam", 0, 1)],
    "marks": [(7, 1)],
    "probed": [("heap:heap_map", START + 10 * US + MS)],
    "quality": [("loss", "map", "ring_full", 2)],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_answers_its_question(opened: Trace, name: str) -> None:
    assert plain(getattr(tables, name)(opened)) == EXPECTED[name]


def test_a_window_leaves_out_what_came_later(opened: Trace) -> None:
    counts = tables.events(opened)

    assert "release" not in counts.index
    assert counts["export"] == 1


def test_every_table_has_an_example() -> None:
    assert sorted(example.__name__ for example in tables.EXAMPLES) == sorted(TABLES)
