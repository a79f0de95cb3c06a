# SPDX-License-Identifier: Apache-2.0
"""Nothing lost, every count exact: the recording against the module's and ftrace's counters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import scenarios
from tests.counts import Recorded
from tests.vm import run_guest

pytestmark = pytest.mark.guest

EXPECTED = {
    "cycles": scenarios.CYCLES,
    "racing": scenarios.RACERS * scenarios.RACER_CYCLES,
    "blocked": scenarios.BLOCKED,
}
"""Buffers that go through export, attach, map, unmap, detach and release in each scenario."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with NAME.dbt and NAME.json of each scenario, from one guest."""
    out = tmp_path_factory.mktemp("exact")
    script = "\n".join(
        ["set -e", *(f"python3 -m tests.scenarios record {name} /out" for name in EXPECTED)]
    )
    done = run_guest("6.12", ["sh", "-c", script], timeout=600, shares={"/out": out}, module=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", EXPECTED)
def test_every_call_is_one_event(recordings: Path, name: str) -> None:
    recorded = Recorded(recordings / f"{name}.dbt")
    counted = json.loads((recordings / f"{name}.json").read_text())

    assert recorded.cut is None
    assert not recorded.losses.any()
    for kind in ("export", "attach", "map", "unmap", "detach", "release"):
        assert recorded.count(kind, ok=True) == EXPECTED[name], kind
    rows = recorded.against_module(counted["module"]) + recorded.against_ftrace(counted["ftrace"])
    assert [row for row in rows if row.counted != row.recorded] == []
