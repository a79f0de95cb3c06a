# SPDX-License-Identifier: Apache-2.0
"""A reference that a driver took and never put is called so, with the place that took it.

The class of "iommufd/selftest: Fix dmabuf leak in iommufd_test_dmabuf_get()" (dba4254e216d).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import trace
from dmabuf_trace.analysis import Result, records, registry
from dmabuf_trace.elf import Elf
from dmabuf_trace.sourcelines import Lines, Location
from dmabuf_trace.trace import Trace
from tests.references import BALANCED, LEAKED, MODES, USES
from tests.vm import run_guest
from tests.vm.kernels import WITH_MODULE

pytestmark = [pytest.mark.guest, pytest.mark.every_run_on("6.12")]

KMOD = Path(__file__).parent / "kmod"
Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=WITH_MODULE)
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one guest recorded."""
    path = tmp_path_factory.mktemp("references")
    command = ["python3", "-m", "tests.references", "record", "/out"]
    done = run_guest(request.param, command, timeout=600, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """How the probes were attached."""
    found: str = request.param
    return found


@pytest.fixture
def recorded(out: Path, mode: str) -> Trace:
    return trace.open(out / f"{mode}.dbt")


@pytest.fixture
def result(recorded: Trace) -> Result:
    return registry()["leaks"](recorded)


@pytest.fixture
def leaks(result: Result) -> Rows:
    """Rows by the name of the buffer."""
    table = next(table for table in result.answer.tables if table.name == "leaks")
    return {row["name"]: row for row in records(table.rows)}


@pytest.fixture
def lines(out: Path, recorded: Trace) -> Lines:
    return Lines([out / "dmabuf_ref.ko"], recorded.builds, Path("/build"))


def functions(stack: list[str]) -> list[str]:
    return [frame.partition("+")[0] for frame in stack if frame.endswith(" [dmabuf_ref]")]


def calls(file: str, text: str) -> set[Location]:
    """Where a text stands in the module's sources."""
    found = (KMOD / file).read_text().splitlines()
    return {(file, number) for number, line in enumerate(found, 1) if text in line}


def test_the_module_counted_what_was_leaked(out: Path, mode: str, recorded: Trace) -> None:
    counted = json.loads((out / f"{mode}.json").read_text())

    assert counted["get_ok"] - counted["put"] == counted["leaked_refs"] == len(LEAKED)
    assert (counted["undone"], counted["live_buffers_then"]) == (len(LEAKED), 0)
    assert len(recorded.events_of("get")) == counted["get_ok"]
    assert not recorded.losses.any()


def test_only_references_that_were_never_put_are_leaks(result: Result, leaks: Rows) -> None:
    assert set(USES) > LEAKED
    assert result.doubts == ()
    assert {name: (row["shape"], row["holders"]) for name, row in leaks.items()} == dict.fromkeys(
        LEAKED, ("kernel", [])
    )


def test_the_stack_shows_who_took_it(leaks: Rows) -> None:
    (stack,) = leaks["never-put"]["get_stacks"]

    assert not any(frame.endswith(" [bpf]") for frame in stack), "the tracer itself"
    assert functions(stack)[:2] == ["ref_dmabuf_get", "ref_leak_ref"]
    assert "ref_export" in functions(leaks["never-put"]["export_stack"])


def test_of_several_places_the_latest_is_first(result: Result, leaks: Rows) -> None:
    taken = [functions(stack) for stack in leaks["one-of-many"]["get_stacks"]]

    assert BALANCED > 1
    assert [names[names.index("ref_ioctl") - 1] for names in taken] == [
        "ref_attach",
        "ref_leak_ref",
        "ref_move",
    ]
    assert result.answer.notes[-1] == (
        "of several places that took references, which one never put its own can't be told"
    )


def test_the_leak_leads_to_a_line_of_source(leaks: Rows, lines: Lines) -> None:
    (stack,) = leaks["never-put"]["get_stacks"]

    (found,) = lines.locations([stack])

    assert found in calls("handle.c", "dma_buf_get(fd)")
    known = {location for location in lines.of(stack) if location}
    assert known & calls("leak.c", "ref_dmabuf_get(fd)")
    assert known & calls("main.c", "ref_leak_ref(number)")
    assert lines.notes == ()


def test_the_recording_knows_the_build(out: Path, recorded: Trace) -> None:
    module = Elf(out / "dmabuf_ref.ko")

    assert (module.module, recorded.builds["dmabuf_ref"]) == ("dmabuf_ref", module.build_id)
    assert module.build_id
    assert recorded.builds[""]
