# SPDX-License-Identifier: Apache-2.0
"""The tree's package as guests see it: installed by pip, as users would have it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.vm.cache import built, digest, digest_files, log_file
from tests.vm.progress import logged, step
from tests.vm.root import Root

TREE = Path(__file__).resolve().parents[2]
GUEST_STAGE_DIR = "/opt/dmabuf-trace"
GUEST_STAGE_ENV = {
    "PATH": f"{GUEST_STAGE_DIR}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # The installed package comes first, tests and examples from the tree; without the safe path
    # Python would look in the working directory, which is the tree, before all of these.
    "PYTHONPATH": f"{GUEST_STAGE_DIR}:/src",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # the shares are read-only
}
PACKAGE = ("pyproject.toml", "dmabuf_trace", "bpf", "analyses")
"""What an install depends on, and so what its hash covers."""
METADATA = ("README.md", "LICENSE")
LAYOUT = "2"
"""Part of the recipe: raise it when what is done to an install changes."""


def _copy_package(to: Path) -> None:
    """Copy what pip needs: a build in the tree would leave its traces there."""
    for name in (*PACKAGE, *METADATA):
        source = TREE / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
        elif source.exists():
            shutil.copy2(source, to / name)


def _use_guest_python(script: Path) -> None:
    """Point a command at the guests' interpreter: pip makes it name the one that ran pip."""
    _, _, rest = script.read_text().partition("\n")
    script.write_text(f"#!/usr/bin/python3\n{rest}")


def _compile(root: Root, installed: Path) -> None:
    """Byte-compile with the guests' Python: a guest could neither keep the result nor has the
    time to make it again in each process."""
    # Run it through its own loader and libraries, which needs neither a chroot nor root.
    loader = root.tree / "lib64/ld-linux-x86-64.so.2"
    libraries = root.tree / "usr/lib/x86_64-linux-gnu"
    python = root.tree / "usr/bin/python3"
    command = [str(loader), "--library-path", str(libraries), str(python.resolve())]
    compileall = ["-m", "compileall", "-q", "-s", str(installed), "-p", GUEST_STAGE_DIR]
    home = f"PYTHONHOME={root.tree / 'usr'}"
    logged(["env", home, *command, *compileall, str(installed)], log_file("stage-compile"))


def stage_tree(root: Root) -> Path:
    """A directory for guests to import from and to run `bin/dmabuf-trace` from."""

    def build(path: Path) -> None:
        with step("installing the tree for guests"):
            source = path / "source"
            source.mkdir()
            _copy_package(source)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
            logged([*pip, "--target", str(path), str(source)], log_file("stage"))
            shutil.rmtree(source)
            for script in path.glob("bin/*"):
                _use_guest_python(script)
            _compile(root, path)

    key = digest([LAYOUT, digest_files(TREE, PACKAGE), root.path.name])
    return built("stage", key, build)
