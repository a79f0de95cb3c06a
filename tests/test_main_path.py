# SPDX-License-Identifier: Apache-2.0
"""Every kernel of the lab: doctor finds what is pinned, and real clients are recorded exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dmabuf_trace.cli.app import app
from tests.conftest import ANSWERS
from tests.counts import Recorded
from tests.main_path import FRAMES
from tests.scenarios import BLOCKED
from tests.vm import pins, run_guest
from tests.vm.kernels import KERNELS, Kernel

guest = pytest.mark.guest
main_path = pytest.mark.main_path

EXPORTERS = {
    "heaps": "system",
    "udmabuf": "udmabuf",
    "vgem": "drm",
    "vivid": "videobuf2_dma_contig",
}
"""Exporter that each of the lab's features brings."""


def test_every_kernel_has_pins() -> None:
    assert list(pins.load()) == list(KERNELS)


def test_the_readme_shows_the_pins() -> None:
    text = pins.README.read_text()
    assert pins.with_table(text, pins.load()) == text


def test_the_table_joins_what_the_same_kernels_have() -> None:
    said: dict[str, pins.Answers] = {
        "1": {
            "root": True,
            "list": False,
            "probe a": True,
            "probe old": True,
            "finding x": "no",
            "finding never": "no",
        },
        "2": {"root": True, "list": True, "probe a": True, "probe b": True, "finding x": "partly"},
    }
    assert pins.table(said).splitlines() == [
        "| | 1 | 2 |",
        "|---|---|---|",
        "| root | yes | yes |",
        "| list | no | yes |",
        "| probes `a` | yes | yes |",
        "| probes `old` | yes | no |",
        "| probes `b` | no | yes |",
        "| findings `x` | no | partly |",
    ]


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return KERNELS[request.param]


@pytest.fixture(scope="module")
def out(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests.main_path leaves, and where there is a module a recording of it; one guest."""
    path = tmp_path_factory.mktemp("main-path")
    script = "python3 -m tests.main_path /out"
    if kernel.headers:
        script += " && python3 -m tests.scenarios record /out blocked"
    command = ["sh", "-c", script]
    module = bool(kernel.headers)
    done = run_guest(kernel.name, command, timeout=900, shares={"/out": path}, module=module)
    assert done.returncode == 0, done.stderr
    return path


@guest
@main_path
def test_it_has_the_features_that_its_row_claims(out: Path, kernel: Kernel) -> None:
    assert set((out / "features").read_text().split()) == set(kernel.features)


@guest
@main_path
def test_doctor_finds_what_is_pinned(
    out: Path, kernel: Kernel, request: pytest.FixtureRequest
) -> None:
    found = pins.answers((out / "doctor.json").read_text())
    request.config.stash[ANSWERS][kernel.name] = found
    assert found == pins.load()[kernel.name], "if that is as it should be: ./dev vm pin"


@guest
@main_path
def test_every_call_of_real_clients_is_one_event(out: Path, kernel: Kernel) -> None:
    recorded = Recorded(out / "clients.dbt")
    rows = recorded.against_ftrace(json.loads((out / "clients.json").read_text()))

    assert recorded.cut is None
    assert not recorded.losses.any()
    assert [row for row in rows if row.counted != row.recorded] == []
    assert 0 < recorded.count("map") < FRAMES  # once per buffer, not once per frame
    assert recorded.count("set_name") == len(set(EXPORTERS) & set(kernel.features)) - 1  # not vivid


@guest
@main_path
def test_the_report_names_real_clients_and_no_leak(out: Path, kernel: Kernel) -> None:
    result = CliRunner().invoke(app, ["devices", str(out / "clients.dbt"), "--json"])
    assert result.exit_code == 0, result.output
    exporters = {row["exporter"] for row in json.loads(result.stdout)["tables"]["exporters"]}
    assert exporters == {EXPORTERS[name] for name in kernel.features if name in EXPORTERS}
    result = CliRunner().invoke(app, ["leaks", str(out / "clients.dbt"), "--json"])
    assert json.loads(result.stdout)["tables"]["leaks"] == []


@guest
@main_path
def test_sixty_threads_in_one_call_lose_nothing(out: Path, kernel: Kernel) -> None:
    if not kernel.headers:
        pytest.skip("no headers, so no module that could hold them there")
    recorded = Recorded(out / "blocked.dbt")
    counted = json.loads((out / "blocked.json").read_text())
    assert not recorded.losses.any()
    assert recorded.count("map") == BLOCKED == counted["module"]["map_ok"]
