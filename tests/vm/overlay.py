# SPDX-License-Identifier: Apache-2.0
"""A shell script beside the guests' root, without a guest: in a throw-away copy of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.vm.progress import as_root, logged

# In a mount namespace that is this shell's own; what is written goes to a tmpfs. Arguments: the
# tmpfs's place, the overlay's lower directories; the rest is left to the script that follows.
ENTER = """
set -e
work=$1 lower=$2 root=$1/root
shift 2
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" lab "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
"""


def in_overlay(lower: Sequence[Path], script: str, arguments: Sequence[str], log: Path) -> str:
    """Run `script` as root with `$root`, a copy of the joined directories of `lower`, the first of
    them uppermost; its output, which is also in `log`.

    Raises LabError with the end of the output when it fails."""
    with tempfile.TemporaryDirectory(prefix="dmabuf-trace-root-") as work:
        shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER + script, "sh"]
        return logged(as_root([*shell, work, ":".join(map(str, lower)), *arguments]), log)
