# SPDX-License-Identifier: Apache-2.0
"""Holders: from a /proc as kernels write it, from iterators' records; bufinfo; guests compare."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pytest

from dmabuf_trace import bufinfo, schema, snapshot, trace
from dmabuf_trace.analysis import records, registry
from dmabuf_trace.blocks import Found, Holder, SyncFiles
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader import iterators
from dmabuf_trace.recording import Reader, Writer
from tests.counts import Recorded
from tests.holders import SYNC_FILES
from tests.kmod.client import Importer
from tests.vm import run_guest
from tests.vm.kernels import KERNELS, WITH_MODULE

FDINFO = """pos:\t0
flags:\t02000002
mnt_id:\t11
ino:\t42
size:\t258048
count:\t3
exp_name:\tdrm
name:\tscan out
"""
MAPS = b"""\
55d0c8a00000-55d0c8a01000 r--p 00000000 fe:01 123                        /usr/bin/x
7fd64c590000-7fd64c5cf000 rw-s 100000000 00:0a 42                         /dmabuf:scan out
7fd64c600000-7fd64c601000 rw-s 00000000 00:0a 43                         /dmabuf:
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
"""


def process(proc: Path, pid: int, comm: str) -> Path:
    path = proc / str(pid)
    (path / "fd").mkdir(parents=True)
    (path / "fdinfo").mkdir()
    (path / "comm").write_text(f"{comm}\n")
    (path / "maps").write_bytes(b"")
    return path


def test_fds_and_vmas_of_every_process(tmp_path: Path) -> None:
    one = process(tmp_path, 10, "compositor")
    (one / "fd" / "5").symlink_to("/dmabuf:scan out")
    (one / "fdinfo" / "5").write_text(FDINFO)
    (one / "fd" / "0").symlink_to("/dev/null")
    (one / "fd" / "6").symlink_to("anon_inode:sync_file")
    (one / "fd" / "7").symlink_to("anon_inode:sync_file")
    (one / "fd" / "8").symlink_to("anon_inode:[eventfd]")
    two = process(tmp_path, 11, "client")
    (two / "maps").write_bytes(MAPS)
    (tmp_path / "cpuinfo").write_text("")

    taken = snapshot.from_proc("start", tmp_path)

    assert taken.when == "start"
    assert taken.buffers == (Found(42, 258048, "drm", "scan out", 3),)
    assert sorted(taken.holders, key=lambda holder: (holder.pid, holder.buffer)) == [
        Holder(42, 10, "compositor", 5),
        Holder(42, 11, "client", -1, 0x7FD64C590000, 0x3F000),
        Holder(43, 11, "client", -1, 0x7FD64C600000, 0x1000),
    ]
    assert taken.sync_files == (SyncFiles(10, "compositor", 2),)
    assert taken.unreadable == 0


def test_what_vanishes_under_the_look_is_left_out(tmp_path: Path) -> None:
    gone = process(tmp_path, 12, "short-lived")
    (gone / "fd" / "7").symlink_to("/dmabuf:")  # its fdinfo is gone already
    (process(tmp_path, 13, "exited") / "comm").unlink()

    taken = snapshot.from_proc("end", tmp_path)

    assert taken.holders == ()
    assert taken.unreadable == 0


def test_kernel_threads_are_no_processes_that_could_hold_a_buffer(tmp_path: Path) -> None:
    for pid, flags in ((2, 0x208040), (10, 0x400000)):
        path = process(tmp_path, pid, "x")
        (path / "stat").write_text(f"{pid} (a) b) S 1 1 1 0 -1 {flags} 0 0\n")
        assert snapshot._is_kernel_thread(path) == (pid == 2)
    assert not snapshot._is_kernel_thread(tmp_path / "gone")


def held(**fields: Any) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = np.zeros(1, schema.HELD_DTYPE)
    for name, value in {"buffer": 42, "size": 8192, "pid": 9, "comm": b"app", **fields}.items():
        rows[name] = value
    return rows


def test_records_of_iterators_become_the_same_rows() -> None:
    facts = {"exporter": b"system", "name": b"na\xffme", "references": 2}
    rows = np.concatenate(
        [
            held(fd=3, **facts),
            held(fd=-1, start=0x1000, length=4096, **facts),
            held(fd=-1, start=0x1000, length=4096, **facts),  # a thread with files of its own
        ]
    )

    taken = snapshot.from_records("end", 5, rows, None, None)

    assert taken.holders == (Holder(42, 9, "app", 3), Holder(42, 9, "app", -1, 0x1000, 4096))
    assert taken.buffers == (Found(42, 8192, "system", "na\\xffme", 2),)
    assert (taken.source, taken.complete, taken.unreadable) == ("iterators", False, 0)


def queued(*buffers: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = np.zeros(len(buffers), schema.QUEUED_DTYPE)
    rows["buffer"], rows["size"], rows["socket"] = buffers, 4096, 77
    rows["pid"], rows["comm"], rows["sender"], rows["sender_comm"] = 9, b"app", 8, b"cam"
    return rows


def test_an_fd_in_a_queue_is_a_holder_once(tmp_path: Path) -> None:
    taken = snapshot.from_records("end", 5, held(fd=3), None, queued(43, 43, 42))

    in_flight = [Holder(each, 9, "app", -1, 0, 0, 77, 8, "cam") for each in (43, 42)]
    assert taken.holders == (Holder(42, 9, "app", 3), *in_flight)
    assert {found.buffer: found.size for found in taken.buffers} == {42: 8192, 43: 4096}
    assert taken.queues
    with Writer(tmp_path / "a.dbt") as writer:
        writer.begin({})
        writer.write_snapshot(taken)
        writer.finish(9, "")
    with Reader(tmp_path / "a.dbt") as reader:
        assert next(reader.blocks()) == taken


def test_a_queue_too_long_to_be_told_is_not_one_that_was_seen() -> None:
    taken = snapshot.from_records("end", 5, held(fd=3), None, queued(43, 0))

    assert [found.buffer for found in taken.buffers] == [43, 42]
    assert not taken.queues
    assert not snapshot.from_records("end", 5, held(fd=3), None, None).queues


def test_the_list_of_live_buffers_makes_it_complete() -> None:
    live = np.zeros(2, schema.FOUND_DTYPE)
    live["buffer"], live["size"], live["exporter"] = [43, 42], [4096, 8192], b"drm"

    taken = snapshot.from_records("end", 5, held(fd=3, exporter=b"drm"), live, None)

    assert taken.complete
    assert {found.buffer: found.size for found in taken.buffers} == {42: 8192, 43: 4096}


class Busy:
    """Iterators over a system where buffers come and go between one list and the next."""

    lists_all = True

    def __init__(self, *lists: tuple[int, ...]) -> None:
        self._lists = list(lists)

    def live_buffers(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        inodes = self._lists.pop(0)
        rows = np.zeros(len(inodes), schema.FOUND_DTYPE)
        rows["buffer"] = inodes
        return rows

    def queued(self) -> None:
        pass

    def sync_files(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        rows = np.zeros(3, schema.SYNC_FILE_DTYPE)
        rows["pid"], rows["comm"], rows["fd"] = [9, 8, 9], [b"app", b"cam", b"app"], [5, 5, 6]
        return rows

    def holders(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        return held(buffer=44, fd=3)


def test_what_comes_or_goes_during_the_look_is_not_held_by_nobody() -> None:
    busy = Busy((41, 42), (42, 43, 44))  # 41 went, 43 and 44 came; 44 was seen with its holder

    taken = snapshot.from_iterators("now", cast("iterators.Iterators", busy))

    assert {found.buffer for found in taken.buffers} == {42, 44}
    assert taken.sync_files == (SyncFiles(8, "cam", 1), SyncFiles(9, "app", 2))


class Broken:
    """Iterators that loaded and then fail."""

    lists_all = True

    def live_buffers(self) -> None:
        raise UntraceableError("the iterator live_buffers can't be read: Cannot allocate memory")

    def close(self) -> None:
        pass


def test_a_look_that_fails_is_made_by_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "Iterators", Broken)

    with snapshot.Looker() as looker:
        assert looker.without == ""
        taken = looker.take("end")

    assert (taken.source, taken.complete) == ("proc", False)
    assert "Cannot allocate memory" in looker.without


class Refusing(iterators.Iterators):
    """A kernel that refuses some programs."""

    refused = frozenset({"queued_fds"})

    def _load(self, there: set[str]) -> int:
        if refused := there & self.refused:
            raise UntraceableError(f"{refused} can't be loaded")
        return 0

    def _attach(self, name: str) -> int:  # noqa: ARG002
        return 0


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ({"queued_fds"}, {"sync_file_fds"}),
        ({"sync_file_fds"}, set()),
        ({"queued_fds", "sync_file_fds"}, set()),
    ],
)
def test_a_program_that_the_kernel_refuses_is_done_without(
    monkeypatch: pytest.MonkeyPatch, refused: set[str], left: set[str]
) -> None:
    monkeypatch.setattr(iterators, "_there", lambda: set(iterators.TARGETS))
    monkeypatch.setattr(Refusing, "refused", frozenset(refused))

    found = Refusing()

    assert set(found._links) == {"live_buffers", "held_fds", "held_vmas"} | left
    assert "can't be loaded" in found.without_queues
    assert found.queued() is None


def test_a_kernel_without_the_needed_iterators_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterators, "_there", lambda: set(iterators.TARGETS))
    monkeypatch.setattr(Refusing, "refused", frozenset({"held_fds"}))
    with pytest.raises(UntraceableError, match="held_fds"):
        Refusing()


BUFINFO = """
Dma-buf Objects:
size    \tflags   \tmode    \tcount   \texp_name\tino     \tname
00258048\t02000002\t00080007\t00000003\tdrm\t00000042\tscan
out
\tread fence:stub stub seq 0 signalled
\tAttached Devices:
\tvivid-000
Total 1 devices attached

1234567890\t00000002\t00080007\t00000001\tsystem\t00000043\t<none>
\tAttached Devices:
Total 0 devices attached


Total 2 objects, 1234825938 bytes
"""


def test_bufinfo_is_read_whatever_a_name_holds() -> None:
    found = bufinfo.parse(BUFINFO)

    assert found.buffers == (
        Found(42, 258048, "drm", "scan\nout", 3),
        Found(43, 1234567890, "system", "", 1),
    )
    assert found.devices == {42: ("vivid-000",), 43: ()}
    assert found.totals == (2, 1234825938)
    assert bufinfo.parse("\nDma-buf Objects:\n").totals is None


@pytest.mark.parametrize(
    "name", ["a\n\tAttached Devices:\n\tgpu", "a\n\t\nTotal 0 devices attached"]
)
def test_a_name_forges_and_hides_no_device(name: str) -> None:
    forged = BUFINFO.replace("scan\nout", name)

    assert bufinfo.parse(forged).devices[42] == ("vivid-000",)


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bufinfo that nobody ever gets to read."""
    path = tmp_path / "bufinfo"
    os.mkfifo(path)
    monkeypatch.setattr(bufinfo, "PATH", path)
    keeps_open = os.open(path, os.O_RDWR)
    yield path
    os.close(keeps_open)


def test_a_lock_that_is_stuck_ends_the_reading(stuck: Path) -> None:
    with pytest.raises(UntraceableError, match="somebody holds the lock of a buffer") as caught:
        bufinfo.read(0.1)

    assert str(stuck) in str(caught.value)


PAGE: Final = 4096
HELD: Final = ("fd", "mapped", "twice", "partial", "both")
KERNEL_ONLY: Final = {"in flight": 32 * PAGE, "kernel": 64 * PAGE}
Looks = dict[str, Any]


@pytest.fixture(scope="module", params=WITH_MODULE)
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests.holders leaves, from one guest."""
    path = tmp_path_factory.mktemp("holders")
    command = ["python3", "-m", "tests.holders", "/out"]
    done = run_guest(request.param, command, timeout=600, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    (path / "kernel").write_text(request.param)
    return path


@pytest.fixture(scope="module")
def looks(out: Path) -> Looks:
    found: Looks = json.loads((out / "holders.json").read_text())
    return found


def has_list(out: Path) -> bool:
    """Whether this kernel has the dma-buf iterator."""
    return "iterator" in KERNELS[(out / "kernel").read_text()].features


@pytest.mark.guest
def test_iterators_and_proc_show_the_same_holders(looks: Looks) -> None:
    assert looks["without"] == ""
    assert looks["iterators"]["source"] == "iterators"
    shown = [row for row in looks["iterators"]["holders"] if not row["socket"]]
    assert shown == looks["proc"]["holders"]
    assert len(shown) == 2 * (2 + 1 + 2 + 1 + 2)  # both processes
    listed = {row["buffer"]: row for row in looks["iterators"]["buffers"]}
    for row in looks["proc"]["buffers"]:
        assert listed[row["buffer"]] == row


@pytest.mark.guest
def test_iterators_show_what_is_in_the_queue_of_a_socket(looks: Looks) -> None:
    queued = [row for row in looks["iterators"]["holders"] if row["socket"]]
    sender, child = looks["pids"]

    assert looks["iterators"]["queues"]
    assert [(row["pid"], row["sender_pid"], row["sender_comm"]) for row in queued] == [
        (sender, sender, "python3"),  # has made the pair, and sends to itself
        (child, sender, "python3"),
    ]
    assert {row["buffer"] for row in queued} == {looks["inodes"]["in flight"]}
    assert len({row["socket"] for row in queued}) == 1
    assert not looks["proc"]["queues"]


@pytest.mark.guest
def test_a_buffer_that_nobody_received_is_in_flight(looks: Looks, out: Path) -> None:
    assert looks["sockets"]["status"] == 0, looks["sockets"]["stderr"]
    result = registry()["leaks"](trace.open(out / "sockets.dbt"))
    leaks = {row["name"]: row for row in records(result.answer.tables[1].rows)}

    assert {name: row["shape"] for name, row in leaks.items()} == {
        "sent": "in-flight",
        "kept": "fd",
    }
    (holder,) = leaks["sent"]["holders"]
    assert (holder["kind"], holder["comm"]) == ("in-flight", "receiver")
    assert (holder["sender_pid"], holder["sender_comm"]) == (leaks["sent"]["pid"], None)
    assert [each["comm"] for each in leaks["kept"]["holders"]] == ["receiver"]
    assert (result.answer.notes, result.doubts) == ((), ())


@pytest.mark.guest
def test_sync_files_are_counted_alike(looks: Looks) -> None:
    counted = [{"pid": pid, "comm": "python3", "count": SYNC_FILES} for pid in looks["pids"]]

    assert looks["iterators"]["sync_files"] == looks["proc"]["sync_files"] == counted


@pytest.mark.guest
def test_who_never_closes_sync_files_holds_more_of_them(looks: Looks, out: Path) -> None:
    assert looks["fences"]["status"] == 0, looks["fences"]["stderr"]
    result = registry()["fences"](trace.open(out / "fences.dbt"))
    (held,) = (table for table in result.answer.tables if table.name == "held")
    rows = [
        (row["comm"], row["at_start"], row["at_end"], row["grown"]) for row in records(held.rows)
    ]

    assert rows == [("hoarder", 0, 50, 50), ("tidy", 0, 1, 1), *[("python3", 7, 7, 0)] * 2]


@pytest.mark.guest
def test_all_live_buffers_are_listed_where_the_kernel_can(looks: Looks, out: Path) -> None:
    inodes = looks["inodes"]
    listed = {row["buffer"] for row in looks["iterators"]["buffers"]}

    assert looks["iterators"]["complete"] == has_list(out)
    assert listed == set(inodes.values()) - (set() if has_list(out) else {inodes["kernel"]})


@pytest.mark.guest
def test_bufinfo_agrees_on_every_buffer(looks: Looks, out: Path) -> None:
    iterated = looks["iterators"]["buffers"]
    everywhere = {row["buffer"]: row for row in looks["bufinfo"]["buffers"]}

    assert set(everywhere) == set(looks["inodes"].values())
    assert looks["bufinfo"]["complete"]
    assert [everywhere[row["buffer"]] for row in iterated] == iterated
    if has_list(out):
        assert len(iterated) == len(everywhere)


@pytest.mark.guest
def test_the_command_adds_up_what_is_held(looks: Looks, out: Path) -> None:
    done = looks["command, JSON"]
    assert (done["status"], done["stderr"]) == (0, "")
    told = json.loads(done["stdout"])
    inodes = looks["inodes"]

    held_bytes = (1 + 2 + 4 + 8 + 16) * PAGE
    assert [
        (row["pid"], row["rss_bytes"], row["pss_bytes"], row["fds"], row["vmas"])
        for row in told["processes"]
    ] == [(pid, held_bytes, held_bytes // 2, 3, 5) for pid in sorted(looks["pids"])]
    kinds = {inodes[kind]: kind for kind in inodes}
    shown = {kinds[row["inode"]] for row in told["buffers"] if row["holders"]}
    assert shown == {*HELD, "in flight"}
    count, size = (len(KERNEL_ONLY), sum(KERNEL_ONLY.values())) if has_list(out) else (None, None)
    assert told["totals"] == {
        "held_buffers": len(HELD),
        "held_bytes": held_bytes,
        "held_unsized": 0,
        "kernel_only_buffers": count,
        "kernel_only_bytes": size,
        "in_flight_buffers": 1,
        "in_flight_bytes": KERNEL_ONLY["in flight"],
        "bufinfo_objects": None,
        "bufinfo_bytes": None,
    }


@pytest.mark.guest
def test_bufinfo_shows_on_any_kernel_what_only_the_kernel_holds(looks: Looks) -> None:
    told = json.loads(looks["command, bufinfo"]["stdout"])

    assert told["source"] == "iterators, bufinfo"
    assert told["totals"]["kernel_only_bytes"] == sum(KERNEL_ONLY.values())


@pytest.mark.guest
def test_totals_agree_with_those_of_bufinfo(looks: Looks) -> None:
    told = json.loads(looks["command, bufinfo"]["stdout"])
    totals = told["totals"]

    assert totals["bufinfo_objects"] == len(told["buffers"]) == len(HELD) + len(KERNEL_ONLY)
    assert totals["bufinfo_bytes"] == totals["held_bytes"] + totals["kernel_only_bytes"]
    (exporter,) = told["exporters"]
    assert exporter["size_bytes"] == totals["bufinfo_bytes"]
    assert (exporter["held"], exporter["processes"]) == (len(HELD), 2)


@pytest.mark.guest
def test_bufinfo_shows_the_devices_that_are_attached(looks: Looks) -> None:
    told = json.loads(looks["command, bufinfo"]["stdout"])
    kinds = {inode: kind for kind, inode in looks["inodes"].items()}
    devices = {kinds[row["inode"]]: row["devices"] for row in told["buffers"]}

    assert devices.pop("fd") == [Importer.IMP64.device]
    assert set(map(tuple, devices.values())) == {()}


@pytest.mark.guest
def test_the_grid_tells_fds_and_vmas_apart(looks: Looks) -> None:
    grid = looks["command"]["stdout"].partition("Who holds what")[2].splitlines()[1:]
    rows = {row.split()[0]: re.findall(r"\d+[fmq](?: \d+[fmq])*", row) for row in grid}
    cells = {kind: rows.get(str(inode)) for kind, inode in looks["inodes"].items()}

    assert {kind: cells[kind] for kind in HELD} == {
        "fd": ["2f", "2f"],
        "mapped": ["1m", "1m"],
        "twice": ["2m", "2m"],
        "partial": ["1m", "1m"],
        "both": ["1f 1m", "1f 1m"],
    }
    assert cells["in flight"] == ["1q", "1q"]
    assert not cells["kernel"]


@pytest.mark.guest
def test_without_root_it_shows_what_it_may_and_counts_the_rest(looks: Looks) -> None:
    done = looks["no root"]
    told = json.loads(done["stdout"])

    assert done["status"] == 0
    assert (told["source"], told["lists_all_buffers"]) == ("proc", False)
    assert told["unreadable_processes"] >= 2  # the two that hold buffers
    assert "could not be looked into" in done["stderr"]
    assert looks["no root, bufinfo"]["status"] == 4
    assert "bufinfo may not be read" in looks["no root, bufinfo"]["stderr"]


@pytest.mark.guest
def test_looking_makes_no_events(looks: Looks, out: Path) -> None:
    assert looks["idle"]["status"] == 0, looks["idle"]["stderr"]
    recorded = Recorded(out / "idle.dbt")
    assert recorded.cut is None
    assert len(recorded.events) == 0
    assert not recorded.losses.any()
