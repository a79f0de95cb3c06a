# SPDX-License-Identifier: Apache-2.0
"""Why an answer may be wrong: the rows of the table ``quality``, each group from its own facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Probed, SnapshotBlock, UserStackBlock
from dmabuf_trace.columns import TABLES, TEXT
from dmabuf_trace.framing import Cut
from dmabuf_trace.reconcile import Differences

Row = tuple[Any, ...]

NAMED: Final = 8
"""Buffers named in a row about a difference."""

BUFFER_FILTERS: Final = {"--exporter", "--min-size", "--max-size"}


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The table."""
    table = pd.DataFrame(list(rows), columns=list(TABLES["quality"]))
    return table.astype(
        {
            **dict.fromkeys(("what", "kind", "cause", "hint"), TEXT),
            "count": "Int64",
            "share": "Float64",
            "whole_event": "bool",
        }
    )


def losses(lost: NDArray[Any], seen: NDArray[Any]) -> Iterator[Row]:
    """From the loss counters and the number of events of each kind."""
    for kind, cause in np.argwhere(lost).tolist():
        count = int(lost[kind, cause])
        known = next((row for row in schema.CAUSES if row.id == cause), None)
        whole = known is None or known.name in schema.WHOLE_EVENT_CAUSES
        yield (
            "loss",
            schema.KIND_NAMES.get(kind, f"kind {kind}"),
            known.name if known else f"cause {cause}",
            count,
            count / (count + int(seen[kind])) if whole else pd.NA,
            whole,
            known.hint if known else "",
        )


def gaps(
    missing: Mapping[str, str], cut: Cut | None, unreadable: Mapping[str, int], no_cgroups: str
) -> Iterator[Row]:
    """From probes that are missing, an early end, looks at the holders, unknown cgroups.

    ``unreadable`` has, by when a look was, the processes that it could not look into at most.
    """
    for kind, reason in missing.items():
        yield ("probe", kind, reason, pd.NA, pd.NA, True, "see: dmabuf-trace doctor")
    if cut:
        hint = "everything up to there is shown"
        yield ("cut", pd.NA, cut.reason, pd.NA, pd.NA, True, hint)
    if "end" not in unreadable:
        hint = "who holds a buffer is not known"
        yield ("snapshot", pd.NA, "no snapshot at the end", pd.NA, pd.NA, False, hint)
    if no_cgroups:
        hint = "who was in which cgroup is not known"
        yield ("cgroups", pd.NA, no_cgroups, pd.NA, pd.NA, False, hint)
    for when, count in unreadable.items():
        if count:
            at = when if when == "during" else f"at the {when}"
            hint = f"they may hold buffers {at}: record as root"
            yield ("processes", pd.NA, "could not be looked into", count, pd.NA, False, hint)


def operations(probed: Sequence[Probed]) -> Iterator[Row]:
    """Functions of exporters that could not be probed."""
    for row in probed:
        if row.reason:
            cause = f"{row.symbol}: {row.reason}"
            yield ("probe", row.kind, cause, pd.NA, pd.NA, False, f"its {row.operation} calls")


def differences(found: Differences) -> Iterator[Row]:
    """Where events and the kernel's list of buffers at the end disagree."""
    for kind, inodes, what in (
        ("release", found.gone, "not released, but gone from the kernel's list"),
        ("export", found.unknown, "on the kernel's list, but never seen"),
    ):
        if inodes:
            named = ", ".join(map(str, inodes[:NAMED]))
            more = ", ..." if len(inodes) > NAMED else ""
            hint = f"its {kind} was lost, or under way at the end"
            cause = f"{what}: buffer {named}{more}"
            yield ("reconcile", kind, cause, len(inodes), pd.NA, True, hint)


def filters(options: Sequence[str], start: SnapshotBlock | None) -> Iterator[Row]:
    """What filters could not see of the time before."""
    if start and not start.complete and not BUFFER_FILTERS.isdisjoint(options):
        cause = "buffers that only the kernel held at the start are left out"
        hint = "this kernel lists those alone that a process holds"
        yield ("filter", pd.NA, cause, pd.NA, pd.NA, False, hint)


def user_stacks(found: UserStackBlock) -> Iterator[Row]:
    """What user stacks lack."""
    if found.without:
        cause = f"user stacks have no names: {found.without}"
        yield (
            "stacks",
            pd.NA,
            cause,
            pd.NA,
            pd.NA,
            False,
            "apt-get install libbpfcc, and record again",
        )
    if found.unplaced:
        cause = "user stacks are bare addresses: their processes ended too soon"
        yield ("stacks", pd.NA, cause, found.unplaced, pd.NA, False, "")
