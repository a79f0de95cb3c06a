# SPDX-License-Identifier: Apache-2.0
"""Filters: what they say, what the programs let pass; user stacks and periodic looks in guests."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from dmabuf_trace import schema, trace
from dmabuf_trace.blocks import Found, Holder, NameBlock, SnapshotBlock
from dmabuf_trace.cli.app import app
from dmabuf_trace.errors import InputError
from dmabuf_trace.filters import Filters, check_pid, descendants, only
from dmabuf_trace.recording import Reader
from dmabuf_trace.watch import Watch
from tests.build import KIB, MS, Build, Process
from tests.counts import Recorded
from tests.vm import run_guest
from tests.watching import COMM, CYCLES, SIZE

pytestmark = pytest.mark.every_run_on("6.12")

APP, OTHER = Process(100, "app"), Process(101, "other")


class Table(set[int]):
    """A table of the programs with room for two keys."""

    def add(self, keys: Any) -> list[int]:  # type: ignore[override]
        full = []
        for key in keys:
            if len(self) >= 2 and key not in self:
                full.append(key)
            else:
                super().add(key)
        return full


def look(when: str = "start") -> SnapshotBlock:
    """Buffers 1 to 4: two of a process, one of another, one that nobody holds."""
    found = (
        Found(1, 4 * KIB, "system", ""),
        Found(2, 8 * KIB, "system", ""),
        Found(3, 8 * KIB, "drm", ""),
        Found(4, 8 * KIB, "drm", ""),
    )
    mine = (Holder(1, 100, "app", 3), Holder(2, 100, "app", -1, 0x1000, 4096))
    return SnapshotBlock(when, 5, found, (*mine, Holder(3, 101, "other", 3)), 0, complete=True)


def inodes(block: SnapshotBlock) -> tuple[list[int], list[int], list[int]]:
    """Buffers, those of them that are watched, and the buffers of holders."""
    watched = [found.buffer for found in block.buffers if found.watched]
    return (
        [found.buffer for found in block.buffers],
        watched,
        [holder.buffer for holder in block.holders],
    )


@pytest.mark.parametrize(
    ("filters", "watched", "listed", "held"),
    [
        (Filters(), [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3]),
        (Filters(exporter="drm"), [3, 4], [3, 4], [3]),
        (Filters(min_size=8 * KIB, exporter="system"), [2], [2], [2]),
        (Filters(max_size=4 * KIB), [1], [1], [1]),
        (Filters(comm="other"), [3], [1, 2, 3, 4], [3]),
        (Filters(comm="other", exporter="system"), [], [1, 2], []),
        (Filters(command_only=True), [], [1, 2, 3, 4], []),
    ],
)
def test_what_is_watched_from_the_start_on(
    filters: Filters, watched: list[int], listed: list[int], held: list[int]
) -> None:
    tables = {name: Table() for name in ("matching", "watched", "pids")}
    watch = Watch(filters, lambda name: tables[name])  # type: ignore[arg-type,return-value]

    assert inodes(watch.begin(look())) == (listed, watched, held)
    assert inodes(watch.only(look("end"))) == (watched, watched, held)


def test_a_look_keeps_what_is_watched() -> None:
    assert inodes(only(look(), {2, 3})) == ([2, 3], [2, 3], [2, 3])


def test_filters_as_the_programs_are_told() -> None:
    filters = Filters(pids=(7,), comm="app", exporter="system", min_size=1, max_size=9)
    config = np.zeros(1, schema.CONFIG_DTYPE)
    filters.configure(config)

    assert config["filters"][0] == sum(schema.FILTERS.values())
    assert config["exporter"][0] == schema.string_id("exporter", "system")
    assert (config["min_size"][0], config["max_size"][0], config["comm"][0]) == (1, 9, b"app")
    assert Filters().bits == 0
    assert filters.arguments() == [
        *("--pid", "7", "--comm", "app", "--exporter", "system"),
        *("--min-size", "1", "--max-size", "9"),
    ]
    assert Filters().arguments() == []


def test_ids_of_texts_differ_by_type_and_text() -> None:
    found = [schema.string_id(kind, text) for kind in schema.NAME_TYPES for text in ("", "a", "b")]
    assert len(set(found)) == len(found)
    assert schema.string_id("exporter", "x" * 63) == schema.string_id("exporter", "x" * 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Filters(comm="x" * 16), "more than 15 bytes"),
        (lambda: Filters(exporter="x" * 64), "more than 63 bytes"),
        (lambda: Filters(min_size=2, max_size=1), "above --max-size 1"),
        (lambda: check_pid(1 << 30), "no such process"),
    ],
)
def test_filters_that_match_nothing_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_process_and_its_children_are_found(tmp_path: Path) -> None:
    for pid, parent in ((1, 0), (10, 1), (11, 10), (12, 11), (20, 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nTgid:\t{pid}\nPPid:\t{parent}\n")
    (tmp_path / "21").mkdir()  # gone meanwhile
    (tmp_path / "11" / "status").write_text("Name:\tx\nTgid:\t11\nPPid:\t10\n")

    assert descendants({10}, tmp_path) == {11, 12}
    check_pid(os.getpid())
    (tmp_path / "13").mkdir()
    (tmp_path / "13" / "status").write_text("Name:\tx\nTgid:\t10\nPPid:\t1\n")
    with pytest.raises(InputError, match="--pid 13 is a thread"):
        check_pid(13, tmp_path)


def test_a_buffer_shows_from_its_first_event_on(tmp_path: Path) -> None:
    k = Build(lists_all=True)
    theirs, aside = k.existing(size=8 * KIB, exporter="drm"), k.existing()
    k.snapshot("start", watched=())
    k.wait(MS)
    k.by(APP).fd(theirs, 3)
    k.vanish(aside)
    recording = trace.open(k.write(tmp_path / "x.dbt", filters=["--pid", "100"]))

    assert recording.filters == ("--pid", "100")
    rows = recording.buffers[["inode", "exporter", "size_bytes", "origin"]]
    assert rows.to_numpy().tolist() == [[theirs.inode, "drm", 8 * KIB, "before"]]
    assert not len(recording.quality)


def test_an_export_that_was_left_out_is_no_loss(tmp_path: Path) -> None:
    k = Build()
    k.by(APP).export(fd=3)
    k.by(OTHER)
    theirs = k.existing()
    k.fd(theirs, 4)
    path = k.write(tmp_path / "x.dbt", filters=["--pid", "100"])

    assert trace.open(path).buffers["origin"].tolist() == ["exported", "unwatched"]
    shown = CliRunner().invoke(app, ["report", str(path)]).stdout
    assert "recorded with: --pid 100" in shown
    assert "1 buffer exported by whom the filters leave out" in shown


def test_blind_spots_of_filters_are_told(tmp_path: Path) -> None:
    k = Build()
    k.snapshot("start")
    told = trace.open(k.write(tmp_path / "x.dbt", filters=["--exporter", "drm"])).quality
    assert told["what"].tolist() == ["filter"]


def test_periodic_looks_are_kept(tmp_path: Path) -> None:
    k = Build()
    k.snapshot("start")
    buffer = k.by(APP).export(fd=3)
    for _ in range(2):
        k.wait(MS)
        k.snapshot("during")
    k.close(3)
    k.wait(MS)
    path = k.write(tmp_path / "x.dbt")
    recording = trace.open(path)

    assert [found.when for found in recording.looks] == ["start", "during", "during", "end"]
    assert recording.holders["when"].tolist() == ["during", "during"]
    assert recording.holders["inode"].tolist() == [buffer.inode] * 2
    assert "looked up 2 times" in CliRunner().invoke(app, ["report", str(path)]).stdout


# guests


@pytest.fixture(scope="module", params=("6.12", "7.2"))
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests.watching leaves, from one guest."""
    path = tmp_path_factory.mktemp("watching")
    command = ["python3", "-m", "tests.watching", "/out"]
    done = run_guest(request.param, command, timeout=900, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def found(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "watching.json").read_text())
    return read


LIFE = ("export", "fd_install", "get", "attach", "map", "unmap", "detach", "fd_close", "release")
"""Events of a buffer in one cycle, in their order."""


FIELDS = ("kind", "buffer", "pid", "tid")


def lives(recorded: Recorded) -> dict[int, list[str]]:
    """Kinds of the events of each buffer, in their order, as far as a life is made of them."""
    kinds: dict[int, list[str]] = {}
    for event in recorded.events:
        kind = schema.KIND_NAMES[int(event["kind"])]
        if kind in LIFE:
            kinds.setdefault(int(event["buffer"]), []).append(kind)
    return kinds


def read(out: Path, name: str) -> Recorded:
    recorded = Recorded(out / f"{name}.dbt")
    assert recorded.cut is None
    assert not recorded.losses.any()
    return recorded


def expected(
    every: NDArray[np.void],
    by_task: Callable[[np.void], bool] | None,
    by_buffer: Callable[[int, int], bool],
    facts: dict[int, tuple[int, int]],
    watched: set[int],
) -> Counter[tuple[int, ...]]:
    """The filter once more, over all events; ``facts``: exporter and size of what was before."""
    passed: Counter[tuple[int, ...]] = Counter()
    for event in every:
        inode = int(event["buffer"])
        if event["kind"] == schema.KIND["fork"]:  # of fds of any buffers
            passed[tuple(int(event[field]) for field in FIELDS)] += 1
            continue
        if event["kind"] == schema.KIND["export"]:
            facts[inode] = int(event["aux"]), int(event["value"])
        if inode not in watched and by_buffer(*facts[inode]) and (not by_task or by_task(event)):
            watched.add(inode)
        if inode in watched:
            passed[tuple(int(event[field]) for field in FIELDS)] += 1
    return passed


@pytest.mark.guest
@pytest.mark.parametrize("name", ["pid", "comm", "exporter", "size", "both"])
def test_exactly_what_the_filters_choose_is_recorded(
    out: Path, found: dict[str, Any], name: str
) -> None:
    every, recorded = read(out, "all"), read(out, name)
    who = found["scripted"]
    held, one = who["held"], who["pids"]["one"]
    with Reader(out / "all.dbt") as reader:
        start = next(block for block in reader.blocks() if isinstance(block, SnapshotBlock))
    facts = {
        row.buffer: (schema.string_id("exporter", row.exporter), row.size) for row in start.buffers
    }
    exporter = schema.string_id("exporter", "system")
    of_one = {
        one,
        *every.events["pid"][np.isin(every.events["buffer"], who["made"]["one's child"])],
    }
    by_task: dict[str, Callable[[np.void], bool]] = {
        "pid": lambda event: int(event["pid"]) in of_one,
        "comm": lambda event: every.names.comm(int(event["tid"]), int(event["ts"])) == COMM,
    }
    by_buffer: dict[str, Callable[[int, int], bool]] = {
        "exporter": lambda by, _: by == exporter,
        "size": lambda _, size: 2 * 4096 <= size <= SIZE,
        "both": lambda by, size: by == exporter and size <= 4096,
    }
    wanted = expected(
        every.events,
        by_task["pid" if name == "both" else name] if name in ("pid", "comm", "both") else None,
        by_buffer.get(name, lambda *_: True),
        facts,
        {held["one"]} if name == "pid" else set(),
    )

    got = Counter(tuple(int(event[field]) for field in FIELDS) for event in recorded.events)
    assert sum(wanted.values()) > 0
    assert got == wanted
    assert len(recorded.events) < len(every.events)


@pytest.mark.guest
def test_a_process_its_children_and_all_their_buffers(out: Path, found: dict[str, Any]) -> None:
    who = found["scripted"]
    recorded = lives(read(out, "pid"))
    mine = [*who["made"]["one"], *who["made"]["one's child"]]

    assert len(mine) == CYCLES + CYCLES // 2
    for inode in mine:
        assert tuple(recorded.pop(inode)) == LIFE
    (shared,) = who["made"]["shared"]
    assert recorded.pop(shared)[-1] == "release"  # which another process brought about
    assert {who["held"]["one"], who["held"]["other"]} < set(recorded)
    assert who["held"]["never"] not in recorded
    strangers = {*who["made"]["other"], *who["made"]["renamed"]}
    assert strangers.isdisjoint(recorded)
    # beside the heap's, in which nobody else takes part
    assert len(recorded) == 2 + 8


@pytest.mark.guest
def test_a_buffer_of_another_process_is_whole_from_its_arrival_on(
    out: Path, found: dict[str, Any]
) -> None:
    who = found["scripted"]
    theirs = who["held"]["other"]

    kinds = lives(read(out, "pid"))[theirs]
    assert kinds[0] == "fd_install"
    assert kinds.count("attach") == kinds.count("detach") == 1  # of two: one was before
    assert lives(read(out, "all"))[theirs].count("attach") == 2


@pytest.mark.guest
@pytest.mark.parametrize("name", ["pid", "comm", "exporter", "size", "both"])
def test_nothing_that_was_left_out_is_called_a_leak_or_a_difference(
    out: Path, found: dict[str, Any], name: str
) -> None:
    recording = trace.open(out / f"{name}.dbt")

    assert not recording.buffers["open"][recording.buffers["origin"] != "before"].any()
    assert "reconcile" not in recording.quality["what"].tolist()
    listed = {row.buffer for row in recording.snapshots["end"].buffers}
    assert listed <= set(recording.buffers["inode"])
    if name == "pid":
        held = found["scripted"]["held"]
        assert listed == {held["one"], held["other"]}
    shown = CliRunner().invoke(app, ["report", str(out / f"{name}.dbt")])
    assert f"recorded with: {' '.join(recording.filters)}" in shown.stdout
    assert "may be wrong" not in shown.stdout


@pytest.mark.guest
def test_the_programs_and_we_give_a_text_the_same_id(out: Path) -> None:
    with Reader(out / "all.dbt") as reader:
        blocks = [block.names for block in reader.blocks() if isinstance(block, NameBlock)]
    names = np.concatenate(blocks)
    exporters = names[names["type"] == schema.NAME_TYPES["exporter"]]

    assert sorted(set(exporters["text"].tolist())) == [b"dmabuf_ref", b"system"]
    for row in exporters:
        assert row["id"] == schema.string_id("exporter", row["text"].decode())


@pytest.mark.guest
def test_only_the_command_and_its_children(out: Path, found: dict[str, Any]) -> None:
    told = found["only command"]
    recorded = lives(read(out, "only-command"))

    assert told["cycles of another"] > 0
    assert len(told["inodes"]) == 2 * CYCLES
    assert set(recorded) == set(told["inodes"])
    assert all(tuple(kinds) == LIFE for kinds in recorded.values())


@pytest.mark.guest
def test_stacks_of_a_client_that_has_ended_have_names(out: Path, found: dict[str, Any]) -> None:
    told = found["user stacks"]
    path = out / "user-stacks.dbt"
    recording = trace.open(path)
    exports = recording.events[recording.events["kind"] == "export"]

    assert exports["pid"].tolist() == [told["pid"]]
    frames = recording.user_stacks[int(exports["user_stack"].iloc[0])]
    named = [frame.partition("+")[0] for frame in frames if frame.endswith(" [client]")]
    assert named[-2:] == ["make_frame", "main"]
    assert any(frame.startswith("ioctl+") and "libc" in frame for frame in frames)
    at_exit = ("release", "fd_close")  # the process has no user stack any more
    stacked = recording.events["kind"].isin(
        [kind.name for kind in schema.KINDS if kind.stack and kind.name not in at_exit]
    )
    mine = recording.events["pid"] == told["pid"]
    assert recording.events["user_stack"].notna()[stacked & mine].all()
    assert recording.events["stack"].notna()[stacked].all()
    assert "stacks" not in recording.quality["what"].tolist()

    shown = CliRunner().invoke(app, ["show", str(path), str(exports["inode"].iloc[0])]).stdout
    assert "make_frame+" in shown
    assert "dma_heap_ioctl+" in shown  # the caller: stacks are taken as the call returns


@pytest.mark.guest
def test_periodic_looks_show_holders_that_come_and_go(out: Path, found: dict[str, Any]) -> None:
    recording = trace.open(out / "user-stacks.dbt")
    during = [block for block in recording.looks if block.when == "during"]
    holding = [any(h.pid == found["user stacks"]["pid"] for h in block.holders) for block in during]

    assert holding[-1] is False
    assert True in holding
    assert sorted(block.ts for block in during) == [block.ts for block in during]
    # the looks themselves are nobody's activity: every event is the client's, or its end's
    strangers = recording.events["pid"] != found["user stacks"]["pid"]
    assert not strangers.any()


@pytest.mark.guest
def test_a_process_that_is_gone_is_refused(found: dict[str, Any]) -> None:
    done = found["refusals"]["gone"]
    assert done["status"] == 2
    assert "no such process" in done["stderr"].splitlines()[0]
