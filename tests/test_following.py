# SPDX-License-Identifier: Apache-2.0
"""``trace`` of a real kernel, however it is read and ended; a snapshot where a lock is held."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from dmabuf_trace.errors import EXIT_BROKEN_PIPE, EXIT_UNTRACEABLE
from tests.following import CYCLES
from tests.kmod.client import Importer
from tests.vm import run_guest
from tests.vm.kernels import WITH_MODULE

pytestmark = [pytest.mark.guest, pytest.mark.every_run_on("6.12")]

Results = dict[str, Any]


@pytest.fixture(scope="module", params=WITH_MODULE)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What tests.following leaves, from one guest."""
    path = tmp_path_factory.mktemp("following")
    command = ["python3", "-m", "tests.following", "/out"]
    done = run_guest(request.param, command, timeout=600, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    found: Results = json.loads((path / "following.json").read_text())
    return found


def events(result: Results) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result["stdout"].splitlines()]


def test_a_slow_reader_gets_all_of_what_the_module_counted(results: Results) -> None:
    slow, counters = results["slow"], results["counters"]
    kinds = Counter(event["kind"] for event in events(slow))

    assert slow["status"] == 0
    assert "0 lost" in slow["stderr"]
    assert "not shown" not in slow["stderr"]
    wanted = ("export", "attach", "map", "unmap", "detach", "release")
    assert [kinds[kind] for kind in wanted] == [CYCLES] * len(wanted)
    assert (kinds["map"], kinds["attach"]) == (counters["map_ok"], counters["attach_ok"])


def test_a_stuck_reader_does_not_keep_it_and_what_it_missed_is_counted(results: Results) -> None:
    stuck = results["stuck"]
    *lines, _cut = stuck["stdout"].split("\n")
    told = stuck["stderr"].splitlines()[-1].replace(",", "").split()

    assert stuck["status"] == 0
    assert told[2:5] == ["events", "0", "lost"]
    happened, not_shown = int(told[1]), int(told[5])
    assert not_shown > CYCLES
    assert happened - not_shown == len(lines)
    assert all(json.loads(line)["kind"] for line in lines)


def test_a_reader_that_goes_ends_it_quietly(results: Results) -> None:
    gone = results["gone"]

    assert (gone["status"], gone["stderr"]) == (EXIT_BROKEN_PIPE, "")
    assert len(gone["stdout"].splitlines()) == 2


def test_an_interrupt_ends_it_with_the_sums(results: Results) -> None:
    interrupted = results["interrupted"]
    titles, *lines = interrupted["stdout"].splitlines()

    assert interrupted["status"] == 0
    assert f"{len(lines)} events, 0 lost" in interrupted["stderr"]
    assert all(line.index("dmabuf_ref") == titles.index("exporter") for line in lines)


def test_what_was_chosen_has_its_stacks(results: Results) -> None:
    attach, failed = events(results["chosen"])

    assert (attach["kind"], failed["kind"], failed["error"]) == ("attach", "map", "ENOMEM")
    assert attach["device"] == failed["device"] == Importer.IMP64.device
    for event, function in ((attach, "ref_attach+"), (failed, "ref_map+")):
        assert any(frame.startswith(function) for frame in event["stack"])
        assert "+0x" in event["user_stack"][0]


def test_a_lock_that_is_held_stops_no_snapshot(results: Results) -> None:
    locked, without = results["locked"], results["locked, no bufinfo"]

    assert locked["status"] == EXIT_UNTRACEABLE
    assert "somebody holds the lock of a buffer" in locked["stderr"]
    assert without["status"] == 0
    assert len(json.loads(without["stdout"])["buffers"]) == 1
    assert results["unlocked"]["status"] == 0
    assert f"  {Importer.IMP64.device}  " in results["unlocked"]["stdout"]


def test_nothing_is_left_in_the_kernel(results: Results) -> None:
    assert results["left"] == {"programs": [], "armed": [], "events": []}
