# SPDX-License-Identifier: Apache-2.0
"""Building the modules of tests/kmod against a kernel's headers, in the guests' root."""

from __future__ import annotations

import re
from pathlib import Path

from tests.vm.cache import built, digest, digest_files, log_file
from tests.vm.errors import LabError
from tests.vm.kernels import Kernel
from tests.vm.overlay import in_overlay
from tests.vm.packages import KernelFiles
from tests.vm.progress import step
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


# Arguments: the release, where to, sources.
SCRIPT = """
release=$1 to=$2
shift 2
mkdir "$root/build"
cp "$@" "$root/build/"
chroot "$root" make -C "/lib/modules/$release/build" M=/build W=1 modules
cp "$root"/build/*.ko "$to"
"""


def build_module(kernel: Kernel, files: KernelFiles, root: Root) -> Path:
    """The reference exporter for `kernel`, the others beside it; from the cache where sources and
    kernel are the same.

    Raises LabError with the compiler's words when it does not build without a warning."""
    if not kernel.headers:
        raise LabError(f"the archive has no headers of kernel {kernel.name} to build a module with")
    sources = module_sources(SOURCES) if SOURCES.is_dir() else []
    if not any(file.suffix == ".c" for file in sources):
        raise LabError(f"no module sources in {SOURCES}")

    def build(path: Path) -> None:
        arguments = [files.release, str(path), *map(str, sources)]
        with step(f"building the reference exporter for kernel {kernel.name}"):
            log = log_file(f"module-{kernel.name}")
            output = in_overlay([files.path, root.tree], SCRIPT, arguments, log)
        warnings = [match.group() for match in WARNING.finditer(output)]
        if warnings:
            raise LabError("the module builds with warnings:\n" + "\n".join(warnings))

    names = [file.name for file in sources]
    key = digest([files.path.name, files.release, digest_files(SOURCES, names)])
    return built(f"module-{kernel.name}", key, build) / MODULE
