# SPDX-License-Identifier: Apache-2.0
"""Parts and their calls: agreement with a slow and obvious search on random nested calls."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.calls import NONE, calls_of

K = schema.KIND
Tree = list[tuple[str, int, "Tree"]]

TREES: st.SearchStrategy[Tree] = st.recursive(
    st.just([]),
    lambda inner: st.lists(
        st.tuples(
            st.sampled_from(["map", "attach", "lock_wait", "fence_wait", "operation", "detach"]),
            st.integers(1, 2),
            inner,
        ),
        max_size=4,
    ),
    max_leaves=12,
)


def lay_out(tree: Tree, tid: int, now: int, events: list[dict[str, Any]]) -> int:
    """Events of calls as a thread makes them, each behind those of what it called; the time."""
    for kind, buffer, inner in tree:
        begin = now
        now = lay_out(inner, tid, now + 1, events) + 1
        timed = kind != "detach"
        events.append(
            {"kind": K[kind], "ts": now, "dur": (now - begin) * timed, "tid": tid, "buffer": buffer}
        )
        now += 1
    return now


def slow(events: NDArray[np.void]) -> list[int]:
    """For each part the first later call around it, else the next call of the thread."""
    rows = [dict(zip(events.dtype.names or (), event.item(), strict=True)) for event in events]
    found = []
    for at, part in enumerate(rows):
        later = [
            index
            for index in range(at + 1, len(rows))
            if rows[index]["tid"] == part["tid"]
            and rows[index]["dur"]
            and rows[index]["kind"] not in schema.PARTS
        ]
        begin = part["ts"] - part["dur"]
        around = (i for i in later if rows[i]["ts"] - rows[i]["dur"] <= begin)
        call = next(around, NONE) if part["kind"] in schema.PARTS and part["dur"] else NONE
        if call == NONE and part["kind"] == K["lock_wait"] and later:
            after = rows[later[0]]
            if after["buffer"] == part["buffer"] and after["ts"] - after["dur"] >= part["ts"]:
                call = later[0]
        found.append(call)
    return found


@settings(max_examples=400, deadline=None)
@given(st.lists(TREES, min_size=1, max_size=3), st.randoms())
def test_agrees_with_the_search(trees: list[Tree], random: Any) -> None:
    threads: list[list[dict[str, Any]]] = []
    for tid, tree in enumerate(trees):
        threads.append([])
        lay_out(tree, tid, random.randrange(20), threads[-1])
    made = []
    while any(threads):  # the ring mixes threads and keeps the order of each
        made.append(random.choice([rest for rest in threads if rest]).pop(0))
    events = np.zeros(len(made), schema.EVENT_DTYPE)
    for event, fields in zip(events, made, strict=True):
        for name, value in fields.items():
            event[name] = value

    assert calls_of(events).tolist() == slow(events)
