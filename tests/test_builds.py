# SPDX-License-Identifier: Apache-2.0
"""Build ids of the kernel and of the modules that frames lie in."""

from __future__ import annotations

import struct
from pathlib import Path

from dmabuf_trace import builds
from dmabuf_trace.elf import build_id

OTHER = struct.pack("=III8sI", 6, 4, 0x101, b"Linux\0\0\0", 0)
ID = bytes(range(20))


def note(content: bytes) -> bytes:
    return struct.pack("=III4s", 4, len(content), 3, b"GNU\0") + content


def test_the_build_id_among_notes() -> None:
    assert build_id(OTHER + note(ID)) == ID.hex()
    assert build_id(note(ID) + OTHER) == ID.hex()
    assert build_id(OTHER) == build_id(b"") == build_id(note(ID)[:7]) == ""


def test_of_the_modules_that_frames_lie_in(tmp_path: Path) -> None:
    for name, content in (("npu", note(ID)), ("idle", note(b"8888")), ("bare", OTHER)):
        folder = tmp_path / builds.MODULE_NOTES.format(name)
        folder.parent.mkdir(parents=True)
        folder.write_bytes(content)
    kernel = tmp_path / builds.KERNEL_NOTES
    kernel.parent.mkdir()
    kernel.write_bytes(note(b"4444"))

    frames = ["dma_buf_get+0x1", "0xffffffffc0001234", "f+0x1 [npu]", "f+0x2 [bare]", "f+0x1 [bpf]"]

    assert builds.of(frames, tmp_path) == {"": b"4444".hex(), "npu": ID.hex()}
    assert builds.of([], tmp_path) == {}
