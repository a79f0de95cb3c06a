# SPDX-License-Identifier: Apache-2.0
"""Where a verdict goes: refused ahead of the run, whole files or none, one format on stdout."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dmabuf_trace.errors import InputError, OutputError, TraceError
from dmabuf_trace.outputs import FORMATS, SUMMARY_VARIABLE, Outputs
from dmabuf_trace.render.github import SUMMARY_BYTES
from tests.verdicts import EVERYTHING


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SUMMARY_VARIABLE, raising=False)
    return tmp_path


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def refused(*specs: str, force: bool = False) -> str:
    with pytest.raises(TraceError) as caught:
        Outputs.open(specs, force=force)
    assert caught.value.status == 2
    assert caught.value.hint
    return str(caught.value)


def test_every_format_to_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [f"{name}={name}.out" for name in FORMATS]

    found = Outputs.open(specs)
    assert names(folder) == set()
    found.write(EVERYTHING)

    assert names(folder) == {f"{name}.out" for name in FORMATS}
    for name, render in FORMATS.items():
        assert Path(f"{name}.out").read_text() == render(EVERYTHING)
    assert capsys.readouterr().out.startswith("1 finding (exit status 1)\n")


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"text"}))
def test_a_format_takes_the_place_of_the_text(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Outputs.open([name, "text=x.txt"]).write(EVERYTHING)

    assert capsys.readouterr().out == FORMATS[name](EVERYTHING)


@pytest.mark.parametrize("specs", [[], ["text"]])
def test_without_one_it_is_text(specs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Outputs.open(specs).write(EVERYTHING)

    assert capsys.readouterr().out == FORMATS["text"](EVERYTHING)


def test_what_is_not_a_format() -> None:
    assert refused("xml=x") == "--to: no format 'xml'"
    assert refused("") == "--to: no format ''"
    assert refused("json=") == "--to json=: no file is named"
    assert refused("json", "ktap") == "--to: only one format can go to stdout"


def test_one_file_is_asked_for_once(folder: Path) -> None:
    again = f"junit={folder}/../{folder.name}/x"

    assert refused("json=x", again).endswith("/x is in use by this run already")
    with pytest.raises(OutputError, match="in use by this run"):
        Outputs.open(["json=x.dbt"], force=True, taken=[folder / "x.dbt"])
    assert names(folder) == set()


def test_a_file_that_exists(folder: Path) -> None:
    Path("x").write_text("old")

    assert refused("json=x") == "x exists"
    Outputs.open(["json=x"], force=True)
    assert Path("x").read_text() == "old"
    Outputs.open(["json=x"], force=True).write(EVERYTHING)
    assert json.loads(Path("x").read_text())["status"] == 1
    assert names(folder) == {"x"}


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_place_for_a_file(folder: Path, force: bool) -> None:
    Path("link").symlink_to("target")
    Path("dir").mkdir()
    os.mkfifo("pipe")

    for name in ("link", "dir", "pipe", "/dev/null", ".", "/"):
        assert refused(f"json={name}", force=force) == f"{name} is not a regular file"
    assert refused("json=no/x", force=force) == "can't write no/x: No such file or directory"
    assert refused("json=pipe/x", force=force) == "can't write pipe/x: Not a directory"
    assert refused("json=/proc/x", force=force).startswith("can't write /proc/x: ")
    long = "x" * 300
    assert refused(f"json={long}", force=force) == f"can't write {long}: File name too long"
    assert names(folder) == {"link", "dir", "pipe"}


def test_a_file_that_others_make_meanwhile_is_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Outputs.open(["json=x", "ktap=y"])
    Path("x").write_text("theirs")

    with pytest.raises(OutputError, match="x was made by others meanwhile, and is kept"):
        found.write(EVERYTHING)

    assert Path("x").read_text() == "theirs"
    assert Path("y").read_text() == FORMATS["ktap"](EVERYTHING)
    assert capsys.readouterr().out
    assert names(folder) == {"x", "y"}


def test_a_link_that_others_make_meanwhile_is_not_followed(folder: Path) -> None:
    found = Outputs.open(["json=x"], force=True)
    Path("precious").write_text("old")
    Path("x").symlink_to("precious")

    found.write(EVERYTHING)

    assert Path("precious").read_text() == "old"
    assert not Path("x").is_symlink()
    assert names(folder) == {"precious", "x"}


def test_a_run_that_dies_leaves_no_half_of_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: int) -> None:
        assert len(names(folder)) == 1
        raise KeyboardInterrupt

    found = Outputs.open(["json=x"])
    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        found.write(EVERYTHING)

    assert names(folder) == set()


def test_the_folder_is_gone_when_it_is_written() -> None:
    Path("dir").mkdir()
    found = Outputs.open(["json=dir/x"])
    Path("dir").rmdir()

    with pytest.raises(OutputError, match="can't write dir/x: No such file or directory"):
        found.write(EVERYTHING)


def test_the_summary_of_a_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUMMARY_VARIABLE, str(folder / "summary.md"))
    Path("summary.md").write_text("# others\n")

    Outputs.open(["json=x"]).write(EVERYTHING)
    assert Path("summary.md").read_text() == "# others\n"
    Outputs.open(["github"]).write(EVERYTHING)

    assert Path("summary.md").read_text().startswith("# others\n## dmabuf-trace: 1 finding")


def test_a_summary_that_is_almost_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUMMARY_VARIABLE, str(folder / "summary.md"))
    for used in (SUMMARY_BYTES - 10, SUMMARY_BYTES - 600, SUMMARY_BYTES + 1):
        Path("summary.md").write_text("x" * used)

        Outputs.open(["github"]).write(EVERYTHING)

        assert Path("summary.md").stat().st_size <= max(used, SUMMARY_BYTES)


@pytest.mark.parametrize("value", [None, ""])
def test_no_summary_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv(SUMMARY_VARIABLE, value)

    Outputs.open(["github"]).write(EVERYTHING)

    assert names(folder) == set()


def test_a_summary_that_can_not_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    reasons = {"no": "No such file or directory", "pipe": "not a regular file"}
    for name, why in {**reasons, "link": "not a regular file", ".": "not a regular file"}.items():
        monkeypatch.setenv(SUMMARY_VARIABLE, name)

        assert refused("github") == f"can't append to {name}, the step's summary: {why}"
    with pytest.raises(InputError):
        Outputs.open(["xml"])
    assert names(folder) == {"pipe", "link"}


def test_a_file_is_not_the_summary_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUMMARY_VARIABLE, str(folder / "x"))
    Path("x").touch()

    assert refused("github=x", force=True) == "x is in use by this run already"
