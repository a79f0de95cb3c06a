# SPDX-License-Identifier: Apache-2.0
"""What people see while a recording is read: a bar on their terminal, and nowhere else anything."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from dmabuf_trace import diff, progress, replay, report, story
from dmabuf_trace.analysis import Asked, ask, registry
from dmabuf_trace.lines import EVERYTHING
from tests.build import Build
from tests.terminal import read_all

SLOW: Final = """
import sys
from dmabuf_trace import progress, report
from dmabuf_trace.cli import main
read = report.read
def slow(*args, **options):
    found = read(*args, **options)
    listener = progress._LISTENER.get()
    if listener:
        listener.visible.wait()
    return found
report.read = slow
main()
"""
"""The command, with answers that take until a bar is there."""

QUICK: Final = """
from dmabuf_trace.cli import main
from dmabuf_trace.render import progress
progress.PATIENCE_SECONDS = 1e6
main()
"""
"""The command, quicker than any patience."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    k = Build()
    for _ in range(3):
        k.release(k.export())
    k.name(k.export(fd=3), "frame")
    return k.write(tmp_path / "a\x1b[2J.dbt")


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[Path, int, int]] = []

    def advance(self, path: Path, done: int, size: int) -> None:
        self.steps.append((path, done, size))

    def over(self) -> None:
        self.steps.append((Path(), 0, 0))


def test_whatever_reads_a_recording_tells_how_far_it_has_come(file: Path) -> None:
    size = file.stat().st_size
    readers: dict[str, Callable[[], object]] = {
        "an analysis": lambda: ask(file, [Asked(registry()["leaks"])]),
        "report": lambda: report.read(file),
        "show": lambda: story.read(file, "frame"),
        "diff": lambda: diff.read(file, file),
        "events": lambda: list(replay.Replay(file, EVERYTHING)),
    }
    for name, read in readers.items():
        told = Told()
        with progress.told_to(told):
            read()
        *steps, end = told.steps
        assert end == (Path(), 0, 0), name
        assert steps[0] == (file, 0, size), name
        assert steps[-1] == (file, size, size), name
        assert {path for path, _, _ in steps} == {file}, name
    progress.advance(file, 1, 2)  # nobody listens: nothing happens


@pytest.fixture
def terminal() -> tuple[int, int]:
    """Our side and theirs."""
    return pty.openpty()


def started(
    code: str, theirs: int, *args: object, stderr: int | None = None, term: str = "xterm"
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=theirs if stderr is None else subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": term, "COLUMNS": "200"},
    )
    os.close(theirs)
    return process


def test_what_takes_long_has_a_bar_that_is_gone_before_the_result(
    file: Path, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    process = started(SLOW, theirs, "report", file)

    before, _, result = read_all(ours).partition("  kernel   6.12.0-test")

    assert process.wait() == 0
    assert "reading a\\x1b[2J.dbt" in before
    assert "100%" in before
    assert before.rindex("\x1b[?25h") > before.rindex("100%")  # the cursor is back
    assert "reading" not in result


def test_the_bar_is_on_stderr_and_what_is_quick_has_none(
    file: Path, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    process = started(QUICK, theirs, "report", file, stderr=1)

    assert process.stdout
    assert process.stdout.read().decode().partition("\n")[2].startswith("  kernel")
    assert (read_all(ours), process.wait()) == ("", 0)


def test_there_is_none_on_a_terminal_that_can_only_print(
    file: Path, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    process = started(SLOW, theirs, "report", file, term="dumb")

    assert "reading" not in read_all(ours)
    assert process.wait() == 0


def test_there_is_none_in_a_pipe(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW, "report", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "reading" not in done.stdout
