# SPDX-License-Identifier: Apache-2.0
"""Which parts of the kernel's source are kept; its tests run on every kernel that they are for."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.vm import run_guest
from tests.vm.selftests import GUEST_SELFTESTS_DIR
from tests.vm.source import PACKAGE, extract

KEPT = (
    "tools/testing/kunit/kunit.py",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/drivers/dma-buf/udmabuf.c",
)
LEFT = (
    "tools/testing/kunit/test_data/test.log",
    "tools/testing/selftests/bpf/bench.c",
    "Makefile",
)


def test_parts_are_kept_and_nothing_else(tmp_path: Path) -> None:
    package, source, to = tmp_path / "package", tmp_path / PACKAGE, tmp_path / "to"
    for name in (*KEPT, *LEFT):
        file = source / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (source / KEPT[0]).chmod(0o755)
    (package / "usr/src").mkdir(parents=True)
    with tarfile.open(package / f"usr/src/{PACKAGE}.tar.xz", "w:xz") as archive:
        archive.add(source, PACKAGE)
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
    )
    deb = tmp_path / "x.deb"
    subprocess.run(["dpkg-deb", "--build", package, deb], check=True)

    extract(deb, to)

    kept = {str(file.relative_to(to)): file.read_text() for file in to.rglob("*") if file.is_file()}
    assert kept == {name: name for name in KEPT}
    assert (to / KEPT[0]).stat().st_mode & 0o777 == 0o755


@pytest.mark.guest
def test_the_kernels_own_tests_run() -> None:
    """The last one of udmabuf's needs 2 GiB of huge pages, which a guest doesn't have."""
    script = f"modprobe vgem; cd {GUEST_SELFTESTS_DIR}; ./run_kselftest.sh"
    done = run_guest("6.12", ["sh", "-c", script], timeout=120, selftests=True, stage=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n# ok ") == 11 + 5, done.stdout
    assert "\nok 1 selftests: dmabuf-heaps: dmabuf-heap\n" in done.stdout
    assert "not ok 1 selftests: drivers/dma-buf: udmabuf # exit=1" in done.stdout
