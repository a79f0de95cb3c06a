# SPDX-License-Identifier: Apache-2.0
"""Times per group, and bytes at most at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest

from dmabuf_trace import measure
from dmabuf_trace.analysis import View, records
from dmabuf_trace.levels import peak_bytes, peaks
from dmabuf_trace.measure import lengths, times


def spent(table: pd.DataFrame) -> pd.DataFrame:
    return times(lengths(None, table, ["who"], "ns"), ["who"])


def test_percentiles_are_values_that_were_observed() -> None:
    rows = [
        ("b", 1),
        *((None, ns * 10) for ns in range(100, 0, -1)),
        ("a", 7),
        ("a", 5),
        ("c", None),
    ]
    table = pd.DataFrame(rows, columns=["who", "ns"]).astype({"who": "string", "ns": "Int64"})

    names = ("who", "count", "total_ns", "p50_ns", "p95_ns", "p99_ns", "max_ns")
    assert [tuple(row[name] for name in names) for row in records(spent(table))] == [
        ("a", 2, 12, 5, 7, 7, 7),
        ("b", 1, 1, 1, 1, 1, 1),
        (None, 100, 50500, 500, 950, 990, 1000),
    ]
    assert len(spent(table.head(0))) == 0


def test_peak_counts_what_began_unseen_and_what_never_ends() -> None:
    rows = [(None, 30, 1), (10, 20, 2), (25, None, 4), (25, 26, 8), (40, None, None)]
    lives = pd.DataFrame(rows, columns=["begin", "end", "size_bytes"]).astype("Int64")

    assert peak_bytes(lives, 0) == 13
    assert peak_bytes(lives.head(0), 0) == 0


def test_peaks_of_groups_are_those_of_each() -> None:
    rows = [("a", 0, 30, 1), ("a", 10, 20, 2), ("a", 20, 40, 4), ("b", 5, None, 8), (None, 7, 9, 3)]
    lives = pd.DataFrame(rows, columns=["who", "begin", "end", "size_bytes"])
    lives = lives.astype({"who": "string", "begin": "Int64", "end": "Int64"}).assign(fresh=True)
    stretch = cast(View, SimpleNamespace(start=0))

    assert peaks(None, lives, ["who"], stretch).to_numpy().tolist() == [
        ["a", 7],
        ["b", 8],
        [pd.NA, 3],
    ]
    assert len(peaks(None, lives.head(0), ["who"], stretch)) == 0

    late = pd.DataFrame([("b", None, 9, 5)], columns=lives.columns[:-1]).astype(lives.dtypes[:-1])
    before = peaks(None, lives, ["who"], stretch)
    assert peaks(before, late.assign(fresh=True), ["who"], stretch).to_numpy().tolist() == [
        ["a", 7],
        ["b", 13],
        [pd.NA, 3],
    ]


def test_lengths_of_long_traces_are_nearly_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "EXACT", 3000)
    rng = np.random.default_rng(1)
    parts = [
        pd.DataFrame({"who": "a", "ns": rng.lognormal(12, 1, 2000).astype(np.int64)})
        for _ in range(10)
    ]
    kept = lengths(None, parts[0], ["who"], "ns")
    for part in parts[1:]:
        kept = lengths(kept, part, ["who"], "ns")

    assert len(kept) < 4 * 3000
    (found,) = records(times(kept, ["who"]))
    (exact,) = records(spent(pd.concat(parts)))
    for name in ("count", "total_ns", "max_ns"):
        assert found[name] == exact[name]
    for name in ("p50_ns", "p95_ns", "p99_ns"):
        assert exact[name] <= found[name] <= exact[name] * 1.001
