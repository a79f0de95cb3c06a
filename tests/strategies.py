# SPDX-License-Identifier: Apache-2.0
"""Random traces."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dmabuf_trace import schema
from tests.build import START

SOME = st.integers(0, 3)


@st.composite
def any_events(draw: st.DrawFn) -> NDArray[np.void]:
    """Events in any order, valid or not, on few objects so that they meet."""
    kinds = st.sampled_from([kind.id for kind in schema.KINDS])
    fields = st.tuples(kinds, SOME, SOME, SOME, st.sampled_from([0, 0, 0, -16]), st.integers(0, 9))
    drawn = draw(st.lists(fields, max_size=40))
    events = np.zeros(len(drawn), schema.EVENT_DTYPE)
    ts = START
    for event, (kind, inode, address, value, ret, step) in zip(events, drawn, strict=True):
        ts += step - 2  # processors do not quite agree on the time
        event["kind"], event["buffer"], event["object"] = kind, inode, address
        event["value"], event["ret"], event["ts"] = value, ret, ts
        event["aux"], event["dur"], event["stack"], event["pid"] = value + 10, step, address, inode
        event["detail"] = step
    return events
