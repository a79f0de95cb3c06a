# SPDX-License-Identifier: Apache-2.0
"""The kernel's own tests of dma-buf, compiled in the guests' root and installed as its makefiles
would: `run_kselftest.sh -c dmabuf-heaps` runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.vm.cache import built, digest, log_file
from tests.vm.overlay import in_overlay
from tests.vm.progress import step
from tests.vm.root import Root, root
from tests.vm.source import SELFTESTS, kernel_source

GUEST_SELFTESTS_DIR = "/opt/selftests"
HEAPS = "dmabuf-heaps/dmabuf-heap"
UDMABUF = "drivers/dma-buf/udmabuf"
TESTS = (HEAPS, UDMABUF)
RUNNERS = ("run_kselftest.sh", "kselftest")
FLAGS = ("-static", "-O2", "-Wall")
"""Static: they run in any root."""
LAYOUT = "1"
"""Part of the recipe: raise it when the layout of an entry changes."""

# Arguments: the sources, the result, flags. Headers are those of linux-libc-dev, which Debian
# builds of the same source.
SCRIPT = f"""
source=$1 to=$2
shift 2
mkdir "$root/build"
cp -r "$source/." "$root/build"
for test in {" ".join(TESTS)}; do
	chroot "$root" gcc "$@" -o "/build/$test" "/build/$test.c"
	mkdir -p "$to/$(dirname "$test")"
	cp "$root/build/$test" "$to/$test"
done
"""


def kernel_selftests(disk: Root | None = None) -> Path:
    """A folder for guests to have at GUEST_SELFTESTS_DIR, from the cache where it is there.

    Raises LabError with the compiler's words where one does not compile."""
    disk = disk or root()
    source = kernel_source(disk)

    def build(path: Path) -> None:
        with step("compiling the kernel's tests"):
            sources = source / SELFTESTS
            arguments = [str(sources), str(path), *FLAGS]
            in_overlay([disk.tree], SCRIPT, arguments, log_file("selftests"))
            for name in RUNNERS:
                copy = shutil.copytree if (sources / name).is_dir() else shutil.copy2
                copy(sources / name, path / name)
            lines = (test.rpartition("/") for test in TESTS)
            listed = "".join(f"{folder}:{name}\n" for folder, _, name in lines)
            (path / "kselftest-list.txt").write_text(listed)

    return built(
        "selftests", digest([LAYOUT, disk.path.name, source.name, *TESTS, *RUNNERS, *FLAGS]), build
    )
