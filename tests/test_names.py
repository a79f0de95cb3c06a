# SPDX-License-Identifier: Apache-2.0
"""Ids -> texts, live and in files."""

from __future__ import annotations

import numpy as np

from dmabuf_trace import schema
from dmabuf_trace.names import UNKNOWN, Names
from tests.build import MS, START, Build, Process


def test_a_comm_holds_from_its_time_on() -> None:
    names = Names()
    records = np.zeros(3, schema.NAME_DTYPE)
    for record, (ts, text) in zip(records, [(20, "b"), (10, "a"), (30, "c")], strict=True):
        record["type"], record["id"] = schema.NAME_TYPES["comm"], 7
        record["ts"], record["text"], record["cgroup"] = ts, text, ts + 1
    names.feed(records)
    names.feed_cgroups({11: "/a", 31: "/c"})

    assert [names.comm(7, ts) for ts in (5, 10, 19, 20, 99)] == ["a", "a", "a", "b", "c"]
    tids, times = np.array([7, 8, 7], np.uint32), np.array([99, 1, 5], np.uint64)
    assert [names.cgroup(7, ts) for ts in (5, 20, 99)] == ["/a", None, "/c"]
    comms, cgroups, index = names.threads(tids, times)
    assert [comms[at] for at in index] == ["c", UNKNOWN, "a"]
    assert [cgroups[at] for at in index] == ["/c", None, "/a"]


def test_a_child_has_the_name_of_its_parent_until_its_own_tells() -> None:
    k = Build()
    first, second = Process(7, "first", cgroup=1), Process(7, "second", cgroup=2)
    k.by(first).export()
    k.wait(MS)
    k.by(Process(5, "parent", cgroup=3)).fork(second)
    k.wait(MS)
    k.by(second).fork(Process(8, "unheard-of"))
    names = Names()
    names.feed(k.names())
    events = k.events()

    names.feed_forks(events[events["kind"] == schema.KIND["fork"]])

    told = [names.comm(7, START + ms * MS) for ms in range(3)]
    assert told == ["first", "parent", "second"]
    assert names.comm(8, START + 2 * MS) == "second"
    names.feed_cgroups({1: "/one", 2: "/two", 3: "/three"})
    assert [names.cgroup(7, START + ms * MS) for ms in range(3)] == ["/one", "/three", "/two"]


def test_a_text_from_proc_gets_the_id_that_the_kernel_gave_it() -> None:
    k = Build()
    k.export(exporter="vgem")
    names = Names()
    names.feed(k.names())

    known = names.intern_exporter("vgem")
    new = names.intern_exporter("system")

    assert known == k.events()["aux"][0]
    assert (names.exporter(known), names.exporter(new)) == ("vgem", "system")
    assert names.intern_exporter("system") == new
    assert (names.intern_buffer(""), names.buffer(0)) == (0, "")


def test_text_ends_at_its_first_nul() -> None:
    names = Names()
    record = np.zeros(1, schema.NAME_DTYPE)
    record[0] = (5, 0, schema.NAME_TYPES["device"], 0, 0, b"gpu\0stale", b"amdgpu", b"")
    names.feed(record)

    assert names.device(5) == ("gpu", "amdgpu", "")
    assert names.device(6) == (UNKNOWN, "", "")


def test_of_many_names_those_that_are_needed_are_kept() -> None:
    names = Names()
    for tid in range(1, 20_001):
        names.remember_thread(tid, 0, f"thread {tid}")
    kept = names.intern_buffer("kept")
    for number in range(20_000):
        names.intern_buffer(f"buffer {number}")

    names.keep({1}, {kept})

    assert names.count < 20_000
    assert (names.comm(1, 0), names.comm(2, 0), names.comm(20_000, 0)) == (
        *("thread 1", UNKNOWN),
        "thread 20000",
    )
    assert names.buffer(kept) == "kept"
    assert names.intern_buffer("kept") == kept


def test_the_first_id_of_a_text_is_what_it_is_interned_as() -> None:
    names = Names()
    local = names.intern_exporter("gem")

    assert names.intern_exporter("gem") == local
    assert names.exporters() == {local: "gem"}
