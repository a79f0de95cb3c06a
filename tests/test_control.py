# SPDX-License-Identifier: Apache-2.0
"""Known leaks: planted, held and ended; found where the gate works, missed where it does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dmabuf_trace import control, proof, uapi
from dmabuf_trace.cli.app import app
from dmabuf_trace.control import Planted, Report
from tests.build import Build, Process
from tests.control import BLIND
from tests.vm import run_guest

guest = pytest.mark.guest
pytestmark = pytest.mark.every_run_on("6.12")
CAM = Process(200, "cam")
Rows = list[tuple[str, bool, str]]


# the workload, with memory files in place of buffers


def memory_file(size: int) -> int:
    fd = os.memfd_create("planted", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def refuse(_: int) -> int:
    raise OSError(19, "No such device")


MEMORY = uapi.Exporter("memory", Path("/nowhere"), memory_file)
BROKEN = uapi.Exporter("broken", Path("/nowhere"), refuse)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Report]:
    """What a workload that can import nowhere has planted."""
    monkeypatch.setattr(uapi, "exporters", lambda: ([BROKEN, MEMORY], ["no /dev/x"]))
    monkeypatch.setitem(control.SHAPES, "attachment", lambda *_: refuse(0))
    lease = os.eventfd(0)
    yield control.plant(lease)
    os.eventfd_write(lease, 1)
    os.close(lease)
    reap()


def reap() -> None:
    """Wait for all that was started."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def inodes(pid: int, of: str) -> set[int]:
    """Inode numbers that a process has open, or mapped."""
    process = Path("/proc") / str(pid)
    if of == "maps":
        lines = (process / "maps").read_text().splitlines()
        return {int(line.split()[4]) for line in lines if "memfd:planted" in line}
    return {os.stat(entry).st_ino for entry in (process / "fd").iterdir()}  # noqa: PTH116


def test_each_leak_is_held_in_its_shape_and_each_twin_by_nothing(planted: Report) -> None:
    holds = {
        (each.shape, each.leaked): (
            each.inode in inodes(each.pid, "fd"),
            each.inode in inodes(each.pid, "maps"),
        )
        for each in planted.planted
    }
    nothing = (False, False)
    assert holds == {
        ("fd", True): (True, False),
        ("fd", False): nothing,
        ("mapping", True): (False, True),
        ("mapping", False): nothing,
        ("in-flight", True): nothing,
        ("in-flight", False): nothing,
    }
    assert {each.exporter for each in planted.planted} == {"memory"}
    assert list(control.end(planted)) == []
    for each in planted.planted:
        with pytest.raises(ProcessLookupError):
            os.kill(os.waitpid(each.pid, 0)[0], 0)


def test_what_can_not_be_planted_says_why(planted: Report) -> None:
    assert planted.without == {
        "attachment": "no /dev/x; broken: No such device; memory: No such device"
    }


def test_what_was_planted_ends_with_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "exporters", lambda: ([MEMORY], []))
    lease = os.eventfd(0)
    report = control.plant(lease)
    os.eventfd_write(lease, 1)
    assert [os.waitpid(each.pid, 0)[1] for each in report.planted] == [0] * len(report.planted)
    os.close(lease)


def test_no_exporter_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "exporters", lambda: ([], ["no /dev/x", "no /dev/y"]))
    why = "no /dev/x; no /dev/y"
    assert control.plant(-1) == Report((), dict.fromkeys(control.SHAPES, why))
    reap()


def test_devices_are_tried_in_an_order_that_disturbs_least(tmp_path: Path) -> None:
    (tmp_path / "dma_heap").mkdir()
    for name in ("dma_heap/cma", "dma_heap/system", "video0", "udmabuf"):
        (tmp_path / name).touch()
    found, absent = uapi.exporters(tmp_path)
    assert [each.name for each in found] == ["heap system", "heap cma", "udmabuf", "V4L2 video0"]
    assert absent == [f"no {tmp_path}/dri/card*"]


def test_a_device_that_is_something_else_refuses() -> None:
    for export in (uapi.dumb_export, lambda node, _: uapi.video_export(node)):
        with pytest.raises(OSError, match="ioctl"):
            export(Path(os.devnull), 4096)


def test_a_report_comes_through_json() -> None:
    report = Report((Planted("fd", True, 7, "heap system", 12),), {"attachment": "no"})
    assert Report.from_json(report.to_json()) == report


def test_names_tell_what_is_expected() -> None:
    pairs = [(shape, leaked) for shape in control.SHAPES for leaked in (True, False)]
    names = [(at, control.name_of(*pair)) for at, pair in enumerate(pairs)]
    assert all(len(name) < 32 for _, name in names)
    others = [(99, "control-leak-kernel"), (98, "my-control-leak-fd"), (97, "")]
    assert control.planted([*names, *others]) == tuple(
        Planted(*pair, at) for at, pair in enumerate(pairs)
    )


# the verdict


def plant(k: Build, shape: str, leaked: bool) -> None:
    """What the workload does, as events."""
    buffer = k.export()
    k.fd(buffer, buffer.inode)
    k.name(buffer, control.name_of(shape, leaked))
    if not leaked:
        k.close_fd(buffer, buffer.inode)
        k.release(buffer)
    elif shape == "mapping":
        k.mmap(buffer)
    elif shape == "in-flight":
        k.send(buffer, CAM)
    elif shape == "attachment":
        k.attach(buffer, "vgem")
    if leaked and shape != "fd":
        k.close_fd(buffer, buffer.inode)


def plant_all(k: Build, *shapes: str) -> None:
    for shape in shapes or control.SHAPES:
        for leaked in (True, False):
            plant(k, shape, leaked)


def judged(k: Build, path: Path) -> proof.Proof:
    return proof.prove(proof.read(k.write(path / "control.dbt")), None)


def faults(found: proof.Proof) -> Rows:
    return [(row.shape, row.leaked, row.fault) for row in found.rows if row.fault]


def test_a_gate_that_works(tmp_path: Path) -> None:
    k = Build(sees_queues=True)
    plant_all(k)
    k.export(fd=3)  # somebody else's leak

    found = judged(k, tmp_path)

    assert found.works
    assert [(row.shape, row.leaked, row.inode, row.found_as) for row in found.rows] == [
        ("fd", True, 41, "fd"),
        ("fd", False, 42, ""),
        ("mapping", True, 43, "mapping"),
        ("mapping", False, 44, ""),
        ("in-flight", True, 45, "in-flight"),
        ("in-flight", False, 46, ""),
        ("attachment", True, 47, "attachment"),
        ("attachment", False, 48, ""),
    ]


def test_what_can_not_be_planted_is_not_missed(tmp_path: Path) -> None:
    k = Build(sees_queues=True)
    refused = k.export()
    k.name(refused, control.name_of("attachment", leaked=True))
    k.name(refused, control.GIVEN_UP)
    k.release(refused)
    plant_all(k, *control.EVERYWHERE)
    assert judged(k, tmp_path).works


def test_control_of_an_earlier_recording_counts_for_nothing(tmp_path: Path) -> None:
    k = Build(sees_queues=True)
    k.holding(k.existing(name="control-clean-fd"), 3)
    k.snapshot("start")
    plant_all(k)
    assert judged(k, tmp_path).works


def test_sockets_that_can_not_be_looked_into(tmp_path: Path) -> None:
    k = Build()
    plant_all(k, "fd", "mapping")
    plant(k, "in-flight", False)
    k.name(k.export(), "control-leak-in-flight")

    found = judged(k, tmp_path)

    assert found.works
    assert [(row.found_as, row.note) for row in found.rows if row.note] == [
        ("kernel", "found; sockets can't be looked into here")
    ]


def released_unseen(k: Build) -> None:
    plant_all(k, "mapping", "in-flight")
    plant(k, "fd", True)
    buffer = k.export()
    k.name(buffer, "control-clean-fd")


def let_go(k: Build) -> None:
    plant_all(k, "mapping", "in-flight")
    plant(k, "fd", False)
    buffer = k.export()
    k.name(buffer, "control-leak-fd")
    k.release(buffer)


def still_open(k: Build) -> None:
    plant_all(k, "fd", "in-flight")
    plant(k, "mapping", False)
    k.name(k.export(fd=3), "control-leak-mapping")


def no_names(k: Build) -> None:
    k.export(fd=3)


BLINDED: list[tuple[Callable[[Build], None], Rows]] = [
    (released_unseen, [("fd", False, "NOT clean: called a leak")]),
    (let_go, [("fd", True, "NOT called a leak")]),
    (still_open, [("mapping", True, "NOT found in its shape")]),
    (
        no_names,
        [
            (shape, leaked, "NOT in the recording")
            for shape in control.EVERYWHERE
            for leaked in (True, False)
        ],
    ),
]


@pytest.mark.parametrize(("do", "missed"), BLINDED)
def test_a_gate_that_misses_something(
    do: Callable[[Build], None], missed: Rows, tmp_path: Path
) -> None:
    k = Build(sees_queues=True)
    do(k)

    found = judged(k, tmp_path)

    assert not found.works
    assert faults(found) == missed


def test_a_report_tells_what_the_recording_does_not(tmp_path: Path) -> None:
    seen = proof.read(Build().write(tmp_path / "x.dbt"))
    report = Report((Planted("fd", True, 41),), {"attachment": "no"})

    found = proof.prove(seen, report)

    assert ("fd", True, "NOT in the recording") in faults(found)
    assert found.without == {"attachment": "no"}
    assert "attachment" not in {row.shape for row in found.rows}


@pytest.mark.parametrize(
    ("unobserved", "lost", "fault"),
    [
        ((), "release", "may be wrong: 1 event lost (release 1)"),
        (("unmap",), "", "may be wrong: unmap was not observed (not asked for)"),
    ],
)
def test_whatever_was_not_recorded_is_a_fault(
    unobserved: tuple[str, ...], lost: str, fault: str, tmp_path: Path
) -> None:
    k = Build(sees_queues=True, unobserved=unobserved)
    plant_all(k)
    if lost:
        k.lose(lost, "ring_full", 1)

    found = judged(k, tmp_path)

    assert (found.works, faults(found), found.faults) == (False, [], (fault,))


# the command


def check(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", "--self-test", *arguments])


def test_a_recording_that_was_made_elsewhere(tmp_path: Path) -> None:
    k = Build(sees_queues=True)
    plant_all(k, *control.EVERYWHERE)
    works = str(k.write(tmp_path / "works.dbt"))
    blind = str(Build().write(tmp_path / "blind.dbt"))

    told = {path: check(path) for path in (works, blind)}

    assert [result.exit_code for result in told.values()] == [0, 1]
    assert told[works].stdout.splitlines()[-1] == "the gate works here"
    assert told[blind].stdout.splitlines()[-1] == "the gate does NOT work here"
    assert "in-flight  leak" in told[works].stdout
    answer = json.loads(check(blind, "--json").stdout)
    assert answer["works"] is False
    assert {row["fault"] for row in answer["planted"]} == {"NOT in the recording"}


@pytest.mark.parametrize("more", [("--", "true"), ("--cycles", "2"), ("--window", "0s,1s")])
def test_what_makes_no_sense_together_is_refused(more: tuple[str, ...]) -> None:
    result = check(*more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--self-test takes no CMD" in result.stderr


# on real kernels

EXPORTERS = {
    "heap system": "system",
    "udmabuf": "udmabuf",
    "DRM card0": "drm",
    "V4L2 video0": "videobuf2_vmalloc",
}
"""What the kernel calls them."""


@pytest.fixture(scope="module", params=["6.1", "6.12", "7.2"])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests.control leaves."""
    path = tmp_path_factory.mktemp("control")
    command = ["python3", "-m", "tests.control", "/out"]
    done = run_guest(request.param, command, timeout=1800, shares={"/out": path})
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, Any]:
    """What became of each self-test."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@guest
def test_the_gate_works_and_leaves_nothing(results: dict[str, Any]) -> None:
    done = results["works"]
    assert (done["status"], done["left"]) == (0, []), done
    assert done["stdout"].splitlines()[-1] == "the gate works here"
    assert "NOT" not in done["stdout"]
    by_vgem_alone = "heap" not in results["exporters"]
    no_importer = "not planted: attachment (no /dev/dma_heap/*; "
    assert (no_importer in done["stdout"]) == by_vgem_alone


@guest
def test_a_kernel_without_an_exporter(results: dict[str, Any]) -> None:
    done, skipped = results["no exporter"], results["no exporter, skipped"]
    assert (done["status"], skipped["status"]) == (4, 77)
    why = "no exporter of dma-bufs works here, so nothing can be leaked: "
    assert why in done["stderr"]
    assert f"skipped: {why}" in skipped["stderr"]
    assert (done["stdout"], done["left"]) == ("", [])


@guest
def test_a_user_who_may_not_trace(results: dict[str, Any]) -> None:
    assert results["no root"]["status"] == 4


@guest
@pytest.mark.parametrize("name", BLIND)
def test_a_gate_that_is_blinded_fails(results: dict[str, Any], name: str) -> None:
    done = results[name]
    assert (done["status"], done["left"]) == (1, []), done
    answer = json.loads(done["stdout"])
    missed = {(row["shape"], row["leaked"]): row["fault"] for row in answer["planted"]}
    if name == "nothing passes the filter":
        assert set(missed.values()) == {"NOT in the recording"}
        return
    assert any("attach was not observed (not asked for)" in fault for fault in answer["faults"])
    for shape in control.EVERYWHERE:
        assert (missed[shape, True], missed[shape, False]) == ("", "")
    if "attachment" not in answer["not_planted"]:
        assert missed["attachment", True] == "NOT found in its shape"


@guest
def test_each_exporter_recorded_on_a_target(results: dict[str, Any], out: Path) -> None:
    assert results["left"] == []
    planted = {
        name: Report.from_json((out / f"{name}.json").read_text()) for name in results["exporters"]
    }
    result = check(str(out / "exporters.dbt"), "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["planted"]
    by_inode = {row["inode"]: row for row in rows}
    for report in planted.values():
        shapes = {each.shape for each in report.planted}
        assert shapes == set(control.SHAPES) - set(report.without)
        assert shapes >= set(control.EVERYWHERE)
        for each in report.planted:
            row = by_inode.pop(each.inode)
            assert (row["shape"], row["leaked"]) == (each.shape, each.leaked)
            assert row["exporter"] == EXPORTERS[each.exporter]
    assert by_inode == {}
    first = [report.planted[0].exporter for report in planted.values()]
    assert first == [each for each in EXPORTERS if each in first]
    # vgem, which nobody else can import into there, imports vivid's; hidden, it imports nothing
    assert [name for name, report in planted.items() if report.without] == ["vivid"]
