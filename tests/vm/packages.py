# SPDX-License-Identifier: Apache-2.0
"""Debian packages, fetched with a private apt; the kernels' are unpacked side by side.

The machine's own apt sources are neither read nor changed: the archive and the keys are those of
the guests' root, and its list of installed packages tells apt what need not be fetched."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.cache import built, digest, log_file
from tests.vm.errors import LabError
from tests.vm.kernels import Kernel
from tests.vm.progress import logged, step
from tests.vm.root import SUITE, Root

# What a kernel needs to boot and to have modules built for it; the rest of what apt finds
# (initramfs tools and the like) is for machines that boot from a disk of their own.
WANTED = re.compile(r"(linux|gcc|cpp|libgcc)-")
LAYOUT = "2"
"""Part of the recipe: raise it when the layout of an entry changes."""


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """A kernel's image, modules and headers, laid out as in a root file system."""

    path: Path

    @property
    def release(self) -> str:
        """What `uname -r` says on it."""
        (modules,) = (self.path / "usr/lib/modules").iterdir()
        return modules.name

    @property
    def image(self) -> Path:
        return self.path / "boot" / f"vmlinuz-{self.release}"


def _apt(state: Path) -> list[str]:
    """The start of an apt-get command whose every file is below `state`."""
    options = {
        "Dir::Etc": state / "etc",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Default-Release": SUITE,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # apt's own user cannot write into this directory
    }
    return ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]


def _sources(root: Root, suite: str) -> str:
    keyring = root.tree / "usr/share/keyrings/debian-archive-keyring.pgp"
    suites = dict.fromkeys([SUITE, f"{SUITE}-updates", suite])
    lines = (f"deb [signed-by={keyring}] {root.mirror} {suite} main\n" for suite in suites)
    return "".join(lines)


def fetch(state: Path, root: Root, suite: str, packages: Sequence[str], name: str) -> list[Path]:
    """The .deb files of packages and of what they need beside the guests' root, below `state`.

    `name` names the logs."""
    for directory in ("etc", "lists/partial", "archives/partial"):
        (state / directory).mkdir(parents=True)
    (state / "etc/sources.list").write_text(_sources(root, suite))
    # A copy, because apt locks the directory that this file is in.
    shutil.copy(root.tree / "var/lib/dpkg/status", state)
    apt = _apt(state)
    logged([*apt, "update"], log_file(f"{name}-update"))
    logged([*apt, "--download-only", "install", *packages], log_file(f"{name}-download"))
    return sorted(state.glob("archives/*.deb"))


def _unpack(debs: list[Path], path: Path, log: Path) -> None:
    for deb in debs:
        logged(["dpkg-deb", "--extract", str(deb), str(path)], log)
    # Older packages still install into /lib, which in the guests' root is a link to /usr/lib.
    old = path / "lib"
    if old.is_dir():
        (path / "usr/lib").mkdir(parents=True, exist_ok=True)
        for item in old.iterdir():
            item.rename(path / "usr/lib" / item.name)
        old.rmdir()
    old.symlink_to("usr/lib")
    # Newer ones install the image beside the modules instead of into /boot.
    (path / "boot").mkdir(exist_ok=True)
    for image in (path / "usr/lib/modules").glob("*/vmlinuz"):
        (path / "boot" / f"vmlinuz-{image.parent.name}").hardlink_to(image)


def kernel_files(kernel: Kernel, root: Root) -> KernelFiles:
    """The cached files of `kernel`, fetched if they are not there."""

    def build(path: Path) -> None:
        state = path / "apt"
        with step(f"fetching kernel {kernel.name}"):
            fetched = fetch(state, root, kernel.suite, kernel.packages, f"kernel-{kernel.name}")
        with step(f"unpacking kernel {kernel.name}"):
            log = log_file(f"kernel-{kernel.name}-unpack")
            debs = [deb for deb in fetched if WANTED.match(deb.name)]
            _unpack(debs, path, log)
            release = KernelFiles(path).release
            if not release.startswith(f"{kernel.name}."):
                raise LabError(
                    f"{kernel.suite} now has kernel {release}, not {kernel.name}: "
                    "give the table in tests/vm/kernels.py another suite or row"
                )
            logged(["depmod", "-b", str(path), release], log)
            logged(["rm", "-r", str(state)], log)

    key = digest([LAYOUT, root.path.name, root.mirror, *kernel.packages])
    return KernelFiles(built(f"kernel-{kernel.name}", key, build))
