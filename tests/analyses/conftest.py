# SPDX-License-Identifier: Apache-2.0
"""What tests of analyses share: ask one of a built trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import trace
from dmabuf_trace.analysis import Result, records, registry
from tests.build import Build

Ask = Callable[..., Result]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Ask an analysis: ``ask("leaks", build, min_age="1s")``; ``cut`` leaves the end out."""

    def asked(name: str, build: Build, *, cut: bool = False, **texts: str) -> Result:
        path = tmp_path / "x.dbt"
        path.unlink(missing_ok=True)
        return registry()[name](trace.open(build.write(path, cut=cut)), **texts)

    return asked


def rows(result: Result, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Some columns of a result's table."""
    found = next(each for each in result.answer.tables if each.name == table)
    return [tuple(row[column] for column in columns) for row in records(found.rows)]
