# SPDX-License-Identifier: Apache-2.0
"""The demo's session, recorded in a guest: every leak found, nothing else called one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dmabuf_trace import schema
from dmabuf_trace.cli.app import app
from examples.demo import SESSION, TIMEOUT
from examples.workload import CYCLES, FRAMES, SIZES
from tests.counts import Recorded
from tests.kmod.client import EXPORTER, Importer
from tests.vm import run_guest

pytestmark = pytest.mark.guest

LONG_HELD = Importer.SEG.device


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with demo.dbt, and counted.json beside it."""
    out = tmp_path_factory.mktemp("demo")
    command = ["sh", "-c", SESSION]
    done = run_guest("6.12", command, timeout=TIMEOUT, shares={"/out": out}, module=True)
    assert done.returncode == 0, done.stderr
    assert "Total 0 objects, 0 bytes" in done.stdout
    assert " 0 lost, " in done.stderr
    assert "next: dmabuf-trace report /out/demo.dbt" in done.stderr
    return out


@pytest.fixture(scope="module")
def recording(session: Path) -> Path:
    return session / "demo.dbt"


def ask(analysis: str, recording: Path, *options: str) -> dict[str, list[dict[str, Any]]]:
    """The tables of an analysis, as its JSON gives them."""
    result = CliRunner().invoke(app, [analysis, "--json", *options, str(recording)])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["certain"]
    tables: dict[str, list[dict[str, Any]]] = answer["tables"]
    return tables


def test_every_call_was_recorded(session: Path, recording: Path) -> None:
    counted = json.loads((session / "counted.json").read_text())
    recorded = Recorded(recording)

    assert not recorded.losses.any()
    rows = recorded.against_module(counted["module"]) + recorded.against_ftrace(counted["ftrace"])
    assert [row for row in rows if row.counted != row.recorded] == []
    assert counted["module"]["op_map_ok"] > CYCLES  # the comparison is not one of zeros


def test_each_leak_has_its_shape_size_holder_and_stack(recording: Path) -> None:
    leaks = {leak["shape"]: leak for leak in ask("leaks", recording)["leaks"]}

    assert {shape: leak["size_bytes"] for shape, leak in leaks.items()} == SIZES
    assert {leak["exporter"] for leak in leaks.values()} == {EXPORTER}
    for leak in leaks.values():
        assert any(frame.startswith("ref_export+") for frame in leak["export_stack"])
    assert [holder["comm"] for holder in leaks["fd"]["holders"]] == ["leaks-an-fd"]
    assert leaks["fd"]["comm"] == "leaks-an-fd"
    assert [holder["comm"] for holder in leaks["mapping"]["holders"]] == ["leaks-a-mapping"]
    attached = leaks["attachment"]["holders"]
    assert [holder["device"] for holder in attached] == [Importer.IMP32.device]
    assert any(frame.startswith("ref_attach+") for frame in leaks["attachment"]["attach_stack"])
    (queue,) = leaks["in-flight"]["holders"]
    assert (queue["comm"], queue["sender_comm"]) == ("leaks-a-message", "leaks-a-message")
    assert leaks["kernel"]["holders"] == []


def test_nothing_else_is_called_a_leak(recording: Path) -> None:
    assert len(ask("leaks", recording)["leaks"]) == len(SIZES)


def test_the_long_held_mapping_is_named_with_its_device(recording: Path) -> None:
    held = ask("mappings", recording, "--device", LONG_HELD)["mappings"]

    assert [(row["device"], row["driver"]) for row in held] == [(LONG_HELD, "dmabuf-ref-importer")]
    assert held[0]["age_ns"] > 1_000_000_000


def test_real_clients_are_named(recording: Path) -> None:
    tables = ask("devices", recording)
    exporters = {row["exporter"]: row for row in tables["exporters"]}
    devices = {row["device"]: row for row in tables["devices"]}

    assert set(exporters) == {EXPORTER, "system", "udmabuf", "drm", "videobuf2_dma_contig"}
    assert exporters["system"]["buffers"] == 1
    assert devices["vgem"]["attaches"] == 1
    vivid = devices["vivid.0"]
    assert vivid["attaches"] == vivid["maps"] == exporters["videobuf2_dma_contig"]["buffers"]
    assert FRAMES > vivid["maps"] > 0  # mapped once per buffer, not once per frame


def test_a_buffers_story_is_told_by_name(recording: Path) -> None:
    result = CliRunner().invoke(app, ["show", str(recording), "camera-frame"])

    assert result.exit_code == 0, result.output
    for word in ("system", "vgem", "attach", "detach", "release"):
        assert word in result.stdout


def test_the_report_says_what_matters(recording: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(recording)])

    assert result.exit_code == 0, result.output
    for word in (*SIZES, LONG_HELD, "leaks-an-fd", "leaks-a-mapping", "EBUSY", "ENOMEM"):
        assert word in result.stdout
    assert "next: dmabuf-trace show" in result.stdout


def test_stacks_came_with_every_export_and_attach(recording: Path) -> None:
    recorded = Recorded(recording)
    stacked = [schema.KIND["export"], schema.KIND["attach"], schema.KIND["get"]]
    for event in recorded.events:
        assert (event["stack"] != schema.UNKNOWN_STACK) == (event["kind"] in stacked)
