# SPDX-License-Identifier: Apache-2.0
"""Pairing: exact answers on small traces, and agreement with a slow and obvious reference."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import Found, SnapshotBlock
from dmabuf_trace.lifecycle import Lifecycle
from dmabuf_trace.tables import Flag, Rows, order_of
from tests.build import MS, START, US, Build
from tests.reference import reference
from tests.strategies import any_events

TABLES = ("buffers", "attachments", "mappings", "pins", "vmaps", "cpu_accesses", "fds", "errors")
OPEN, UNSEEN, LOST, OUTLIVED = Flag.OPEN, Flag.BEGIN_UNSEEN, Flag.END_LOST, Flag.OUTLIVED


def paired(events: NDArray[np.void], cuts: tuple[int, ...] = ()) -> Rows:
    """All rows of a trace that is fed in batches."""
    lifecycle = Lifecycle()
    edges = [0, *sorted(cuts), len(events)]
    parts = [lifecycle.feed(events[start:end]) for start, end in pairwise(edges)]
    return Rows.join([*parts, lifecycle.finish()])


def listed(rows: NDArray[np.void], *columns: str) -> list[tuple[Any, ...]]:
    """Some columns, as tuples."""
    return [tuple(row[column].item() for column in columns) for row in rows]


def test_a_part_that_is_told_after_the_release_begins_no_life() -> None:
    k = Build()
    first, second = k.export(), k.export()
    k.release(first)
    k.event("lock_wait", buffer=first.inode, ret=-4, dur=1)
    k.event("lock_wait", buffer=second.inode, dur=1)
    k.event("operation", buffer=99)
    events = k.events()

    for cuts in ([], [3], [4], [3, 4]):
        life = Lifecycle()
        rows = Rows.join([*(life.feed(part) for part in np.split(events, cuts)), life.finish()])
        assert rows.buffers["inode"].tolist() == [41, 42, 99], "what was there before has a row"
        assert rows.event_buffers.tolist() == [1, 2, 1, 0, 2, 3]
        assert not len(rows.errors), "its failure is that of the call around it"


def test_a_buffer_from_export_to_release() -> None:
    k = Build()
    k.wait(MS)
    buffer = k.export(size=8192, fd=3, dur=5 * US)
    k.fd(buffer, 4)
    k.mmap(buffer)
    k.wait(MS)
    k.release(buffer)
    k.export(size=4096)

    rows = paired(k.events()).buffers

    assert listed(rows, "id", "inode", "begin", "end", "size", "dur", "flags") == [
        (1, 41, START + MS, START + 2 * MS, 8192, 5 * US, 0),
        (2, 42, START + 2 * MS, 0, 4096, 0, OPEN),
    ]
    assert listed(rows, "fd_installs", "mmaps") == [(2, 1), (0, 0)]


def test_an_address_that_is_used_again_is_another_attachment() -> None:
    k = Build()
    buffer = k.export()
    first = k.attach(buffer, "gpu")
    k.wait(MS)
    k.detach(first)
    second = k.attach(buffer, "isp", address=first.address)
    k.wait(MS)
    k.detach(second)

    rows = paired(k.events()).attachments

    assert listed(rows, "id", "buffer_id", "begin", "end", "flags") == [
        (1, 1, START, START + MS, 0),
        (2, 1, START + MS, START + 2 * MS, 0),
    ]
    assert rows["device"][0] != rows["device"][1]


def test_an_attach_of_a_live_address_tells_that_the_detach_was_lost() -> None:
    k = Build()
    first = k.attach(k.export())
    k.map(first)
    k.wait(MS)
    k.attach(k.export(), address=first.address)

    rows = paired(k.events())

    assert listed(rows.attachments, "id", "buffer_id", "begin", "end", "flags") == [
        (1, 1, START, 0, LOST),
        (2, 2, START + MS, 0, OPEN),
    ]
    assert listed(rows.mappings, "attachment_id", "end", "flags") == [(1, 0, LOST)]


def test_an_orphan_detach_is_a_row_without_a_begin() -> None:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer)
    k.wait(MS)
    k.detach(attachment)

    rows = paired(k.events()[-1:])

    assert listed(rows.attachments, "begin", "end", "seen", "flags") == [
        (0, START + MS, START + MS, UNSEEN)
    ]
    assert listed(rows.buffers, "inode", "begin", "flags") == [(41, 0, UNSEEN | OPEN)]


def test_a_cached_sg_table_is_mapped_twice_and_unmapped_in_the_same_order() -> None:
    k = Build()
    attachment = k.attach(k.export())
    first = k.map(attachment, dur=9 * US)
    k.wait(MS)
    again = k.map(attachment, sgt=first.sgt, dur=1 * US)
    k.wait(MS)
    k.unmap(first)
    k.wait(MS)
    k.unmap(again)
    k.unmap(again)

    rows = paired(k.events()).mappings

    assert listed(rows, "begin", "end", "dur", "flags") == [
        (START, START + 2 * MS, 9 * US, 0),
        (START + MS, START + 3 * MS, 1 * US, 0),
        (0, START + 3 * MS, 0, UNSEEN),
    ]


def test_a_mapping_open_at_detach_stays_open_and_is_flagged() -> None:
    k = Build()
    attachment = k.attach(k.export())
    k.map(attachment)
    k.detach(attachment)

    assert listed(paired(k.events()).mappings, "end", "flags") == [(0, OPEN | OUTLIVED)]


def test_failed_calls_are_errors_and_nothing_else() -> None:
    k = Build()
    k.export(errno=22)
    buffer = k.export()
    k.attach(buffer, errno=16)
    attachment = k.attach(buffer)
    k.map(attachment, errno=12, dur=7 * US)

    rows = paired(k.events())

    assert listed(rows.errors, "kind", "errno", "buffer_id", "attachment_id", "dur") == [
        (schema.KIND["export"], 22, 0, 0, 0),
        (schema.KIND["attach"], 16, 1, 0, 0),
        (schema.KIND["map"], 12, 1, 1, 7 * US),
    ]
    assert (len(rows.buffers), len(rows.attachments), len(rows.mappings)) == (1, 1, 0)


def snapshot(when: str, *inodes: int) -> SnapshotBlock:
    found = tuple(Found(inode, 4096, "system", "") for inode in inodes)
    return SnapshotBlock(when, START, found, (), 0)


def test_buffers_of_the_start_snapshot_are_born_before_the_trace() -> None:
    lifecycle = Lifecycle()
    lifecycle.feed_snapshot(snapshot("start", 7))

    rows = lifecycle.finish().buffers

    assert listed(rows, "id", "inode", "begin", "size", "flags") == [
        (1, 7, 0, 4096, OPEN | UNSEEN | Flag.BORN_BEFORE | Flag.LOOK_ONLY)
    ]
    assert lifecycle.names.exporter(rows["exporter"][0].item()) == "system"


def test_an_export_that_the_start_snapshot_already_saw_is_not_born_before() -> None:
    k = Build()
    buffer = k.export()
    lifecycle = Lifecycle()
    lifecycle.feed_snapshot(snapshot("start", buffer.inode))
    lifecycle.feed(k.events())

    assert listed(lifecycle.finish().buffers, "id", "begin", "flags") == [(1, START, OPEN)]


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_snapshot_does_not_bring_a_released_buffer_back(when: str) -> None:
    k = Build()
    buffer = k.export()
    k.release(buffer)
    lifecycle = Lifecycle()
    lifecycle.feed(k.events())
    lifecycle.feed_snapshot(snapshot(when, buffer.inode))

    assert len(lifecycle.finish().buffers) == 0


def test_memory_holds_only_what_is_open() -> None:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer)
    k.unmap(k.map(attachment))
    k.detach(attachment)
    k.release(buffer)
    lifecycle = Lifecycle()
    closed = lifecycle.feed(k.events())
    rest = lifecycle.finish()

    assert (len(closed.buffers), len(closed.attachments), len(closed.mappings)) == (1, 1, 1)
    assert (len(rest.buffers), len(rest.attachments), len(rest.mappings)) == (0, 0, 0)


@settings(max_examples=400, deadline=None)
@given(any_events(), st.data())
def test_agrees_with_the_reference_wherever_batches_are_cut(
    events: NDArray[np.void], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=6))

    rows = paired(events, tuple(cuts))

    expected = reference(events)
    for table in TABLES:
        got = [dict(zip(row.dtype.names, row.item(), strict=True)) for row in getattr(rows, table)]
        assert got == expected[table], table
    assert rows.event_buffers.tolist() == expected["event_buffers"]
    assert rows.event_attachments.tolist() == expected["event_attachments"]


@settings(max_examples=100, deadline=None)
@given(any_events(), st.lists(st.integers(0, 40), max_size=6))
def test_every_begin_and_end_is_used_once(events: NDArray[np.void], cuts: list[int]) -> None:
    rows = paired(events, tuple(min(cut, len(events)) for cut in cuts))

    ok = events["ret"] >= 0
    known = events["object"] != 0
    for table, begin, end in (("attachments", "attach", "detach"), ("mappings", "map", "unmap")):
        found = getattr(rows, table)
        begins = (events["kind"] == schema.KIND[begin]) & ok & known
        ends = (events["kind"] == schema.KIND[end]) & known
        assert (found["begin"] != 0).sum() == begins.sum()
        assert (found["end"] != 0).sum() == ends.sum()


@given(st.sampled_from(["<u4", "<i8", "<u8"]), st.integers(0, 9), st.data())
def test_rows_are_ordered_by_keys_of_any_width(kind: str, count: int, data: st.DataObject) -> None:
    few = st.sampled_from([0, 1, 1 << 16, (1 << 16) + 1, (1 << 31) - 1])
    values = few | st.integers(0, int(np.iinfo(kind).max))
    one, other = (data.draw(arrays.arrays(kind, count, elements=values)) for _ in range(2))

    assert order_of(one, other).tolist() == np.lexsort([one, other]).tolist()
