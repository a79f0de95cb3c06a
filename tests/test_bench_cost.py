# SPDX-License-Identifier: Apache-2.0
"""The cost benchmark's text, and that its peers probe what the tool probes."""

from __future__ import annotations

from typing import Any

from dmabuf_trace.probes import PROBES
from tests.bench.cost_table import cost_text
from tests.bench.probed import FUNCTIONS, TIMED, ftrace_fields
from tests.bench.scripts import bpftrace_script

LOOPS = ("cycle", "alloc", "import", "sync", "files", "files again")


def figures(
    loop: int, reader: int = 0, files: int = 1000, events: int = 10, hits: int = 20
) -> dict[str, Any]:
    """One tool's: every round the same, ``files`` where the loop is over ordinary files."""
    return {
        name: {
            "loop": [files if "files" in name else loop] * 5,
            "reader": [reader] * 5,
            "events": 0 if "files" in name else events,
            "hits": hits,
        }
        for name in LOOPS
    }


def result(**ours: int) -> dict[str, Any]:
    """Bare 10,000 a loop; ftrace adds 20,000 of 10 calls, bpftrace 100,000 with its reader."""
    tools = {
        "bare": figures(10_000, events=0, hits=0),
        "ours": figures(**{"loop": 25_000, "reader": 5_000, **ours}),
        "ours, --events buffers": figures(10_000, hits=0),
        "ftrace kprobe events": figures(40_000),
        "ftrace fprobe events": figures(30_000, hits=0),
        "bpftrace, kprobes": figures(50_000, reader=60_000, hits=0),
    }
    return {"figures": tools, "missing": {"ours, --attach multi": "no such kernel"}}


def test_table_tells_costs_per_cycle_call_and_hit_without_and_with_the_reader() -> None:
    text = cost_text("6.12", result())

    assert "| ours | 10 | 15,000 | 1,500 | 750 | 20,000 | 2,000 |" in text
    assert "| ftrace fprobe events | 10 | 20,000 | 2,000 | 1,000 | - | - |" in text
    assert "- ours, --attach multi: not measured: no such kernel" in text


def test_goals_that_are_met() -> None:
    text = cost_text("6.12", result(files=1050))

    assert "- a call, to ftrace's fprobe events: 0.750, goal 1.000: met" in text
    assert "- a call, readers included, to bpftrace: 0.200, goal 0.333: met" in text
    assert "- an ordinary file's open and close, to none: 0.050, goal 0.050: met" in text
    assert "NOT" not in text


def test_goals_that_are_not_met_are_said_so() -> None:
    text = cost_text("6.12", result(loop=45_000, files=1100))

    assert "- a call, to ftrace's fprobe events: 1.750, goal 1.000: NOT met" in text
    assert "- a call, readers included, to bpftrace: 0.400, goal 0.333: NOT met" in text
    assert "- an ordinary file's open and close, to none: 0.100, goal 0.050: NOT met" in text


def test_peers_probe_functions_that_the_tool_probes() -> None:
    assert set(FUNCTIONS) <= {symbol for probe in PROBES for symbol in probe.symbols}


def test_peers_are_told_to_fetch_the_same() -> None:
    assert ftrace_fields(FUNCTIONS["fd_install"]) == (
        "v0=fd v1=file v2=file->f_inode->i_ino fops=file->f_op",
        "ret=$retval",
    )
    assert "dma_buf_map_attachment" in TIMED
    for kind, entry, returned in (
        ("kprobe", "kprobe", "kretprobe"),
        ("fentry", "fentry", "fexit"),
    ):
        script = bpftrace_script(kind)
        for symbol in FUNCTIONS:
            assert f"{entry}:{symbol} " in script
            assert (f"{returned}:{symbol} " in script) == (symbol in TIMED)
