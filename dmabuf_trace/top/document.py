# SPDX-License-Identifier: Apache-2.0
"""A moment as JSON: exact integers, units in the names, null for what is not known."""

from __future__ import annotations

from typing import Any

from dmabuf_trace.render.machine import SCHEMA
from dmabuf_trace.top.activity import CALLS, Moment
from dmabuf_trace.top.listing import UNSEEN
from dmabuf_trace.top.listings import LISTINGS
from dmabuf_trace.top.recent import percentile

_LEFT_OUT = "buffers"
"""The one listing that is too long: ``snapshot --json`` has every buffer."""


def document(moment: Moment) -> dict[str, Any]:
    """The head, and all listings but that of buffers; rates are taken over ``recent_ns``."""
    buffers, sample = moment.rows.buffers, moment.course[-1]
    return {
        "schema": SCHEMA,
        "ts_ns": moment.ts,
        "start_ns": moment.start,
        "recent_ns": moment.ts - moment.since,
        "events": moment.events,
        "lost_events": moment.lost,
        "events_per_s": float(moment.kinds.sum() / moment.seconds),
        "failed_per_s": moment.failed / moment.seconds,
        "buffers": len(buffers),
        "size_bytes": sample.size_bytes,
        "unsized": int((buffers["size"] == 0).sum()),
        "calls": {call: _call(moment, at) for at, call in enumerate(CALLS)},
        **{name: _rows(moment, name) for name in LISTINGS if name != _LEFT_OUT},
        "not_observed": dict(moment.missing),
        "unlisted": moment.unlisted,
        "unreadable_processes": moment.unreadable,
    }


def _call(moment: Moment, at: int) -> dict[str, Any] | None:
    rate = moment.per_second(CALLS[at])
    if rate is None:
        return None
    lengths = {f"p{each}_ns": percentile(moment.calls.get(at), each) for each in (50, 99)}
    known = {name: None if ns == UNSEEN else ns for name, ns in lengths.items()}
    return {"events": getattr(moment.course[-1], CALLS[at]), "per_s": rate, **known}


def _rows(moment: Moment, name: str) -> list[dict[str, Any]]:
    listing = LISTINGS[name](moment)
    return listing.rows(listing.sorted(listing.find(""), listing.order, ascending=False))
