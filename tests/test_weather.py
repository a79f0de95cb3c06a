# SPDX-License-Identifier: Apache-2.0
"""What goes wrong gives one clear line, the documented status, and a readable recording."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.counts import Recorded
from tests.kmod.client import EXPORTER, Importer
from tests.scenarios import BLOCKED, RACER_CYCLES, RACERS
from tests.vm import Machine, run_guest
from tests.weather.__main__ import KINDS
from tests.weather.storms import LOAD_CYCLES, LOADS, PROCESSES
from tests.weather.watch import Result

Results = dict[str, Result]


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
        ("--table", "lots=4", "no table 'lots'"),
        ("--table", "inflight=0", "not inflight=N, N from 1 to"),
        ("--table", "stacks=65536", "not stacks=N, N from 1 to 32768"),
        ("--table", "names=5000", "power of two"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, option: str, value: str, message: str) -> None:
    done = trace("record", "-o", str(tmp_path / "a.dbt"), option, value, "true")
    assert done.returncode == 2
    assert message in one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


def in_guest(module: str, path: Path, *append: str) -> Results:
    """Results of a module of tests.weather, run in a guest of its own."""
    command = ["python3", "-m", module, "/out"]
    done = run_guest(
        "6.12",
        command,
        timeout=1800,
        machine=Machine(append=append),
        shares={"/out": path},
        module=True,
    )
    assert done.returncode == 0, done.stderr
    found: Results = json.loads((path / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weather")


@pytest.fixture(scope="module")
def results(out: Path) -> Results:
    return in_guest("tests.weather", out)


@pytest.mark.guest
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no root", "tracing needs root"),
        ("no tracefs", "tracefs is not mounted"),
        ("no kprobe events", "no kprobe events"),
        ("no libbpf", "libbpf.so.1 not found"),
        ("no libbpf, trace", "libbpf.so.1 not found"),
        ("no CAP_BPF", "this root has no CAP_BPF"),
        ("no CAP_PERFMON", "this root has no CAP_PERFMON"),
        ("no capabilities", "this root has no CAP_BPF and no CAP_PERFMON"),
        ("no BTF, no headers", "core: this kernel has no BTF; bcc: the headers of kernel"),
    ],
)
def test_what_cannot_be_traced(results: Results, case: str, message: str) -> None:
    assert results[case]["status"] == 4
    assert message in one_line(results[case]["stderr"])


@pytest.mark.guest
@pytest.mark.usefixtures("results")
def test_what_was_refused_left_nothing_and_ran_nothing(out: Path) -> None:
    assert not (out / "refused.dbt").exists()
    assert not (out / "was-run").exists()


KILLED = ("SIGKILL", "out of memory")
NOTHING: Result = {"programs": [], "armed": [], "events": []}


@pytest.mark.guest
@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if kind not in KILLED), "the next one"])
def test_nothing_is_left_in_the_kernel(results: Results, kind: str) -> None:
    assert results[f"left by {kind}"] == NOTHING


@pytest.mark.guest
@pytest.mark.parametrize("kind", KILLED)
def test_a_killed_recorder_leaves_nothing_that_runs(results: Results, kind: str) -> None:
    left = results[f"left by {kind}"]
    assert (left["programs"], left["armed"]) == ([], [])
    assert left["events"]  # names only; the next recorder removes them


@pytest.mark.guest
def test_doctor_says_whether_recording_works(results: Results) -> None:
    assert results["doctor"]["status"] == 0
    assert "recording works here" in results["doctor"]["stdout"]
    answer = json.loads(results["doctor, JSON"]["stdout"])
    assert answer["works"]
    assert results["no root, doctor"]["status"] == 4
    assert "does not work here" in results["no root, doctor"]["stdout"]


@pytest.mark.guest
def test_doctor_names_the_capability_that_is_missing(results: Results) -> None:
    assert results["no CAP_BPF, doctor"]["status"] == 4
    assert "NO   root" in results["no CAP_BPF, doctor"]["stdout"]
    assert "uid 0, no CAP_BPF; without it" in results["no CAP_BPF, doctor"]["stdout"]


@pytest.mark.guest
@pytest.mark.parametrize("case", ["no CAP_BPF", "no BTF"])
def test_a_snapshot_does_without_iterators(results: Results, case: str) -> None:
    looked = results[f"{case}, snapshot"]
    assert looked["status"] == 0
    assert "without iterators: " in one_line(looked["stderr"])
    assert "source: proc" in looked["stdout"]


@pytest.mark.guest
def test_debugfs_is_needed_for_bufinfo_only(results: Results, out: Path) -> None:
    assert results["no debugfs"]["status"] == 0
    assert Recorded(out / "no-debugfs.dbt").count("export") == 1
    assert results["no debugfs, bufinfo"]["status"] == 4
    assert "bufinfo" in one_line(results["no debugfs, bufinfo"]["stderr"])


@pytest.mark.guest
def test_the_commands_own_failure_is_passed_on(results: Results, out: Path) -> None:
    assert results["fails"]["status"] == 3
    assert "sh ended with status 3" in results["fails"]["stderr"]
    assert results["killed"]["status"] == 128 + 9
    for name in ("fails", "killed"):
        assert Recorded(out / f"{name}.dbt").cut is None


@pytest.mark.guest
def test_a_full_disk_costs_the_rest_of_the_recording_only(results: Results, out: Path) -> None:
    assert results["disk full"]["status"] == 2
    assert "No space left on device" in one_line(results["disk full"]["stderr"])
    assert (out / "ran-to-its-end").exists()
    recorded = Recorded(out / "full.dbt")
    assert recorded.cut is not None
    assert recorded.count("export") > 100


@pytest.mark.guest
def test_an_interrupt_ends_a_recording_properly(results: Results, out: Path) -> None:
    assert results["interrupted"]["status"] == 0
    assert "next: dmabuf-trace report" in results["interrupted"]["stderr"]
    assert Recorded(out / "interrupted.dbt").cut is None


@pytest.mark.guest
@pytest.mark.parametrize(("case", "file"), [("SIGKILL", "sigkill"), ("out of memory", "oom")])
def test_killed_it_leaves_all_whole_blocks(
    results: Results, out: Path, case: str, file: str
) -> None:
    recorded = Recorded(out / f"{file}.dbt")
    assert results[case]["status"] == -9
    assert recorded.count("export") > 100
    assert recorded.cut is not None
    done = trace("report", str(out / f"{file}.dbt"))
    assert done.returncode == 0
    assert "cut" in done.stdout + done.stderr


@pytest.mark.guest
def test_it_was_the_kernel_that_killed_it(results: Results) -> None:
    assert "oom_kill 1\n" in results["out of memory"]["kills"]


@pytest.mark.guest
@pytest.mark.parametrize("case", ["deleted", "replaced", "moved"])
def test_a_file_that_went_away_is_whole_in_the_end(results: Results, out: Path, case: str) -> None:
    assert results[case]["status"] == 0
    assert "Traceback" not in results[case]["stderr"]
    recorded = Recorded(out / f"{case}.dbt")
    assert recorded.cut is None
    assert recorded.count("export") == BLOCKED


@pytest.mark.guest
def test_what_took_the_files_place_is_kept(results: Results) -> None:
    assert results["replaced"]["kept"] == "somebody else's"
    assert "replaced.dbt was replaced by another file meanwhile" in results["replaced"]["stderr"]
    assert "report /tmp/replaced/replaced.dbt.restored" in results["replaced"]["stderr"]


@pytest.mark.guest
def test_a_file_whose_directory_went_away_is_lost_in_one_line(results: Results) -> None:
    assert results["homeless"]["status"] == 2
    assert "was deleted while it was written" in one_line(results["homeless"]["stderr"])


STORMS = {
    "reloads": LOADS * LOAD_CYCLES,
    "processor": RACERS * RACER_CYCLES,
    "processes": 1,
    "first": BLOCKED,
    "second": BLOCKED,
    "third": BLOCKED,
}
"""Buffers that are exported in each storm; three recorders watch the same one."""
ONE = ("first", "second", "third")


@pytest.mark.guest
@pytest.mark.parametrize("name", STORMS)
def test_a_storm_costs_no_event(results: Results, out: Path, name: str) -> None:
    recorded = Recorded(out / f"{name}.dbt")
    counted = results["first" if name in ONE else name]
    rows = recorded.against_ftrace(counted["ftrace"])

    assert counted["status"] == results["second"]["status"] == 0, counted["stderr"]
    assert recorded.cut is None
    assert not recorded.losses.any()
    assert recorded.count("export") == recorded.count("release") == STORMS[name]
    assert [row for row in rows if row.counted != row.recorded] == []


@pytest.mark.guest
@pytest.mark.usefixtures("results")
def test_the_fds_of_killed_processes_were_closed(out: Path) -> None:
    recorded = Recorded(out / "processes.dbt")
    # the first holder's, and that of every process which was forked with it
    assert recorded.count("fork") >= PROCESSES
    assert recorded.count("fd_close") == recorded.count("fd_install") + recorded.count("fork")
    told = json.loads(trace("leaks", str(out / "processes.dbt"), "--json").stdout)
    assert told["tables"]["leaks"] == []


@pytest.mark.guest
@pytest.mark.usefixtures("results")
def test_an_exporter_that_comes_back_is_the_same_one(out: Path) -> None:
    told = json.loads(trace("devices", str(out / "reloads.dbt"), "--json").stdout)["tables"]
    assert [(row["exporter"], row["buffers"]) for row in told["exporters"]] == [
        (EXPORTER, LOADS * LOAD_CYCLES)
    ]
    assert [(row["device"], row["maps"]) for row in told["devices"]] == [
        (Importer.IMP64.device, LOADS * LOAD_CYCLES)
    ]


@pytest.mark.guest
def test_events_are_shown_as_they_happen(results: Results) -> None:
    kinds = ["export", "fd_install", "fd_close", "release"]
    titles, *lines = results["trace"]["stdout"].splitlines()
    assert [line.split()[3] for line in lines] == kinds
    assert {line.index("system") for line in lines} == {titles.index("exporter")}
    events = [json.loads(line) for line in results["trace, JSON"]["stdout"].splitlines()]
    assert [event["kind"] for event in events] == kinds
    assert {event["exporter"] for event in events} == {"system"}
    assert "4 events, 0 lost" in results["trace, JSON"]["stderr"]


@pytest.mark.guest
def test_a_reader_that_goes_away_is_no_error_of_ours(results: Results) -> None:
    assert "Traceback" not in results["trace, reader gone"]["stderr"]


# --- a kernel that is locked down


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    path = tmp_path_factory.mktemp("locked")
    return path, in_guest("tests.weather.locked", path, "lockdown=integrity")


@pytest.mark.guest
def test_locked_down_for_integrity_it_records_all(locked: tuple[Path, Results]) -> None:
    out, results = locked
    assert "[integrity]" in results["booted"]["lockdown"]
    assert results["insmod"]["status"]  # an unsigned module is refused: it is locked indeed
    assert "recording works here" in results["doctor"]["stdout"]
    recorded = Recorded(out / "clients.dbt")
    rows = recorded.against_ftrace(json.loads((out / "clients.json").read_text()))
    assert not recorded.losses.any()
    assert recorded.count("map") > 0
    assert [row for row in rows if row.counted != row.recorded] == []
    assert results["left"] == NOTHING


@pytest.mark.guest
def test_locked_down_for_confidentiality_it_says_so(locked: tuple[Path, Results]) -> None:
    out, results = locked
    assert results["confidential"]["status"] == 4
    assert "locked down" in one_line(results["confidential"]["stderr"])
    assert not (out / "refused.dbt").exists()
    assert "locked down" in results["confidential, doctor"]["stdout"]
    assert results["confidential, snapshot"]["status"] == 0
