# SPDX-License-Identifier: Apache-2.0
"""The guests' root: a small Debian 13, as a directory (to compile in) and as a disk (to boot)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.vm.cache import built, digest, log_file
from tests.vm.progress import as_root, logged, step

SUITE = "trixie"
PACKAGES = (
    "bpftool",
    "bpftrace",
    "busybox-static",  # the initramfs has to run without the root's libraries
    "gcc",
    "iproute2",
    "kmod",
    "libbpf1",
    "libc6-dev",
    "linux-perf",
    "make",
    "pahole",
    "perl",  # a W=1 module build runs kernel-doc
    "procps",
    "python3",
    "python3-bpfcc",
    "python3-numpy",
    "python3-pandas",
    "python3-pytest",
    "python3-pytest-xdist",
    "python3-typer",
    "udev",  # names the virtio ports that carry a command's output
    "v4l-utils",
)
DPKG_OPTIONS = (
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=force-unsafe-io",
)
MMDEBSTRAP = (
    "mmdebstrap",
    "--mode=root",
    "--variant=apt",
    f"--include={','.join(PACKAGES)}",
    '--aptopt=APT::Install-Recommends "false"',
    *DPKG_OPTIONS,
    # This rule loads a module for every device there is, which doubles the boot time under
    # emulation; tests load what they need themselves.
    '--customize-hook=rm "$1/usr/lib/udev/rules.d/80-drivers.rules"',
)
# No journal: the disk is a throw-away copy in every guest. Sparse, so 4G costs what is in it.
MKE2FS = ("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal")
DISK_SIZE = "4G"


@dataclass(frozen=True, slots=True)
class Root:
    path: Path

    @property
    def tree(self) -> Path:
        return self.path / "tree"

    @property
    def disk(self) -> Path:
        return self.path / "disk.img"

    @property
    def mirror(self) -> str:
        """The archive that the root came from, as its own apt knows it."""
        for line in (self.tree / "etc/apt/sources.list").read_text().splitlines():
            words = [word for word in line.split() if not word.startswith("[")]
            if words[:1] == ["deb"] and words[2:3] == [SUITE]:
                return words[1]
        raise AssertionError("mmdebstrap wrote no line for its own suite")


def _build(path: Path) -> None:
    root = Root(path)
    # mmdebstrap knows Debian's archive; a site with a mirror of its own can name it.
    mirror = os.environ.get("DMABUF_TRACE_MIRROR")
    command = [*MMDEBSTRAP, SUITE, str(root.tree), *([mirror] if mirror else [])]
    with step("building the Debian 13 root"):
        logged(as_root(command), log_file("root"))
    with step("writing its disk image"):
        image = [*MKE2FS, "-d", str(root.tree), str(root.disk), DISK_SIZE]
        logged(as_root(image), log_file("disk"))


def root() -> Root:
    """The cached root, built if this recipe has not been built before."""
    return Root(built("root", digest([SUITE, *MMDEBSTRAP, *MKE2FS, DISK_SIZE]), _build))
