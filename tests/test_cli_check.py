# SPDX-License-Identifier: Apache-2.0
"""``check`` as it is typed, on recordings: exit status, outputs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dmabuf_trace import check
from dmabuf_trace.cli.app import app
from dmabuf_trace.policy import parse
from tests.build import Build, S


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """A recording with one leak."""
    k = Build()
    k.export(fd=3)
    k.wait(2 * S)
    return k.write(tmp_path / "leaky.dbt")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    k = Build()
    k.release(k.export())
    return k.write(tmp_path / "clean.dbt")


def test_exit_status_and_words(leaky: Path, clean: Path) -> None:
    found, none = run(leaky), run(clean)

    assert (found.exit_code, none.exit_code) == (1, 0)
    assert found.stdout.startswith("1 finding (exit status 1)\n")
    assert f"dmabuf-trace show {leaky} 41" in found.stdout
    assert none.stdout.startswith("clean (exit status 0)\n")


def test_a_recording_whose_command_failed(tmp_path: Path) -> None:
    k = Build()
    k.mark("run", 137)

    done = run(k.write(tmp_path / "x.dbt"))

    assert done.exit_code == 5
    assert "ended with status 137" in done.stdout


def test_several_outputs_at_once(leaky: Path, tmp_path: Path) -> None:
    formats = ("text", "json", "junit", "ktap", "sarif", "github")
    files = {name: tmp_path / f"out.{name}" for name in formats}

    done = run(leaky, *(part for name in formats for part in ("--to", f"{name}={files[name]}")))

    assert done.exit_code == 1
    assert all("leaks.fd" in file.read_text() for file in files.values())
    document = json.loads(files["json"].read_text())
    assert (document["verdict"], document["status"]) == ("findings", 1)
    assert json.loads(run(leaky, "--json").stdout) == document


def test_a_policy_a_baseline_and_a_window(leaky: Path, clean: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text("[leaks]\nbuffers = 1\n")

    assert run(leaky, "--policy", policy).exit_code == 0
    assert run(leaky, "--baseline", leaky).exit_code == 0
    assert run(leaky, "--baseline", clean).exit_code == 1
    assert run(leaky, "--window", "1s,2s").exit_code == 0


def test_a_written_policy_is_passed(leaky: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"

    assert run(leaky, "--write-policy", policy).exit_code == 1
    assert run(leaky, "--policy", policy).exit_code == 0
    again = run(leaky, "--write-policy", policy)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_the_default_policy_holds_anyway() -> None:
    done = run("--default-policy")

    assert done.exit_code == 0
    values = parse("p.toml", done.stdout.encode(), check.policy_section()).values
    assert values == check.policy().values


def test_what_is_refused_ahead_of_the_command(leaky: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    bad = tmp_path / "bad.toml"
    bad.write_text("[leaks]\nbufers = 1\n")
    noise = tmp_path / "noise"
    noise.write_bytes(b"no recording")
    command = ["--", "touch", str(ran)]
    for arguments, message in {
        (): "check needs a recording or a command",
        (str(leaky), *command): "check needs a recording or a command",
        (str(leaky), "-o", "x.dbt"): "-o keeps the recording of a command",
        ("--window", "1s,2s", *command): "--window is a part of a recording",
        ("--policy", str(bad), *command): f"{bad}:2: unknown key 'bufers'",
        ("--policy", str(tmp_path / "none"), *command): "can't read",
        ("--baseline", str(noise), *command): "is not a dmabuf-trace recording",
        ("--baseline", str(tmp_path / "none"), *command): "can't read",
        ("--to", "xml", *command): "--to: no format 'xml'",
        ("--to", f"junit={tmp_path}/none/x.xml", *command): "can't write",
        ("--to", f"json={leaky}", *command): "exists",
        ("--to", "json", "--to", "ktap", *command): "only one format can go to stdout",
        ("--write-policy", str(leaky), *command): "exists",
        ("--debug-info", str(noise), *command): "noise",
        ("--events", "nothing", *command): "no event group 'nothing'",
        ("--only-command", str(leaky)): "",
    }.items():
        done = run(*arguments)
        if message:
            assert (done.exit_code, done.exception.__class__) == (2, SystemExit), arguments
            assert message in done.stderr.splitlines()[0]
    assert not ran.exists()
    assert not list(tmp_path.glob(".dmabuf-trace*"))


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    done = run("--to", f"json={tmp_path / 'x.json'}", "--", "no-such-command")

    assert done.exit_code == 127
    assert not (tmp_path / "x.json").exists()
