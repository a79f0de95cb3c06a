# SPDX-License-Identifier: Apache-2.0
"""What the blocks of a recording come to: rows by the lifecycle, and what belongs to them.

Must not know pandas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import (
    CgroupBlock,
    EndBlock,
    EventBlock,
    LossBlock,
    NameBlock,
    Probed,
    ProbedBlock,
    SnapshotBlock,
    StackBlock,
    UserStackBlock,
)
from dmabuf_trace.lifecycle import Lifecycle
from dmabuf_trace.recording import Reader
from dmabuf_trace.tables import Rows, empty

Structs = NDArray[np.void]
Array = NDArray[Any]

BATCH_EVENTS: Final = 1 << 16


@dataclass(slots=True)
class Read:
    """What the blocks of a file hold."""

    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    events: list[Structs] = field(default_factory=lambda: [empty(schema.EVENT_DTYPE)])
    rows: list[Rows] = field(default_factory=list)
    waiting: list[Structs] = field(default_factory=list)
    snapshots: dict[str, SnapshotBlock] = field(default_factory=dict)
    looks: list[SnapshotBlock] = field(default_factory=list)
    losses: Array = field(default_factory=lambda: np.zeros(schema.LOSS_SHAPE, np.uint64))
    stacks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    user_stacks: UserStackBlock = field(default_factory=lambda: UserStackBlock({}))
    probed: list[Probed] = field(default_factory=list)
    end: EndBlock | None = None

    def take(self, reader: Reader) -> None:
        for block in reader.blocks():
            match block:
                case EventBlock(events):
                    self.waiting.append(events)
                    if sum(map(len, self.waiting)) >= BATCH_EVENTS:
                        self.feed()
                case NameBlock(names):
                    self.lifecycle.feed_names(names)
                case SnapshotBlock():
                    self.feed()
                    self.lifecycle.feed_snapshot(block)
                    self.looks.append(block)
                    self.snapshots[block.when] = block
                case LossBlock(losses):
                    self.losses = losses
                case CgroupBlock(paths):
                    self.lifecycle.names.feed_cgroups(paths)
                case ProbedBlock(probed):
                    self.probed.extend(probed)
                case StackBlock(stacks):
                    self.stacks |= stacks
                case UserStackBlock():
                    self.user_stacks = block
                case EndBlock():
                    self.end = block
        self.feed()
        self.rows.append(self.lifecycle.finish())

    def feed(self) -> None:
        """Pair what is waiting: a quiet recording has thousands of blocks of a few events."""
        if self.waiting:
            events = np.concatenate(self.waiting)
            self.waiting.clear()
            self.events.append(events)
            self.rows.append(self.lifecycle.feed(events))
