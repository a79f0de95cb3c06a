# SPDX-License-Identifier: Apache-2.0
"""Attach modes and loaders: the same work gives the same events, or a loss that is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from dmabuf_trace import schema
from dmabuf_trace.names import Names
from tests.counts import FTRACE, Recorded
from tests.modes import CYCLES, RACER_CYCLES, RECORDINGS, VARIED
from tests.scenarios import BLOCKED, RACERS
from tests.vm import run_guest
from tests.vm.kernels import KERNELS

pytestmark = pytest.mark.guest

EXACT: Final = {
    "6.1": {"auto", "kprobe", "fentry", "bcc"},
    "6.12": {"auto", "kprobe", "fentry", "bcc"},
    "7.2": {"auto", "kprobe", "multi", "bcc"},
}
"""Modes that lose nothing: fentry where the kernel doesn't preempt itself, multi on fgraph."""

REFUSED: Final = {"6.1": {"multi"}}
"""Modes that the kernel was built without."""

WAYS: Final = {
    "6.1": {"export": "kprobe", "map": "kprobe", "release": "kprobe", "detach": "kprobe"},
    "6.12": {"export": "kprobe", "map": "kprobe", "release": "multi", "detach": "multi"},
    "7.2": {"export": "kprobe", "map": "multi", "release": "multi", "detach": "tracepoint"},
}
"""What auto chooses for a timed call with a stack and one without, an entry, and a tracepoint."""

UNALIKE: Final = {kind.name for kind in schema.KINDS if kind.part} | {"fork"}
"""Kinds that no two runs have alike: waits depend on who comes first, an exporter's functions are
probed some time after its first export."""

OF_ALL_FILES: Final = ("fd_install", "filp_flush")
"""Functions whose skipped runs may have been for other files than buffers'."""

ADDRESSES: Final = {"attach", "map", "unmap", "fd_install", "fd_close"}
"""Kinds whose ``value`` is an address."""

NAMED: Final[dict[str, Callable[[Names, int], object]]] = {
    "export": Names.exporter,
    "set_name": Names.buffer,
    **dict.fromkeys(("attach", "detach", "map", "unmap", "pin", "unpin"), Names.device),
}
"""Kinds whose ``aux`` is the id of a text."""


class Guest:
    """What one guest left."""

    def __init__(self, kernel: str, path: Path) -> None:
        self.kernel = kernel
        self.path = path
        self.results: dict[str, dict[str, Any]] = json.loads((path / "results.json").read_text())
        self.recorded = {
            name: Recorded(path / f"{name}.dbt")
            for name in RECORDINGS
            if (path / f"{name}.dbt").exists()
        }


@pytest.fixture(scope="module", params=[kernel for kernel in KERNELS if kernel in EXACT])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """All recordings of a kernel, from one guest."""
    path = tmp_path_factory.mktemp("modes")
    command = ["python3", "-m", "tests.modes", "/out"]
    done = run_guest(request.param, command, timeout=1200, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return Guest(request.param, path)


def stories(recorded: Recorded) -> Counter[tuple[Any, ...]]:
    """Each buffer's events in order, and how many buffers had that story.

    Without times and threads, and with every address as its place in the order of the story's
    addresses; events without a buffer are stories of their own.
    """
    events = recorded.events[np.argsort(recorded.events["ts"], kind="stable")]
    by_buffer: dict[int, list[tuple[Any, ...]]] = {}
    places: dict[int, dict[int, int]] = {}
    for number, event in enumerate(events):
        buffer = int(event["buffer"]) or -number - 1
        known = places.setdefault(buffer, {0: 0})
        kind = schema.KIND_NAMES[int(event["kind"])]
        if kind in UNALIKE:
            continue
        value, aux = int(event["value"]), int(event["aux"])
        row = (
            kind,
            known.setdefault(int(event["object"]), len(known)) if kind != "mmap" else "user's",
            known.setdefault(value, len(known)) if kind in ADDRESSES else value,
            NAMED[kind](recorded.names, aux) if kind in NAMED else aux,
            int(event["ret"]),
            int(event["detail"]),
            int(event["stack"]) != schema.UNKNOWN_STACK,
        )
        by_buffer.setdefault(buffer, []).append(row)
    return Counter(tuple(rows) for rows in by_buffer.values())


@pytest.mark.parametrize("mode", RECORDINGS)
def test_every_call_is_an_event_or_a_counted_loss(guest: Guest, mode: str) -> None:
    result = guest.results[mode]
    if mode in REFUSED.get(guest.kernel, ()):
        assert result["status"] == 4
        assert f"can't attach by {mode}" in result["stderr"].splitlines()[0]
        assert "try --attach auto" in result["stderr"]
        assert mode not in guest.recorded
        return
    assert result["status"] == 0, result["stderr"]
    recorded = guest.recorded[mode]
    lost = recorded.losses[:, [schema.CAUSE[cause] for cause in schema.WHOLE_EVENT_CAUSES]]
    if mode in EXACT[guest.kernel]:
        assert not recorded.losses.any()
    for function, kinds in FTRACE.items():
        counted = result["ftrace"][function]
        seen = sum(recorded.count(kind) for kind in kinds)
        missed = int(sum(lost[schema.KIND[kind]].sum() for kind in kinds))
        if function in OF_ALL_FILES:
            assert seen <= counted <= seen + missed, function
        elif function == "dma_buf_begin_cpu_access":
            continue  # the ioctl's and the drivers': two probes, below against the module
        else:
            assert seen + missed == counted, function


@pytest.mark.parametrize("mode", RECORDINGS)
def test_exact_modes_agree_with_the_module_and_in_every_field(guest: Guest, mode: str) -> None:
    if mode not in EXACT[guest.kernel]:
        assert mode in {"fentry", "multi"}
        return
    recorded = guest.recorded[mode]
    rows = recorded.against_module(guest.results[mode]["module"])
    assert [row for row in rows if row.counted != row.recorded] == []
    buffers = CYCLES + RACERS * RACER_CYCLES + BLOCKED + 1 + VARIED
    assert recorded.count("export", ok=True) == recorded.count("release") == buffers
    assert stories(recorded) == stories(guest.recorded["kprobe"])


def test_returns_beyond_the_room_of_a_losing_multi_are_counted(guest: Guest) -> None:
    if guest.kernel != "6.12":
        assert "multi" in EXACT[guest.kernel] | REFUSED.get(guest.kernel, set())
        return
    lost = guest.recorded["multi"].losses
    # sixty threads in one call, and room for two per processor
    assert lost[schema.KIND["map"], schema.CAUSE["probe_missed"]] >= BLOCKED - 2 * 2


def test_auto_takes_what_is_exact_and_says_so(guest: Guest) -> None:
    header = guest.recorded["auto"].header
    ways = {probe["kind"]: probe["way"] for probe in header["probes"] if probe["attached"]}

    assert (header["loader"], header["attach"]) == ("core", "auto")
    assert ways | WAYS[guest.kernel] == ways
    for mode in ("kprobe", "multi", "fentry"):
        if mode in guest.recorded:
            probes = guest.recorded[mode].header["probes"]
            assert {probe["way"] for probe in probes if probe["kind"] == "export"} == {mode}


def test_without_btf_bcc_takes_over(guest: Guest) -> None:
    header = guest.recorded["bcc"].header

    assert header["loader"] == "bcc"
    assert all(probe["attached"] for probe in header["probes"])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no bcc", "bcc is not installed"),
        ("no headers", "the headers of kernel"),
        ("neither", "bcc is not installed"),
    ],
)
def test_a_loader_that_cannot_be_had(guest: Guest, case: str, message: str) -> None:
    result = guest.results[case]

    assert result["status"] == 4
    first, hint = result["stderr"].splitlines()
    assert first.startswith("dmabuf-trace: ")
    assert message in first
    assert "apt-get install" in hint
    assert not (guest.path / "refused.dbt").exists()
