# SPDX-License-Identifier: Apache-2.0
"""Recording where there is no more than Python, numpy and libbpf.so.1; judged elsewhere."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dmabuf_trace import options, target
from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.live import record
from dmabuf_trace.errors import EXIT_NOT_FOUND, EXIT_UNTRACEABLE, EXIT_USAGE, InputError
from dmabuf_trace.request import Request
from tests.counts import Recorded
from tests.target import CYCLES, LEAKED_BYTES, STATUS
from tests.vm import run_guest
from tests.vm.target import ENTER

ABSENT = ("typer", "click", "pandas", "rich", "bcc")


def test_both_command_lines_and_the_request_have_the_same_options() -> None:
    of_record = inspect.signature(record).parameters
    typed = vars(target.parser().parse_args([]))
    rows = {option.name: option.default for option in options.OF_RECORD}

    assert list(of_record) == [field.name for field in fields(Request)]
    assert {name: of_record[name].default for name in rows} == rows
    assert typed == {**rows, "command": []}
    assert set(rows) == set(of_record) - {"command", "steered"}


def typed(*arguments: str) -> dict[str, object]:
    """What is parsed, without what is as by default."""
    parsed = vars(target.parser().parse_args(arguments))
    usual = vars(target.parser().parse_args([]))
    return {name: value for name, value in parsed.items() if value != usual[name]}


def test_what_follows_the_command_belongs_to_it() -> None:
    command = ["./test", "--force", "-o", "x", "--", "y"]

    assert typed("-o", "a.dbt", "--", *command) == {"output": "a.dbt", "command": ["--", *command]}
    assert typed("--force", *command) == {"force": True, "command": command}
    assert typed("--pid", "1", "--pid", "2", "--cycles", "3") == {"pid": [1, 2], "cycles": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nosuch"], "unrecognized arguments: --nosuch"),
        (["--forc"], "unrecognized arguments: --forc"),
        (["--maxactive", "0"], "argument --maxactive: 0 is below 1"),
        (["--maxactive", "4097"], "argument --maxactive: 4097 is above 4096"),
        (["--pid", "x"], "argument --pid: 'x' is no whole number"),
        (["--cycles", "2"], "--cycles without a command"),
        (["--only-command"], "--only-command without a command"),
        (["--ring", "3K"], "--ring 3K is not a power of two from 4096 bytes to 1G"),
        (["--events", "x"], "no event group 'x'"),
        (["--stacks", "x"], "--stacks x is none of them"),
    ],
)
def test_bad_usage_is_an_error_as_any_other(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        target.run(arguments)

    assert str(caught.value) == message
    assert caught.value.hint


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


MAIN = "from dmabuf_trace.target import main; main()"


def test_errors_are_two_lines_and_the_status_of_record() -> None:
    usage, missing = run(MAIN, "--nosuch"), run(MAIN, "--", "./no\x1bsuch")

    assert (usage.returncode, missing.returncode) == (EXIT_USAGE, EXIT_NOT_FOUND)
    assert usage.stderr.splitlines() == [
        "dmabuf-trace: unrecognized arguments: --nosuch",
        "  python3 -m dmabuf_trace.target --help shows what there is",
    ]
    assert missing.stderr.splitlines() == [
        "dmabuf-trace: command not found: ./no\\x1bsuch",
        "  nothing was recorded",
    ]


def test_without_numpy_one_line_says_what_to_install() -> None:
    done = run(f"import sys; sys.modules['numpy'] = None; {MAIN}", "--", "true")

    assert done.returncode == EXIT_UNTRACEABLE
    assert done.stderr == "dmabuf-trace: no numpy here\n  apt-get install python3-numpy\n"


@pytest.mark.guest
@pytest.mark.every_run_on("7.2")
@pytest.mark.parametrize("kernel", ["6.12", "7.2"])
def test_a_recording_from_a_target_is_judged_here(tmp_path: Path, kernel: str) -> None:
    """The root has Python, numpy and libbpf.so.1 only; counts are the module's."""
    script = f"""
    set -e
    insmod /opt/kmod/dmabuf_ref.ko
    mkdir /opt/src
    mount --bind /src /opt/src
    export PYTHONPATH=/opt/dmabuf-trace:/opt/src
    enter() {{ sh -c '{ENTER}' sh "$@"; }}
    for name in {" ".join(ABSENT)}; do
        enter python3 -c "import $name" 2>&1 | grep "No module named '$name'"
    done
    enter sh -c 'python3 -m dmabuf_trace.target -o /tmp/x.dbt -- python3 -m tests.target; echo $?'
    cp /tmp/x.dbt /tmp/counted.json /out
    """
    command, shares = ["sh", "-c", script], {"/out": tmp_path}
    done = run_guest(kernel, command, timeout=300, target=True, module=True, shares=shares)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[len(ABSENT) :] == [str(STATUS)]
    assert ", 0 lost, " in done.stderr
    assert f"python3 ended with status {STATUS}" in done.stderr
    recorded = Recorded(tmp_path / "x.dbt")
    rows = recorded.against_module(json.loads((tmp_path / "counted.json").read_text()))
    assert [row for row in rows if row.counted != row.recorded] == []
    assert recorded.count("export") == CYCLES + 1
    result = CliRunner().invoke(app, ["leaks", "--json", str(tmp_path / "x.dbt")])
    (leak,) = json.loads(result.stdout)["tables"]["leaks"]
    assert (leak["shape"], leak["size_bytes"]) == ("kernel", LEAKED_BYTES)
    assert any(frame.startswith("ref_export+") for frame in leak["export_stack"])
