# SPDX-License-Identifier: Apache-2.0
"""Times per group, and bytes at most at once."""

from __future__ import annotations

import pandas as pd

from dmabuf_trace.analysis import records
from dmabuf_trace.levels import peak_bytes
from dmabuf_trace.measure import times


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
    assert [tuple(row[name] for name in names) for row in records(times(table, ["who"], "ns"))] == [
        ("a", 2, 12, 5, 7, 7, 7),
        ("b", 1, 1, 1, 1, 1, 1),
        (None, 100, 50500, 500, 950, 990, 1000),
    ]
    assert len(times(table.head(0), ["who"], "ns")) == 0


def test_peak_counts_what_began_unseen_and_what_never_ends() -> None:
    rows = [(None, 30, 1), (10, 20, 2), (25, None, 4), (25, 26, 8), (40, None, None)]
    lives = pd.DataFrame(rows, columns=["begin", "end", "size_bytes"]).astype("Int64")

    assert peak_bytes(lives, 0) == 13
    assert peak_bytes(lives.head(0), 0) == 0
