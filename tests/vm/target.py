# SPDX-License-Identifier: Apache-2.0
"""A second root, of what recording on a target needs and nothing else; guests chroot into it."""

from __future__ import annotations

from pathlib import Path

from tests.vm.cache import built, digest, log_file
from tests.vm.progress import as_root, logged, step
from tests.vm.root import DPKG_OPTIONS, SUITE, Root

PACKAGES = ("libbpf1", "python3", "python3-numpy")
MMDEBSTRAP = (
    "mmdebstrap",
    "--mode=root",
    "--variant=essential",
    f"--include={','.join(PACKAGES)}",
    *DPKG_OPTIONS,
)
GUEST_TARGET_DIR = "/run/target"
ENTER = f"""
cd {GUEST_TARGET_DIR}
for folder in proc sys dev tmp opt; do mount --rbind /$folder $folder; done
exec chroot . "$@"
"""
"""For a guest's `sh -c ENTER sh CMD`: runs CMD in that root, with the guest's /tmp and /opt."""


def target_root(root: Root) -> Path:
    """The cached tree, from the archive of the guests' root."""

    def build(path: Path) -> None:
        with step("building a root of what a target has"):
            command = [*MMDEBSTRAP, SUITE, str(path / "tree"), root.mirror]
            logged(as_root(command), log_file("target"))

    return built("target", digest([SUITE, root.mirror, *MMDEBSTRAP]), build) / "tree"
