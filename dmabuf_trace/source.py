# SPDX-License-Identifier: Apache-2.0
"""What the tables of a trace are made from, and the groups of columns that they share.

Must not know analyses, rendering or live tracing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Probed
from dmabuf_trace.calls import NONE
from dmabuf_trace.frames import chosen, gaps, signed, strings, texts
from dmabuf_trace.names import Names
from dmabuf_trace.reading import Stretch
from dmabuf_trace.tables import Flag, Rows, at_places, of_kinds, places

Structs = NDArray[np.void]
Array = NDArray[Any]
Columns = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What a stretch has, the rows of it that tables are about, and the facts around them.

    ``missing`` are event kinds that were not observed and why, ``by_task`` whether filters left out
    what others did, ``first_export`` the inode number of the first buffer of the trace.
    """

    stretch: Stretch
    rows: Rows
    names: Names
    start: int
    end: int
    missing: Mapping[str, str]
    by_task: bool
    first_export: int
    probed: Sequence[Probed]

    @property
    def raw(self) -> Structs:
        """Events in the order of the ring."""
        return self.stretch.raw

    @cached_property
    def kinds(self) -> Array:
        """Their kinds, side by side."""
        return np.ascontiguousarray(self.raw["kind"])

    def life(self, rows: Structs) -> Columns:
        """When something began and ended, and how long it lived."""
        begun, ended = rows["begin"] != 0, rows["end"] != 0
        is_open = rows["flags"] & Flag.OPEN != 0
        until = np.where(ended, signed(rows["end"]), self.end)
        ages = np.maximum(until - signed(rows["begin"]), 0)
        seen = {"seen": signed(rows["seen"])} if "seen" in (rows.dtype.names or ()) else {}
        return {
            "begin": gaps(rows["begin"], begun),
            "end": gaps(rows["end"], ended),
            **seen,
            "age_ns": gaps(ages, begun & (ended | is_open)),
        }

    def caller(self, rows: Structs, known: Array, times: Array) -> Columns:
        """Who made a call, where it was seen."""
        comms, cgroups, index = self.names.threads(rows["tid"], times)
        return {
            "pid": gaps(rows["pid"], known),
            "tid": gaps(rows["tid"], known),
            "comm": chosen(comms, index, known),
            "cgroup": chosen(cgroups, index, known),
        }

    def thread(self, rows: Structs, times: Array) -> Columns:
        """Who made a call, which always is known."""
        comms, cgroups, index = self.names.threads(rows["tid"], times)
        return {
            "pid": rows["pid"].astype(np.int64),
            "tid": rows["tid"].astype(np.int64),
            "comm": chosen(comms, index),
            "cgroup": chosen(cgroups, index),
        }

    def buffer(self, ids: Array) -> Columns:
        """A buffer by its id."""
        of = self.stretch.known.buffers
        found = places(ids, of["id"])
        inodes, sizes, exporters = (at_places(of[name], found) for name in _OF_BUFFER)
        return {
            "buffer_id": gaps(ids, ids != 0),
            "inode": gaps(inodes, inodes != 0),
            "exporter": texts(exporters, self.names.exporter, exporters != 0),
            "size_bytes": gaps(sizes, sizes != 0),
        }

    def device(self, keys: Array, known: Array | None = None) -> Columns:
        """A device by the id of its names."""
        index, distinct = pd.factorize(keys)
        devices = [self.names.device(key) for key in distinct.tolist()]
        return {
            "device": chosen([each.name for each in devices], index, known),
            "driver": chosen([each.driver for each in devices], index, known),
            "bus": chosen([each.bus for each in devices], index, known),
        }

    def observed(self, counts: Array, *kinds: str) -> pd.Series[int]:
        """Counts of events, where those were observed."""
        return gaps(counts, np.full(len(counts), self.missing.keys().isdisjoint(kinds)))

    def around(self, mine: Array) -> Columns:
        """The calls that events at these positions are part of: kind, begin and device."""
        calls = self.stretch.calls[mine]
        has = calls != NONE
        rows = self.raw.take(calls)
        attachments = np.where(has, self.rows.event_attachments[calls], 0)
        named = has & of_kinds(rows["kind"], OF_DEVICES)
        return {
            "call": texts(rows["kind"], kind_name, has),
            "call_begin": gaps(signed(rows["ts"]) - signed(rows["dur"]), has),
            "attachment_id": gaps(attachments, attachments != 0),
            **self.device(np.where(named, rows["aux"], 0), named),
        }


_OF_BUFFER = ("inode", "size", "exporter")

OF_DEVICES = tuple(schema.KIND[kind] for kind in ("attach", "map", "pin"))
"""Timed kinds whose ``aux`` names a device."""


def flags(rows: Structs, **wanted: Flag) -> dict[str, Array]:
    """A column of truths for each flag."""
    return {name: rows["flags"] & flag != 0 for name, flag in wanted.items()}


def stacks(rows: Structs) -> Columns:
    """Ids of stacks."""
    return {name: gaps(rows[name], rows[name] >= 0) for name in ("stack", "user_stack")}


def kind_name(kind: int) -> str:
    """The name of an event kind."""
    return schema.KIND_NAMES.get(kind, f"kind {kind}")


def truths(values: Array, known: Array) -> pd.Series[bool]:
    """Truths with NA where they are not known."""
    return pd.Series(pd.arrays.BooleanArray(values, ~known))


def peer_to_peer(rows: Structs) -> pd.Series[str]:
    """Of each attachment, what came of peer-to-peer; NA where that is not known.

    Recordings older than the bits about the question have only the answer to it.
    """
    importer = rows["importer"]
    granted = importer & schema.ATTACH_PEER2PEER != 0
    refused = importer & schema.ATTACH_P2P_ASKED != 0
    cannot = importer & schema.ATTACH_DYNAMIC == 0
    unasked = cannot | (importer & schema.ATTACH_P2P_NOT_ASKED != 0)
    answers = np.select([granted, refused, unasked], ["granted", "refused", "not asked"], "")
    return strings(answers.astype(object), (answers != "") & (rows["begin"] != 0))


IMPORTERS = ("static", "dynamic")


def is_dynamic(rows: Structs) -> Array:
    """Of each attachment, whether its importer is dynamic: 0 or 1."""
    dynamic: Array = rows["importer"] & schema.ATTACH_DYNAMIC != 0
    return dynamic.astype(np.int64)
