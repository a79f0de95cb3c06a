# SPDX-License-Identifier: Apache-2.0
"""Each test's name says what is to come of it, see :mod:`tests.test_pytest_guest`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmabuf_trace.pytest_plugin import DmabufTrace
from examples.clients import closing, heap_alloc, udmabuf_create
from tests.cycle import cycle
from tests.kmod.client import Buffer, Importer, Ref, map_user

KIB = 1 << 10
HELD: list[object] = []
"""What is kept, so that nothing is given back as garbage."""

limit = pytest.mark.limit_dmabuf_leaks
pytestmark = limit()


@pytest.fixture(scope="module")
def ref() -> Iterator[Ref]:
    with Ref() as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(ref: Ref) -> Iterator[Buffer]:
    """A buffer that outlives the test for which it is made."""
    with ref.export(4 * KIB) as buffer:
        yield buffer


@pytest.fixture
def own(ref: Ref) -> Iterator[Buffer]:
    """A buffer that is given back when the test is over."""
    with ref.export(4 * KIB) as buffer:
        yield buffer


def test_leaks_an_fd() -> None:
    HELD.append(udmabuf_create(64 * KIB))


def test_leaks_a_mapping() -> None:
    with closing(heap_alloc(128 * KIB)) as fd:
        HELD.append(map_user(fd, 128 * KIB))


def test_leaks_an_attachment(ref: Ref) -> None:
    with ref.export(16 * KIB) as buffer:
        ref.attach(buffer, Importer.IMP32, leak=True)


def test_leaks_a_kernel_reference(ref: Ref) -> None:
    with ref.export(32 * KIB) as buffer:
        ref.leak_ref(buffer)


def sleeper(first: Callable[[], object]) -> int:
    """Pid of a forked child, which has done something and then stays."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        first()
        os.write(told, b"+")
        while True:
            signal.pause()
    assert os.read(ready, 1) == b"+"
    return pid


@pytest.fixture(scope="module")
def children() -> Iterator[list[int]]:
    """Pids that are killed in the end: they have the output of all open."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_leaks_in_a_child(children: list[int]) -> None:
    children.append(sleeper(lambda: udmabuf_create(8 * KIB)))


def test_passes_clean(ref: Ref) -> None:
    cycle(ref)


def test_passes_with_what_the_module_holds(shared: Buffer) -> None:
    with closing(os.dup(shared.fd)):
        pass


def test_passes_with_what_its_fixture_gives_back(own: Buffer, ref: Ref) -> None:
    ref.detach(ref.attach(own))


@limit(bytes="64K")
def test_passes_as_it_may_leave_so_many_bytes() -> None:
    HELD.append(udmabuf_create(64 * KIB))


@limit(exporter="dmabuf_ref")
def test_passes_as_another_exporter_is_watched() -> None:
    HELD.append(udmabuf_create(4 * KIB))


@limit(shapes="kernel")
def test_passes_as_another_shape_is_watched() -> None:
    HELD.append(udmabuf_create(4 * KIB))


@limit(buffers=1, bytes="4K")
def test_leaks_too_many_bytes() -> None:
    HELD.append(udmabuf_create(8 * KIB))


def test_fails_by_itself() -> None:
    HELD.append(udmabuf_create(4 * KIB))
    raise AssertionError("of its own")


@pytest.mark.xfail(reason="known")
def test_xfails_as_its_leak_is_known() -> None:
    HELD.append(udmabuf_create(4 * KIB))


@limit(bufers=1)
def test_errs_as_its_marker_is_wrong() -> None:
    pass


def test_passes_and_asks(dmabuf_trace: DmabufTrace, ref: Ref) -> None:
    with ref.export(4 * KIB):
        (row,) = dmabuf_trace.leaks()
        assert (row["shape"], row["exporter"], row["size_bytes"]) == ("fd", "dmabuf_ref", 4 * KIB)
        assert [holder["pid"] for holder in row["holders"]] == [os.getpid()]
        assert any("[dmabuf_ref]" in frame for frame in row["export_stack"])
    cycle(ref)
    window = dmabuf_trace.window()
    assert dmabuf_trace.leaks() == []
    assert window.mappings["begin"].notna().sum() == 1
    made = window.buffers[window.buffers["begin"].notna()]  # others leaked by then
    assert made["open"].tolist() == [False, False]
    assert dmabuf_trace.path.exists()


def recorders() -> list[int]:
    """Of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, children) if b"--steered" in _arguments(pid)]


def _arguments(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.mark.skipif("not config.getoption('dmabuf_record_options')")
def test_errs_as_events_were_lost(ref: Ref) -> None:
    (recorder,) = recorders()
    os.kill(recorder, signal.SIGSTOP)
    for _ in range(50):
        cycle(ref)
    os.kill(recorder, signal.SIGCONT)


@pytest.mark.skipif("'READY' not in os.environ")
def test_is_killed() -> None:
    child = sleeper(lambda: None)  # has the recorder's pipe too
    (recorder,) = recorders()
    Path(os.environ["READY"]).write_text(f"{recorder} {child}")
    signal.pause()
