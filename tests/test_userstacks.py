# SPDX-License-Identifier: Apache-2.0
"""User stacks: placed while a process lives, named when it is gone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from dmabuf_trace import schema, userstacks
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.userstacks import Extent, UserStacks, extents
from tests.holders import child

MAPS: Final = b"""\
555500000000-555500001000 r--p 00000000 fe:01 77                         /usr/bin/app
555500001000-555500003000 r-xp 00001000 fe:01 77                         /usr/bin/app
7f0000000000-7f0000100000 r-xp 00000000 00:00 0 
7f0000200000-7f0000201000 rwxp 00002000 fe:01 78                         /lib/a b (deleted)
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
"""  # noqa: W291 - as the kernel writes it


def test_executable_parts_of_a_process() -> None:
    assert extents(MAPS) == [
        Extent(0x555500001000, 0x555500003000, 0x1000, ("fe:01 77", "/usr/bin/app")),
        Extent(0x7F0000000000, 0x7F0000100000, 0, ("00:00 0", "")),
        Extent(0x7F0000200000, 0x7F0000201000, 0x2000, ("fe:01 78", "/lib/a b (deleted)")),
        Extent(0x7FFC00000000, 0x7FFC00002000, 0, ("00:00 0", "[vdso]")),
    ]


def events(*stacks: tuple[int, int]) -> NDArray[np.void]:
    """Events of (pid, kernel's stack id)."""
    made = np.zeros(len(stacks), schema.EVENT_DTYPE)
    made["pid"], made["user_stack"] = zip(*stacks, strict=True)
    return made


class Kernel:
    """A /proc, and a table of stacks."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.stacks: dict[int, list[int]] = {}
        self.user = UserStacks(self.stacks.__getitem__, proc)

    def process(self, pid: int, maps: bytes = MAPS) -> None:
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "maps").write_bytes(maps)

    def exit(self, pid: int) -> None:
        (self.proc / str(pid) / "maps").unlink()

    def take(self, *stacks: tuple[int, int]) -> list[int]:
        made = events(*stacks)
        self.user.take(made)
        return [int(number) for number in made["user_stack"]]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_frames_lie_in_files_and_keep_their_place(kernel: Kernel) -> None:
    kernel.process(9)
    kernel.stacks[5] = [0x555500001234, 0x7F0000000010, 0x7F0000200004, 0x10]

    assert kernel.take((9, 5), (9, -1), (9, 5)) == [0, -1, 0]
    kernel.exit(9)

    assert kernel.user.resolve().stacks == {
        0: ("/usr/bin/app+0x1234", "[anonymous]+0x10", "/lib/a b (deleted)+0x2004", "0x10")
    }


def test_equal_frames_of_two_processes_are_one_stack(kernel: Kernel) -> None:
    kernel.process(9)
    kernel.process(10, MAPS.replace(b"55550000", b"55660000"))
    kernel.stacks |= {5: [0x555500001234], 6: [0x556600001234], 7: [0x556600001238]}

    assert kernel.take((9, 5), (10, 6), (10, 7)) == [0, 0, 1]


def test_equal_addresses_of_two_programs_are_two_stacks(kernel: Kernel) -> None:
    kernel.process(9)
    kernel.process(10, MAPS.replace(b"/usr/bin/app", b"/usr/bin/zsh").replace(b"77", b"79"))
    kernel.stacks[5] = [0x555500001234]

    assert kernel.take((9, 5), (10, 5)) == [0, 1]


def test_a_forked_child_that_is_gone_has_its_parents_frames(kernel: Kernel) -> None:
    kernel.process(9)
    kernel.stacks[5] = [0x555500001234]

    assert kernel.take((9, 5)) == kernel.take((10, 5)) == [0]
    assert kernel.user.resolve().unplaced == 0


def test_a_process_that_ended_too_soon_leaves_addresses_and_is_counted(kernel: Kernel) -> None:
    kernel.stacks[5] = [0x555500001234]
    kernel.process(11, b"")  # its memory is gone, it is not
    assert kernel.take((10, 5), (11, 5)) == [0, 0]

    found = kernel.user.resolve()
    assert (found.stacks, found.unplaced) == ({0: ("0x555500001234",)}, 2)


def test_without_the_library_frames_are_files_and_offsets(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise UntraceableError("libbcc.so.0 not found")

    monkeypatch.setattr(userstacks, "Libbcc", missing)
    kernel.process(9)
    kernel.stacks[5] = [0x555500001234]
    kernel.take((9, 5))

    found = kernel.user.resolve()
    assert (found.stacks, found.without) == (
        {0: ("/usr/bin/app+0x1234",)},
        "libbcc.so.0 not found",
    )


@contextmanager
def no_files_left() -> Iterator[None]:
    before = sorted(Path("/proc/self/fd").iterdir())
    yield
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_real_process_by_its_own_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Names:
        def functions(self, fd: int, offsets: set[int]) -> dict[int, str]:
            asked.append(os.fstat(fd).st_ino)
            return dict.fromkeys(offsets, "getpid+0x0")

    monkeypatch.setattr(userstacks, "Libbcc", Names)
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value or 0
    with no_files_left():
        stacks = UserStacks(lambda _: [address])
        with child() as pid:
            made = events((pid, 3))
            stacks.take(made)
        (frames,) = stacks.resolve().stacks.values()  # the child has ended

    name = frames[0].removeprefix("getpid+0x0 [").removesuffix("]")
    maps = Path("/proc/self/maps").read_text().splitlines()
    (inode,) = {int(line.split()[4]) for line in maps if line.endswith(f"/{name}")}
    assert asked == [inode]
