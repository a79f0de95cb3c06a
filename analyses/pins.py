# SPDX-License-Identifier: Apache-2.0
"""Pins: who keeps what where it is, and what was moved; peer-to-peer, asked for and granted.

Pins are those that importers made, except in their own table: those that the core made by itself,
within an attach or a map, for importers that can't follow a move. The exporter's function alone
shows these, for how long they are held it does not. A device's peak counts a buffer once, however
often it is pinned. A buffer must not move while it is pinned; those of the core are not counted
there. A move told within a pin of the core was forced by it: the buffer had to go where the device
reaches it. Peer-to-peer counts where the attach succeeded: an exporter may also refuse all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Shown, Table, View, pick
from dmabuf_trace.columns import TEXT
from dmabuf_trace.levels import peaks
from dmabuf_trace.measure import EXACT, TIMES, added, joined, lengths, times
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
    Column("moves", "count", "moves told"),
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
_CORE: Final = ["exporter", "device", "importer", "call"]
_HELD: Final = [
    *(column.name for column in PIN_COLUMNS if column.name not in ("state", "begin_ns")),
    *("id", "begin", "open", "outlived"),
]
TOLD: Final = 1000
"""Moves that may wait for the pin that forced them."""
_FINDING: Final = [column.name for column in FINDING_COLUMNS]
_SPANS: Final = [*_IDENTITY, "buffer_id", "begin", "end", "size_bytes"]


@dataclass(frozen=True)
class Folded:
    """Findings, sums by device, by call and by buffer, and what notes tell.

    ``spans`` are the pins that peaks are of, ``peaks`` those of times of which they are no more;
    ``told``: the last moves, as a pin comes up with its call, after them.
    """

    held: pd.DataFrame | None = None
    against: pd.DataFrame | None = None
    devices: pd.DataFrame | None = None
    spans: pd.DataFrame | None = None
    peaks: pd.DataFrame | None = None
    core: pd.DataFrame | None = None
    failed: pd.DataFrame | None = None
    told: pd.DataFrame | None = None
    moved: pd.DataFrame | None = None
    p2p: pd.DataFrame | None = None
    counts: Counter[str] = field(default_factory=Counter)


def fold(view: View, before: Folded | None, *, min_age: int, device: str, exporter: str) -> Folded:
    """Sort out what was held for long, and add up."""
    before = before or Folded()

    def chosen(table: pd.DataFrame, of_device: str = device) -> pd.DataFrame:
        if exporter:
            table = table[table["exporter"] == exporter]
        return table[table["device"] == of_device] if of_device else table

    pins, attachments = chosen(view.pins), chosen(view.attachments)
    operations = chosen(view.operations[view.operations["operation"] == "pin"])
    moves = chosen(_moves(view), of_device="")
    spans = joined(before.spans, pins.loc[~pins["end_lost"], _SPANS])
    most = before.peaks
    if len(spans) > EXACT:
        present = chosen(view.present("pins"))
        most = _peaks(view, most, joined(spans, present.loc[~present["end_lost"], _SPANS]))
        spans = spans[spans["end"].isna()]
    told = joined(before.told, view.moves[["tid", "ts"]]).tail(TOLD)
    core = _core_pins(view, operations, told)
    counts = {
        "orphans": pins["begin"].isna(),
        "lost": pins["end_lost"],
        "unsized": pins["size_bytes"].isna(),
        "operations": operations["operation"].notna(),
        "unknown": operations["call"].isna(),
        "p2p": attachments["begin"].notna() & attachments["p2p"].isna(),
    }
    return Folded(
        joined(before.held, pins.loc[(pins["age_ns"] >= min_age).fillna(False), _HELD]),
        joined(before.against, moves.loc[(moves["pins"] > 0).fillna(False), _FINDING]),
        _devices(before.devices, pins),
        spans,
        most,
        lengths(before.core, core, _CORE, "operation_ns"),
        added(before.failed, core, _CORE, failed="sum", moves="sum"),
        told,
        _moved(before.moved, moves),
        _peer_to_peer(before.p2p, attachments),
        before.counts + Counter({name: int(found.sum()) for name, found in counts.items()}),
    )


def run(view: View, folded: Folded, *, min_age: int, **_: str) -> Answer:
    """See the module's description."""
    held = _held(view, joined(folded.held))
    against = joined(folded.against)
    most = _peaks(view, folded.peaks, joined(folded.spans))
    devices = joined(folded.devices).merge(most, how="left", on=_IDENTITY)
    core = times(joined(folded.core), _CORE)
    core = core.assign(**joined(folded.failed)[["failed", "moves"]])  # groups in the same order
    moved = joined(folded.moved).sort_values("moves", ascending=False, kind="stable")
    title = f"Pins held for {duration_text(min_age)} or longer"
    tables = (
        Table("pins", title, PIN_COLUMNS, held, view.empty(("pin",), "none")),
        Table(
            "devices",
            "Devices that pin",
            DEVICE_COLUMNS,
            pick(DEVICE_COLUMNS, devices),
            view.empty(("pin",), "none"),
        ),
        Table(
            "core_pins",
            "Pins that the core made by itself",
            CORE_COLUMNS,
            pick(CORE_COLUMNS, core),
            view.empty(("operation",), "none"),
        ),
        Table(
            "moves",
            "Buffers that moved",
            MOVE_COLUMNS,
            pick(MOVE_COLUMNS, moved),
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
            pick(P2P_COLUMNS, joined(folded.p2p)),
            view.empty(("attach",), "none"),
        ),
    )
    inodes = (*held["inode"].dropna().tolist(), *against["inode"].dropna().tolist())
    notes = (*_notes(view, folded.counts, against), *_p2p_notes(folded.counts["p2p"]))
    return Answer(tables, notes, tuple(dict.fromkeys(inodes)))


def _held(view: View, held: pd.DataFrame) -> pd.DataFrame:
    held = held.sort_values(["open", "age_ns", "id"], ascending=[False, False, True])
    state = held["open"].map({True: "pinned", False: "unpinned"}).astype(TEXT)
    state = state.mask(held["outlived"], "left behind")
    return pick(PIN_COLUMNS, held.assign(begin_ns=held["begin"] - view.start, state=state))


def _devices(before: pd.DataFrame | None, pins: pd.DataFrame) -> pd.DataFrame:
    rows = pins.assign(pins=pins["begin"].notna(), pinned_ns=pins["age_ns"])
    rows = rows.astype({"pins": "int64", "open": "int64"})
    return added(before, rows, _IDENTITY, pins="sum", open="sum", pinned_ns="sum")


def _peaks(view: View, before: pd.DataFrame | None, spans: pd.DataFrame) -> pd.DataFrame:
    """Most bytes that each device had pinned at once, so far.

    Up to :data:`EXACT` pins are looked at together. Of a longer trace those of a time at which
    there were as many are one peak: a pin that comes to light later, as its unpin alone was seen,
    is not in it.
    """
    return peaks(before, _merged(spans, view.start).assign(fresh=True), _IDENTITY, view)


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


def _core_pins(view: View, operations: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """The core's own, with the importer that they were for, and the moves told within."""
    import pandas as pd

    importers = view.present("attachments").set_index("id")["importer"]
    pins = operations[(operations["call"] != "pin").fillna(False)]
    importer = pins["attachment_id"].map(importers).astype(TEXT)
    within = pd.merge_asof(
        told.astype("int64").sort_values("ts"),
        pins[["tid", "begin", "operation_ns"]].assign(at=pins.index).sort_values("begin"),
        left_on="ts",
        right_on="begin",
        by="tid",
    )
    within = within[within["ts"] <= within["begin"] + within["operation_ns"]]
    moves = within["at"].value_counts().reindex(pins.index, fill_value=0)
    failed = pins["error"].notna().astype("int64")
    return pins.assign(importer=importer, failed=failed, moves=moves)


def _moves(view: View) -> pd.DataFrame:
    """The moves; what was open then is a gap where its begins or ends were not observed."""
    import pandas as pd

    moves = view.moves.astype({"pins": "Int64", "mappings": "Int64"})
    for name, kinds in {"pins": ("pin", "unpin"), "mappings": ("map", "unmap")}.items():
        if not view.missing.keys().isdisjoint(kinds):
            moves[name] = pd.Series(pd.NA, moves.index, dtype="Int64")
    return moves.assign(at_ns=moves["ts"] - view.start)


def _moved(before: pd.DataFrame | None, moves: pd.DataFrame) -> pd.DataFrame:
    """One row per buffer."""
    rows = moves.assign(
        moves=1,
        moves_mapped=(moves["mappings"] > 0).astype("Int64"),
        moves_pinned=(moves["pins"] > 0).astype("Int64"),
        mappings_max=moves["mappings"],
        pins_max=moves["pins"],
        first_ns=moves["at_ns"],
        last_ns=moves["at_ns"],
    )
    buffer = dict.fromkeys(("inode", "exporter", "size_bytes"), "first")
    sums = dict.fromkeys(("moves", "moves_mapped", "moves_pinned"), "sum")
    most = dict.fromkeys(("mappings_max", "pins_max", "last_ns"), "max")
    return added(before, rows, ["buffer_id"], **buffer, **sums, **most, first_ns="min")


def _peer_to_peer(before: pd.DataFrame | None, attachments: pd.DataFrame) -> pd.DataFrame:
    """What came of it, where importers asked."""
    asked = attachments[attachments["p2p"].isin(["granted", "refused"])]
    answers = {each: (asked["p2p"] == each).astype("int64") for each in ("granted", "refused")}
    counts = dict.fromkeys(("attaches", *answers), "sum")
    return added(before, asked.assign(attaches=1, **answers), ["exporter", *_IDENTITY], **counts)


def _p2p_notes(unknown: int) -> Iterator[str]:
    if unknown:
        yield (
            f"{count_text(unknown, 'attach', 'attaches')} of dynamic importers without "
            "peer-to-peer: whether they asked for it was not recorded"
        )


def _notes(view: View, counts: Counter[str], against: pd.DataFrame) -> Iterator[str]:
    if orphans := counts["orphans"]:
        yield (
            f"{count_text(orphans, 'unpin')} without a pin in the trace: pinned before it, or the "
            "pin was lost; how long they were held is not known"
        )
    if ended := counts["lost"]:
        yield f"{count_text(ended, 'pin')} with a lost end: not judged"
    if unsized := counts["unsized"]:
        yield f"{count_text(unsized, 'pin')} of buffers of unknown size: not in peaks"
    if "operation" in view.missing:
        reason = view.missing["operation"] or "no reason given"
        yield f"exporters' functions were not observed ({reason}): the core's own pins are not seen"
    elif unknown := counts["unknown"]:
        yield (
            f"{count_text(unknown, 'pin')} by an exporter's function within no call that was seen: "
            "the core's own or an importer's, which is not known"
        )
    if counts["operations"]:
        yield (
            "an exporter's pin is observed from some milliseconds after its first buffer was seen: "
            "the core may have made more"
        )
    if len(against):
        yield "moved while pinned: from kernel 7.1 on it may be a revocation, which pins permit"


ANALYSIS = Analysis(
    name="pins",
    question="Who keeps what pinned, for how long, and what did the exporter move?",
    needs=("attachments", "pins", "moves", "operations"),
    relies_on=("pin", "unpin", "move", "map", "unmap", "attach", "detach"),
    run=run,
    fold=fold,
    shows=(Shown("pins", ("pin", "unpin", "attach", "detach")), Shown("moves", ("move",))),
    params=(
        Param("min_age", "duration", "1s", "only pins held at least this long, as 500ms or 2s"),
        Param("device", "text", "", "only this device; moves have none"),
        Param("exporter", "text", "", "only buffers of this exporter"),
    ),
)
