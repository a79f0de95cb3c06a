# SPDX-License-Identifier: Apache-2.0
"""Names in the kernel's BTF: which functions and types this kernel was built with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

BTF: Final = Path("/sys/kernel/btf/vmlinux")
READ_BYTES: Final = 1 << 18


def names_in(wanted: Iterable[str]) -> set[str]:
    """Those of the names that are in the kernel's BTF; none where it has no BTF.

    It is megabytes, so it is not read as a whole.
    """
    texts = {b"\0%b\0" % name.encode(): name for name in wanted}
    longest = max(map(len, texts))
    found: set[str] = set()
    try:
        with BTF.open("rb", buffering=0) as file:
            window = b""
            while part := file.read(READ_BYTES):
                window = window[-longest:] + part
                found |= {name for text, name in texts.items() if text in window}
    except OSError:
        return set()
    return found
