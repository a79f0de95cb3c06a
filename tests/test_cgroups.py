# SPDX-License-Identifier: Apache-2.0
"""Where cgroups are looked for. (That a guest's cgroup gets its path is in test_parts.)"""

from __future__ import annotations

from pathlib import Path

from dmabuf_trace.cgroups import Cgroups

V1 = "31 23 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


def test_without_version_two_nothing_is_known_and_that_is_said(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(V1)

    cgroups = Cgroups(mounts)

    assert cgroups.without == "no cgroup v2 hierarchy is mounted"
    assert cgroups.path(1) is None
    assert Cgroups(tmp_path / "none").without


def test_a_mount_point_may_have_spaces_and_must_be_there(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(V1 + f"32 23 0:28 / {tmp_path}/my\\040cgroups rw - cgroup2 none rw\n")
    assert Cgroups(mounts).without.startswith(f"{tmp_path}/my cgroups can't be opened: ")

    (tmp_path / "my cgroups").mkdir()
    cgroups = Cgroups(mounts)
    assert cgroups.without == ""
    assert cgroups.path(1 << 60) is None, "no such cgroup"
    cgroups.close()
