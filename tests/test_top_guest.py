# SPDX-License-Identifier: Apache-2.0
"""top sees what was there before, counts as the module does, loses nothing, and leaves cleanly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kmod.client import EXPORTER, Importer
from tests.live_top import BEFORE, BEFORE_SIZE, CYCLES, LEFT
from tests.on_terminal import ENTERS, LEAVES
from tests.vm import run_guest
from tests.vm.kernels import WITH_MODULE

pytestmark = [pytest.mark.guest, pytest.mark.every_run_on("6.12")]

Document = dict[str, Any]


@pytest.fixture(scope="module", params=WITH_MODULE)
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one guest left."""
    path = tmp_path_factory.mktemp("top")
    command = ["python3", "-m", "tests.live_top", "/out"]
    done = run_guest(request.param, command, timeout=300, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def documents(out: Path) -> list[Document]:
    return [json.loads(line) for line in (out / "top.json").read_text().splitlines()]


def of(document: Document, listing: str, key: str, name: str) -> Document:
    (found,) = (row for row in document[listing] if row[key] == name)
    row: Document = found
    return row


def test_what_was_there_before_is_in_the_first_document(documents: list[Document]) -> None:
    row = of(documents[0], "exporters", "exporter", EXPORTER)

    assert documents[0]["events"] == 0
    assert (row["buffers"], row["size_bytes"]) == (BEFORE, BEFORE * BEFORE_SIZE)


def test_it_counts_as_the_module_does(out: Path, documents: list[Document]) -> None:
    counted = json.loads((out / "counts.json").read_text())
    calls = {name: call["events"] for name, call in documents[-1]["calls"].items()}

    assert calls == {
        "export": counted["export_ok"],
        "attach": counted["attach_ok"],
        "map": counted["map_ok"],
    }
    assert set(calls.values()) == {CYCLES + LEFT}
    assert documents[-1]["not_observed"].keys() <= {"move"}


def test_nothing_is_lost(documents: list[Document]) -> None:
    assert {each["lost_events"] for each in documents} == {0}


def test_what_is_open_is_shown_while_it_is(documents: list[Document]) -> None:
    then = next(each for each in reversed(documents) if each["buffers"] == BEFORE + LEFT)
    device = of(then, "devices", "device", Importer.IMP32.device)

    assert (device["buffers"], device["mappings"]) == (LEFT, LEFT)
    assert [row["device"] for row in then["mappings"]] == [Importer.IMP32.device] * LEFT
    assert of(documents[-1], "exporters", "exporter", EXPORTER)["buffers"] == BEFORE


def test_on_a_terminal_it_ends_with_q_and_gives_it_back(out: Path) -> None:
    found = json.loads((out / "terminal.json").read_text())

    assert found["status"] == 0
    assert found["given_back"]
    assert " events, 0 lost" in found["said"].splitlines()[-1]
    assert found["sent"].count(ENTERS) == found["sent"].count(LEAVES) == 1
