# SPDX-License-Identifier: Apache-2.0
"""Rules of what importers do through attachments: map and unmap, pin and unpin, attach and detach.

Each is asked of a stretch: ``judge(facts, what waits) -> Found``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmabuf_trace.rules.facts import Facts, Found, broken, ended, truth

if TYPE_CHECKING:
    import pandas as pd


def map_attached(facts: Facts, _: None) -> Found:
    """A map has an attachment that is live."""
    maps = facts.through("mappings")
    dead = maps.rows[maps.begun & maps.dead]
    cases = int((maps.begun & maps.known).sum())
    return Found(cases, broken((dead, "begin", "mapped after its detach")))


def unmap_once(facts: Facts, _: None) -> Found:
    """An unmap has a map."""
    maps = facts.through("mappings")
    judged = maps.ended & maps.known
    extra = maps.rows[judged & ~maps.begun]
    found = broken((extra, "end", "unmapped what was not mapped"))
    return Found(int(judged.sum()), found)


def unmap_direction(facts: Facts, _: None) -> Found:
    """Map and unmap tell the same direction."""
    maps = facts.through("mappings")
    both = maps.begun & maps.ended
    other = truth(maps.rows["direction"] != maps.rows["end_direction"])
    found = broken((maps.rows[both & other], "end", "unmapped with another direction"))
    return Found(int(both.sum()), found)


def unmap_before_detach(facts: Facts, waiting: pd.Series[int] | None) -> Found:
    """Mappings end ahead of their attachments; ``waiting``: those whose attachment has not."""
    maps = facts.through("mappings")
    kept, outlived = truth(maps.rows["cached"]), truth(maps.rows["outlived"])
    mine = maps.begun & ~kept
    ids = maps.rows["attachment_id"][mine]
    cases, waiting = ended(waiting, ids, facts.table("attachments"))
    left = maps.rows[mine & outlived]
    found = broken((left, facts.detached(left), "mapped at its detach"))
    return Found(cases, found, int((kept & outlived).sum()), waiting)


def detach_before_release(facts: Facts, waiting: pd.Series[int] | None) -> Found:
    """Attachments end ahead of their buffers; ``waiting``: those whose buffer has not."""
    rows = facts.table("attachments")
    rows = rows[~rows["end_lost"]]
    released = facts.released(rows)
    over = released.notna()
    cases, waiting = ended(waiting, rows["buffer_id"][~over], facts.table("buffers"))
    left = rows[rows["outlived"]]
    found = broken((left, released, "attached at the release"))
    return Found(int(over.sum()) + cases, found, waiting=waiting)


def static_never_pins(facts: Facts, _: None) -> Found:
    """A pin has a dynamic importer."""
    pins = facts.through("pins")
    static, dynamic = pins.begun & pins.static, pins.begun & pins.dynamic
    found = broken((pins.rows[static], "begin", "pinned by a static importer"))
    return Found(int((static | dynamic).sum()), found)


def pin_balanced(facts: Facts, _: None) -> Found:
    """A pin has an unpin ahead of the detach, an unpin has a pin."""
    pins = facts.through("pins")
    judged = pins.begun | pins.known
    left = pins.rows[judged & truth(pins.rows["outlived"])]
    ends = judged & pins.ended
    found = broken(
        (left, facts.detached(left), "pinned at its detach"),
        (pins.rows[ends & ~pins.begun], "end", "no pin before"),
    )
    return Found(int(ends.sum()) + len(left), found)
