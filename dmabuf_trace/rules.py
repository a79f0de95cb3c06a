# SPDX-License-Identifier: Apache-2.0
"""The rules of the dma-buf contract, and how the tables of a trace show each kept or broken.

What began before the trace is no case: its other half was not seen. What is under way at the end is
none either, as it may still be put right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from dmabuf_trace import schema
from dmabuf_trace.analysis import View
from dmabuf_trace.errnos import INTERRUPTED

if TYPE_CHECKING:
    import pandas as pd

BY_DESIGN: Final = {
    "videobuf2": (("vb2_",), ("vivid", "vim2m", "vicodec", "vimc", "uvcvideo")),
    "DRM imports": (("drm_gem_",), ("vgem", "vkms", "virtio_gpu", "virtio-gpu")),
}
"""Importers that hold a mapping for as long as they hold the buffer: functions in the stack of the
attach begin so; drivers known to, for attaches without a stack."""

_LIVING: Final = [kind.name for kind in schema.KINDS if kind.timed and not kind.part]
"""Kinds of call that a thread on its way out does not make."""


@dataclass(frozen=True)
class Facts:
    """A trace as rules see it, of one exporter's buffers only where ``exporter`` names it."""

    view: View
    exporter: str
    unmap_within: int
    min_age: int

    @cached_property
    def buffers(self) -> pd.DataFrame:
        """Buffers by id."""
        buffers = self.view.buffers
        mine = buffers[buffers["exporter"] == self.exporter] if self.exporter else buffers
        return mine.set_index("id")

    def table(self, name: str) -> pd.DataFrame:
        """A table's rows of these buffers."""
        table: pd.DataFrame = getattr(self.view, name)
        return table[table["buffer_id"].isin(self.buffers.index)] if self.exporter else table

    @cached_property
    def attachments(self) -> pd.DataFrame:
        """Attachments by id. ``judged``: what happened on it is known from its begin on.

        ``dead``: its address was that of an attachment of the same buffer, detached before, and no
        attach came between.
        """
        rows = self.table("attachments").set_index("id")
        before = rows.groupby("address")[["buffer_id", "end"]].shift()
        same = (before["buffer_id"] == rows["buffer_id"]).fillna(False).astype(bool)
        dead = rows["begin"].isna() & before["end"].notna() & same
        return rows.assign(dead=dead, judged=dead | rows["begin"].notna())

    def of_attachment(self, rows: pd.DataFrame, column: str) -> pd.Series[bool]:
        """A truth about the attachment of each row."""
        return rows["attachment_id"].isin(self.attachments.index[self.attachments[column]])

    def detached(self, rows: pd.DataFrame) -> pd.Series[int]:
        """When the attachment of each row was detached."""
        return _look_up(rows["attachment_id"], self.attachments["end"])

    def released(self, rows: pd.DataFrame) -> pd.Series[int]:
        """When the buffer of each row was released."""
        return _look_up(rows["buffer_id"], self.buffers["end"])

    def exported(self, rows: pd.DataFrame) -> pd.Series[bool]:
        """Whether the export of each row's buffer was seen."""
        return rows["buffer_id"].isin(self.buffers.index[self.buffers["origin"] == "exported"])


def _look_up(ids: pd.Series[int], values: pd.Series[int]) -> pd.Series[int]:
    return values.reindex(ids.fillna(0).astype("int64")).set_axis(ids.index)


@dataclass(frozen=True)
class Found:
    """How often a rule could have been broken, and how it was."""

    cases: int
    broken: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Rule:
    """One rule. ``judge`` None: it can't be seen, ``why`` says so.

    ``fakes`` are the event kinds whose loss may make a rule look broken that was kept, ``hides``
    those whose loss may only hide that it was broken; ``each``: a lost event fakes one violation at
    most. ``since``, ``before``: kernels it holds for.
    """

    name: str
    text: str
    source: str
    judge: Callable[[Facts], Found] | None = None
    fakes: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    each: bool = False
    why: str = ""
    applies: str = "all"
    since: tuple[int, int] = (0, 0)
    before: tuple[int, int] = field(default=(1 << 16, 0))


def _broken(*parts: tuple[pd.DataFrame, pd.Series[int] | str, str]) -> pd.DataFrame:
    """Rows that broke a rule, when, and what each did."""
    import pandas as pd

    found = [
        rows.reindex(columns=["inode", "device", "pid", "comm"]).assign(
            ts=(rows[when] if isinstance(when, str) else when.loc[rows.index]).astype("Int64"),
            what=what,
        )
        for rows, when, what in parts
    ]
    return pd.concat(found, ignore_index=True)


def _map_attached(facts: Facts) -> Found:
    maps = facts.table("mappings")
    maps = maps[maps["begin"].notna() & facts.of_attachment(maps, "judged")]
    dead = maps[facts.of_attachment(maps, "dead")]
    return Found(len(maps), _broken((dead, "begin", "mapped after its detach")))


def _unmap_once(facts: Facts) -> Found:
    maps = facts.table("mappings")
    ended = maps[maps["end"].notna() & facts.of_attachment(maps, "judged")]
    extra = ended[ended["begin"].isna()]
    return Found(len(ended), _broken((extra, "end", "unmapped what was not mapped")))


def _unmap_direction(facts: Facts) -> Found:
    maps = facts.table("mappings")
    both = maps[maps["begin"].notna() & maps["end"].notna()]
    other = both[both["direction"] != both["end_direction"]]
    return Found(len(both), _broken((other, "end", "unmapped with another direction")))


def _unmap_before_detach(facts: Facts) -> Found:
    maps = facts.table("mappings")
    kept = maps["cached"].fillna(False).astype(bool)
    detached = facts.detached(maps)
    mine = maps[~kept & maps["begin"].notna() & detached.notna()]
    left = mine[mine["outlived"]]
    cached = int((kept & maps["outlived"]).sum())
    note = f"{cached:,} that the core keeps until the detach: not judged" if cached else ""
    return Found(len(mine), _broken((left, detached, "mapped at its detach")), note)


def _detach_before_release(facts: Facts) -> Found:
    rows = facts.attachments
    released = facts.released(rows)
    left = rows[rows["outlived"]]
    cases = int((released.notna() & ~rows["end_lost"]).sum())
    return Found(cases, _broken((left, released, "attached at the release")))


def _vmap_balanced(facts: Facts) -> Found:
    rows = facts.table("vmaps")
    released = facts.released(rows)
    begun = rows["begin"].notna()
    left = rows[begun & rows["open"] & released.notna()]
    ended = rows[rows["end"].notna() & (begun | facts.exported(rows))]
    extra = ended[ended["begin"].isna()]
    broken = _broken((left, released, "vmapped at the release"), (extra, "end", "no vmap before"))
    return Found(len(ended) + len(left), broken)


def _static_pins(facts: Facts) -> Found:
    pins = facts.table("pins")
    pins = pins[pins["begin"].notna() & pins["importer"].notna()]
    static = pins[(pins["importer"] == "static").astype(bool)]
    return Found(len(pins), _broken((static, "begin", "pinned by a static importer")))


def _pin_balanced(facts: Facts) -> Found:
    pins = facts.table("pins")
    pins = pins[facts.of_attachment(pins, "judged") | pins["begin"].notna()]
    detached = facts.detached(pins)
    left = pins[pins["outlived"] & detached.notna()]
    ended = pins[pins["end"].notna()]
    extra = ended[ended["begin"].isna()]
    broken = _broken((left, detached, "pinned at its detach"), (extra, "end", "no pin before"))
    return Found(len(ended) + len(left), broken)


def _unmap_after_move(facts: Facts) -> Found:
    import pandas as pd

    maps = facts.table("mappings")
    known = maps["begin"].notna() & ~maps["end_lost"] & ~maps["outlived"]
    maps = maps[known & (maps["importer"] == "dynamic").fillna(False)]
    moves = facts.table("moves")[["buffer_id", "ts"]].dropna().astype("int64").sort_values("ts")
    maps = maps.astype({"begin": "int64", "buffer_id": "int64"}).sort_values("begin")
    # the first move in a mapping's life gives it the least time
    told = pd.merge_asof(
        maps, moves, left_on="begin", right_on="ts", by="buffer_id", direction="forward"
    )
    told = told[told["ts"].notna()].astype({"ts": "int64"})
    until = told["end"].fillna(facts.view.end)
    took = until - told["ts"]
    late = took > facts.unmap_within
    cases = told[(took >= 0) & (late | told["end"].notna())]
    return Found(len(cases), _broken((told[late], told["ts"], "still mapped after the move")))


def _by_design(facts: Facts) -> pd.Index[int]:
    """Attachments of importers that hold their mappings by design."""
    rows = facts.attachments
    starts = tuple(start for starts, _ in BY_DESIGN.values() for start in starts)
    stacks = [
        key
        for key in rows["stack"].dropna().unique().tolist()
        if any(frame.startswith(starts) for frame in facts.view.stack(key) or ())
    ]
    drivers = [name for _, names in BY_DESIGN.values() for name in names]
    return rows.index[rows["stack"].isin(stacks) | rows["driver"].isin(drivers)]


def _held(facts: Facts) -> Found:
    maps = facts.table("mappings")
    maps = maps[(maps["importer"] == "static").fillna(False) & maps["age_ns"].notna()]
    long = maps["age_ns"] >= facts.min_age
    designed = maps["attachment_id"].isin(_by_design(facts))
    count = int((long & designed).sum())
    note = f"{count:,} held by design ({', '.join(BY_DESIGN)}): not judged" if count else ""
    over = maps["begin"] + facts.min_age
    broken = _broken((maps[long & ~designed], over, "mapping held too long"))
    return Found(int((~designed & (long | ~maps["open"])).sum()), broken, note)


def _bracketed(facts: Facts) -> Found:
    rows = facts.table("cpu_accesses")
    released = facts.released(rows)
    begun, ended = rows["begin"].notna(), rows["end"].notna()
    open_ended = rows[begun & ~ended & released.notna()]
    extra = rows[ended & ~begun & facts.exported(rows)]
    both = rows[begun & ended]
    # of accesses that overlap, nothing says which end is whose
    owner = both["pid"].where(both["by"] == "process", 0)
    of = both.groupby([both["buffer_id"], both["by"], owner])
    alone = (both["begin"] >= of["end"].shift()).fillna(True)
    alone &= (both["end"] <= of["begin"].shift(-1)).fillna(True)
    differs = both["direction"] != both["end_direction"]
    broken = _broken(
        (open_ended, released, "no end before the release"),
        (extra, "end", "ended what was not begun"),
        (both[alone & differs], "end", "ended with another direction"),
    )
    return Found(len(both) + len(open_ended) + len(extra), broken)


def _restarted(facts: Facts) -> Found:
    events = facts.view.events
    syncs = facts.table("events")
    syncs = syncs[syncs["kind"].isin(["cpu_begin", "cpu_end"])]
    then = syncs.groupby(["tid", "inode"])[["kind", "detail"]].shift(-1)
    again = (then["kind"] == syncs["kind"]) & (then["detail"] == syncs["detail"])
    last = events[events["kind"].isin(_LIVING)].groupby("tid")["ts"].max()
    # a thread of which nothing more is seen may have been killed by that signal
    lived = then["kind"].notna() | (syncs["tid"].map(last) > syncs["ts"])
    asked = (-syncs["ret"]).isin(INTERRUPTED) & lived
    given_up = syncs[asked & ~again.fillna(False).astype(bool)]
    return Found(int(asked.sum()), _broken((given_up, "ts", "interrupted and not restarted")))


_NO_OWNER: Final = "who owns the reservation lock is not recorded"

RULES: Final = (
    Rule(
        "map_attached",
        "an importer maps on a live attachment only",
        "dma_buf_map_attachment()",
        _map_attached,
        fakes=("attach",),
        hides=("map", "detach"),
    ),
    Rule(
        "unmap_once",
        "an unmap gives back what was mapped, once",
        "dma_buf_unmap_attachment()",
        _unmap_once,
        fakes=("map", "unmap"),
        hides=("attach", "detach"),
        each=True,
    ),
    Rule(
        "unmap_direction",
        "an unmap has the direction of its map",
        "dma_buf_unmap_attachment()",
        _unmap_direction,
        fakes=("map", "unmap"),
    ),
    Rule(
        "unmap_before_detach",
        "no mapping is live at the detach",
        "dma-buf.c, DOC: device access",
        _unmap_before_detach,
        fakes=("unmap",),
        hides=("map", "detach"),
        each=True,
    ),
    Rule(
        "detach_before_release",
        "all attachments are detached before the release",
        "dma_buf_release(), WARN_ON",
        _detach_before_release,
        fakes=("detach",),
        hides=("attach", "release"),
        each=True,
    ),
    Rule(
        "vmap_balanced",
        "each vmap has one vunmap, before the release",
        "dma_buf_release() and dma_buf_vunmap(), BUG_ON",
        _vmap_balanced,
        fakes=("vmap", "vunmap"),
        hides=("export", "release"),
        each=True,
    ),
    Rule(
        "lock_held",
        "the importer holds the reservation lock for pin, unpin, map, unmap, vmap, vunmap",
        "dma-buf.c, DOC: locking convention",
        why=_NO_OWNER,
        applies="6.2 and later; 6.1: where a side is dynamic",
    ),
    Rule(
        "lock_not_held",
        "the importer does not hold it for attach, detach, export, mmap, CPU access, *_unlocked",
        "dma-buf.c, DOC: locking convention",
        why=_NO_OWNER,
        applies="6.2 and later",
        since=(6, 2),
    ),
    Rule(
        "move_locked",
        "the exporter holds the reservation lock when it tells of a move",
        "dma_buf_move_notify(), dma_buf_invalidate_mappings()",
        why=_NO_OWNER,
    ),
    Rule(
        "static_never_pins",
        "only dynamic importers pin",
        "dma_buf_pin(), WARN_ON",
        _static_pins,
        fakes=("attach",),
        hides=("pin", "detach"),
    ),
    Rule(
        "pin_balanced",
        "each pin has one unpin, before the detach",
        "dma_buf_unpin()",
        _pin_balanced,
        fakes=("pin", "unpin"),
        hides=("attach", "detach"),
        each=True,
    ),
    Rule(
        "move_notify_given",
        "a dynamic importer can be told of a move",
        "dma_buf_dynamic_attach(), WARN_ON",
        why="the importer's functions are not recorded",
        applies="before 7.1",
        before=(7, 1),
    ),
    Rule(
        "unmap_after_move",
        "told of a move, dynamic importers unmap within bounded time",
        "dma_buf_invalidate_mappings()",
        _unmap_after_move,
        fakes=("unmap",),
        hides=("attach", "map", "move"),
    ),
    Rule(
        "mapping_not_held",
        "a static importer holds no mapping for undue time",
        "dma_buf_map_attachment()",
        _held,
        fakes=("unmap",),
        hides=("attach", "map"),
    ),
    Rule(
        "cpu_access_bracketed",
        "CPU access has a begin and an end, of the same direction",
        "dma-buf.c, DOC: cpu access",
        _bracketed,
        fakes=("cpu_begin", "cpu_end", "kernel_begin", "kernel_end"),
        hides=("export", "release"),
    ),
    Rule(
        "sync_restarted",
        "DMA_BUF_IOCTL_SYNC that fails with EINTR or EAGAIN is called again",
        "dma-buf.h (uapi), DMA_BUF_IOCTL_SYNC",
        _restarted,
        fakes=("cpu_begin", "cpu_end"),
    ),
    Rule(
        "size_invariant",
        "the size never changes, a VMA lies within it",
        "dma_buf_mmap()",
        why="the size is recorded once; the core refuses a VMA that exceeds it",
    ),
    Rule(
        "exporter_callbacks_locked",
        "the core calls pin, map, vmap with the reservation lock held, attach, begin, mmap without",
        "dma-buf.c, DOC: locking convention",
        why=_NO_OWNER,
        applies="6.2 and later",
        since=(6, 2),
    ),
    Rule(
        "no_struct_page",
        "the importer does not touch struct page of an sg_table",
        "dma_buf_map_attachment()",
        why="memory accesses are not traced",
    ),
)
