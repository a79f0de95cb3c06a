# SPDX-License-Identifier: Apache-2.0
"""A command in the guests' root, without a guest: on this machine's kernel, with another's headers.

For what compiles against kernel headers but does not run on that kernel."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tests.vm.cache import log_file
from tests.vm.kernels import Kernel
from tests.vm.overlay import in_overlay
from tests.vm.packages import KernelFiles, kernel_files
from tests.vm.root import root
from tests.vm.stage import GUEST_STAGE_DIR, TREE, stage_tree

# Calls the headers those of the running kernel. Arguments: the headers' release, the installed
# package, this tree, the command for the chroot's shell.
SCRIPT = f"""
release=$1 stage=$2 tree=$3 command=$4
mount --rbind /sys "$root/sys"
mkdir -p "$root{GUEST_STAGE_DIR}" "$root/src"
mount --bind "$stage" "$root{GUEST_STAGE_DIR}"
mount --bind "$tree" "$root/src"
running=$root/usr/lib/modules/$(uname -r)
if [ "$release" != "$(uname -r)" ]; then
	mkdir -p "$running"
	for name in build source; do
		ln -sfn "../$release/$name" "$running/$name"
	done
fi
chroot "$root" sh -c "$command"
"""


def has_headers(files: KernelFiles) -> bool:
    """Whether the kernel's headers are in the archive."""
    return (files.path / "usr/lib/modules" / files.release / "build").is_symlink()


def run_with_headers(kernel: Kernel, command: Sequence[str]) -> str:
    """Run `command` as root in the guests' root, in /src, with the tree installed; its output.

    Raises LabError with the end of the output when the command fails."""
    disk = root()
    files = kernel_files(kernel, disk)
    paths = f"PYTHONPATH={GUEST_STAGE_DIR}:/src PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1"
    line = f"cd /src && export {paths} && {shlex.join(command)}"
    arguments = [files.release, str(stage_tree(disk)), str(TREE), line]
    log = log_file(f"headers-{kernel.name}")
    return in_overlay([files.path, disk.tree], SCRIPT, arguments, log)
