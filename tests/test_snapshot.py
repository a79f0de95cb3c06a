# SPDX-License-Identifier: Apache-2.0
"""Holders, from a /proc as kernels write it (KERNEL facts: fdinfo and maps of a dma-buf)."""

from __future__ import annotations

from pathlib import Path

from dmabuf_trace import snapshot
from dmabuf_trace.recording import Found, Holder

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
    assert taken.unreadable == 0


def test_what_vanishes_under_the_look_is_left_out(tmp_path: Path) -> None:
    gone = process(tmp_path, 12, "short-lived")
    (gone / "fd" / "7").symlink_to("/dmabuf:")  # its fdinfo is gone already
    (process(tmp_path, 13, "exited") / "comm").unlink()

    taken = snapshot.from_proc("end", tmp_path)

    assert taken.holders == ()
    assert taken.unreadable == 0
