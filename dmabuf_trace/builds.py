# SPDX-License-Identifier: Apache-2.0
"""Which builds of the kernel and of its modules are running: their build ids, by /sys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dmabuf_trace.elf import build_id

KERNEL_NOTES: Final = "kernel/notes"
MODULE_NOTES: Final = "module/{}/notes/.note.gnu.build-id"


def of(frames: Iterable[str], root: Path = Path("/sys")) -> dict[str, str]:
    """Build ids, in hex, of the modules that frames (:mod:`symbols`) lie in; "": the kernel.

    What has none, or is no module (programs of BPF, trampolines), is left out.
    """
    modules = {frame.partition(" [")[2].removesuffix("]") for frame in frames}
    found = {}
    for module in sorted(modules):
        name = MODULE_NOTES.format(module) if module else KERNEL_NOTES
        try:
            found[module] = build_id((root / name).read_bytes())
        except OSError:
            continue
    return {module: text for module, text in found.items() if text}
