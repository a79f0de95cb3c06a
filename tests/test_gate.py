# SPDX-License-Identifier: Apache-2.0
"""The gate on real kernels: what must be found is, by its right name; its clean twin passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from dmabuf_trace.recording import Reader
from dmabuf_trace.rules import RULES
from dmabuf_trace.stacks import function
from tests.analyses import test_contract
from tests.gate import verdict
from tests.gate.command import CACHED
from tests.gate.misuse import BROKEN, LEAKS, clean_of
from tests.gate.runs import CYCLES, PRECIOUS
from tests.gate.verdict import Judged
from tests.kmod.client import EXPORTER, Importer
from tests.test_weather import one_line
from tests.vm import run_guest
from tests.vm.kernels import WITH_MODULE

guest = pytest.mark.guest
main_path = pytest.mark.main_path

POLICY: Final = """
[contract]
unmap_within = "2s"
signal_within = "2s"

[contract.rules]
mapping_not_held = true
"""

STACKS: Final = {
    "fd": "ref_export",
    "mapping": "ref_export",
    "attachment": "ref_import_attach",
    "in-flight": "ref_export",
    "kernel": "ref_leak_ref",
}
"""The module's function in the stack of each leak: who exported, attached, took the reference."""

LEFT_BEHIND: Final = {"unmap_before_detach", "detach_before_release"}
"""Rules that are broken by what another case finds left behind."""

BUILT_ONLY: Final = {
    "map_attached": "the core would use an attachment that is freed",
    "vmap_balanced": "BUG_ON in dma_buf_release() and in dma_buf_vunmap()",
}
"""Rules that are broken in built traces alone, and what a kernel would do."""


def test_every_rule_has_a_control() -> None:
    judged = {rule.name for rule in RULES if rule.judge}

    assert judged == BROKEN.keys() | BUILT_ONLY.keys()
    assert not BROKEN.keys() & BUILT_ONLY.keys()
    assert BUILT_ONLY.keys() <= {name for name, *_ in test_contract.BROKEN}


class Recordings:
    """What steered recorders have left of one guest, judged window by window."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._windows: dict[str, dict[str, tuple[int, int, int]]] = json.loads(
            (path / "windows.json").read_text()
        )
        self._policy = path / "policy.toml"
        self._policy.write_text(POLICY)

    def inode(self, name: str, what: str) -> int:
        """Of the buffer that it is about."""
        return self._windows[name][what][2]

    def judged(self, name: str, what: str) -> Judged:
        """A window; "": the whole of it."""
        options = ["--policy", str(self._policy)]
        path = self._path / f"{name}.dbt"
        if what:
            since, until, _ = self._windows[name][what]
            with Reader(path) as reader:
                start = reader.header["start"]["monotonic_ns"]
            window = (f"{(time - start) / 10**9:.9f}s" for time in (since, until))
            options += ["--window", ",".join(window)]
        return verdict.judge(path, self._path, *options)


@pytest.fixture(scope="module", params=WITH_MODULE)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """All recordings of one guest."""
    return Recordings(in_guest(request.param, "windows", tmp_path_factory))


def in_guest(kernel: str, what: str, paths: pytest.TempPathFactory) -> Path:
    """What a part of tests.gate leaves."""
    path = paths.mktemp(f"gate-{what}")
    command = ["python3", "-m", "tests.gate", what, "/out"]
    done = run_guest(kernel, command, timeout=1800, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path


@guest
@main_path
@pytest.mark.parametrize("shape", LEAKS)
def test_a_leak_of_each_shape(found: Recordings, shape: str) -> None:
    judged = found.judged("misuse", shape)

    assert (judged.status, judged.failed) == (1, [f"leaks.{shape}"])
    assert judged.of_outcome("inconclusive") == []
    (finding,) = judged.findings
    assert finding["inodes"] == [found.inode("misuse", shape)]
    assert (finding["subject"]["shape"], finding["subject"]["exporter"]) == (shape, EXPORTER)
    module = f"[{EXPORTER}]"
    assert STACKS[shape] in {function(frame) for frame in finding["stack"] if module in frame}
    device = Importer.SEG.device if shape == "attachment" else None
    assert finding["subject"].get("device") == device


@guest
@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule(found: Recordings, rule: str) -> None:
    judged = found.judged("misuse", rule)

    failed = {f"contract.{rule}", *(["leaks.left_behind"] if rule in LEFT_BEHIND else [])}
    assert (judged.status, set(judged.failed)) == (1, failed)
    assert judged.of_outcome("inconclusive") == []
    inode = found.inode("misuse", rule)
    assert [each["inodes"] for each in judged.findings] == [[inode] if inode else []] * len(failed)


@guest
@main_path
@pytest.mark.parametrize("shape", LEAKS)
def test_the_clean_twin_of_a_leak(found: Recordings, shape: str) -> None:
    assert_clean(found.judged("misuse", clean_of(shape)))


@guest
@pytest.mark.parametrize("rule", BROKEN)
def test_the_clean_twin_of_a_broken_rule(found: Recordings, rule: str) -> None:
    judged = found.judged("misuse", clean_of(rule))

    assert_clean(judged)
    (case,) = (row for row in judged.document["cases"] if row["name"] == f"contract.{rule}")
    assert case["measured"] != "no case"


def assert_clean(judged: Judged) -> None:
    """It passes, and nothing is called anything."""
    assert judged.status == 0
    assert judged.failed == judged.of_outcome("inconclusive") == []
    assert judged.findings == []


@guest
@pytest.mark.parametrize("what", ["before", "after"])
def test_what_is_lost_before_and_after_a_window_is_not_its_loss(
    found: Recordings, what: str
) -> None:
    assert_clean(found.judged("lossy", what))


@guest
def test_losses_are_no_pass(found: Recordings) -> None:
    judged = found.judged("lossy", "lost")

    assert (judged.status, judged.failed) == (3, [])
    assert "leaks.fd" in judged.of_outcome("inconclusive")


@guest
@pytest.mark.parametrize("what", ["lost, and a leak", ""])
def test_losses_hide_no_leak_that_the_kernel_shows(found: Recordings, what: str) -> None:
    judged = found.judged("lossy", what)

    assert (judged.status, judged.failed) == (1, ["leaks.fd"])
    (finding,) = judged.findings
    assert finding["inodes"] == [found.inode("lossy", "lost, and a leak")]


@guest
def test_what_was_not_asked_for_is_no_pass(found: Recordings) -> None:
    clean, leak = (found.judged("partial", what) for what in ("clean", "leak"))

    assert (clean.status, clean.failed) == (3, [])
    doubted = set(clean.of_outcome("inconclusive"))
    assert {"contract.map_attached", "leaks.left_behind"} <= doubted
    assert not {f"leaks.{shape}" for shape in LEAKS} & doubted
    assert (leak.status, leak.failed) == (1, ["leaks.fd"])
    assert leak.findings[0]["inodes"] == [found.inode("partial", "leak")]


@guest
def test_a_recorder_that_was_killed(found: Recordings) -> None:
    whole = found.judged("killed", "")

    assert (whole.status, whole.failed) == (3, [])
    assert_clean(found.judged("killed", "clean"))
    leak = found.judged("killed", "leak")
    assert (leak.status, leak.failed) == (1, ["leaks.fd"])


# around commands


class Runs:
    """What ``check`` did in one guest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, dict[str, Any]] = json.loads((path / "results.json").read_text())

    def judged(self, name: str) -> Judged:
        """A run that came to a verdict."""
        assert "Traceback" not in self.results[name]["stderr"]
        return verdict.read(self.path, name, self.results[name]["status"])


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
    judged = verdict.judge(runs.path / "signalled.dbt", tmp_path)

    assert (judged.status, judged.failed) == (5, [])
    assert judged.document["command"]["status"] == 128 + 9


@guest
def test_a_leak_outweighs_the_commands_failure(runs: Runs, tmp_path: Path) -> None:
    judged = verdict.judge(runs.path / "failing-leak.dbt", tmp_path)

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
        ("no baseline", "none"),
        ("bad baseline", "garbage"),
        ("no policy", "can't read"),
        ("bad policy", "policy:2: unknown key 'buffrs'"),
        ("bad output", "can't write"),
        ("existing output", "existing exists"),
        ("existing recording", "existing exists"),
        ("bad recording", "No such file or directory"),
        ("bad format", "no format 'xml'"),
    ],
)
def test_what_can_not_be_used(runs: Runs, case: str, line: str) -> None:
    assert (runs.results[case]["status"], runs.results[case]["stdout"]) == (2, "")
    assert line in one_line(runs.results[case]["stderr"])


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
