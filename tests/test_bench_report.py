# SPDX-License-Identifier: Apache-2.0
"""The peers of ``./dev bench report`` answer what they are asked; its goals say what was met."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest

import dmabuf_trace
from dmabuf_trace import schema
from dmabuf_trace.trace import Trace
from tests.bench import plain, questions, report
from tests.bench.generate import Generator
from tests.bench.recorded import Text, record
from tests.bench.report import Figure, Row


class Made:
    """A small recording and the same events as text and as columns."""

    def __init__(self, folder: Path) -> None:
        self.text, self.columns = folder / "made.txt", folder / "made.raw"
        generator = Generator(30.0, lossy=False)
        parts: list[np.ndarray] = []
        record(folder / "made.dbt", generator, parts.append)
        with self.text.open("w") as file:
            text = Text(file, generator.names())
            for part in parts:
                text.write(part)
        plain.columns(np.concatenate(parts)).tofile(self.columns)
        self.trace: Trace = dmabuf_trace.open(folder / "made.dbt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("report"))


def test_an_event_is_a_line() -> None:
    names = np.zeros(2, schema.NAME_DTYPE)
    names["id"], names["type"] = (7, 900), (schema.NAME_TYPES["device"], schema.NAME_TYPES["comm"])
    names["text"] = (b"gpu0", b"game")
    event = np.zeros(1, schema.EVENT_DTYPE)
    event["kind"], event["ts"], event["dur"] = schema.KIND["map"], 1_000_002_700, 9_000
    event["tid"], event["cpu"], event["buffer"] = 900, 3, 42
    event["object"], event["value"], event["aux"] = 0xA0, 0xB0, 7
    file = StringIO()
    Text(file, names).write(event)
    assert file.getvalue() == (
        "game-900 [003] 1.000003: map: buffer=42 object=0xa0 value=0xb0 ret=0 dur=9000 name=gpu0\n"
    )


def test_the_script_finds_the_open_buffers(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    questions.open_buffers(str(made.text))
    found = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    buffers = made.trace.buffers
    exported = buffers[buffers["open"] & buffers["begin"].notna()]
    assert set(found) == set(exported["inode"])


def test_the_script_finds_the_longest_mapping(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    questions.longest_mappings(str(made.text))
    first = capsys.readouterr().out.splitlines()[0].split()
    longest = made.trace.mappings.dropna(subset="age_ns").sort_values("age_ns").iloc[-1]
    assert first[1:] == [str(longest["inode"]), longest["device"]]
    assert float(first[0]) == pytest.approx(longest["age_ns"] / 1e9, abs=1e-5)


def test_the_script_adds_up_the_time_in_map(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    questions.time_in_map(str(made.text))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    total = made.trace.mappings.groupby("device")["map_ns"].agg(["count", "sum"])
    expected = {device: (int(row["count"]), int(row["sum"])) for device, row in total.iterrows()}
    assert {row[0]: (int(row[1]), int(row[2])) for row in rows} == expected


def test_the_plain_pairing_counts_what_the_tables_do(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.pair(made.columns)
    ended = {row.split()[0]: int(row.split()[2]) for row in capsys.readouterr().out.splitlines()}
    of_buffers, of_attachments = made.trace.buffers, made.trace.attachments
    assert ended["export"] == (of_buffers["begin"].notna() & of_buffers["end"].notna()).sum()
    assert (
        ended["attach"] == (of_attachments["begin"].notna() & of_attachments["end"].notna()).sum()
    )


SIZES = report.ALL_SIZES


def goals(*ours: Figure) -> list[str]:
    rows = [
        Row(size, Figure(1.0, 1.0), mine, Figure(size / 1e6, size / 1e4), {})
        for size, mine in zip(SIZES, ours, strict=True)
    ]
    return list(report._goals(SIZES, rows))


def test_goals_that_are_met() -> None:
    assert goals(Figure(5.0, 400.0), Figure(50.0, 1_000.0), Figure(550.0, 1_400.0)) == [
        "- time to the plain pairing's, 10,000,000 events: 5.0, goal 5.0: met",
        "- time an event, 10,000,000 events to 1,000,000: 1.00, goal 1.20: met",
        "- time an event, 100,000,000 events to 10,000,000: 1.10, goal 1.20: met",
        "- peak memory in MB, 100,000,000 events: 1,400, goal 2,000: met",
        "- peak memory, 100,000,000 events to 10,000,000: 1.40, goal 1.50: met",
    ]


def test_goals_that_are_not_met() -> None:
    found = goals(Figure(4.0, 400.0), Figure(51.0, 1_400.0), Figure(700.0, 2_200.0))
    assert [line.rpartition(": ")[2] for line in found] == ["NOT met"] * 5


def test_what_was_not_run_meets_no_goal() -> None:
    found = goals(Figure(5.0, 400.0), Figure(50.0, 4_000.0), Figure(None, 40_000.0))
    assert found[2:] == [
        "- time an event, 100,000,000 events to 10,000,000: goal 1.20: not run, NOT met",
        "- peak memory in MB, 100,000,000 events: goal 2,000: not run, NOT met",
        "- peak memory, 100,000,000 events to 10,000,000: goal 1.50: not run, NOT met",
    ]


def test_what_does_not_fit_is_not_run() -> None:
    figure = report.measured(["false"], 1e9)
    assert figure.cells() == "not run | would need 1,000,000 GB"


def test_the_middle_one_of_three_runs_counts() -> None:
    runs = [Figure(2.0, 700.0), Figure(9.0, 800.0), Figure(3.0, 750.0)]
    assert report.middle(runs) == runs[2]
