# SPDX-License-Identifier: Apache-2.0
"""Graphs in DOT: what they say, and that nothing in a name is taken for DOT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.build import APP, KIB, MIB, US, Build, Process

HOSTILE = 'a"];\\" -> b\\'
NASTY = "\x1b[2J\n}//&lt;\\N"


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dmabuf_trace", "sharing", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shared(tmp_path: Path, one: str = "app", other: str = "cam", exporter: str = "system") -> Path:
    k = Build(process=Process(100, one))
    k.holding(k.existing(size=KIB, exporter="drm"), fd=9)
    k.snapshot("start")
    buffer = k.export(size=MIB, exporter=exporter, fd=3)
    k.export(size=MIB, exporter=exporter, fd=4)
    k.attach(buffer, "csi", driver="isp", bus="")
    k.by(Process(7, other)).fd(buffer, 8)
    return k.write(tmp_path / "x.dbt")


def test_exporters_processes_and_devices(tmp_path: Path) -> None:
    found = run(shared(tmp_path), "--dot")

    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == (
        "// Who passed what to whom?\n"
        "digraph sharing {\n"
        "  rankdir=LR;\n"
        '  n0 [shape=folder, label="drm\\n1 buffer, 1 KiB"];\n'
        '  n1 [shape=folder, label="system\\n2 buffers, 2 MiB"];\n'
        '  n2 [shape=ellipse, label="app-100"];\n'
        '  n3 [shape=ellipse, label="cam-7"];\n'
        '  n4 [shape=component, label="csi\\nisp"];\n'
        '  n0 -> n2 [label="1 buffer, 1 KiB\\n(export not seen)"];\n'
        '  n1 -> n2 [label="2 buffers, 2 MiB"];\n'
        '  n2 -> n3 [label="system\\n1 buffer, 1 MiB"];\n'
        '  n1 -> n4 [label="1 buffer, 1 MiB"];\n'
        "}\n"
    )


def test_a_pid_that_comes_again_is_another_process(tmp_path: Path) -> None:
    k = Build()
    old, new = Process(7, "old"), Process(7, "new")
    buffer = k.by(old).export(size=MIB, fd=3)
    k.wait(US)
    k.by(APP).fork(new)
    k.wait(US)
    k.by(new).fd(buffer, 8)

    lines = run(k.write(tmp_path / "x.dbt", cut=True), "--dot").stdout.splitlines()

    assert lines[-6:-1] == [
        '  n0 [shape=folder, label="system\\n1 buffer, 1 MiB"];',
        '  n1 [shape=ellipse, label="old-7"];',
        '  n2 [shape=ellipse, label="new-7"];',
        '  n0 -> n1 [label="1 buffer, 1 MiB"];',
        '  n1 -> n2 [label="system\\n1 buffer, 1 MiB"];',
    ]


def test_names_are_no_dot(tmp_path: Path) -> None:
    pydot = pytest.importorskip("pydot")
    text = run(shared(tmp_path, HOSTILE, NASTY, exporter=HOSTILE), "--dot").stdout

    assert "\x1b" not in text
    (graph,) = pydot.graph_from_dot_data(text)
    assert len(graph.get_edges()) == 4
    labels = {node.get_label() for node in graph.get_nodes()}
    assert r'"a\"];\\\" -> b\\-100"' in labels
    assert r'"\\x1b[2J\\n}//&amp;lt;\\N-7"' in labels
    assert len(labels) == 5


def test_it_is_either_dot_or_json(tmp_path: Path) -> None:
    found = run(shared(tmp_path), "--dot", "--json")

    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("dmabuf-trace: --json and --dot are two kinds of output\n")
