# SPDX-License-Identifier: Apache-2.0
"""Every call is an event or a counted loss: the recording against the module and ftrace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dmabuf_trace import schema, trace
from dmabuf_trace.cli.app import app
from tests.counts import FTRACE, Recorded
from tests.scenarios import BLOCKED, CYCLES, MOVES, RACER_CYCLES, RACERS, RECORDINGS
from tests.vm import run_guest
from tests.vm.kernels import KERNELS

pytestmark = pytest.mark.guest

LOSSLESS = {"cycles": CYCLES, "racing": RACERS * RACER_CYCLES, "blocked": BLOCKED}
"""Buffers that go through export, attach, map, unmap, detach and release in each recording."""


@pytest.fixture(scope="module", params=KERNELS)
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with NAME.dbt and NAME.json of each recording, from one guest."""
    path = tmp_path_factory.mktemp("exact")
    command = ["python3", "-m", "tests.scenarios", "record", "/out", *RECORDINGS]
    done = run_guest(request.param, command, timeout=900, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path


def read(out: Path, name: str) -> tuple[Recorded, dict[str, dict[str, int]]]:
    """A recording, and what was counted meanwhile."""
    counted: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    recorded = Recorded(out / f"{name}.dbt")
    assert recorded.cut is None
    return recorded, counted


@pytest.mark.parametrize("name", LOSSLESS)
def test_every_call_is_one_event(out: Path, name: str) -> None:
    recorded, counted = read(out, name)

    assert not recorded.losses.any()
    for kind in ("export", "attach", "map", "unmap", "detach", "release"):
        assert recorded.count(kind, ok=True) == LOSSLESS[name], kind
    rows = recorded.against_module(counted["module"]) + recorded.against_ftrace(counted["ftrace"])
    assert [row for row in rows if row.counted != row.recorded] == []


@pytest.mark.parametrize("name", [*LOSSLESS, "tiny-ring"])
def test_the_open_buffers_are_the_kernels(out: Path, name: str) -> None:
    opened = trace.open(out / f"{name}.dbt")

    told = opened.quality[opened.quality["what"] == "reconcile"]
    if not opened.snapshots["end"].complete:
        assert not len(told)  # without the kernel's list there is nothing to compare with
        return
    # all is given back in the end, so whatever lost its release is found out
    assert not opened.buffers["open"].any()
    assert told["kind"].tolist() == ([] if name in LOSSLESS else ["release"])


def test_what_did_not_fit_the_ring_was_counted(out: Path) -> None:
    recorded, counted = read(out, "tiny-ring")

    lost = recorded.losses[:, schema.CAUSE["ring_full"]]
    assert lost.sum() > 0
    assert recorded.losses.sum() == lost.sum()
    for function, kinds in FTRACE.items():
        events = sum(recorded.count(kind) + int(lost[schema.KIND[kind]]) for kind in kinds)
        assert events == counted["ftrace"][function], function


def test_returns_that_found_no_room_were_counted(out: Path) -> None:
    recorded, counted = read(out, "few-returns")

    missed = int(recorded.losses[schema.KIND["map"], schema.CAUSE["probe_missed"]])
    assert missed > 0
    assert recorded.losses.sum() == missed
    assert recorded.count("map") + missed == BLOCKED == counted["module"]["map_ok"]


def test_pins_and_moves_are_events(out: Path) -> None:
    recorded, counted = read(out, "movable")

    assert not recorded.losses.any()
    for kind in ("pin", "unpin", "move"):
        assert recorded.count(kind, ok=True) == MOVES, kind
    rows = recorded.against_module(counted["module"]) + recorded.against_ftrace(counted["ftrace"])
    assert [row for row in rows if row.counted != row.recorded] == []


def test_groups_that_were_not_asked_for_are_not_observed(out: Path) -> None:
    recorded, counted = read(out, "devices-only")

    assert recorded.count("map") == BLOCKED == counted["module"]["map_ok"]
    assert recorded.count("release") == BLOCKED
    assert recorded.count("fd_install") == 0 < counted["ftrace"]["fd_install"]
    result = CliRunner().invoke(app, ["report", str(out / "devices-only.dbt")])
    assert "not observed: fd_install (not asked for)" in result.stdout


@pytest.mark.parametrize("name", ["tiny-ring", "few-returns"])
def test_a_report_with_losses_says_that_it_may_be_wrong(out: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["report", str(out / f"{name}.dbt")])

    assert result.exit_code == 0, result.output
    assert "may be wrong" in result.stdout
