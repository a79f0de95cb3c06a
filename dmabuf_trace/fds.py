# SPDX-License-Identifier: Apache-2.0
"""File descriptors of buffers: installed, copied by forks, closed.

A close tells the file and the table of fds, not the number: where a table has one file under
several numbers, the first installed is taken for the first closed. Must not know names or pandas.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dmabuf_trace import schema
from dmabuf_trace.brackets import CALLER, Bools, Brackets, Fields, Ints, Structs
from dmabuf_trace.tables import FD_DTYPE, FdOrigin, together

_K: Final = schema.KIND
_FIELDS: Final[Fields] = (
    *CALLER,
    ("file", "object"),
    ("table", "value"),
)


class Fds(Brackets):
    """Fds by file and by table; a table is that of a process, or shared by several."""

    def __init__(self) -> None:
        super().__init__(FD_DTYPE, ("file", "table"), _FIELDS, (("end_pid", "pid"),))

    def feed(self, events: Structs, buffers: Ints) -> Structs:
        """The rows that a batch closed."""
        kind = events["kind"]
        forks = np.flatnonzero(kind == _K["fork"])
        installs = kind == _K["fd_install"]
        mine = np.flatnonzero((installs | (kind == _K["fd_close"])) & (buffers != 0))
        closed = []
        done = 0
        for fork in forks:
            upto = int(np.searchsorted(mine, fork))
            closed.append(self._feed(events, buffers, mine[done:upto], installs))
            done = upto
            self._copy(events[fork])
        closed.append(self._feed(events, buffers, mine[done:], installs))
        return together(closed)

    def _feed(self, events: Structs, buffers: Ints, mine: Ints, installs: Bools) -> Structs:
        if not len(mine):
            return self.open[:0]
        ups = installs[mine]
        dup2 = events["aux"][mine] == schema.FD_DUP2
        origin = np.where(dup2, FdOrigin.DUP2, FdOrigin.INSTALL)
        told = {
            "buffer_id": buffers[mine],
            "fd": np.where(ups, events["detail"][mine].astype(np.int32), -1),
            "origin": np.where(ups, origin, FdOrigin.UNSEEN),
        }
        for stack in ("stack", "user_stack"):
            told[stack] = np.where(ups, events[stack][mine], schema.UNKNOWN_STACK)
        return self._close(events, mine, ups, told)

    def _copy(self, fork: Structs) -> None:
        """Give a child what is open in its parent's table."""
        mine = self.open["table"] == fork["object"]
        if not mine.any():
            return
        copies = self.open.compress(mine)
        copies["id"] = self._last_id + 1 + np.arange(len(copies))
        self._last_id += len(copies)
        copies["table"], copies["begin"] = fork["value"], fork["ts"]
        copies["pid"], copies["tid"] = fork["detail"], fork["detail"]
        copies["origin"] = FdOrigin.FORK
        copies["stack"] = copies["user_stack"] = schema.UNKNOWN_STACK
        self.open = together([self.open, copies])
