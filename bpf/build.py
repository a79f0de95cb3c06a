# SPDX-License-Identifier: Apache-2.0
"""Compiles the BPF objects when the package is built: one per architecture, all in every wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools.command.build_py import build_py

PARTS = {
    "dmabuf_trace": ("dmabuf_trace.bpf.c",),
    "dmabuf_trace_fentry": ("dmabuf_trace.bpf.c", "-DFENTRY"),
    "snapshot": ("snapshot.bpf.c",),
}
"""Programs that are loaded together: an object per architecture, from a source and its flags."""
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
"""Machine, as ``os.uname()`` names it, and its name in ``__TARGET_ARCH_*``."""

FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3")


def object_name(part: str, machine: str) -> str:
    """File name of a part's object for a machine."""
    return f"{part}.{machine}.bpf.o"


OBJECTS = tuple((part, machine) for part in PARTS for machine in ARCHITECTURES)
"""Part and machine of every object."""


def compile_objects(source: Path, target: Path) -> list[Path]:
    """Compile the programs in ``source`` into ``target``, without their debug sections."""
    clang, strip = shutil.which("clang"), shutil.which("llvm-strip")
    if not clang or not strip:
        missing = "clang" if not clang else "llvm-strip"
        sys.exit(
            f"dmabuf-trace: {missing} not found, so the BPF programs can't be built: "
            "apt-get install clang llvm"
        )
    target.mkdir(parents=True, exist_ok=True)
    objects = []
    for part, machine in OBJECTS:
        out = target / object_name(part, machine)
        arch = f"-D__TARGET_ARCH_{ARCHITECTURES[machine]}"
        command = [clang, *FLAGS, "-fdebug-compilation-dir=.", arch, "-c", *PARTS[part]]
        done = subprocess.run([*command, "-o", str(out.resolve())], cwd=source, check=False)
        if done.returncode:
            sys.exit(f"dmabuf-trace: the BPF programs don't compile for {machine}: see above")
        subprocess.run([strip, "-g", str(out)], check=True)
        objects.append(out)
    return objects


class BuildPy(build_py):  # type: ignore[misc]  # setuptools has no types
    """``build_py`` that compiles first: beside the sources for an editable install."""

    def run(self) -> None:
        """Compile, then copy the package."""
        source = Path(__file__).parent
        super().run()
        target = source if self.editable_mode else Path(self.build_lib) / "dmabuf_trace" / "bpf"
        compile_objects(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files of the package, the objects included."""
        outputs: list[str] = super().get_outputs(include_bytecode)
        base = Path(self.build_lib) / "dmabuf_trace" / "bpf"
        return [*outputs, *(str(base / object_name(*each)) for each in OBJECTS)]
