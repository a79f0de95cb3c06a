# SPDX-License-Identifier: Apache-2.0
"""What tests of analyses share: ask one of a built trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import analysis as analyses
from dmabuf_trace import gather, trace
from dmabuf_trace.analysis import Result, records, registry
from tests.build import Build

Ask = Callable[..., Result]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Ask an analysis: ``ask("leaks", build, min_age="1s")``; ``cut`` leaves the end out.

    ``header`` changes that of the recording. One that folds is asked a second time, in up to forty
    stretches, and has to answer alike.
    """

    def asked(
        name: str,
        build: Build,
        *,
        cut: bool = False,
        header: dict[str, Any] | None = None,
        **texts: str,
    ) -> Result:
        path = tmp_path / "x.dbt"
        path.unlink(missing_ok=True)
        analysis = registry()[name]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
            monkeypatch.setattr(trace, "STRETCH_EVENTS", 1 + len(build.events()) // 40)
            build.write(path, cut=cut, **header or {})
            result = analysis(trace.open(path), **texts)
            if analysis.fold:
                _, (again,) = analyses.ask(path, [analyses.Asked(analysis, **texts)])
                alike(again, result)
        return result

    return asked


def alike(one: Result, other: Result) -> None:
    """Two results say the same."""
    assert one.answer.notes == other.answer.notes
    assert one.answer.inodes == other.answer.inodes
    assert one.doubts == other.doubts
    for mine, theirs in zip(one.answer.tables, other.answer.tables, strict=True):
        assert mine.name == theirs.name
        assert records(mine.rows) == records(theirs.rows), mine.name
        assert mine.empty == theirs.empty


def rows(result: Result, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Some columns of a result's table."""
    found = next(each for each in result.answer.tables if each.name == table)
    return [tuple(row[column] for column in columns) for row in records(found.rows)]
