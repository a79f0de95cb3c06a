# SPDX-License-Identifier: Apache-2.0
"""Where the time of calls went, per group of them: percentiles, classes, parts of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmabuf_trace.measure import lengths, times

if TYPE_CHECKING:
    import pandas as pd

BAR: Final = 30
"""Length of the longest bar of a histogram."""


def spent(table: pd.DataFrame, by: list[str], column: str, call: str) -> pd.DataFrame:
    """:func:`measure.times` by group, each column named after the call."""
    return (
        times(lengths(None, table, by, column), by)
        .set_index(by)
        .drop(columns="count")
        .add_prefix(f"{call}_")
    )


def classes(table: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Calls per power of two: ``below_ns``, ``calls``, ``bar``, as bcc's funclatency has them.

    Classes without a call are there between two that have some.
    """
    import pandas as pd

    known = table.loc[table[column].notna(), [*by, column]]
    powers = np.frexp(known[column].to_numpy(np.float64))[1]
    counts = known.assign(power=powers).groupby([*by, "power"]).size()
    parts = []
    for key, mine in counts.groupby(by):
        found = mine.droplevel(list(range(len(by))))
        between = range(found.index.min(), found.index.max() + 1)
        calls = found.reindex(between, fill_value=0).tolist()
        bars = ["*" * (BAR * count // max(calls)) for count in calls]
        who = dict(zip(by, key, strict=True))
        below = [1 << power for power in between]
        parts.append(pd.DataFrame({**who, "below_ns": below, "calls": calls, "bar": bars}))
    empty = pd.DataFrame(columns=[*by, "below_ns", "calls", "bar"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def split(
    calls: pd.DataFrame, waits: pd.DataFrame, operations: pd.DataFrame, by: list[str], call: str
) -> dict[str, pd.Series[int]]:
    """ns per group in the parts of a call: ``lock_wait``, ``fence_wait``, ``pin_operation``, ...

    ``calls`` have ``tid``, ``end`` and ``call_ns``. A wait within an operation of the exporter is a
    wait, and not that operation's time. ``inside`` is what of all that lies within the calls: the
    wait for a lock that an ``_unlocked`` variant takes ahead of its call does not.
    """
    import pandas as pd

    waits = waits[waits["call"] == call].sort_values("begin", kind="stable").reset_index()
    called = operations[operations["call"] == call]
    until = called["begin"] + called["operation_ns"]
    operation = _within(waits, called["tid"], called["begin"], until, called["operation"])
    since = calls["end"] - calls["call_ns"]
    is_inside = _within(waits, calls["tid"], since, calls["end"], calls["tid"]).notna()

    def total(rows: pd.DataFrame, column: str) -> pd.Series[int]:
        return rows.groupby(by)[column].sum()

    parts = {f"{kind}_wait": total(waits[waits["kind"] == kind], "wait_ns") for kind in _WAITS}
    for name in called["operation"].unique():
        taken = total(called[called["operation"] == name], "operation_ns")
        waited = total(waits[(operation == name).fillna(False)], "wait_ns")
        parts[f"{name}_operation"] = taken.sub(waited, fill_value=0).astype("int64")
    whole = pd.concat(list(parts.values())).groupby(by).sum()
    ahead = total(waits[~is_inside], "wait_ns")
    return {**parts, "inside": whole.sub(ahead, fill_value=0).astype("int64")}


_WAITS: Final = ("lock", "fence")


def _within(
    waits: pd.DataFrame,
    tids: pd.Series[int],
    since: pd.Series[int],
    until: pd.Series[int],
    labels: pd.Series[Any],
) -> pd.Series[Any]:
    """The label of the span of its thread that each wait lies in, NA where in none."""
    import pandas as pd

    spans = pd.DataFrame({"tid": tids, "since": since, "until": until, "label": labels})
    last = pd.merge_asof(
        waits[["tid", "begin", "wait_ns"]],
        spans.astype({"since": "int64", "until": "int64"}).sort_values("since", kind="stable"),
        left_on="begin",
        right_on="since",
        by="tid",
    )
    return last["label"].where(last["begin"] + last["wait_ns"] <= last["until"])
