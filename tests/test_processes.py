# SPDX-License-Identifier: Apache-2.0
"""Which process had a pid at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dmabuf_trace.processes import PIDS, Births


def forks(*rows: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["detail", "ts"], dtype="int64")


def test_a_fork_makes_another_process_from_its_time_on() -> None:
    births = Births().and_of(forks((7, 20), (9, 20))).and_of(forks()).and_of(forks((7, 40)))
    pids = np.array([7, 7, 7, 7, 7, 9, 9, 8, -1])
    times = np.array([-1, 19, 20, 39, 40, 19, 50, 50, 50])

    found = births.processes(pids, times)

    first, nine, second = PIDS, PIDS + 1, PIDS + 2
    assert found.tolist() == [7, 7, first, first, second, 9, nine, 8, -1]
    assert births.pids_of(found).tolist() == pids.tolist()


def test_without_forks_it_is_the_pid() -> None:
    pids = np.array([7, -1])

    assert Births().processes(pids, np.array([1, 1])).tolist() == [7, -1]
    assert Births().pids_of(pids).tolist() == [7, -1]
