# SPDX-License-Identifier: Apache-2.0
"""Compiles the programs with bcc against the headers there are, and prints their names.

Standard library, bcc and the package only: run where those headers are.
"""

from __future__ import annotations

from dmabuf_trace.loader.bcc import BccBackend


def main() -> None:
    """Compile; a program is a function that bcc found."""
    backend = BccBackend(ring_bytes=1 << 16)
    try:
        print(*sorted(backend.programs()))
    finally:
        backend.close()


if __name__ == "__main__":
    main()
