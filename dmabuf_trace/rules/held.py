# SPDX-License-Identifier: Apache-2.0
"""Rules of how long importers hold mappings: for undue time, and after a move."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from dmabuf_trace.analysis import View
from dmabuf_trace.measure import added, joined
from dmabuf_trace.rules.facts import Facts, Found, Through, broken, truth

if TYPE_CHECKING:
    import pandas as pd

BY_DESIGN: Final = {
    "videobuf2": (("vb2_",), ("vivid", "vim2m", "vicodec", "vimc", "uvcvideo")),
    "DRM imports": (("drm_gem_",), ("vgem", "vkms", "virtio_gpu", "virtio-gpu")),
}
"""Importers that hold a mapping for as long as they hold the buffer: functions in the stack of the
attach begin so; drivers known to, for attaches without a stack."""

_ATTACH: Final = ["stack", "driver"]
_TOLD: Final = ["buffer_id", "begin", "end", "inode", "device", "pid", "comm"]


def by_design(view: View, rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether importers hold their mappings by design.

    ``rows`` have ``stack`` and ``driver`` of the attachment. Frames are known in ``run`` only.
    """
    starts = tuple(start for starts, _ in BY_DESIGN.values() for start in starts)
    stacks = [
        key
        for key in rows["stack"].dropna().unique().tolist()
        if any(frame.startswith(starts) for frame in view.stack(key) or ())
    ]
    drivers = [name for _, names in BY_DESIGN.values() for name in names]
    return rows["stack"].isin(stacks) | rows["driver"].isin(drivers)


def mapping_not_held(facts: Facts, groups: pd.DataFrame | None) -> Found:
    """A static importer's mapping is short.

    ``groups`` are cases, and long ones among them, by what tells whether they are by design.
    """
    import pandas as pd

    maps = facts.through("mappings")
    long = maps.static & truth(maps.rows["age_ns"] >= facts.limits.min_age)
    over = maps.static & maps.rows["age_ns"].notna().to_numpy() & ~truth(maps.rows["open"])
    ids = maps.rows["attachment_id"]
    counts = pd.DataFrame(
        {
            "cases": ids[long | over].value_counts(sort=False),
            "long": ids[long].value_counts(sort=False),
        }
    ).fillna(0)
    of = facts.view.present("attachments")[["id", *_ATTACH]].set_index("id")
    groups = added(groups, counts.join(of), _ATTACH, cases="sum", long="sum")
    held = maps.rows[long].drop(columns="driver").join(of, on="attachment_id")
    when = held["begin"] + facts.limits.min_age
    found = broken((held, when, "mapping held too long"), more=tuple(_ATTACH))
    return Found(broken=found, waiting=groups)


def without_designed(view: View, found: Found) -> Found:
    """What is left of :func:`mapping_not_held` without that which is by design."""
    groups, held = found.waiting, found.broken
    designed = by_design(view, groups)
    return replace(
        found,
        cases=int(groups["cases"][~designed].sum()),
        broken=None if held is None else held[~by_design(view, held)],
        aside=int(groups["long"][designed].sum()),
    )


def unmap_after_move(facts: Facts, moves: pd.DataFrame | None) -> Found:
    """A dynamic importer's mapping ends soon after its buffer moved.

    ``moves``: the first in the life of each mapping that goes on.
    """
    moves = joined(moves, facts.table("moves")[["buffer_id", "ts"]].dropna().astype(np.int64))
    if not len(moves):
        return Found()
    told = _told(facts.through("mappings"), moves)
    until = told["end"].fillna(facts.view.end)
    took = until - told["moved"]
    late = took > facts.limits.unmap_within
    cases = told[(took >= 0) & (late | told["end"].notna())]
    ongoing = Through.of(facts.view.going_on("mappings"), facts.dead)
    waiting = _told(ongoing, moves)[["buffer_id", "moved"]]
    return Found(
        len(cases),
        broken((told[late], "moved", "still mapped after the move")),
        waiting=waiting.set_axis(["buffer_id", "ts"], axis="columns").drop_duplicates(),
    )


def _told(maps: Through, moves: pd.DataFrame) -> pd.DataFrame:
    """Mappings of dynamic importers whose buffer ``moved`` after they began, and when first."""
    import pandas as pd

    known = ~truth(maps.rows["end_lost"]) & ~truth(maps.rows["outlived"])
    of_moved = maps.rows["buffer_id"].isin(moves["buffer_id"]).to_numpy()
    rows = maps.rows[_TOLD][maps.begun & maps.dynamic & known & of_moved]
    moved = moves.sort_values("ts").assign(moved=lambda rows: rows["ts"])
    told = pd.merge_asof(
        rows.astype({"begin": "int64", "buffer_id": "int64"}).sort_values("begin"),
        moved,
        left_on="begin",
        right_on="ts",
        by="buffer_id",
        direction="forward",
    )
    return told[told["moved"].notna()].astype({"moved": "int64"})
