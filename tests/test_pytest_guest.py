# SPDX-License-Identifier: Apache-2.0
"""Tests that leak on a real kernel, judged by the pytest plugin: what came of each is exact."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from dmabuf_trace import trace
from dmabuf_trace.analysis import records, registry
from dmabuf_trace.trace import Trace
from tests.leaky.__main__ import FAILED, FEW
from tests.vm import run_guest

pytestmark = [pytest.mark.guest, pytest.mark.every_run_on()]  # with --all-kernels only

KERNELS: Final = ("6.12", "7.2")
"""With heaps and udmabuf."""

LEAKS: Final = {
    "leaks_an_fd": "fd|64 KiB|udmabuf|fd |udmabuf_create+",
    "leaks_a_mapping": "mapping|128 KiB|system|VMA 128 KiB|dma_heap_ioctl+",
    "leaks_an_attachment": "attachment|16 KiB|dmabuf_ref|device dmabuf-ref-imp32|attached at: ",
    "leaks_a_kernel_reference": "kernel|32 KiB|dmabuf_ref|nobody visible|[dmabuf_ref]",
    "leaks_in_a_child": "fd|8 KiB|udmabuf|fd |udmabuf_create+",
    "leaks_too_many_bytes": "fd|8 KiB|udmabuf|fd |udmabuf_create+",
}
"""What the failure of each test tells: shape, size, exporter, holder, some of a stack."""

OTHERS: Final = {
    "passes_clean": ("passed", "clean"),
    "passes_with_what_the_module_holds": ("passed", "clean"),
    "passes_with_what_its_fixture_gives_back": ("passed", "clean"),
    "passes_as_it_may_leave_so_many_bytes": ("passed", "clean"),
    "passes_as_another_exporter_is_watched": ("passed", "clean"),
    "passes_as_another_shape_is_watched": ("passed", "clean"),
    "passes_and_asks": ("passed", "clean"),
    "fails_by_itself": ("failure", ""),
    "xfails_as_its_leak_is_known": ("skipped", "leaked"),
    "errs_as_its_marker_is_wrong": ("error", ""),
    "errs_as_events_were_lost": ("skipped", ""),
    "is_killed": ("skipped", ""),
}
"""What comes of each other test, and its verdict."""


class Runs:
    """What one guest left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Any] = json.loads((path / "results.json").read_text())

    def cases(self, name: str) -> dict[str, tuple[str, str, str]]:
        """By test: what came of it, its verdict, and what it says."""
        found = {}
        root = ElementTree.parse(self.path / f"{name}.xml")  # noqa: S314 - our own
        for case in root.iter("testcase"):
            wrong = [child for child in case if child.tag in ("error", "failure", "skipped")]
            verdict = "".join(each.get("value", "") for each in case.iter("property"))
            (outcome, text) = (wrong[0].tag, wrong[0].text or "") if wrong else ("passed", "")
            found[case.get("name", "").removeprefix("test_")] = (outcome, verdict, text)
        return found

    def trace(self, name: str) -> Trace:
        return trace.open(self.path / f"{name}.dbt")

    def ends_with(self, name: str) -> str:
        """The last line of what pytest said."""
        last: str = self.results[name]["stdout"].splitlines()[-1]
        return last


@pytest.fixture(scope="module", params=KERNELS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    path = tmp_path_factory.mktemp("leaky")
    command = ["python3", "-m", "tests.leaky", "/out"]
    done = run_guest(request.param, command, timeout=2400, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return Runs(path)


@pytest.mark.parametrize("name", ["one", "two"])
def test_each_leak_fails_its_test_and_is_told(runs: Runs, name: str) -> None:
    cases = runs.cases(name)

    assert set(cases) == ({*LEAKS, *OTHERS} if name == "one" else set(FEW))
    for case, (outcome, verdict, text) in cases.items():
        if case in OTHERS:
            assert (outcome, verdict) == OTHERS[case], case
            continue
        assert (outcome, verdict) == ("error", "leaked"), case
        assert text.startswith("1 dma-buf of "), case
        assert all(word in text for word in LEAKS[case].split("|")), text
        assert "exported at: " in text, text


@pytest.mark.parametrize(
    ("name", "counted", "judged"),
    [
        (
            "one",
            "7 failed, 7 passed, 2 skipped, 1 xfailed, 1 error in",
            "14 tests judged: 7 clean, 7 leaked",
        ),
        ("two", "3 failed, 3 passed in", "6 tests judged: 3 clean, 3 leaked"),
    ],
)
def test_each_test_is_counted_once(runs: Runs, name: str, counted: str, judged: str) -> None:
    said = runs.results[name]

    assert said["status"] == 1
    assert counted in runs.ends_with(name)
    assert judged in said["stdout"]
    assert ", 0 events lost" in said["stdout"]


def test_what_fails_by_itself_says_so(runs: Runs) -> None:
    assert "AssertionError: of its own" in runs.cases("one")["fails_by_itself"][2]


def test_the_recording_is_whole_and_has_a_mark_for_each_test(runs: Runs) -> None:
    opened = runs.trace("one")
    labels = {label.rpartition("::test_")[2] for label in opened.marks["label"]}

    assert (opened.cut, opened.lost_events) == (None, 0)
    judged = {case for case, (_, verdict, _) in runs.cases("one").items() if verdict}
    assert labels == {"begin", *judged}


def test_each_worker_sees_its_own(runs: Runs) -> None:
    judged = [set(runs.trace(f"two-gw{worker}").marks["label"]) - {"begin"} for worker in (0, 1)]

    assert all(judged)
    assert not judged[0] & judged[1]
    assert len(judged[0] | judged[1]) == len(FEW)
    exported = [set(runs.trace(f"two-gw{worker}").buffers["inode"]) for worker in (0, 1)]
    assert not exported[0] & exported[1]


def test_lost_events_leave_nothing_to_be_told(runs: Runs) -> None:
    cases = runs.cases("lost")

    assert cases["passes_clean"][:2] == ("passed", "clean")
    outcome, verdict, text = cases["errs_as_events_were_lost"]
    assert (outcome, verdict) == ("error", "inconclusive")
    assert text.startswith("inconclusive: ")
    lost = int(text.split()[1].replace(",", ""))
    assert lost == runs.trace("lost").lost_events > 0


def test_no_marked_test_no_recorder(runs: Runs) -> None:
    assert runs.results["unmarked"]["status"] == 5
    assert "dma-buf" not in runs.ends_with("unmarked")
    assert not (runs.path / "unmarked.dbt").exists()


def test_who_may_not_record_is_told(runs: Runs) -> None:
    outcome, _, text = runs.cases("nobody")["passes_clean"]

    assert runs.results["nobody"]["status"] == 1
    assert (outcome, text.count("\n")) == ("error", 0)
    assert text.startswith("dma-bufs can't be recorded: ")
    assert runs.cases("skipped")["passes_clean"][0] == "skipped"
    assert runs.results["skipped"]["status"] == 0


def test_pytest_that_is_killed_leaves_nothing(runs: Runs) -> None:
    assert runs.results["killed"] == {"programs": [], "armed": [], "events": []}


def test_each_run_of_a_command_is_marked_and_can_be_asked(runs: Runs) -> None:
    said = runs.results["cycles"]
    opened = runs.trace("cycles")
    path = runs.path / "cycles.dbt"

    assert said["status"] == FAILED
    assert "was run 3 times, 1 of them failed" in said["stderr"]
    assert opened.marks["label"].tolist() == ["run"] * 3
    assert opened.marks["status"].tolist() == [0, FAILED, 0]
    assert opened.looks_between == 3
    ends = [0, *(int(ts) - opened.start for ts in opened.marks["ts"])]
    for begin, end in pairwise(ends):
        (part,) = trace.stretches(path, (begin, end), at_once=True)
        tables = registry()["leaks"](part).answer.tables
        (leaks,) = (records(table.rows) for table in tables if table.name == "leaks")
        assert [row["shape"] for row in leaks] == ["kernel"]
