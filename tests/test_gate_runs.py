# SPDX-License-Identifier: Apache-2.0
"""``check`` around commands on real kernels: the exit status that CI sees, and what was refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace.stacks import function
from tests.gate import judging
from tests.gate.command import CACHED
from tests.gate.judging import Judged, assert_clean, in_guest
from tests.gate.runs import CYCLES, PRECIOUS
from tests.kmod.client import EXPORTER
from tests.test_weather import one_line, trace
from tests.vm.kernels import WITH_MODULE

guest = pytest.mark.guest
pytestmark = pytest.mark.every_run_on("6.12")


class Runs:
    """What ``check`` did in one guest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, dict[str, Any]] = json.loads((path / "results.json").read_text())

    def judged(self, name: str) -> Judged:
        """A run that came to a judging."""
        assert "Traceback" not in self.results[name]["stderr"]
        return judging.read(self.path, name, self.results[name]["status"])


@pytest.fixture(scope="module", params=WITH_MODULE)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs of one guest."""
    return Runs(in_guest(request.param, "runs", tmp_path_factory))


@guest
def test_a_clean_command(runs: Runs) -> None:
    judged = runs.judged("clean")

    assert_clean(judged)
    assert judged.document["command"]["status"] == 0
    assert "clean (exit status 0)" in runs.results["clean"]["stdout"]


@guest
def test_a_command_after_which_the_kernel_keeps_a_buffer(runs: Runs) -> None:
    judged = runs.judged("leak")

    assert (judged.status, judged.failed) == (1, ["leaks.kernel"])
    assert runs.results["leak"]["undone"] == 1
    (finding,) = judged.findings
    assert "ref_leak_ref" in map(function, finding["stack"])
    assert (finding["count"], finding["subject"]["exporter"]) == (1, EXPORTER)


@guest
def test_a_command_that_fails_by_itself(runs: Runs) -> None:
    judged = runs.judged("failing")

    assert (judged.status, judged.failed, judged.findings) == (5, [], [])
    assert judged.document["command"]["status"] == 1


@guest
def test_a_signal_is_a_failure_too(runs: Runs, tmp_path: Path) -> None:
    judged = judging.judge(runs.path / "signalled.dbt", tmp_path)

    assert (judged.status, judged.failed) == (5, [])
    assert judged.document["command"]["status"] == 128 + 9


@guest
def test_a_leak_outweighs_the_commands_failure(runs: Runs, tmp_path: Path) -> None:
    judged = judging.judge(runs.path / "failing-leak.dbt", tmp_path)

    assert (judged.status, judged.failed) == (1, ["leaks.kernel"])
    assert judged.document["command"]["status"] == 3


@guest
def test_what_each_run_leaves(runs: Runs) -> None:
    judged = runs.judged("growing")

    assert (judged.status, judged.failed) == (1, ["growth.per_run"])
    assert runs.results["growing"]["undone"] == CYCLES
    (finding,) = judged.findings
    assert finding["summary"].startswith(f"1 buffers of {EXPORTER} a run, 4 KiB")
    assert finding["subject"]["shape"] == "kernel"


@guest
def test_a_cache_that_the_first_run_fills(runs: Runs) -> None:
    judged = runs.judged("cache")

    assert_clean(judged)
    assert runs.results["cache"]["undone"] == CACHED
    assert judged.document["command"]["cycles"] == CYCLES


@guest
@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("bad baseline", "garbage is not a dmabuf-trace recording"),
        ("bad policy", "policy:2: unknown key 'buffrs'"),
        ("bad output", "can't write"),
        ("existing output", "existing exists"),
    ],
)
def test_what_can_not_be_used(runs: Runs, case: str, line: str) -> None:
    assert (runs.results[case]["status"], runs.results[case]["stdout"]) == (2, "")
    assert line in one_line(runs.results[case]["stderr"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--baseline", "none"], "can't read none"),
        (["--policy", "none"], "can't read none"),
        (["-o", "existing"], "existing exists"),
        (["-o", "none/out"], "No such file or directory"),
        (["--write-policy", "existing"], "existing exists"),
        (["--to", "xml"], "no format 'xml'"),
        (["--to", "json", "--to", "junit"], "only one format can go to stdout"),
        (["--debug-info", "existing"], "existing"),
        (["--window", "1s,2s"], "--window is a part of a recording"),
    ],
)
def test_what_can_not_be_used_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "existing").write_text(PRECIOUS)

    done = trace("check", *options, "--", "touch", "ran")

    assert (done.returncode, done.stdout) == (2, "")
    assert line in one_line(done.stderr)
    assert [each.name for each in tmp_path.iterdir()] == ["existing"]
    assert (tmp_path / "existing").read_text() == PRECIOUS


@guest
def test_what_was_refused_ran_nothing_and_spoilt_nothing(runs: Runs) -> None:
    assert not (runs.path / "ran").exists()
    assert runs.results["existing output"]["kept"] == PRECIOUS


@guest
def test_a_command_that_does_not_exist(runs: Runs) -> None:
    assert runs.results["not found"]["status"] == 127
    assert "command not found" in one_line(runs.results["not found"]["stderr"])


@guest
def test_a_kernel_that_can_not_be_traced(runs: Runs) -> None:
    assert runs.results["untraceable"]["status"] == 4
    assert "tracefs is not mounted" in one_line(runs.results["untraceable"]["stderr"])
    assert runs.results["skipped"]["status"] == 77
