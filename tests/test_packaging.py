# SPDX-License-Identifier: Apache-2.0
"""What an install brings, and what it says when it can't be built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bpf.build import OBJECTS, object_name

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("pyproject.toml", "README.md", "LICENSE", "dmabuf_trace", "bpf", "analyses")


def wheel(tmp_path: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel from a copy of the sources, with commands found on ``path`` only."""
    source = tmp_path / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignore = shutil.ignore_patterns("*.o", "__pycache__")
            shutil.copytree(ROOT / part, source / part, ignore=ignore)
        else:
            shutil.copy(ROOT / part, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(source)]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_wheel_has_all_modules_and_the_objects_of_every_architecture(tmp_path: Path) -> None:
    done = wheel(tmp_path, os.environ["PATH"])

    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(built).namelist())
    assert built.name.endswith("-py3-none-any.whl")
    for part, machine in OBJECTS:
        assert f"dmabuf_trace/bpf/{object_name(part, machine)}" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dmabuf_trace").rglob("*.py")}
    assert modules <= names
    parts = {f"dmabuf_trace/render/html/page.{kind}" for kind in ("html", "css", "js")}
    assert parts <= names
    analyses = {path.name for path in (ROOT / "analyses").glob("*.py")}
    assert {f"dmabuf_trace/analyses/{name}" for name in analyses} <= names
    assert not [name for name in names if name.startswith(("tests", "examples", "bpf", "analyses"))]


@pytest.mark.parametrize("missing", ["clang", "llvm-strip"])
def test_without_a_compiler_one_line_says_what_to_install(tmp_path: Path, missing: str) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in {"clang", "llvm-strip"} - {missing}:
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)

    done = wheel(tmp_path, str(tools))

    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "dmabuf-trace:" in line]
    assert len(said) == 1
    assert f"{missing} not found" in said[0]
    assert "apt-get install clang llvm" in said[0]
