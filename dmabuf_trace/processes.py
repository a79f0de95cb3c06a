# SPDX-License-Identifier: Apache-2.0
"""Processes told apart where a pid comes again.

A process is a number: its pid, or, if a fork that was seen made it, :data:`PIDS` and which of
those forks. What had a pid ahead of the first such fork is one process, -1 is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]

PIDS: Final = 1 << 32
"""More than there can be."""


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Births:
    """Forks that were seen: the child's pid, and when, ns; as many as there were."""

    pids: Ints = field(default_factory=_none)
    times: Ints = field(default_factory=_none)

    def and_of(self, forks: pd.DataFrame) -> Births:
        """With those of a later stretch, events of the kind ``fork``."""
        return Births(
            np.concatenate([self.pids, forks["detail"].to_numpy(np.int64)]),
            np.concatenate([self.times, forks["ts"].to_numpy(np.int64)]),
        )

    def processes(self, pids: Ints, times: Ints) -> Ints:
        """Which process had each pid at that time."""
        if not len(self.pids):
            return pids
        moments = np.unique(self.times)
        places = len(moments) + 1
        born = self.pids * places + np.searchsorted(moments, self.times, "right")
        order = np.argsort(born, kind="stable")
        asked = pids * places + np.searchsorted(moments, times, "right")
        last = order[np.searchsorted(born, asked, "right", sorter=order) - 1]
        is_born = (self.pids[last] == pids) & (born[last] <= asked)
        found: Ints = np.where(is_born, PIDS + last, pids)
        return found

    def pids_of(self, processes: Ints) -> Ints:
        """The pid that each process has."""
        is_born = processes >= PIDS
        pids = processes.copy()
        pids[is_born] = self.pids[processes[is_born] - PIDS]
        return pids
