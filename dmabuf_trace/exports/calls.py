# SPDX-License-Identifier: Apache-2.0
"""Calls that take time, with the names that their events refer to, and the parts of calls."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from dmabuf_trace import schema
from dmabuf_trace.errnos import error_name
from dmabuf_trace.frames import texts
from dmabuf_trace.measure import joined
from dmabuf_trace.source import OF_DEVICES
from dmabuf_trace.tables import look_up
from dmabuf_trace.trace import Trace

TIMED: Final = tuple(kind.name for kind in schema.KINDS if kind.timed and not kind.part)
_NAMED: Final = [schema.KIND_NAMES[kind] for kind in OF_DEVICES]
_COLUMNS: Final = [
    *("what", "begin", "end", "part", "inode", "exporter", "device", "error"),
    *("fence_context", "fence_seqno", "pid", "tid", "comm"),
]
_OF_FENCES: Final = dict.fromkeys(("fence_context", "fence_seqno"), "Int64")


def calls(stretch: Trace, *kinds: str) -> pd.DataFrame:
    """As ``Trace.events_of``, with ``begin``, ``exporter``, ``device`` and ``error``; NA: none."""
    events = stretch.events_of(*kinds)
    of = stretch.stretch.known.buffers
    exporters = look_up(events["buffer_id"].fillna(0).to_numpy(np.int64), of["id"], of["exporter"])
    keys, ret = events["aux"].to_numpy(), events["ret"].to_numpy()
    is_named = events["kind"].isin(_NAMED).to_numpy()
    return events.assign(
        inode=events["inode"].astype("Int64").mask(events["inode"] == 0),
        begin=events["ts"] - events["call_ns"].fillna(0).astype(np.int64),
        exporter=texts(exporters, stretch.names.exporter, exporters != 0),
        device=texts(keys, lambda key: stretch.names.device(key).name, is_named),
        error=texts(-ret, error_name, ret < 0),
    )


def timed(stretch: Trace) -> pd.DataFrame:
    """Calls, waits and calls of exporters' functions, thread by thread: what lies within another
    one is behind it.

    ``what`` it is, from ``begin`` to ``end``; ``part`` of a call; the columns of tables.
    """
    made, waits, operations = calls(stretch, *TIMED), stretch.waits, stretch.operations
    parts = (
        made.assign(what=made["kind"], end=made["ts"], part=False),
        waits.assign(
            what=waits["kind"] + " wait", end=waits["begin"] + waits["wait_ns"], part=True
        ),
        operations.assign(
            what=operations["exporter"].fillna("exporter") + ": " + operations["operation"],
            end=operations["begin"] + operations["operation_ns"],
            part=True,
        ),
    )
    rows = joined(*(part.reindex(columns=_COLUMNS).astype(_OF_FENCES) for part in parts))
    by = {"pid": True, "tid": True, "begin": True, "end": False, "part": True}
    return rows.sort_values(list(by), ascending=list(by.values()), ignore_index=True)
