# SPDX-License-Identifier: Apache-2.0
"""What analyses find on a real kernel: each misuse by its buffer, and nothing in the clean twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import trace
from dmabuf_trace.analysis import records, registry
from dmabuf_trace.trace import Trace
from tests.findings import DISTURBED, FRAMES
from tests.vm import run_guest
from tests.vm.kernels import WITH_MODULE

pytestmark = pytest.mark.guest

Rows = list[dict[str, Any]]


class Recordings:
    """What one guest recorded."""

    def __init__(self, path: Path) -> None:
        self._traces = {name: trace.open(path / f"{name}.dbt") for name in ("misuse", "clean")}

    def __getitem__(self, name: str) -> Trace:
        return self._traces[name]

    def rows(self, name: str, analysis: str, table: str, **texts: str) -> Rows:
        """Rows of an answer that nothing makes doubtful, with the names of their buffers."""
        opened = self[name]
        result = registry()[analysis](opened, **texts)
        assert result.doubts == ()
        names = dict(opened.buffers[["inode", "name"]].to_numpy().tolist())
        (found,) = (each for each in result.answer.tables if each.name == table)
        return [{**row, "buffer": names.get(row.get("inode"))} for row in records(found.rows)]


@pytest.fixture(scope="module", params=WITH_MODULE)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Both recordings, from one guest."""
    path = tmp_path_factory.mktemp("findings")
    command = ["python3", "-m", "tests.findings", "record", "/out"]
    done = run_guest(request.param, command, timeout=900, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return Recordings(path)


def test_nothing_was_lost(found: Recordings) -> None:
    assert found["misuse"].lost_events == found["clean"].lost_events == 0


def test_brackets_of_cpu_access(found: Recordings) -> None:
    bad = {
        (row["buffer"], row["finding"], row["count"])
        for row in found.rows("misuse", "sync", "findings")
    }

    assert bad == {
        ("open-bracket", "begin without an end, buffer released", 1),
        ("stray-end", "end without a begin", 1),
        ("wrong-way", "ends in another direction", 1),
        ("never-synced", "mmap'ed, never bracketed", 1),
        ("interrupted", "interrupted, not tried again", 1),
    }
    assert found.rows("clean", "sync", "findings") == []


@pytest.mark.parametrize("name", ["misuse", "clean"])
def test_interrupted_calls_by_the_name_of_their_error(found: Recordings, name: str) -> None:
    (row,) = found.rows(name, "errors", "errors")

    assert (row["kind"], row["error"], row["calls"]) == ("cpu_begin", "ERESTARTSYS", 2)
    syncs = found[name].events[found[name].events["kind"] == "cpu_begin"]
    inodes = found[name].buffers.set_index("name")["inode"]
    calls = {each: syncs.loc[syncs["inode"] == inodes[each], "ret"].tolist() for each in DISTURBED}
    assert calls == {
        "interrupted": [-512] if name == "misuse" else [-512, 0],
        "restarted": [-512, 0],  # by the kernel: its process made one call
    }


def test_a_pin_that_is_kept(found: Recordings) -> None:
    def kept(name: str) -> list[tuple[str, str]]:
        pins = found.rows(name, "pins", "pins", min_age="1us")
        return sorted((row["buffer"], row["state"]) for row in pins)

    assert kept("misuse") == [("moved", "unpinned"), ("pinned", "pinned")]
    assert kept("clean") == [("moved", "unpinned"), ("pinned", "unpinned")]


def test_a_buffer_that_moves_while_it_is_pinned(found: Recordings) -> None:
    def moved(name: str, table: str, *columns: str) -> list[tuple[Any, ...]]:
        rows = found.rows(name, "pins", table)
        return sorted((row["buffer"], *(row[column] for column in columns)) for row in rows)

    assert moved("misuse", "moved_pinned", "pins", "mappings") == [("moved", 1, 0)]
    assert moved("misuse", "moves", "moves", "moves_pinned") == [("moved", 1, 1)]
    assert moved("clean", "moved_pinned") == []
    assert moved("clean", "moves", "moves", "moves_pinned") == [("moved", 1, 0), ("pinned", 1, 0)]


def test_peer_to_peer_that_an_exporter_refuses(found: Recordings) -> None:
    def answers(name: str) -> list[tuple[Any, ...]]:
        columns = ("exporter", "device", "attaches", "granted", "refused")
        return [tuple(row[each] for each in columns) for row in found.rows(name, "pins", "p2p")]

    who = ("dmabuf_ref", "dmabuf-ref-seg")
    assert answers("misuse") == [(*who, 1, 0, 1)]
    assert answers("clean") == [(*who, 1, 1, 0)]
    for name in ("misuse", "clean"):  # importers that did not ask
        table = found[name].attachments
        others = table.loc[table["device"] != "dmabuf-ref-seg", ["importer", "p2p"]]
        assert set(map(tuple, others.to_numpy())) == {
            ("static", "not asked"),
            ("dynamic", "not asked"),
        }


def test_a_mapping_that_nobody_gives_back(found: Recordings) -> None:
    leaks = {row["buffer"]: row["shape"] for row in found.rows("misuse", "leaks", "leaks")}

    assert leaks == {"left-mapped": "attachment", "pinned": "attachment"}
    held = found.rows("misuse", "mappings", "mappings", min_age="1us")
    assert [row["buffer"] for row in held if row["state"] == "mapped"] == ["left-mapped"]
    assert found.rows("clean", "leaks", "leaks") == []


def test_mappings_and_buffers_made_anew(found: Recordings) -> None:
    def remaps(name: str) -> list[int]:
        return [row["remaps"] for row in found.rows(name, "churn", "mappings")]

    assert FRAMES - 1 in remaps("misuse")
    assert remaps("clean") == []
    (misused,) = found.rows("misuse", "churn", "buffers")
    (pooled,) = found.rows("clean", "churn", "buffers")
    assert misused["alive_max"] > 2 * FRAMES > pooled["alive_max"]


def test_growth_and_a_pool_that_stands(found: Recordings) -> None:
    def verdicts(name: str) -> list[str]:
        """While frames were made: they are given back when the process ends."""
        buffers = found[name].buffers
        made = buffers[buffers["name"] == "frame"]["begin"]
        frames = found[name].window(int(made.min()), int(made.max()) + 1)
        (table, _) = registry()["growth"](frames).answer.tables
        return [row["verdict"] for row in records(table.rows)]

    assert verdicts("misuse") == ["grows"]
    assert verdicts("clean") == ["stands"]


def test_the_fence_that_a_map_waited_for(found: Recordings) -> None:
    def waits(name: str) -> Rows:
        """Those of CPU access have tests of their own."""
        longest = found.rows(name, "fences", "longest")
        return [row for row in longest if row["buffer"] not in DISTURBED]

    (wait,) = waits("misuse")
    assert (wait["buffer"], wait["call"], wait["result"]) == ("fenced", "map", "signalled")
    assert waits("clean") == []
    parts = found.rows("misuse", "devices", "map_parts")
    assert sum(row["fence_wait_ns"] for row in parts) == wait["wait_ns"]


def test_the_most_that_was_alive(found: Recordings) -> None:
    for name in ("misuse", "clean"):
        buffers = found[name].buffers
        levels = {row["moment"]: row for row in found.rows(name, "footprint", "levels")}

        assert levels["high-water mark"]["buffers"] <= len(buffers)
        assert levels["end"]["buffers"] == int(buffers["open"].sum())


def test_rules_of_the_contract(found: Recordings) -> None:
    def verdicts(name: str) -> dict[str, str]:
        return {row["rule"]: row["verdict"] for row in found.rows(name, "contract", "rules")}

    broken = {rule for rule, verdict in verdicts("misuse").items() if verdict == "violated"}
    assert broken == {"cpu_access_bracketed", "mapping_not_held", "sync_restarted"}
    violations = {row["buffer"] for row in found.rows("misuse", "contract", "violations")}
    brackets = {"open-bracket", "stray-end", "wrong-way", "interrupted"}
    assert violations == {*brackets, "left-mapped"}
    assert "violated" not in verdicts("clean").values()
    kept = {rule for rule, verdict in verdicts("clean").items() if verdict == "passed"}
    assert {"map_attached", "unmap_once", "pin_balanced", "detach_before_release"} <= kept
    assert "sync_restarted" in kept
