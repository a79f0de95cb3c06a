# SPDX-License-Identifier: Apache-2.0
"""Parts of calls, fds, releases, cgroups: what a guest did on purpose is what was recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmabuf_trace import schema, story, trace
from dmabuf_trace.analysis import records
from tests.counts import Recorded
from tests.parts import FUNCTIONS, SCENARIOS
from tests.vm import run_guest
from tests.vm.kernels import WITH_MODULE

pytestmark = [pytest.mark.guest, pytest.mark.every_run_on("7.2")]

Event = dict[str, Any]
Marks = dict[str, Any]


@pytest.fixture(scope="module", params=WITH_MODULE)
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with NAME.dbt and NAME.json of each scenario, from one guest."""
    path = tmp_path_factory.mktemp("parts")
    command = ["python3", "-m", "tests.scenarios", "record", "/out", *SCENARIOS]
    done = run_guest(request.param, command, timeout=1200, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path


def read(out: Path, name: str) -> tuple[Recorded, Marks]:
    """A recording without losses, and the marks of its scenario."""
    recorded = Recorded(out / f"{name}.dbt")
    assert recorded.cut is None
    assert not recorded.losses.any()
    marks: Marks = json.loads((out / f"{name}.json").read_text())["marks"]
    return recorded, marks


def events(recorded: Recorded, *kinds: str, **fields: int) -> Iterator[Event]:
    """Events of those kinds whose fields have those values, in order of time."""
    chosen = np.isin(recorded.events["kind"], [schema.KIND[kind] for kind in kinds])
    for name, value in fields.items():
        chosen &= recorded.events[name] == value
    found = recorded.events[chosen]
    for row in found[np.argsort(found["ts"], kind="stable")]:
        yield dict(zip(found.dtype.names or (), row.item(), strict=True))


def operation(name: str) -> int:
    return schema.OPERATIONS.index(name) + 1


def covers(event: Event, mark: Marks) -> bool:
    """The event was under way all the time that the workload saw it wait."""
    begin = event["ts"] - event["dur"]
    return bool(begin <= mark["since"] and mark["until"] <= event["ts"])


def contains(call: Event, part: Event) -> bool:
    begin, part_begin = (int(each["ts"] - each["dur"]) for each in (call, part))
    inside = begin <= part_begin and int(part["ts"]) <= int(call["ts"])
    return inside and int(call["tid"]) == int(part["tid"])


def only(found: Iterator[Event]) -> Event:
    (event,) = found
    return event


def test_a_wait_for_the_lock_is_beside_the_map_that_waited(out: Path) -> None:
    recorded, marks = read(out, "parts")
    mark = marks["locked"]

    wait = only(events(recorded, "lock_wait"))

    assert (wait["buffer"], wait["tid"], wait["ret"]) == (mark["buffer"], mark["tid"], 0)
    assert covers(wait, mark)
    mapped = only(events(recorded, "map", tid=mark["tid"], buffer=mark["buffer"]))
    assert mapped["ts"] - mapped["dur"] >= wait["ts"], "the map's time begins with the lock"


@pytest.mark.parametrize(
    ("name", "part", "calls"),
    [
        ("slow_map", "map", ["map"]),
        ("slow_pin", "pin", ["pin"]),
        ("slow_own_pin", "pin", ["attach", "map"]),
    ],
)
def test_a_slow_exporter_is_a_part_of_the_call(
    out: Path, name: str, part: str, calls: list[str]
) -> None:
    recorded, marks = read(out, "parts")
    mark = marks[name]
    mine = {"tid": mark["tid"], "buffer": mark["buffer"]}

    slow = only(events(recorded, "operation", **mine, detail=operation(part)))

    assert slow["ret"] == 0
    assert covers(slow, mark)
    inside = [call for call in events(recorded, *calls, **mine) if contains(call, slow)]
    assert len(inside) == 1
    pins = len(list(events(recorded, "pin", **mine)))
    assert pins == (name == "slow_pin"), "the core's own pins are the exporter's operation only"


@pytest.mark.parametrize(
    ("name", "call"), [("fence_in_map", "map"), ("fence_in_sync", "cpu_begin")]
)
def test_a_wait_for_a_fence_is_a_part_of_the_call(out: Path, name: str, call: str) -> None:
    recorded, marks = read(out, "parts")
    mark = marks[name]

    wait = only(events(recorded, "fence_wait", buffer=mark["buffer"]))

    assert (wait["tid"], wait["ret"], wait["detail"]) == (mark["tid"], 0, 0)
    assert wait["value"], "the context of the module's fence"
    assert covers(wait, mark)
    assert contains(only(events(recorded, call, tid=mark["tid"], buffer=mark["buffer"])), wait)


@pytest.mark.parametrize(
    ("name", "kind", "call"),
    [
        ("locked", "lock", "map"),
        ("fence_in_map", "fence", "map"),
        ("fence_in_sync", "fence", "cpu_begin"),
    ],
)
def test_waits_name_the_call_that_they_are_for(out: Path, name: str, kind: str, call: str) -> None:
    _, marks = read(out, "parts")
    waits = trace.open(out / "parts.dbt").waits

    (wait,) = records(waits[(waits["inode"] == marks[name]["buffer"]) & (waits["kind"] == kind)])

    assert (wait["call"], wait["tid"]) == (call, marks[name]["tid"])
    assert (wait["device"] is not None) == (call == "map")


@pytest.mark.parametrize(
    ("name", "operation", "calls"),
    [
        ("slow_map", "map", {"map"}),
        ("slow_pin", "pin", {"pin"}),
        ("slow_own_pin", "pin", {"attach", "map"}),
    ],
)
def test_operations_name_the_call_that_made_them(
    out: Path, name: str, operation: str, calls: set[str]
) -> None:
    _, marks = read(out, "parts")
    made = trace.open(out / "parts.dbt").operations

    mine = made[(made["inode"] == marks[name]["buffer"]) & (made["operation"] == operation)]

    assert set(mine["call"]) <= calls
    assert len(mine) == 1


def test_fences_that_were_waited_for_are_told_apart(out: Path) -> None:
    recorded, _ = read(out, "parts")
    waits = list(events(recorded, "fence_wait"))

    assert len(waits) == 2
    assert len({(wait["value"], wait["aux"]) for wait in waits}) == 2


def test_polls_tell_what_was_asked_and_answered(out: Path) -> None:
    recorded, marks = read(out, "parts")

    polls = list(events(recorded, "poll", buffer=marks["polled"]["buffer"]))

    readable = 1
    assert [poll["value"] & readable for poll in polls] == [readable] * len(polls)
    answers = [poll["detail"] & readable for poll in polls]
    assert answers[0] == 0
    assert answers[-1] == readable


def test_without_anything_to_wait_for_there_are_no_waits(out: Path) -> None:
    recorded, _ = read(out, "calm")

    assert list(events(recorded, "lock_wait", "fence_wait")) == []


COUNTERS = {
    "attach": ("op_attach_ok", "op_attach_failed"),
    "detach": ("op_detach",),
    "pin": ("op_pin_ok", "op_pin_failed"),
    "unpin": ("op_unpin",),
    "map": ("op_map_ok", "op_map_failed"),
    "unmap": ("op_unmap",),
    "begin": ("op_begin_ok", "op_begin_failed"),
    "end": ("op_end_ok", "op_end_failed"),
    "mmap": ("op_mmap_ok", "op_mmap_failed"),
    "vmap": ("op_vmap_ok", "op_vmap_failed"),
    "vunmap": ("op_vunmap",),
}


@pytest.mark.parametrize("name", ["parts", "calm", "reloaded"])
def test_operations_are_what_the_module_counted(out: Path, name: str) -> None:
    recorded, marks = read(out, name)
    assert set(COUNTERS) == set(schema.OPERATIONS)

    made = events(recorded, "operation")
    seen = Counter(each["detail"] for each in made if each["ts"] > marks["since"])

    for part, counters in COUNTERS.items():
        counted = sum(marks["after"][each] - marks["before"][each] for each in counters)
        assert seen[operation(part)] == counted, part
    assert sum(seen.values()) > 0


@pytest.mark.parametrize("name", ["parts", "calm", "reloaded"])
def test_which_functions_were_probed_is_in_the_recording(out: Path, name: str) -> None:
    table = trace.open(out / f"{name}.dbt").probed

    assert sorted(table["operation"]) == sorted(schema.OPERATIONS)
    assert len(table) == FUNCTIONS
    assert table["symbol"].str.startswith("dmabuf_ref:").all()
    assert (table["reason"] == "").all()


def test_entries_and_cached_mappings(out: Path) -> None:
    recorded, _ = read(out, "calm")
    table = trace.open(out / "calm.dbt").mappings

    assert (table["entries"][:3] == 2).all()
    assert not table["cached"][:3].any()
    static_on_dynamic = table.iloc[3]
    early = list(events(recorded, "operation", detail=operation("map")))
    attach = [each for each in events(recorded, "attach") if any(contains(each, e) for e in early)]
    assert static_on_dynamic["cached"] == bool(attach), "up to 6.15 the attach maps already"


def test_a_story_has_parts_below_their_calls(out: Path) -> None:
    _, marks = read(out, "parts")
    told = story.tell(trace.open(out / "parts.dbt"), str(marks["fence_in_map"]["buffer"]))

    names = [schema.KIND_NAMES[step.event["kind"]] for step in told.steps]
    at = names.index("map")
    depth = told.steps[at].depth
    parts = [(each, step.depth) for each, step in zip(names, told.steps, strict=True)][at + 1 :][:2]
    assert parts == [("operation", depth + 1), ("fence_wait", depth + 1)]


def test_every_way_for_an_fd_to_come(out: Path) -> None:
    recorded, marks = read(out, "fds")

    came = [
        [each["buffer"], each["detail"], each["aux"] == schema.FD_DUP2]
        for each in events(recorded, "fd_install", pid=marks["pid"])
    ]

    assert came == marks["installed"]


def test_forks_of_processes_that_hold_buffers(out: Path) -> None:
    recorded, marks = read(out, "fds")

    forks = [[each["pid"], each["detail"]] for each in events(recorded, "fork")]

    assert forks == marks["forks"]


def test_forks_of_a_process_that_held_its_buffer_before(out: Path) -> None:
    _, marks = read(out, "held_before")

    forks = list(events(Recorded(out / "inner.dbt"), "fork"))

    assert [(each["pid"], each["detail"]) for each in forks] == [(marks["pid"], marks["child"])]


def test_every_way_for_an_fd_to_go(out: Path) -> None:
    """With what forks copy, all that came goes: close, close_range, dup2 over it, exec, exit."""
    recorded, _ = read(out, "fds")
    tables: dict[int, Counter[int]] = {}

    kinds = ("fd_install", "fd_close", "fork")
    rows = recorded.events[np.isin(recorded.events["kind"], [schema.KIND[kind] for kind in kinds])]
    for row in rows:  # in the ring's order
        kind = schema.KIND_NAMES[int(row["kind"])]
        if kind == "fork":
            tables[int(row["value"])] = Counter(tables[int(row["object"])])
            continue
        table = tables.setdefault(int(row["value"]), Counter())
        table[int(row["object"])] += 1 if kind == "fd_install" else -1
        assert table[int(row["object"])] >= 0

    assert len(tables) >= 2
    assert all(not +table for table in tables.values())


def test_fds_are_rows_from_install_or_fork_to_close(out: Path) -> None:
    recorded, marks = read(out, "fds")

    fds = trace.open(out / "fds.dbt").fds

    assert fds["begin"].notna().all()
    assert not fds["open"].any()
    came = fds["origin"].value_counts()
    assert came["install"] + came["dup2"] == recorded.count("fd_install")
    children = {child for _, child in marks["forks"]}
    assert set(fds[fds["origin"] == "fork"]["pid"]) == children
    mine = fds[(fds["pid"] == marks["pid"]) & (fds["origin"] != "fork")]
    assert sorted(mine["fd"]) == sorted(fd for _, fd, _ in marks["installed"])


def test_fds_against_ftrace(out: Path) -> None:
    recorded, _ = read(out, "fds")
    ftrace = json.loads((out / "fds.json").read_text())["ftrace"]

    by_function = Counter(each["aux"] for each in events(recorded, "fd_install"))
    assert by_function[0] == ftrace["fd_install"]
    assert recorded.count("fd_close") == ftrace["filp_flush"]


def test_where_the_last_reference_was_dropped(out: Path) -> None:
    recorded, marks = read(out, "releases")
    context = {
        name: schema.CONTEXTS[only(events(recorded, "release", buffer=marks[name]))["detail"]]
        for name in ("closed", "mapped", "lost")
    }

    # 6.1 defers what close() drops until the way back to user space, as all do for munmap()
    assert context["closed"] in ("task", "task work")
    assert context["mapped"] == "task work"
    assert context["lost"] == "kernel worker"


def test_a_cgroup_holds_until_it_changes(out: Path) -> None:
    recorded, marks = read(out, "moved")

    table = trace.open(out / "moved.dbt").buffers

    home = marks["home"].removeprefix("0::").strip()
    assert table["cgroup"].tolist() == [home, marks["place"]]
    assert recorded.count("export") == 2
