# SPDX-License-Identifier: Apache-2.0
"""The command export: where it writes, what it refuses, what it says of what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dmabuf_trace.cli.app import app
from dmabuf_trace.columns import TABLES
from dmabuf_trace.exports.formats import FORMATS
from tests.build import MIB, Build

BINARY = sorted(name for name, row in FORMATS.items() if row.package)
TEXT = sorted(set(FORMATS) - set(BINARY))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recording, to work in."""
    monkeypatch.chdir(tmp_path)
    k = Build()
    k.export(size=MIB, stack=("system_heap_allocate+0x1 [system_heap]",))
    k.write(Path("x.dbt"))
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["export", *args])


def refused(*args: str) -> str:
    """The line about it; it leaves nothing behind."""
    before = {file.name for file in Path().iterdir()}
    done = run(*args)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert {file.name for file in Path().iterdir()} == before
    line, hint = done.stderr.splitlines()
    assert hint.startswith("  ")
    return line.removeprefix("dmabuf-trace: ")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_to_a_file_and_to_a_pipe(name: str) -> None:
    done = run("x.dbt", "--to", name, "-o", "out")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    whole = Path("out").read_bytes()

    assert whole
    assert run("x.dbt", "--to", name).stdout_bytes == whole


def test_what_is_not_there() -> None:
    assert refused("x.dbt", "--to", "xml") == "--to: no format 'xml'"
    assert refused("x.dbt", "--to", "csv", "--table", "b") == "--table: no table 'b'"
    assert refused("x.dbt", "--to", "folded", "--by", "age") == "--by: no weight 'age'"
    assert run("no.dbt", "--to", "csv", "-o", "out").exit_code == 2
    assert not Path("out").exists()


def test_an_option_of_another_format() -> None:
    assert refused("x.dbt", "--to", "csv", "--by", "map-time") == "--to csv takes no --by"
    assert refused("x.dbt", "--to", "folded", "--table", "fds") == "--to folded takes no --table"
    assert refused("x.dbt", "--to", "arrow", "--ftrace", "x") == "--to arrow takes no --ftrace"


@pytest.mark.parametrize("name", BINARY)
def test_without_its_package_one_line_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, FORMATS[name].package, None)

    done = run("x.dbt", "--to", name, "-o", "out")

    assert done.exit_code == 2
    assert done.stderr == (
        f"dmabuf-trace: --to {name} needs the package {FORMATS[name].package}\n"
        f"  pip install 'dmabuf-trace[{FORMATS[name].extra}]'\n"
    )


def test_a_file_that_exists() -> None:
    Path("out").write_text("old")

    assert refused("x.dbt", "--to", "csv", "-o", "out") == "out exists"
    assert run("x.dbt", "--to", "csv", "-o", "out", "--force").exit_code == 0
    assert Path("out").read_text().startswith("ts,kind,")
    assert refused("x.dbt", "--to", "csv", "-o", "no/out").startswith("can't write no/out: ")


def test_the_recording_is_not_written_over() -> None:
    before = Path("x.dbt").read_bytes()
    Path("same").hardlink_to("x.dbt")
    for out in ("x.dbt", "same", "../" + Path.cwd().name + "/x.dbt"):
        assert refused("x.dbt", "--to", "csv", "-o", out, "--force") == f"{out} is what is read"
    assert Path("x.dbt").read_bytes() == before


@pytest.mark.parametrize("name", FORMATS)
def test_what_fails_midway_leaves_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)

    assert refused("x.dbt", "--to", name, "-o", "out") == "can't write out: No space left on device"


@pytest.mark.parametrize("name", ["parquet", "arrow", "csv", "jsonl"])
def test_all_tables_to_a_folder(name: str) -> None:
    assert run("x.dbt", "--to", name, "--table", "all", "-o", "all").exit_code == 0

    assert {file.name for file in Path("all").iterdir()} == {f"{each}.{name}" for each in TABLES}
    assert refused("x.dbt", "--to", name, "--table", "all", "-o", "all") == "all exists"
    again = run("x.dbt", "--to", name, "--table", "all", "-o", "all", "--force")
    assert again.exit_code == 0, again.output


def test_a_folder_is_made_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("x.dbt", "--to", "csv", "--table", "all")
    assert refused(*wanted) == "--table all is a file per table"
    assert refused(*wanted, "-o", "no/all").startswith("can't make no/all: ")
    monkeypatch.setattr("dmabuf_trace.exports.tables.rows", None)
    with pytest.raises(TypeError):
        CliRunner().invoke(app, ["export", *wanted, "-o", "all"], catch_exceptions=False)
    assert not Path("all").exists()


def piped(*args: str, read: int) -> tuple[int, str]:
    """Status and stderr, where the reader takes only so many bytes."""
    command = [sys.executable, "-m", "dmabuf_trace", "export", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.read(read)
        child.stdout.close()
        return child.wait(), child.stderr.read().decode()


@pytest.mark.parametrize("name", ["jsonl", "arrow"])
def test_a_reader_that_has_enough(name: str) -> None:
    k = Build()
    for _ in range(2000):
        k.release(k.export())
    k.write(Path("long.dbt"))

    assert piped("long.dbt", "--to", name, read=1) == (141, "")


@pytest.mark.parametrize("name", BINARY)
def test_a_terminal_gets_nothing_binary(name: str) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "dmabuf_trace", "export", "x.dbt", "--to", name]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    os.close(ours)

    assert done.returncode == 2
    assert done.stderr.startswith(f"dmabuf-trace: --to {name} is not for a terminal\n")


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_lost_is_said(name: str) -> None:
    k = Build(unobserved=["poll"])
    k.lose("map", "ring_full", 3)
    k.export()
    k.write(Path("lossy.dbt"), cut=True)

    said = run("lossy.dbt", "--to", name, "-o", "out").stderr.splitlines()

    assert "dmabuf-trace: may be wrong: 3 events lost (map 3)" in said
    assert "dmabuf-trace: may be wrong: poll was not observed (not asked for)" in said
    assert any("the recording was cut" in line for line in said)
