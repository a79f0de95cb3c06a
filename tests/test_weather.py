# SPDX-License-Identifier: Apache-2.0
"""What goes wrong gives one clear line, the documented status, and a readable recording."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.counts import Recorded
from tests.vm import run_guest
from tests.weather import Result


def trace(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line here; what is refused before tracing begins needs no guest."""
    command = [sys.executable, "-m", "dmabuf_trace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def one_line(stderr: str) -> str:
    """The message: a line, and at most one more with what to do next."""
    lines = stderr.splitlines()
    assert "Traceback" not in stderr
    assert 1 <= len(lines) <= 2, stderr
    assert lines[0].startswith("dmabuf-trace: ")
    return lines[0]


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    done = trace("record", "-o", str(tmp_path / "a.dbt"), "--", "no-such-command", "-x")
    assert (done.returncode, done.stdout) == (127, "")
    assert "command not found: no-such-command" in one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_cannot_be_executed(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    done = trace("record", "-o", str(tmp_path / "a.dbt"), str(script))
    assert done.returncode == 126
    assert "can't be executed" in one_line(done.stderr)


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept.dbt"
    kept.write_text("precious")
    done = trace("record", "-o", str(kept), "true")
    assert done.returncode == 2
    assert f"{kept} exists" in one_line(done.stderr)
    assert "--force" in done.stderr
    assert kept.read_text() == "precious"


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    done = trace("record", "-o", str(tmp_path / "none" / "a.dbt"), "true")
    assert done.returncode == 2
    assert "No such file or directory" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--ring", "5000", "power of two"),
        ("--ring", "lots", "not a size"),
        ("--duration", "soon", "not a duration"),
        ("--events", "gpu", "no event group 'gpu'"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, option: str, value: str, message: str) -> None:
    done = trace("record", "-o", str(tmp_path / "a.dbt"), option, value, "true")
    assert done.returncode == 2
    assert message in one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests.weather leaves, from one guest."""
    path = tmp_path_factory.mktemp("weather")
    command = ["python3", "-m", "tests.weather", "/out"]
    done = run_guest("6.12", command, timeout=900, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, Result]:
    found: dict[str, Result] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.guest
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no root", "tracing needs root"),
        ("no tracefs", "tracefs is not mounted"),
        ("no kprobe events", "no kprobe events"),
        ("no libbpf", "libbpf.so.1 not found"),
        ("no libbpf, trace", "libbpf.so.1 not found"),
    ],
)
def test_what_cannot_be_traced(results: dict[str, Result], case: str, message: str) -> None:
    assert results[case]["status"] == 4
    assert message in one_line(str(results[case]["stderr"]))


@pytest.mark.guest
@pytest.mark.usefixtures("results")
def test_what_was_refused_left_nothing_and_ran_nothing(out: Path) -> None:
    assert not (out / "refused.dbt").exists()
    assert not (out / "was-run").exists()


@pytest.mark.guest
def test_doctor_says_whether_recording_works(results: dict[str, Result]) -> None:
    assert results["doctor"]["status"] == 0
    assert "recording works here" in str(results["doctor"]["stdout"])
    answer = json.loads(str(results["doctor, JSON"]["stdout"]))
    assert answer["works"]
    lacking = [feature["name"] for feature in answer["features"] if not feature["found"]]
    assert lacking == ["BPF iterator of buffers"]  # which came after 6.12
    assert results["no root, doctor"]["status"] == 4
    assert "does not work here" in str(results["no root, doctor"]["stdout"])


@pytest.mark.guest
def test_the_commands_own_failure_is_passed_on(results: dict[str, Result], out: Path) -> None:
    assert results["fails"]["status"] == 3
    assert "sh ended with status 3" in str(results["fails"]["stderr"])
    assert results["killed"]["status"] == 128 + 9
    for name in ("fails", "killed"):
        assert Recorded(out / f"{name}.dbt").cut is None


@pytest.mark.guest
def test_a_full_disk_costs_the_rest_of_the_recording_only(
    results: dict[str, Result], out: Path
) -> None:
    assert results["disk full"]["status"] == 2
    assert "No space left on device" in one_line(str(results["disk full"]["stderr"]))
    assert (out / "ran-to-its-end").exists()
    recorded = Recorded(out / "full.dbt")
    assert recorded.cut is not None
    assert recorded.count("export") > 100


@pytest.mark.guest
def test_an_interrupt_ends_a_recording_properly(results: dict[str, Result], out: Path) -> None:
    assert results["interrupted"]["status"] == 0
    assert "next: dmabuf-trace report" in str(results["interrupted"]["stderr"])
    assert Recorded(out / "interrupted.dbt").cut is None


@pytest.mark.guest
def test_killed_it_leaves_all_whole_blocks(results: dict[str, Result], out: Path) -> None:
    recorded = Recorded(out / "sigkill.dbt")
    assert results["SIGKILL"]["status"] == -9
    assert recorded.count("export") > 100
    assert recorded.cut is not None
    done = trace("report", str(out / "sigkill.dbt"))
    assert done.returncode == 0
    assert "cut" in done.stdout + done.stderr


@pytest.mark.guest
def test_what_a_killed_recorder_left_the_next_one_removes(results: dict[str, Result]) -> None:
    assert "dmabuf_trace_" in str(results["left by SIGKILL"]["stdout"])
    assert results["next one"]["status"] == 0
    assert results["left in the end"]["stdout"] == ""


@pytest.mark.guest
def test_events_are_shown_as_they_happen(results: dict[str, Result]) -> None:
    kinds = ["export", "fd_install", "fd_close", "release"]
    lines = str(results["trace"]["stdout"]).splitlines()
    assert [line.split()[2] for line in lines] == kinds
    events = [json.loads(line) for line in str(results["trace, JSON"]["stdout"]).splitlines()]
    assert [event["kind"] for event in events] == kinds
    assert {event["exporter"] for event in events} == {"system"}
    assert "4 events, 0 lost" in str(results["trace, JSON"]["stderr"])


@pytest.mark.guest
def test_a_reader_that_goes_away_is_no_error_of_ours(results: dict[str, Result]) -> None:
    assert "Traceback" not in str(results["trace, reader gone"]["stderr"])
