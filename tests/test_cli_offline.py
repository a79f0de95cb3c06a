# SPDX-License-Identifier: Apache-2.0
"""The offline commands as a person meets them: what they print, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace.analysis import registry
from dmabuf_trace.framing import MAGIC
from dmabuf_trace.recording import Writer
from tests.build import Build, S

SHOW_BUFFERS = ("report", "leaks", "mappings", "buffers")
EVERY = (*SHOW_BUFFERS, "devices", "errors")
"""Commands for what all of them have in common."""


def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command; its output is a pipe."""
    command = [sys.executable, "-m", "dmabuf_trace", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    k = Build()
    k.map(k.attach(k.export(fd=3)))
    k.wait(2 * S)
    return k.write(tmp_path / "x.dbt")


@pytest.mark.parametrize("command", ["report", *registry()])
def test_every_command_answers_and_ends_with_0(file: Path, command: str) -> None:
    text, machine = run(command, file), run(command, file, "--json")

    assert (text.returncode, text.stderr) == (0, "")
    assert (machine.returncode, machine.stderr) == (0, "")
    assert "41" in text.stdout or command not in SHOW_BUFFERS
    assert json.loads(machine.stdout)["schema"] == 1


def test_show(file: Path) -> None:
    text = run("show", file, "41")

    assert text.returncode == 0
    assert text.stdout.startswith("buffer 41  system  4 KiB\n")
    assert json.loads(run("show", file, "41", "--json").stdout)["buffer"]["inode"] == 41
    assert run("show", file, "42").stderr == (
        f"dmabuf-trace: no buffer 42 in {file}\n  list them with: dmabuf-trace buffers {file}\n"
    )


def newer(path: Path) -> None:
    with Writer(path) as writer:
        writer.begin({"schema": 999})


BAD: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello\n"),
    "directory": lambda path: path.mkdir(),
    "missing": lambda _: None,
    "newer": newer,
    "cut header": lambda path: path.write_bytes(MAGIC + b"BLK\n"),
    "loop": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("command", [*EVERY, "show"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_clear_line_and_status_2(tmp_path: Path, what: str, command: str) -> None:
    path = tmp_path / "bad.dbt"
    BAD[what](path)

    found = run(command, path, *(["41"] if command == "show" else []))

    assert found.returncode == 2
    assert found.stdout == ""
    first, *hint = found.stderr.splitlines()
    assert first.startswith("dmabuf-trace: ")
    assert str(path) in first
    assert len(hint) <= 1


def test_a_cut_recording_is_shown_with_a_note(tmp_path: Path) -> None:
    k = Build()
    k.export()
    file = k.write(tmp_path / "x.dbt", cut=True)

    report, leaks = run("report", file), run("leaks", file)

    assert (report.returncode, leaks.returncode) == (0, 0)
    assert "CUT: the recording ends without its end block" in report.stdout
    assert "was cut" in leaks.stdout


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("leaks", "--min-age", "5"), "dmabuf-trace: --min-age: '5' is not a duration"),
        (("mappings", "--min-age", "soon"), "dmabuf-trace: --min-age: 'soon' is not a duration"),
    ],
)
def test_bad_options(file: Path, args: tuple[str, ...], line: str) -> None:
    found = run(*args, file)

    assert found.returncode == 2
    assert found.stderr.splitlines()[0] == line


@pytest.mark.parametrize("args", [("frob",), ("leaks",), ("leaks", "--frob"), ("show", "x")])
def test_bad_usage_has_status_2_and_no_traceback(args: tuple[str, ...]) -> None:
    found = run(*args)

    assert found.returncode == 2
    assert found.stderr.startswith("Usage: ")


def test_alone_it_prints_help_and_ends_with_2() -> None:
    found = run()

    assert found.returncode == 2
    assert found.stdout.startswith("Usage: dmabuf-trace ")
    for command in ("report", *registry(), "show", "diff"):
        assert f"\n  {command} " in found.stdout


def test_version() -> None:
    assert run("--version").stdout.startswith("dmabuf-trace 0.")


def test_a_reader_that_goes_away_is_no_error(file: Path) -> None:
    command = [sys.executable, "-m", "dmabuf_trace", "report", str(file)]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)

    assert (found.returncode, found.stderr) == (141, b"")


def test_a_stream_without_unicode_gets_escapes(tmp_path: Path) -> None:
    k = Build()
    k.name(k.export(fd=3), "\u6f22")
    file = k.write(tmp_path / "x.dbt")

    found = run("leaks", file, PYTHONIOENCODING="ascii")

    assert found.returncode == 0
    assert "\\u6f22" in found.stdout


@pytest.fixture
def lossy(tmp_path: Path) -> Path:
    k = Build()
    k.map(k.attach(k.export(fd=3)))
    k.lose("map", "probe_missed", 7)
    k.lose("export", "stack_collision", 5)
    return k.write(tmp_path / "lossy.dbt")


@pytest.mark.parametrize("command", [*EVERY, "show"])
def test_every_command_says_what_was_lost(lossy: Path, command: str) -> None:
    asked: list[str | Path] = [command, lossy, *(["41"] if command == "show" else [])]
    told = json.loads(run(*asked, "--json").stdout)

    assert "may be wrong: 7 events lost (map 7)" in run(*asked).stdout
    assert told["recording"]["lost_events"] == 7
    results = told["analyses"].values() if command == "report" else [told]
    assert all(any("map 7" in doubt for doubt in result["doubts"]) for result in results)


def test_the_report_says_how_it_was_lost_and_what_to_do(lossy: Path) -> None:
    rows = [(row["kind"], row["cause"], row["count"]) for row in quality(lossy)]
    text = run("report", lossy).stdout

    assert rows == [("export", "stack_collision", 5), ("map", "probe_missed", 7)]
    assert "record with a larger --table stacks" in text
    assert "record with --attach kprobe, or a larger --maxactive" in text


def quality(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("report", file, "--json").stdout)["quality"]
    return found
