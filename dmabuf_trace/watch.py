# SPDX-License-Identifier: Apache-2.0
"""The tables by which the programs filter: what was there before goes in, a look asks them.

Must not know how the programs are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from dmabuf_trace import filters as choice
from dmabuf_trace.blocks import SnapshotBlock
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.filters import Filters
from dmabuf_trace.loader.keys import KeySet

UNUSED: Final = {"matching": 1, "watched": 1, "pids": 1}
"""Sizes of the tables where nothing is filtered."""


class Watch:
    """What a capture watches.

    ``table`` gives one by its name. Processes are followed from the beginning on, buffers that
    existed before from :meth:`begin` on.
    """

    def __init__(self, filters: Filters, table: Callable[[str], KeySet]) -> None:
        self.filters = filters
        self._matching, self._watched, self._pids = map(table, UNUSED)
        self._followed: set[int] = set()
        self._follow(set(filters.pids))

    def _follow(self, new: set[int]) -> None:
        """Follow processes and their children.

        A process in the table has its forks followed by the kernel, one that is not may fork while
        /proc is read: until a look finds no one new.
        """
        while new:
            if self._pids.add(new):
                raise UntraceableError("there are too many processes to follow")
            self._followed |= new
            new = choice.descendants(self._followed)

    def follow_this(self) -> None:
        """Follow the calling process: a forked child, ahead of its exec."""
        if self.filters.command_only:
            self._pids.add([os.getpid()])

    def begin(self, look: SnapshotBlock) -> SnapshotBlock:
        """Watch what the look at the start shows; the look as it is to be recorded."""
        if not self.filters.bits:
            return look
        watched = self.filters.first_watched(look, self._pids)
        full = self._watched.add(watched) if self.filters.by_task else []
        if self.filters.by_buffer:
            matching = {found.buffer for found in look.buffers if self.filters.matches(found)}
            full += self._matching.add(matching)
        if full:
            raise UntraceableError(f"too many buffers to watch: {len(full)} found no room")
        return self.filters.first_look(look, watched)

    def only(self, look: SnapshotBlock) -> SnapshotBlock:
        """A later look, without the buffers whose events don't pass."""
        if not self.filters.bits:
            return look
        table = self._watched if self.filters.by_task else self._matching
        inodes = {found.buffer for found in look.buffers}
        inodes |= {holder.buffer for holder in look.holders}
        return choice.only(look, {inode for inode in inodes if inode in table})
