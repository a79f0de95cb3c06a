# SPDX-License-Identifier: Apache-2.0
"""Pids, fds and addresses that come again are told apart; a process stays one across an exec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dmabuf_trace import trace
from dmabuf_trace.analysis import registry
from dmabuf_trace.trace import Trace
from tests.identity import AGAIN, COPIED, INHERITED
from tests.vm import run_guest
from tests.vm.kernels import WITH_MODULE

pytestmark = pytest.mark.guest

Rows = list[tuple[Any, ...]]


class Recording:
    """What one guest recorded, and the pids of its processes."""

    def __init__(self, path: Path) -> None:
        self.trace: Trace = trace.open(path / "identity.dbt")
        self.pids: dict[str, int] = json.loads((path / "identity.json").read_text())
        self.names = self.trace.buffers.set_index("id")["name"]

    def rows(self, table: str, who: str, *columns: str) -> Rows:
        """What one process did with buffers that have names, in order of ids."""
        found: pd.DataFrame = getattr(self.trace, table)
        found = found[(found["pid"] == self.pids[who]).fillna(False)]
        ids = "id" if table == "buffers" else "buffer_id"
        found = found.assign(buffer=found[ids].map(self.names)).query("buffer != ''")
        return list(found[["buffer", *columns]].itertuples(index=False, name=None))


@pytest.fixture(scope="module", params=WITH_MODULE)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The recording, from one guest."""
    path = tmp_path_factory.mktemp("identity")
    command = ["python3", "-m", "tests.identity", "record", "/out"]
    done = run_guest(request.param, command, timeout=600, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return Recording(path)


def test_nothing_was_lost(found: Recording) -> None:
    assert found.trace.lost_events == 0


def test_who_exported_by_the_name_of_that_time(found: Recording) -> None:
    columns = ("comm", "open")

    assert found.rows("buffers", "keeper", *columns) == [("own", "keeper", False)]
    assert found.rows("buffers", "reused", *columns) == [
        ("of-first", "first", False),
        ("of-second", "second", False),
    ]
    assert found.rows("buffers", "program", *columns) == [
        ("kept", "before-exec", True),
        ("shut", "before-exec", False),
    ]


def test_fds_of_two_processes_with_one_pid(found: Recording) -> None:
    """The second has a copy of what its parent got from the first."""
    assert found.rows("fds", "reused", "origin", "comm", "open") == [
        ("own", "fork", "keeper", False),
        ("of-first", "install", "first", False),
        ("own", "fork", "keeper", False),
        ("of-first", "fork", "keeper", False),
        ("of-second", "install", "second", False),
    ]


def test_fds_that_went_through_a_socket_are_the_receivers(found: Recording) -> None:
    mine = found.rows("fds", "keeper", "origin", "comm", "closed_by")

    keeper = ("install", "keeper", found.pids["keeper"])
    assert mine == [(buffer, *keeper) for buffer in ("own", "of-first", "of-second")]


def test_exec_shuts_what_is_to_be_shut_and_keeps_the_rest(found: Recording) -> None:
    columns = ("origin", "comm", "open", "closed_by")
    fds = found.rows("fds", "program", *columns)

    itself = found.pids["program"]
    assert fds == [
        ("own", "fork", "keeper", False, itself),
        ("kept", "install", "before-exec", False, itself),
        ("kept", "dup2", "before-exec", True, pd.NA),
        ("shut", "install", "before-exec", False, itself),
        ("kept", "dup2", "sh", True, pd.NA),
    ]
    dup2 = [row for row in found.rows("fds", "program", "fd", "origin") if row[2] == "dup2"]
    assert dup2 == [("kept", INHERITED, "dup2"), ("kept", COPIED, "dup2")]
    assert sorted(found.rows("holders", "program", "when", "comm", "fd")) == [
        ("kept", "end", "sleep", INHERITED),
        ("kept", "end", "sleep", COPIED),
    ]


def test_sharing_between_processes_that_are_told_apart(found: Recording) -> None:
    (_, table, _) = registry()["sharing"](found.trace).answer.tables
    pids = {pid: who for who, pid in found.pids.items()}
    rows = table.rows.assign(
        **{each: table.rows[each].map(pids) for each in ("from_pid", "pid")},
    )

    columns = ["from_pid", "from_comm", "pid", "comm", "installed", "dup2", "forked", "fds_held"]
    edges = set(rows[columns].itertuples(index=False, name=None))
    keeper, program = ("keeper", "keeper"), ("program", "sleep")
    first, second = ("reused", "first"), ("reused", "second")
    assert edges == {
        (*keeper, *keeper, 1 + AGAIN, 0, 0, 0),
        (*keeper, *program, 0, 0, 1, 0),
        (*keeper, *first, 0, 0, 1, 0),
        (*keeper, *second, 0, 0, 1, 0),
        (*program, *program, 2, 2, 0, 2),
        (*first, *first, 1, 0, 0, 0),
        (*first, *keeper, 1, 0, 0, 0),
        (*first, *second, 0, 0, 1, 0),
        (*second, *second, 1, 0, 0, 0),
        (*second, *keeper, 1, 0, 0, 0),
    }


def test_fds_of_one_number_are_lives_of_their_own(found: Recording) -> None:
    fds = found.trace.fds
    again = fds[fds["buffer_id"].map(found.names) == ""].sort_values("begin")

    assert len(again) == again["buffer_id"].nunique() == AGAIN
    assert again["fd"].nunique() == 1
    assert (again["end"].iloc[:-1].to_numpy() <= again["begin"].iloc[1:].to_numpy()).all()


def test_objects_of_one_address_are_lives_of_their_own(found: Recording) -> None:
    buffers, attachments = found.trace.buffers, found.trace.attachments
    again = buffers[buffers["name"] == ""]

    assert len(again) == len(attachments) == AGAIN
    for table in (again, attachments):
        assert table["address"].nunique() < AGAIN
        assert table["end"].notna().all()
    sizes = attachments["buffer_id"].map(again.set_index("id")["size_bytes"])
    smallest = sizes == sizes.min()
    assert attachments["buffer_id"].tolist() == again["id"].tolist()
    assert set(attachments["device"][smallest]) == {"dmabuf-ref-imp64"}
    assert set(attachments["device"][~smallest]) == {"dmabuf-ref-imp32"}
