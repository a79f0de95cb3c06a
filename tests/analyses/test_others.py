# SPDX-License-Identifier: Apache-2.0
"""Failed calls, the list of buffers, and the registry itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import trace
from dmabuf_trace.analysis import Analysis, Answer, View, registry
from tests.analyses.conftest import Ask, rows
from tests.build import KIB, MS, Build, Process


def test_errors_grouped_most_frequent_first(ask: Ask) -> None:
    k = Build()
    buffer = k.export()
    k.export(exporter="vgem", errno=12)
    for _ in range(2):
        k.wait(MS)
        k.attach(buffer, "gpu", errno=16)

    columns = ("kind", "error", "calls", "device", "exporter", "first_ns", "last_ns", "inode")
    assert rows(ask("errors", k), "errors", *columns) == [
        ("attach", "EBUSY", 2, "gpu", "system", MS, 2 * MS, 41),
        ("export", "ENOMEM", 1, None, "vgem", 0, 0, None),
    ]


def test_buffers_in_the_order_of_first_sight(ask: Ask) -> None:
    k = Build()
    first = k.export(fd=3)
    k.name(first, "frame")
    k.map(k.attach(first))
    k.wait(MS)
    k.by(Process(7, "cam")).export(size=64 * KIB, exporter="vgem")
    k.release(first)

    columns = ("inode", "name", "state", "comm", "fd_installs", "attachments", "mappings")
    assert rows(ask("buffers", k), "buffers", *columns) == [
        (41, "frame", "released", "app", 1, 1, 1),
        (42, "", "alive", "cam", 0, 0, 0),
    ]
    assert rows(ask("buffers", k, exporter="vgem"), "buffers", "inode") == [(42,)]
    assert rows(ask("buffers", k, min_age="1ms"), "buffers", "inode") == [(41,)]


def test_every_file_of_the_package_is_in_the_registry() -> None:
    folder = Path(__file__).parents[2] / "analyses"
    files = {file.stem for file in folder.glob("*.py")} - {"__init__"}

    assert set(registry()) == files
    assert {analysis.question[-1] for analysis in registry().values()} == {"?"}


def test_the_example_of_the_readme_works(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "analyses" / "README.md").read_text()
    namespace: dict[str, Any] = {}
    exec(readme.partition("```python\n")[2].partition("```")[0], namespace)  # noqa: S102 - our own
    k = Build()
    k.export(size=4 * KIB)
    k.export(size=8 * KIB)

    result = namespace["ANALYSIS"](trace.open(k.write(tmp_path / "x.dbt")))

    assert rows(result, "largest", "inode", "size_bytes") == [(42, 8 * KIB), (41, 4 * KIB)]


def test_an_analysis_receives_only_what_it_declares(tmp_path: Path) -> None:
    def run(view: View) -> Answer:
        assert len(view.buffers) == 0
        assert len(view.mappings) == 0
        return Answer(())

    nosy = Analysis("nosy", "?", needs=("buffers",), relies_on=(), run=run)

    with pytest.raises(AttributeError, match="does not declare that it needs 'mappings'"):
        nosy(trace.open(Build().write(tmp_path / "x.dbt")))
