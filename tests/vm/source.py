# SPDX-License-Identifier: Apache-2.0
"""Parts of the kernel's source, out of Debian's package of it: its tests, and what runs them.

None of it is in this tree. Fetching and unpacking takes about a minute, once."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from tests.vm.cache import built, digest, log_file
from tests.vm.errors import LabError
from tests.vm.packages import fetch
from tests.vm.progress import logged, step
from tests.vm.root import SUITE, Root, root

PACKAGE = "linux-source-6.12"
SELFTESTS = "tools/testing/selftests"
PARTS = (
    "tools/testing/kunit/*",
    f"{SELFTESTS}/dmabuf-heaps/*",
    f"{SELFTESTS}/drivers/dma-buf/*",
    f"{SELFTESTS}/kselftest*",
    f"{SELFTESTS}/kselftest/*",
    f"{SELFTESTS}/run_kselftest.sh",
)
"""What is kept, as patterns of paths in the source; folders below these are not."""


def _wanted(path: PurePosixPath) -> bool:
    return any(path.match(part) and len(path.parts) == part.count("/") + 1 for part in PARTS)


def _unpack(source: tarfile.TarFile, to: Path) -> None:
    for member in source:
        path = PurePosixPath(*PurePosixPath(member.name).parts[1:])  # without the top folder
        if _wanted(path) and (file := source.extractfile(member)):
            target = to / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read())
            target.chmod(member.mode)


def extract(deb: Path, to: Path) -> None:
    """Unpack the parts of the package; what is between the two is never on a disk."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as package,
    ):
        for member in package:
            if member.name.endswith(".tar.xz") and (file := package.extractfile(member)):
                with tarfile.open(fileobj=file, mode="r|xz") as source:
                    _unpack(source, to)


def kernel_source(disk: Root | None = None) -> Path:
    """The cached parts, laid out as in the kernel's tree, fetched if they are not there."""
    disk = disk or root()

    def build(path: Path) -> None:
        state = path / "apt"
        with step("fetching the kernel's source"):
            debs = fetch(state, disk, SUITE, [PACKAGE], "source")
            (deb,) = (deb for deb in debs if deb.name.startswith(PACKAGE))
        with step("unpacking its tests"):
            extract(deb, path)
            logged(["rm", "-r", str(state)], log_file("source-clean"))
        for part in PARTS:
            if not any(path.glob(part)):
                raise LabError(f"{deb.name} has no {part}: see tests/vm/source.py")

    return built("source", digest([disk.mirror, SUITE, PACKAGE, *PARTS]), build)
