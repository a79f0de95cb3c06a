# SPDX-License-Identifier: Apache-2.0
"""A command in the guests' root, without a guest: on this machine's kernel, with another's headers.

For what compiles against kernel headers but does not run on that kernel."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tests.vm.cache import cache_dir, log_file
from tests.vm.kernels import Kernel
from tests.vm.packages import KernelFiles, kernel_files
from tests.vm.progress import as_root, logged
from tests.vm.root import root
from tests.vm.stage import GUEST_STAGE_DIR, TREE, stage_tree

# Joins root and headers in a mount namespace that is this shell's own, and calls the headers those
# of the running kernel. Arguments: a tmpfs's place, the overlay's lower directories, the headers'
# release, the installed package, this tree, the command for the chroot's shell.
SCRIPT = f"""
set -e
work=$1 lower=$2 release=$3 stage=$4 tree=$5 command=$6
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" lab "$work/root"
mount --rbind /dev "$work/root/dev"
mount --rbind /sys "$work/root/sys"
mount -t proc proc "$work/root/proc"
mkdir -p "$work/root{GUEST_STAGE_DIR}" "$work/root/src"
mount --bind "$stage" "$work/root{GUEST_STAGE_DIR}"
mount --bind "$tree" "$work/root/src"
running=$work/root/usr/lib/modules/$(uname -r)
if [ "$release" != "$(uname -r)" ]; then
	mkdir -p "$running"
	for name in build source; do
		ln -sfn "../$release/$name" "$running/$name"
	done
fi
chroot "$work/root" sh -c "$command"
"""


def has_headers(files: KernelFiles) -> bool:
    """Whether the kernel's headers are in the archive."""
    return (files.path / "usr/lib/modules" / files.release / "build").is_symlink()


def run_with_headers(kernel: Kernel, command: Sequence[str]) -> str:
    """Run `command` as root in the guests' root, in /src, with the tree installed; its output.

    Raises LabError with the end of the output when the command fails."""
    disk = root()
    files = kernel_files(kernel, disk)
    work = cache_dir() / "lock" / f"headers-{kernel.name}"  # only a place to mount on
    work.mkdir(parents=True, exist_ok=True)
    paths = f"PYTHONPATH={GUEST_STAGE_DIR}:/src PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1"
    line = f"cd /src && export {paths} && {shlex.join(command)}"
    arguments = [str(work), f"{files.path}:{disk.tree}", files.release]
    arguments += [str(stage_tree(disk)), str(TREE), line]
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]
    return logged(as_root([*shell, *arguments]), log_file(f"headers-{kernel.name}"))
