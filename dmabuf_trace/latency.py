# SPDX-License-Identifier: Apache-2.0
"""Calls of one kind, per group of them: how many, how long they took, where their time went.

Added up over the stretches of a trace. Which calls had their exporter's functions probed is known
at the end only: sums are kept apart by the last function that had been probed when a call began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.measure import added, joined, lengths, numbered, times

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]

BAR: Final = 30
"""Length of the longest bar of a histogram."""
_SUMS: Final = ("seen", "made", "failed", "open", "size_bytes", "call_ns")


@dataclass(frozen=True)
class Called:
    """Calls of one kind; ``group`` in the tables is a place in ``groups``.

    ``counts`` have ``seen`` rows, calls ``made`` and ``failed``, what is still ``open``,
    ``size_bytes`` of those made and ``call_ns`` of both, by ``group`` and ``probed``: when the last
    function was that had been probed as the call began. ``lengths`` are of calls made. ``parts``
    have ``ns`` by ``part`` too, and ``inside_ns``, what of that lies within the calls.
    """

    groups: pd.DataFrame | None = None
    counts: pd.DataFrame | None = None
    lengths: pd.DataFrame | None = None
    parts: pd.DataFrame | None = None

    def with_calls(
        self, rows: pd.DataFrame, failed: pd.DataFrame, by: list[str], column: str, probed: Array
    ) -> Called:
        """With rows that calls made, whose length is a ``column``, and calls that ``failed``."""
        import pandas as pd

        groups, mine = numbered(self.groups, rows, by)
        groups, theirs = numbered(groups, failed, by)
        begun = rows["begin"].notna().to_numpy()
        ns = rows[column].fillna(0).to_numpy(np.int64)
        begins = rows["begin"].fillna(0).to_numpy(np.int64) - ns
        sizes = rows["size_bytes"].fillna(0).to_numpy(np.int64) if "size_bytes" in rows else 0
        made = {
            "group": mine,
            "probed": _last(probed, begins),
            "seen": np.int64(1),
            "made": begun.astype(np.int64),
            "failed": np.int64(0),
            "open": rows["open"].to_numpy(np.int64),
            "size_bytes": np.where(begun, sizes, 0),
            "call_ns": ns,
        }
        refused = {
            "group": theirs,
            "probed": _last(probed, (failed["ts"] - failed["call_ns"]).to_numpy(np.int64)),
            **dict.fromkeys(_SUMS, np.int64(0)),
            "failed": np.int64(1),
            "call_ns": failed["call_ns"].to_numpy(np.int64),
        }
        return Called(
            groups,
            added(
                self.counts,
                joined(pd.DataFrame(refused), pd.DataFrame(made)),
                ["group", "probed"],
                **dict.fromkeys(_SUMS, "sum"),
            ),
            lengths(
                self.lengths,
                pd.DataFrame({"group": mine[begun], "call_ns": ns[begun]}),
                ["group"],
                "call_ns",
            ),
            self.parts,
        )

    def with_parts(self, rows: pd.DataFrame, by: list[str], probed: Array) -> Called:
        """With :func:`parts` of calls."""
        groups, mine = numbered(self.groups, rows, by)
        begins = rows["call_begin"].to_numpy(np.int64)
        found = rows.assign(group=mine, probed=_last(probed, begins))
        sums = added(self.parts, found, ["group", "probed", "part"], ns="sum", inside_ns="sum")
        return Called(groups, self.counts, self.lengths, sums)

    def named(self, rows: pd.DataFrame) -> pd.DataFrame:
        """A table with the columns of ``groups``."""
        return rows.join(joined(self.groups), on="group")

    def spent(self, by: list[str], call: str) -> pd.DataFrame:
        """:func:`measure.times` by group, each column named after the call."""
        found, names = self._lengths(by)
        rows = times(found, ["number"]).drop(columns="count").set_index("number")
        return names.join(rows, how="inner").set_index(by).add_prefix(f"{call}_")

    def classes(self, by: list[str]) -> pd.DataFrame:
        """Calls per power of two: ``below_ns``, ``calls``, ``bar``, as bcc's funclatency has them.

        Classes without a call are there between two that have some.
        """
        import pandas as pd

        found, names = self._lengths(by)
        powers = np.frexp(found["ns"].to_numpy(np.float64))[1]
        counts = found.assign(power=powers).groupby(["number", "power"])["count"].sum()
        rows = []
        for number, mine in counts.groupby("number"):
            powers = mine.index.get_level_values("power")
            between = range(powers.min(), powers.max() + 1)
            calls = mine.droplevel("number").reindex(between, fill_value=0).tolist()
            bars = ["*" * (BAR * count // max(calls)) for count in calls]
            below = [1 << power for power in between]
            who = names.loc[[number] * len(calls)].reset_index(drop=True)
            rows.append(who.assign(below_ns=below, calls=calls, bar=bars))
        empty = pd.DataFrame(columns=[*by, "below_ns", "calls", "bar"])
        return joined(*rows) if rows else empty

    def _lengths(self, by: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Lengths by ``number``, and the columns ``by`` of each number, in their order."""
        groups = joined(self.groups)
        groups = groups.assign(number=groups.groupby(by).ngroup())
        found = joined(self.lengths)
        found = found.assign(number=groups["number"].to_numpy()[found["group"].to_numpy(np.int64)])
        names = groups.drop_duplicates("number").set_index("number")[by].sort_index()
        return found[found["number"] >= 0], names[names.index >= 0]


def _last(times: Array, moments: Array) -> Array:
    """The last of some times, in order, at or before each moment; 0: none."""
    return np.append(0, times)[np.searchsorted(times, moments, side="right")]


_WHOSE: Final = ["device", "driver", "bus", "exporter", "call_begin"]
_WHEN: Final = [*_WHOSE, "tid", "begin"]


def parts(waits: pd.DataFrame, operations: pd.DataFrame, call: str) -> pd.DataFrame:
    """ns in each ``part`` of a kind of call: ``lock`` and ``fence`` waits, ``pin``, ``map``, ...

    A wait within an operation of the exporter is a wait, and not that operation's time. The wait
    for a lock that an ``_unlocked`` variant takes ahead of its call is not ``inside_ns``.
    """
    waits = waits.loc[waits["call"] == call, [*_WHEN, "kind", "wait_ns"]]
    called = operations.loc[operations["call"] == call, [*_WHEN, "operation", "operation_ns"]]
    inside = waits["wait_ns"].where(waits["begin"] >= waits["call_begin"], 0)
    waited = waits.assign(part=waits["kind"], ns=waits["wait_ns"], inside_ns=inside)
    ns = called["operation_ns"]
    called = called.assign(part=called["operation"], ns=ns, inside_ns=ns)
    less = _within(waits, called)
    columns = [*_WHOSE, "part", "ns", "inside_ns"]
    return joined(*(rows[columns] for rows in (waited, called, less)))


def _within(waits: pd.DataFrame, called: pd.DataFrame) -> pd.DataFrame:
    """The operation that each wait lies in, with what that takes off its time."""
    import pandas as pd

    last = pd.merge_asof(
        waits[["tid", "begin", "wait_ns"]].sort_values("begin", kind="stable"),
        called.assign(since=called["begin"]).sort_values("since", kind="stable"),
        left_on="begin",
        right_on="since",
        by="tid",
        suffixes=("", "_of"),
    )
    last = last[last["begin"] + last["wait_ns"] <= last["since"] + last["operation_ns"]]
    return last.assign(ns=-last["wait_ns"], inside_ns=-last["wait_ns"])
