# SPDX-License-Identifier: Apache-2.0
"""Tables of what begins and ends: buffers, attachments, mappings, pins, vmaps, accesses, fds."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from dmabuf_trace import schema
from dmabuf_trace.columns import TABLES
from dmabuf_trace.frames import chosen, gaps, signed, strings, texts
from dmabuf_trace.source import (
    IMPORTERS,
    Array,
    Columns,
    Source,
    Structs,
    flags,
    is_dynamic,
    peer_to_peer,
    stacks,
    truths,
)
from dmabuf_trace.tables import FdOrigin, Flag, look_up

SYNC_DIRECTIONS: Final = ("none", "read", "write", "read and write")
"""CPU access by its sync flags: 1 reads, 2 writes."""
DRIVER_DIRECTIONS: Final = ("read and write", "write", "read", "none")
"""CPU access by DMA direction: what goes to the device is what the processor has written."""


def buffers(source: Source) -> pd.DataFrame:
    """One row per buffer."""
    rows = source.rows.buffers
    begun = rows["begin"] != 0
    known = begun | (rows["size"] != 0)
    return pd.DataFrame(
        {
            "id": rows["id"],
            "inode": signed(rows["inode"]),
            "exporter": texts(rows["exporter"], source.names.exporter),
            "name": texts(rows["name"], source.names.buffer),
            "size_bytes": gaps(rows["size"], known),
            **source.life(rows),
            "origin": strings(_origins(source, rows)),
            **flags(rows, open=Flag.OPEN, end_lost=Flag.END_LOST),
            "export_ns": gaps(rows["dur"], begun),
            **source.caller(rows, begun, rows["begin"]),
            **stacks(rows),
            "fd_installs": source.observed(rows["fd_installs"], "fd_install"),
            "mmaps": source.observed(rows["mmaps"], "mmap", "mmap_importer"),
            "address": rows["address"],
        },
        columns=list(TABLES["buffers"]),
    )


def of_buffers(source: Source, ids: pd.Series[int]) -> pd.DataFrame:
    """When the buffers with these ids were exported and released, row by row."""
    of, keys = source.stretch.known.buffers, ids.fillna(0).to_numpy(np.int64)
    found = {name: look_up(keys, of["id"], of[name]) for name in ("begin", "end")}
    return pd.DataFrame({name: gaps(times, times != 0) for name, times in found.items()}).set_axis(
        ids.index
    )


def _origins(source: Source, rows: Structs) -> Array:
    begun = rows["begin"] != 0
    born_before = rows["flags"] & Flag.BORN_BEFORE != 0
    unseen = "unknown" if "export" in source.missing else "before"
    lost = np.where(
        rows["inode"] > np.uint64(source.first_export),
        "unwatched" if source.by_task else "lost",
        unseen,
    )
    return np.where(begun, "exported", np.where(born_before, "before", lost))


def attachments(source: Source) -> pd.DataFrame:
    """One row per attachment."""
    rows = source.rows.attachments
    begun = rows["begin"] != 0
    of = source.stretch.known.buffers
    released = look_up(rows["buffer_id"], of["id"], of["end"])
    is_open = rows["flags"] & Flag.OPEN != 0
    late = (released != 0) & (is_open | (rows["end"] > released))
    return pd.DataFrame(
        {
            "id": rows["id"],
            **source.buffer(rows["buffer_id"]),
            **source.device(rows["device"]),
            "importer": chosen(IMPORTERS, is_dynamic(rows), begun),
            "p2p": peer_to_peer(rows),
            **source.life(rows),
            **flags(rows, open=Flag.OPEN, end_lost=Flag.END_LOST),
            "outlived": late,
            "attach_ns": gaps(rows["dur"], begun),
            **source.caller(rows, begun, rows["begin"]),
            **stacks(rows),
            "address": rows["address"],
            "device_address": rows["device_address"],
        },
        columns=list(TABLES["attachments"]),
    )


def _through(source: Source, rows: Structs) -> Columns:
    """What goes through an attachment: which, of which buffer, by which device."""
    of = source.stretch.known.attachments
    seen = np.where(of["begin"] != 0, 1 + is_dynamic(of), 0)
    how = look_up(rows["attachment_id"], of["id"], seen)
    return {
        "attachment_id": rows["attachment_id"],
        **source.buffer(rows["buffer_id"]),
        **source.device(rows["device"]),
        "importer": chosen(("", *IMPORTERS), how, how != 0),
    }


def mappings(source: Source) -> pd.DataFrame:
    """One row per mapping."""
    rows = source.rows.mappings
    begun, ended = rows["begin"] != 0, rows["end"] != 0
    told = np.where(begun, rows["detail"], rows["end_detail"])
    return pd.DataFrame(
        {
            "id": rows["id"],
            **_through(source, rows),
            "direction": chosen(schema.DIRECTIONS, told & schema.MAP_DIRECTION),
            "end_direction": chosen(
                schema.DIRECTIONS, rows["end_detail"] & schema.MAP_DIRECTION, ended
            ),
            "entries": gaps(rows["detail"] >> schema.MAP_ENTRIES_SHIFT, begun),
            "cached": truths(rows["detail"] & schema.MAP_CACHED != 0, begun),
            **source.life(rows),
            **flags(rows, open=Flag.OPEN, end_lost=Flag.END_LOST, outlived=Flag.OUTLIVED),
            "map_ns": gaps(rows["dur"], begun),
            **source.thread(rows, np.where(begun, rows["begin"], rows["end"])),
            "sgt": rows["sgt"],
        },
        columns=list(TABLES["mappings"]),
    )


def pins(source: Source) -> pd.DataFrame:
    """One row per pin of an importer."""
    rows = source.rows.pins
    begun = rows["begin"] != 0
    return pd.DataFrame(
        {
            "id": rows["id"],
            **_through(source, rows),
            **source.life(rows),
            **flags(rows, open=Flag.OPEN, end_lost=Flag.END_LOST, outlived=Flag.OUTLIVED),
            "pin_ns": gaps(rows["dur"], begun),
            **source.thread(rows, np.where(begun, rows["begin"], rows["end"])),
        },
        columns=list(TABLES["pins"]),
    )


def vmaps(source: Source) -> pd.DataFrame:
    """One row per kernel mapping."""
    rows = source.rows.vmaps
    begun = rows["begin"] != 0
    return pd.DataFrame(
        {
            "id": rows["id"],
            **source.buffer(rows["buffer_id"]),
            **source.life(rows),
            **flags(rows, open=Flag.OPEN),
            "vmap_ns": gaps(rows["dur"], begun),
            **source.thread(rows, np.where(begun, rows["begin"], rows["end"])),
        },
        columns=list(TABLES["vmaps"]),
    )


def cpu_accesses(source: Source) -> pd.DataFrame:
    """One row per CPU access."""
    rows = source.rows.cpu_accesses
    begun, ended = rows["begin"] != 0, rows["end"] != 0
    by_driver = rows["by_driver"] != 0

    def direction(detail: Array, known: Array) -> pd.Series[str]:
        number = (detail & 3) + len(SYNC_DIRECTIONS) * by_driver
        return chosen((*SYNC_DIRECTIONS, *DRIVER_DIRECTIONS), number, known)

    return pd.DataFrame(
        {
            "id": rows["id"],
            **source.buffer(rows["buffer_id"]),
            "by": chosen(("process", "driver"), by_driver.astype(np.int64)),
            "direction": direction(rows["detail"], begun),
            "end_direction": direction(rows["end_detail"], ended),
            **source.life(rows),
            **flags(rows, open=Flag.OPEN),
            "begin_ns": gaps(rows["dur"], begun),
            "end_ns": gaps(rows["end_dur"], ended),
            **source.thread(rows, np.where(begun, rows["begin"], rows["end"])),
        },
        columns=list(TABLES["cpu_accesses"]),
    )


_FD_ORIGINS: Final = {
    FdOrigin.UNSEEN: "",
    FdOrigin.INSTALL: "install",
    FdOrigin.DUP2: "dup2",
    FdOrigin.FORK: "fork",
}


def fds(source: Source) -> pd.DataFrame:
    """One row per fd."""
    rows = source.rows.fds
    begun, ended = rows["begin"] != 0, rows["end"] != 0
    origins = [_FD_ORIGINS[each] for each in FdOrigin]
    return pd.DataFrame(
        {
            "id": rows["id"],
            **source.buffer(rows["buffer_id"]),
            "fd": gaps(rows["fd"], rows["fd"] >= 0),
            "origin": chosen(origins, rows["origin"], begun),
            **source.life(rows),
            **flags(rows, open=Flag.OPEN),
            **source.caller(rows, begun, rows["begin"]),
            "closed_by": gaps(rows["end_pid"], ended),
            **stacks(rows),
            "file": rows["file"],
            "table": rows["table"],
        },
        columns=list(TABLES["fds"]),
    )
