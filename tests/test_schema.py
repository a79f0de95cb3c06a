# SPDX-License-Identifier: Apache-2.0
"""The one source and what is generated from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bpf.generate import generated
from dmabuf_trace import schema
from dmabuf_trace.cli.app import app
from dmabuf_trace.probes import FOLLOWING, GROUPS, PROBES

ROOT = Path(__file__).resolve().parent.parent
GENERATED = generated(ROOT)


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_committed_files_are_what_the_schema_generates(path: Path) -> None:
    assert path.read_text() == GENERATED[path], "run: python -m bpf.generate"


def test_records_have_no_padding_and_fit_the_ring() -> None:
    records = (schema.EVENT_DTYPE, schema.NAME_DTYPE, schema.FOUND_DTYPE, schema.HELD_DTYPE)
    for dtype in records:
        assert sum(dtype[name].itemsize for name in dtype.names or ()) == dtype.itemsize
        assert dtype.itemsize % 8 == 0
    assert schema.EVENT_DTYPE.itemsize <= 72


def test_ids_are_unique_and_fit_the_loss_table() -> None:
    assert len(schema.KIND_NAMES) == len(schema.KINDS)
    assert max(schema.KIND_NAMES) < schema.KIND_SLOTS
    assert sorted(schema.CAUSE.values()) == list(range(len(schema.CAUSES)))
    assert len(schema.CAUSES) <= schema.CAUSE_SLOTS
    assert set(schema.WHOLE_EVENT_CAUSES) <= set(schema.CAUSE)


SEVERAL = {"fd_install": ["fd_install", "do_dup2"]} | {
    "fence_wait": ["dma_resv_wait_timeout", "dma_fence_wait_start"]
}
"""Kinds that take more than one probe."""


def test_every_kind_comes_from_its_probes_and_every_program_is_used() -> None:
    assert {kind for probe in PROBES for kind in probe.kinds} == set(schema.KIND)
    for kind in schema.KIND:
        symbols = [probe.symbols[0] for probe in PROBES if kind in probe.kinds]
        assert symbols == SEVERAL.get(kind, symbols[:1])

    sources = "".join(path.read_text() for path in (ROOT / "bpf").glob("*.bpf.c"))
    programs = set(re.findall(r"^(?:PROBE|TRACEPOINT)\((\w+)\)$", sources, re.MULTILINE))
    probes = (*PROBES, *FOLLOWING)
    used = {name for p in probes for name in (p.entry, p.returned, p.point) if name}
    assert programs == used


def test_timed_kinds_are_those_with_a_return_probe() -> None:
    timed = {kind for probe in PROBES if probe.returned for kind in probe.kinds}
    assert {kind.name for kind in schema.KINDS if kind.timed} == timed


def test_help_names_every_group() -> None:
    help_text = CliRunner().invoke(app, ["record", "--help"]).stdout
    for group in GROUPS:
        assert group.name in help_text


def test_the_readme_names_every_group_and_its_cost() -> None:
    readme = (ROOT / "README.md").read_text()
    for group in GROUPS:
        assert f"| `{group.name}` | {group.cost} |" in readme
