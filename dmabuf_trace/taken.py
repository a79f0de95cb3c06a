# SPDX-License-Identifier: Apache-2.0
"""Where references to buffers that stay alive were taken: the stacks of dma_buf_get() on them.

A put makes no event (drivers put by an inline function, too), so which reference was never put
can't be told: it is one of those taken, or one that shows nowhere, as the exporter's own and what
get_dma_buf() takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmabuf_trace.analysis import View, records
from dmabuf_trace.measure import added

if TYPE_CHECKING:
    import pandas as pd

NEEDS: Final = ("buffers", "events")
"""Tables that :func:`fold` needs."""

SHOWN: Final = 3
"""Places that are told of one buffer: the latest."""

_PLACE: Final = ["buffer_id", "stack", "user_stack"]


@dataclass(frozen=True, slots=True)
class Taken:
    """Distinct places at which references to one buffer were taken, latest first.

    ``user_stacks`` has the user stack to each of ``stacks``; None in either: none was recorded.
    ``more``: there are others.
    """

    stacks: tuple[list[str] | None, ...]
    user_stacks: tuple[list[str] | None, ...]
    more: bool


def fold(view: View, before: pd.DataFrame | None) -> pd.DataFrame:
    """The latest places of each buffer that is still alive: as many rows as :data:`SHOWN` and one.

    A place that is left out comes up again only by a later get, so nothing older is missed.
    """
    alive = view.buffers[view.buffers["open"]] if view.is_last else view.going_on("buffers")
    gets = view.events_of("get", inodes=alive["inode"].to_numpy())
    rows = added(before, gets[[*_PLACE, "ts"]], _PLACE, ts="max")
    rows = rows[rows["buffer_id"].isin(alive["id"])]
    latest = rows.sort_values(["buffer_id", "ts", "stack", "user_stack"]).groupby("buffer_id")
    return latest.tail(SHOWN + 1)


def by_buffer(view: View, folded: pd.DataFrame) -> dict[int, Taken]:
    """By buffer id; one on which no reference was seen to be taken has no entry."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in reversed(records(folded)):
        found.setdefault(row["buffer_id"], []).append(row)
    return {
        buffer_id: Taken(
            tuple(view.stack(row["stack"]) for row in rows[:SHOWN]),
            tuple(view.user_stack(row["user_stack"]) for row in rows[:SHOWN]),
            len(rows) > SHOWN,
        )
        for buffer_id, rows in found.items()
    }
