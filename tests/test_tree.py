# SPDX-License-Identifier: Apache-2.0
"""What every file of the tree must have."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNEL_CODE = ("bpf/", "tests/kmod/")


def tracked() -> list[Path]:
    """The files that belong to the tree."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines()]


def test_every_source_names_its_licence() -> None:
    for path in tracked():
        name = str(path.relative_to(ROOT))
        if path.suffix in (".py", ".c", ".h") and path.stat().st_size:
            runs_there = name.startswith(KERNEL_CODE) or name.endswith(".bpf.c")
            kernel = path.suffix != ".py" and runs_there
            expected = "GPL-2.0" if kernel else "Apache-2.0"
            head = "".join(path.read_text().splitlines(keepends=True)[:2])
            assert re.search(rf"SPDX-License-Identifier: {expected}\b", head), name


def test_every_link_of_a_readme_leads_somewhere() -> None:
    for path in tracked():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_every_folder_explains_itself() -> None:
    for folder in ("bpf", "analyses", "examples", "tests", "tests/kmod", "tests/vm"):
        assert (ROOT / folder / "README.md").stat().st_size > 0, folder
