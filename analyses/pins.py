# SPDX-License-Identifier: Apache-2.0
"""Pins: who keeps what where it is, and what was moved; peer-to-peer, asked for and granted.

Pins are those that importers made, except in their own table: those that the core made by itself,
within an attach or a map, for importers that can't follow a move. The exporter's function alone
shows these, for how long they are held it does not. A device's peak counts a buffer once, however
often it is pinned. A buffer must not move while it is pinned; those of the core are not counted
there. Peer-to-peer counts where the attach succeeded: an exporter may also refuse all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame, pick
from dmabuf_trace.levels import peak_bytes
from dmabuf_trace.measure import TIMES, lengths, times
from dmabuf_trace.units import count_text, duration_text

if TYPE_CHECKING:
    import pandas as pd

PIN_COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("age_ns", "duration", "held"),
    Column("state", "text", "state"),
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
    Column("importer", "text", "importer", spare=True),
    Column("exporter", "text", "exporter"),
    Column("size_bytes", "bytes", "size"),
    Column("comm", "text", "pinned by"),
    Column("pid", "id", "pid", spare=True),
    Column("begin_ns", "time", "since", spare=True),
    Column("pin_ns", "duration", "pin took", spare=True),
)
DEVICE_COLUMNS: Final = (
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
    Column("pins", "count", "pins"),
    Column("open", "count", "open"),
    Column("peak_bytes", "bytes", "peak"),
    Column("pinned_ns", "duration", "pinned in total"),
)
CORE_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("device", "text", "device"),
    Column("importer", "text", "importer"),
    Column("call", "text", "within"),
    Column("count", "count", "pins"),
    Column("failed", "count", "failed"),
    *TIMES,
)
MOVE_COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("exporter", "text", "exporter"),
    Column("size_bytes", "bytes", "size"),
    Column("moves", "count", "moves"),
    Column("moves_mapped", "count", "while mapped"),
    Column("mappings_max", "count", "mappings at most"),
    Column("moves_pinned", "count", "while pinned"),
    Column("pins_max", "count", "pins at most"),
    Column("first_ns", "time", "first", spare=True),
    Column("last_ns", "time", "last", spare=True),
)
FINDING_COLUMNS: Final = (
    Column("inode", "id", "buffer"),
    Column("exporter", "text", "exporter"),
    Column("size_bytes", "bytes", "size", spare=True),
    Column("pins", "count", "pins"),
    Column("mappings", "count", "mappings"),
    Column("at_ns", "time", "at"),
    Column("comm", "text", "moved by"),
    Column("pid", "id", "pid", spare=True),
)
P2P_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("device", "text", "device"),
    Column("driver", "text", "driver", spare=True),
    Column("bus", "text", "bus", spare=True),
    Column("attaches", "count", "attaches"),
    Column("granted", "count", "granted"),
    Column("refused", "count", "refused"),
)
_IDENTITY: Final = ["device", "driver", "bus"]


def run(view: View, *, min_age: int, device: str, exporter: str) -> Answer:
    """See the module's description."""
    exporters = view.buffers.set_index("id")["exporter"]

    def chosen(table: pd.DataFrame, of_device: str = device) -> pd.DataFrame:
        if exporter:
            table = table[table["exporter"] == exporter]
        return table[table["device"] == of_device] if of_device else table

    def of_exporter(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(exporter=table["buffer_id"].map(exporters))

    pins = chosen(of_exporter(view.pins))
    attachments = chosen(of_exporter(view.attachments))
    operations = chosen(view.operations[view.operations["operation"] == "pin"])
    moves = chosen(_moves(view), of_device="")
    held = _held(view, pins, min_age)
    against = moves[(moves["pins"] > 0).fillna(False)]

    title = f"Pins held for {duration_text(min_age)} or longer"
    tables = (
        Table("pins", title, PIN_COLUMNS, held, view.empty(("pin",), "none")),
        Table(
            "devices",
            "Devices that pin",
            DEVICE_COLUMNS,
            _devices(view, pins),
            view.empty(("pin",), "none"),
        ),
        Table(
            "core_pins",
            "Pins that the core made by itself",
            CORE_COLUMNS,
            _core_pins(view, operations),
            view.empty(("operation",), "none"),
        ),
        Table(
            "moves",
            "Buffers that moved",
            MOVE_COLUMNS,
            _moved(moves),
            view.empty(("move",), "none"),
        ),
        Table(
            "moved_pinned",
            "Moved while pinned",
            FINDING_COLUMNS,
            pick(FINDING_COLUMNS, against),
            view.empty(("pin", "unpin", "move"), "none"),
        ),
        Table(
            "p2p",
            "Peer-to-peer asked for",
            P2P_COLUMNS,
            _peer_to_peer(attachments),
            view.empty(("attach",), "none"),
        ),
    )
    inodes = (*held["inode"].dropna().tolist(), *against["inode"].dropna().tolist())
    notes = (*_notes(view, pins, operations, against), *_p2p_notes(attachments))
    return Answer(tables, notes, tuple(dict.fromkeys(inodes)))


def _held(view: View, pins: pd.DataFrame, min_age: int) -> pd.DataFrame:
    held = pins[(pins["age_ns"] >= min_age).fillna(False)]
    held = held.sort_values(["open", "age_ns", "id"], ascending=[False, False, True])
    state = held["open"].map({True: "pinned", False: "unpinned"}).astype("string")
    state = state.mask(held["outlived"], "left behind")
    return pick(PIN_COLUMNS, held.assign(begin_ns=held["begin"] - view.start, state=state))


def _devices(view: View, pins: pd.DataFrame) -> pd.DataFrame:
    judged = pins[~pins["end_lost"]]
    spans = {
        key: peak_bytes(mine, view.start)
        for key, mine in _merged(judged, view.start).groupby(_IDENTITY)
    }
    rows = [
        {
            **dict(zip(_IDENTITY, key, strict=True)),
            "pins": int(mine["begin"].notna().sum()),
            "open": int(mine["open"].sum()),
            "peak_bytes": spans.get(key),
            "pinned_ns": mine["age_ns"].sum(min_count=1),
        }
        for key, mine in pins.groupby(_IDENTITY)
    ]
    return frame(DEVICE_COLUMNS, rows)


def _merged(pins: pd.DataFrame, start: int) -> pd.DataFrame:
    """Times in which a device had a buffer pinned, by one pin or by several that overlap."""
    never = np.iinfo(np.int64).max
    of = pins.groupby([*_IDENTITY, "buffer_id"], dropna=False).ngroup()
    spans = pins.assign(of=of, begin=pins["begin"].fillna(start), until=pins["end"].fillna(never))
    spans = spans.sort_values(["of", "begin"])
    reach = spans.groupby("of")["until"].cummax().groupby(spans["of"]).shift(fill_value=-1)
    spans["span"] = (spans["begin"] > reach).cumsum()
    firsts = {name: (name, "first") for name in (*_IDENTITY, "begin", "size_bytes")}
    merged = spans.groupby("span").agg(**firsts, until=("until", "max"))
    return merged.assign(end=merged["until"].mask(merged["until"] == never))


def _core_pins(view: View, operations: pd.DataFrame) -> pd.DataFrame:
    keys = ["exporter", "device", "importer", "call"]
    importers = view.attachments.set_index("id")["importer"]
    pins = operations[(operations["call"] != "pin").fillna(False)]
    pins = pins.assign(importer=pins["attachment_id"].map(importers))
    found = times(lengths(None, pins, keys, "operation_ns"), keys)
    failed = pins["error"].notna().groupby([pins[key] for key in keys], dropna=False).sum()
    return pick(CORE_COLUMNS, found.assign(failed=failed.to_numpy()))  # groups in the same order


def _moves(view: View) -> pd.DataFrame:
    """The moves; what was open then is a gap where its begins or ends were not observed."""
    import pandas as pd

    moves = view.moves.astype({"pins": "Int64", "mappings": "Int64"})
    for name, kinds in {"pins": ("pin", "unpin"), "mappings": ("map", "unmap")}.items():
        if not view.missing.keys().isdisjoint(kinds):
            moves[name] = pd.Series(pd.NA, moves.index, dtype="Int64")
    return moves.assign(at_ns=moves["ts"] - view.start)


def _moved(moves: pd.DataFrame) -> pd.DataFrame:
    """One row per buffer, the most moved first."""
    moves = moves.assign(
        mapped=(moves["mappings"] > 0).astype("Int64"),
        pinned=(moves["pins"] > 0).astype("Int64"),
    )
    rows = moves.groupby("buffer_id", sort=True, dropna=False).agg(
        inode=("inode", "first"),
        exporter=("exporter", "first"),
        size_bytes=("size_bytes", "first"),
        moves=("at_ns", "size"),
        mappings_max=("mappings", "max"),
        pins_max=("pins", "max"),
        first_ns=("at_ns", "min"),
        last_ns=("at_ns", "max"),
    )
    sums = moves.groupby("buffer_id", dropna=False)[["mapped", "pinned"]].sum(min_count=1)
    rows = rows.assign(moves_mapped=sums["mapped"], moves_pinned=sums["pinned"])
    return pick(MOVE_COLUMNS, rows.sort_values("moves", ascending=False, kind="stable"))


def _peer_to_peer(attachments: pd.DataFrame) -> pd.DataFrame:
    """What came of it, where importers asked."""
    keys = ["exporter", *_IDENTITY]
    asked = attachments[attachments["p2p"].isin(["granted", "refused"])]
    answers = {each: asked["p2p"] == each for each in ("granted", "refused")}
    groups = asked.assign(**answers).groupby(keys, dropna=False)
    counts = {each: (each, "sum") for each in answers}
    return pick(P2P_COLUMNS, groups.agg(attaches=("id", "size"), **counts).reset_index())


def _p2p_notes(attachments: pd.DataFrame) -> Iterator[str]:
    unknown = attachments["begin"].notna() & attachments["p2p"].isna()
    if count := int(unknown.sum()):
        yield (
            f"{count_text(count, 'attach', 'attaches')} of dynamic importers without peer-to-peer: "
            "whether they asked for it was not recorded"
        )


def _notes(
    view: View, pins: pd.DataFrame, operations: pd.DataFrame, against: pd.DataFrame
) -> Iterator[str]:
    orphans = int(pins["begin"].isna().sum())
    if orphans:
        yield (
            f"{count_text(orphans, 'unpin')} without a pin in the trace: pinned before it, or the "
            "pin was lost; how long they were held is not known"
        )
    if ended := int(pins["end_lost"].sum()):
        yield f"{count_text(ended, 'pin')} with a lost end: not judged"
    if unsized := int(pins["size_bytes"].isna().sum()):
        yield f"{count_text(unsized, 'pin')} of buffers of unknown size: not in peaks"
    if "operation" in view.missing:
        reason = view.missing["operation"] or "no reason given"
        yield f"exporters' functions were not observed ({reason}): the core's own pins are not seen"
    elif unknown := int(operations["call"].isna().sum()):
        yield (
            f"{count_text(unknown, 'pin')} by an exporter's function within no call that was seen: "
            "the core's own or an importer's, which is not known"
        )
    if len(operations):
        yield (
            "an exporter's pin is observed from some milliseconds after its first buffer was seen: "
            "the core may have made more"
        )
    if len(against):
        yield "moved while pinned: from kernel 7.1 on it may be a revocation, which pins permit"


ANALYSIS = Analysis(
    name="pins",
    question="Who keeps what pinned, for how long, and what did the exporter move?",
    needs=("buffers", "attachments", "pins", "moves", "operations"),
    relies_on=("pin", "unpin", "move", "map", "unmap", "attach", "detach"),
    run=run,
    params=(
        Param("min_age", "duration", "1s", "only pins held at least this long, as 500ms or 2s"),
        Param("device", "text", "", "only this device; moves have none"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
