# SPDX-License-Identifier: Apache-2.0
"""The shell script that a guest runs: mounts, environment, the command, its exit status."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAB = "/run/lab"
"""Where a guest finds this script, and leaves the exit status."""
STATUS = "status"
READ_ONLY = "ro,cache=loose"  # nobody changes these while a guest runs, so it may cache
WRITABLE = "rw,cache=mmap"  # without a cache, 9p refuses shared writable mappings


@dataclass(frozen=True, slots=True)
class Share:
    """A host directory, and where the guest sees it."""

    guest: str
    host: Path
    writable: bool = False


def tag(index: int) -> str:
    """The 9p name of a guest's share number `index`."""
    return f"lab{index}"


def _mount(index: int, share: Share) -> str:
    options = f"{WRITABLE if share.writable else READ_ONLY},trans=virtio,version=9p2000.L"
    where = shlex.quote(share.guest)
    return f"mkdir -p {where} && mount -t 9p -o {options},msize=512000 {tag(index)} {where}"


def guest_script(
    marker: str, shares: Sequence[Share], env: Mapping[str, str], command: Sequence[str]
) -> str:
    """Announce the command with a line `marker` on stdout and stderr, run it, write its status.

    The kernel's files are expected to be shared at /run/kernel."""
    mounts = [_mount(index, share) for index, share in enumerate(shares)]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    lines = [
        "#!/bin/sh",
        "set -e",
        "mount -t tmpfs tmpfs /tmp",
        "mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug",
        "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing",
        *mounts,
        # Modules link to their headers by a relative path, so both go where they belong.
        "mountpoint -q /usr/lib/modules && umount /usr/lib/modules",
        "mkdir -p /usr/lib/modules /usr/src",
        "mount --bind /run/kernel/usr/lib/modules /usr/lib/modules",
        # a kernel without headers has none
        "test ! -d /run/kernel/usr/src || mount --bind /run/kernel/usr/src /usr/src",
        *exports,
        "cd /src",
        "set +e",
        f"echo {marker}; echo {marker} >&2",
        # In a shell of its own, so that a command that is not found gives 127 as anywhere.
        f"sh -c {shlex.quote(shlex.join(command))}",
        f"echo $? >{LAB}/{STATUS}",
    ]
    return "\n".join(lines) + "\n"
