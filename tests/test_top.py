# SPDX-License-Identifier: Apache-2.0
"""top as a person meets it, on recordings: on a terminal, in a pipe, and how it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace.recording import Writer
from tests.build import MIB, START, Build, S
from tests.on_terminal import ENTERS, LEAVES, Terminal
from tests.screens import busy
from tests.test_cli_offline import run


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute."""
    return busy().write(tmp_path_factory.mktemp("busy") / "busy.dbt")


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Two seconds, at the start one buffer."""
    k = Build()
    k.holding(k.existing(MIB, "gem"), 3)
    k.snapshot("start")
    for _ in range(4):
        k.wait(S // 2)
        k.export()
    return k.write(tmp_path / "short.dbt")


def documents(*args: str | Path) -> list[dict[str, Any]]:
    done = run("top", "--json", *args)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_once_prints_one_frame_without_colours(file: Path) -> None:
    done = run("top", "--once", "--replay", file, COLUMNS="100", LINES="30")

    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("dmabuf-trace top  busy.dbt  up 1m00s")
    assert "lost 3" in done.stdout
    assert "q quit" not in done.stdout


def test_json_has_a_document_an_interval(short: Path) -> None:
    found = documents("--replay", short, "--interval", "500ms", "--speed", "10")

    assert (found[0]["buffers"], found[-1]["buffers"], found[-1]["events"]) == (1, 5, 4)
    assert found[0]["ts_ns"] == found[0]["start_ns"] == START
    assert {each["lost_events"] for each in found} == {0}
    assert found[-1]["exporters"][0]["size_bytes"] == MIB


def test_json_and_once_is_one_document(file: Path) -> None:
    (found,) = documents("--once", "--replay", file)

    assert found["growing"][0]["process"] == "encoder-410"
    assert found["mappings"][0]["device"] == "gpu0"
    assert found["calls"]["map"]["events"] == 241
    assert found["processes"][-1]["process"] == "\x1b[31mred\x1b[2J-500"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--replay", "FILE"], "stdout is no terminal"),
        (["--once", "--interval", "1ms"], "--interval 1ms is too short"),
        (["--once", "--interval", "soon"], "'soon' is not a duration"),
        (["--once", "--speed", "2"], "--speed without --replay"),
        (["--once", "--replay", "FILE", "--pid", "3"], "--replay plays all of a recording"),
        (["--once", "--replay", "FILE", "--", "true"], "--replay plays all of a recording"),
        (["--once", "--replay", "nowhere.dbt"], "can't read nowhere.dbt"),
        (["--once", "--", "./no-such-command"], "command not found: ./no-such-command"),
        (["--once", "--events", "all,none"], "no event group 'all'"),
    ],
)
def test_bad_usage_is_two_lines_and_a_status(short: Path, args: list[str], says: str) -> None:
    done = run("top", *(str(short) if arg == "FILE" else arg for arg in args))

    assert done.returncode == (127 if "not found" in says else 2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"dmabuf-trace: {says}")
    assert len(done.stderr.splitlines()) <= 2


def test_a_recording_that_was_cut_is_said_to_be(short: Path) -> None:
    short.write_bytes(short.read_bytes()[:-3])

    done = run("top", "--once", "--replay", short)

    assert done.returncode == 0
    assert "short.dbt was cut" in done.stderr


def test_on_a_terminal_it_answers_keys_and_ends_with_q(file: Path) -> None:
    with Terminal(["--replay", file, "--speed", "20"]) as terminal:
        terminal.wait_for("dmabuf-trace top")
        terminal.wait_for("udmabuf")
        at = terminal.press("?")
        terminal.wait_for("this help", at)
        at = terminal.press("x4")
        terminal.wait_for("attached  mapped", at)
        at = terminal.press("\r")
        terminal.wait_for("Esc back", at)
        terminal.press("q")
        status, said = terminal.end()

        assert (status, said) == (0, "")
        assert terminal.modes == terminal.before
    assert terminal.sent.index(ENTERS) < terminal.sent.index(LEAVES)
    assert terminal.sent.count(ENTERS) == terminal.sent.count(LEAVES) == 1


def test_buffers_from_before_are_in_the_first_frame(short: Path) -> None:
    with Terminal(["--replay", short, "--speed", "0.01"]) as terminal:
        terminal.wait_for("gem")
        terminal.wait_for("q quit")

        assert terminal.sent.count("dmabuf-trace top") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_and_give_the_terminal_back(file: Path, number: int) -> None:
    with Terminal(["--replay", file]) as terminal:
        terminal.wait_for("q quit")
        terminal.process.send_signal(number)
        status, said = terminal.end()

        assert (status, said) == (0, "")
        assert terminal.modes == terminal.before
    assert terminal.sent.index(ENTERS) < terminal.sent.index(LEAVES)


def test_an_error_gives_the_terminal_back_and_is_said(tmp_path: Path) -> None:
    file = tmp_path / "bad.dbt"
    k = Build()
    k.export()
    with Writer(file) as writer:
        writer.begin({"start": {"monotonic_ns": START}})
        writer.write_events(k.events())
        writer.write_stacks({0: (7,)})  # type: ignore[dict-item]

    with Terminal(["--replay", file]) as terminal:
        status, said = terminal.end()

        assert status == 2
        assert said.startswith(f"dmabuf-trace: {file} has a block that is not what it claims")
        assert terminal.modes == terminal.before
    assert terminal.sent.count(ENTERS) == terminal.sent.count(LEAVES)


def test_it_follows_the_size_of_the_terminal(file: Path) -> None:
    with Terminal(["--replay", file, "--speed", "20"]) as terminal:
        terminal.wait_for("udmabuf")
        at = len(terminal.sent)
        terminal.resize(160, 48)
        terminal.wait_for("Processes (8)", at)


def test_a_terminal_that_takes_nothing_stops_nothing_but_the_drawing(file: Path) -> None:
    with Terminal(["--replay", file, "--speed", "30"], 300, 100) as terminal:
        terminal.wait_for("q quit")
        terminal.process.send_signal(signal.SIGTERM)

        assert terminal.process.wait(30) == 0  # while nobody reads
        assert terminal.modes == terminal.before


def test_a_dumb_terminal_is_refused(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.on_terminal.TERM", "dumb")
    with Terminal(["--replay", short]) as terminal:
        status, said = terminal.end()

    assert status == 2
    assert "this terminal can't be drawn on" in said
