# SPDX-License-Identifier: Apache-2.0
"""What a stretch of a trace tells to rules, and what a rule comes to.

A row is judged in the stretch where it is settled. What rests on something later waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import View
from dmabuf_trace.measure import joined

if TYPE_CHECKING:
    import pandas as pd

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """How often a rule could have been broken, and how it was: ``inode``, ``device``, and so on.

    ``aside`` counts what is not judged, ``waiting`` is for the stretch that follows.
    """

    cases: int = 0
    broken: pd.DataFrame | None = None
    aside: int = 0
    waiting: Any = None

    def after(self, before: Found) -> Found:
        """With what was found ahead of it."""
        parts = [part for part in (before.broken, self.broken) if part is not None]
        return Found(
            before.cases + self.cases,
            joined(*parts) if parts else None,
            before.aside + self.aside,
            self.waiting,
        )


def broken(
    *parts: tuple[pd.DataFrame, pd.Series[int] | str, str], more: tuple[str, ...] = ()
) -> pd.DataFrame | None:
    """Rows that broke a rule, when, and what each did; None: there are none."""
    found = [
        rows.reindex(columns=["inode", "device", "pid", "comm", *more]).assign(
            ts=(rows[when] if isinstance(when, str) else when.loc[rows.index]).astype("Int64"),
            what=what,
        )
        for rows, when, what in parts
        if len(rows)
    ]
    return joined(*found) if found else None


def ended(
    waiting: pd.Series[int] | None, new: pd.Series[int], over: pd.DataFrame
) -> tuple[int, pd.Series[int]]:
    """Things that wait for the end of what they belong to: for how many it came; what waits on.

    ``waiting`` are counts by what they belong to, ``new`` the ids of what the new ones do.
    """
    counts = new.value_counts(sort=False)
    if waiting is not None:
        counts = counts.add(waiting, fill_value=0)
    came = counts.index.isin(over.loc[over["end"].notna(), "id"])
    return int(counts[came].sum()), counts[~counts.index.isin(over["id"])]


@dataclass(frozen=True)
class Reused:
    """Attachments at addresses where others were detached.

    ``gone`` are detached ones of live buffers, the last at each address. Where something happens at
    such an address, on the same buffer and without an attach, it is ``dead``.
    """

    gone: pd.DataFrame
    dead: NDArray[np.int64]

    @classmethod
    def of(cls, view: View, before: Reused | None) -> Reused:
        """Those of a stretch, with what was there before."""
        columns = ["id", "address", "buffer_id"]
        rows = view.present("attachments")
        unseen = rows[rows["fresh"] & rows["begin"].isna()]
        earlier = joined(before.gone if before else None, rows[columns])
        earlier = earlier[earlier["address"].isin(unseen["address"])].sort_values("id")
        owner = earlier.groupby("address")["buffer_id"].shift()
        is_dead = (owner == earlier["buffer_id"]).fillna(False) & earlier["id"].isin(unseen["id"])
        dead = earlier.loc[is_dead, "id"].to_numpy(np.int64)
        if before:
            still = before.dead[np.isin(before.dead, rows["id"])]
            dead = np.concatenate([still, dead])
        over = view.attachments
        over = joined(before.gone if before else None, over.loc[over["end"].notna(), columns])
        gone = over.drop_duplicates("address", keep="last")
        return cls(gone[~gone["buffer_id"].isin(view.buffers["id"])], dead)


@dataclass(frozen=True)
class Through:
    """What importers do through attachments, row by row: mappings, or pins.

    ``static``, ``dynamic``: of the importer, where its attach was seen. ``dead``: the attachment
    was detached before. ``known``: what happened on it is known from its begin on.
    """

    rows: pd.DataFrame
    begun: Bools
    ended: Bools
    static: Bools
    dynamic: Bools
    dead: Bools
    known: Bools

    @classmethod
    def of(cls, rows: pd.DataFrame, dead: NDArray[np.int64]) -> Through:
        """What is known of rows; ``dead`` are attachments."""
        begun, ended = (rows[name].notna().to_numpy() for name in ("begin", "end"))
        static = truth(rows["importer"] == "static")
        seen = rows["importer"].notna().to_numpy()
        on_dead = np.isin(rows["attachment_id"].to_numpy(np.int64), dead)
        return cls(rows, begun, ended, static, seen & ~static, on_dead, seen | on_dead)


def truth(values: pd.Series[bool]) -> Bools:
    """What is true for certain."""
    return values.to_numpy(np.bool_, na_value=False)


@dataclass(frozen=True)
class Limits:
    """What is asked: of which exporter's buffers (all: ""), and how long is too long, in ns."""

    exporter: str
    unmap_within: int
    min_age: int
    signal_within: int


@dataclass(frozen=True)
class Facts:
    """A stretch as rules see it; ``dead`` are attachments, see :class:`Reused`."""

    view: View
    limits: Limits
    dead: NDArray[np.int64]
    _through: dict[str, Through] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """A table's rows of the buffers that are asked for."""
        table: pd.DataFrame = getattr(self.view, name)
        mine = self.limits.exporter
        return table[table["exporter"] == mine] if mine else table

    def through(self, name: str) -> Through:
        """Mappings or pins, and what is known of each."""
        if name not in self._through:
            self._through[name] = Through.of(self.table(name), self.dead)
        return self._through[name]

    def detached(self, rows: pd.DataFrame) -> pd.Series[int]:
        """When the attachment of each row was detached, in this stretch."""
        over = self.view.attachments
        mine = over[over["id"].isin(rows["attachment_id"])]
        return rows["attachment_id"].map(mine.set_index("id")["end"])

    def released(self, rows: pd.DataFrame) -> pd.Series[int]:
        """When the buffer of each row was released."""
        return self.view.lives_of(rows["buffer_id"])["end"]

    def exported(self, rows: pd.DataFrame) -> pd.Series[bool]:
        """Whether the export of each row's buffer was seen."""
        return self.view.lives_of(rows["buffer_id"])["begin"].notna()
