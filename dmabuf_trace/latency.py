# SPDX-License-Identifier: Apache-2.0
"""Where the time of calls went, per group of them: percentiles, classes, parts of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES: Final = (50, 95, 99)
BAR: Final = 30
"""Length of the longest bar of a histogram."""


def spent(table: pd.DataFrame, by: list[str], column: str, call: str) -> pd.DataFrame:
    """Total, percentiles by nearest rank, maximum: a row per group that has any call."""
    import pandas as pd

    known = table.loc[table[column].notna(), [*by, column]]
    groups = known.groupby(by)
    sizes = groups.size()
    ns = known[column].to_numpy(np.int64)
    ordered = ns[np.lexsort((ns, groups.ngroup().to_numpy()))]
    count = sizes.to_numpy()
    first = np.cumsum(count) - count
    ranks = {f"p{p}": first + (count * p + 99) // 100 - 1 for p in PERCENTILES}
    ranks["max"] = first + count - 1
    found = {f"{call}_{name}_ns": ordered[at] for name, at in ranks.items()}
    return pd.DataFrame({f"{call}_total_ns": groups[column].sum(), **found}, index=sizes.index)


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
    waits: pd.DataFrame, operations: pd.DataFrame, by: list[str], call: str
) -> dict[str, pd.Series[int]]:
    """ns per group in the parts of a call: ``lock_wait``, ``fence_wait``, ``pin_operation``, ...

    A wait within an operation of the exporter is a wait, and not that operation's time.
    ``inside`` is what of all that lies within the call: a lock that an ``_unlocked`` variant waits
    for ahead of the call does not. A map itself takes no lock, but an exporter's function may.
    """
    import pandas as pd

    waits = waits.loc[waits["call"] == call, [*by, "kind", "tid", "begin", "wait_ns"]]
    called = operations.loc[operations["call"] == call]
    spans = pd.DataFrame(
        {
            "tid": called["tid"],
            "since": called["begin"],
            "until": called["begin"] + called["operation_ns"],
            "operation": called["operation"],
        }
    )
    waits = pd.merge_asof(
        waits.sort_values("begin", kind="stable"),
        spans.sort_values("since", kind="stable"),
        left_on="begin",
        right_on="since",
        by="tid",
    )
    nested = (waits["begin"] + waits["wait_ns"] <= waits["until"]).fillna(False)
    parts = {
        f"{kind}_wait": waits[waits["kind"] == kind].groupby(by)["wait_ns"].sum()
        for kind in ("lock", "fence")
    }
    for operation in called["operation"].unique():
        taken = called[called["operation"] == operation].groupby(by)["operation_ns"].sum()
        waited = waits[nested & (waits["operation"] == operation)].groupby(by)["wait_ns"].sum()
        parts[f"{operation}_operation"] = taken.sub(waited, fill_value=0).astype("int64")
    ahead = (waits["kind"] == "lock") & ~nested & (call == "map")
    before = waits[ahead].groupby(by)["wait_ns"].sum()
    whole = pd.concat(list(parts.values())).groupby(by).sum()
    parts["inside"] = whole.sub(before, fill_value=0).astype("int64")
    return parts
