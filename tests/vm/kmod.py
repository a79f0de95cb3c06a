# SPDX-License-Identifier: Apache-2.0
"""Building the reference exporter (tests/kmod) against a kernel's headers, in the guests' root."""

from __future__ import annotations

import re
from pathlib import Path

from tests.vm.cache import built, digest, digest_files, log_file
from tests.vm.errors import LabError
from tests.vm.kernels import Kernel
from tests.vm.packages import KernelFiles
from tests.vm.progress import as_root, logged, step
from tests.vm.root import Root
from tests.vm.stage import TREE

GUEST_MODULE_DIR = "/opt/kmod"
MODULE = "dmabuf_ref.ko"
SOURCES = TREE / "tests" / "kmod"
SOURCE_SUFFIXES = frozenset({".c", ".h"})
MAKEFILES = frozenset({"Kbuild", "Makefile"})
# Compiler and kernel-doc warnings carry a place, modpost's its own name. Others, such as the one
# about a compiler that differs from the kernel's in its last digit, are not about the sources.
WARNING = re.compile(r"^(\S+:\d+.*\bwarning:|WARNING: modpost:).*$", re.MULTILINE)


def module_sources(directory: Path) -> list[Path]:
    """The files that the module is made of, not what a build by hand leaves beside them."""
    return sorted(
        file
        for file in directory.iterdir()
        if (file.suffix in SOURCE_SUFFIXES and not file.name.endswith(".mod.c"))
        or file.name in MAKEFILES
    )


# Joins root and headers in a mount namespace that is this shell's own, and builds on a tmpfs.
# Arguments: the tmpfs's place, the overlay's lower directories, the release, the result, sources.
SCRIPT = f"""
set -e
work=$1 lower=$2 release=$3 module=$4
shift 4
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" lab "$work/root"
mount --rbind /dev "$work/root/dev"
mount -t proc proc "$work/root/proc"
mkdir "$work/root/build"
cp "$@" "$work/root/build/"
chroot "$work/root" make -C "/lib/modules/$release/build" M=/build W=1 modules
cp "$work/root/build/{MODULE}" "$module"
"""


def build_module(kernel: Kernel, files: KernelFiles, root: Root) -> Path:
    """The reference exporter for `kernel`, from the cache where sources and kernel are the same.

    Raises LabError with the compiler's words when it does not build without a warning."""
    if not kernel.headers:
        raise LabError(f"the archive has no headers of kernel {kernel.name} to build a module with")
    sources = module_sources(SOURCES) if SOURCES.is_dir() else []
    if not any(file.suffix == ".c" for file in sources):
        raise LabError(f"no module sources in {SOURCES}")

    def build(path: Path) -> None:
        work = path / "work"
        work.mkdir()
        lower = f"{files.path}:{root.tree}"
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]
        command += [str(work), lower, files.release, str(path / MODULE), *map(str, sources)]
        with step(f"building the reference exporter for kernel {kernel.name}"):
            output = logged(as_root(command), log_file(f"module-{kernel.name}"))
        warnings = [match.group() for match in WARNING.finditer(output)]
        if warnings:
            raise LabError("the module builds with warnings:\n" + "\n".join(warnings))
        work.rmdir()

    names = [file.name for file in sources]
    key = digest([files.path.name, files.release, digest_files(SOURCES, names)])
    return built(f"module-{kernel.name}", key, build) / MODULE
