# SPDX-License-Identifier: Apache-2.0
"""What the peers are told to fetch: the functions that the loops call, and what ours reads of them.

Which functions are probed, and whether at their return too, is asked of the tool's own table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dmabuf_trace.probes import PROBES

INODE: Final = "file->f_inode->i_ino"


@dataclass(frozen=True, slots=True)
class Function:
    """A kernel function: its parameters as (name, struct it points to or ""), and what is read.

    ``values`` and ``strings`` begin with a parameter; ``user`` names one that points to a word of
    user memory. ``result`` is read through the pointer that it returns. ``file`` names the
    parameter by which other files than dma-bufs are filtered out.
    """

    parameters: tuple[tuple[str, str], ...]
    values: tuple[str, ...]
    strings: tuple[str, ...] = ()
    user: str = ""
    result: str = ""
    file: str = ""


FUNCTIONS: Final = {
    "dma_buf_export": Function(
        (("exp_info", "dma_buf_export_info"),),
        ("exp_info->size", "exp_info->flags"),
        ("exp_info->exp_name",),
        result=INODE,
    ),
    "fd_install": Function(
        (("fd", ""), ("file", "file")),
        ("fd", "file", "file->f_inode->i_ino"),
        file="file",
    ),
    "dma_buf_get": Function((("fd", ""),), ("fd",), result=INODE),
    "dma_buf_dynamic_attach": Function(
        (("dmabuf", "dma_buf"), ("dev", "device"), ("importer_ops", "")),
        (f"dmabuf->{INODE}", "dev", "importer_ops"),
        ("dev->kobj.name",),
    ),
    "dma_buf_map_attachment": Function(
        (("attach", "dma_buf_attachment"), ("direction", "")),
        ("attach", f"attach->dmabuf->{INODE}", "direction"),
        ("attach->dev->kobj.name",),
    ),
    "dma_buf_unmap_attachment": Function(
        (("attach", "dma_buf_attachment"), ("sg_table", ""), ("direction", "")),
        ("attach", f"attach->dmabuf->{INODE}", "sg_table", "direction"),
        ("attach->dev->kobj.name",),
    ),
    "dma_buf_detach": Function(
        (("dmabuf", "dma_buf"), ("attach", "dma_buf_attachment")),
        (f"dmabuf->{INODE}", "attach"),
        ("attach->dev->kobj.name",),
    ),
    "dma_buf_ioctl": Function(
        (("file", "file"), ("cmd", ""), ("arg", "")),
        ("file->f_inode->i_ino", "cmd"),
        user="arg",
    ),
    "dma_buf_begin_cpu_access": Function(
        (("dmabuf", "dma_buf"), ("direction", "")), (f"dmabuf->{INODE}", "direction")
    ),
    "filp_flush": Function(
        (("filp", "file"), ("id", "")),
        ("filp", "filp->f_inode->i_ino", "id"),
        file="filp",
    ),
    "dma_buf_file_release": Function(
        (("inode", "inode"), ("file", "file")), ("inode->i_ino", "file->private_data")
    ),
}
"""By name, in the order of a buffer's life."""

TIMED: Final = {
    symbol for probe in PROBES if probe.returned for symbol in probe.symbols if symbol in FUNCTIONS
}
"""Those that are probed at their return as well."""


def ftrace_fields(function: Function) -> tuple[str, str]:
    """Fetch arguments of an ftrace event at the function's entry, and at its return."""
    entry = [f"v{number}={path}" for number, path in enumerate(function.values)]
    entry += [f"s{number}={path}:string" for number, path in enumerate(function.strings)]
    if function.user:
        number = [name for name, _ in function.parameters].index(function.user)
        entry.append(f"user=+u0($arg{number + 1}):u64")
    if function.file:
        entry.append(f"fops={function.file}->f_op")
    returned = ["ret=$retval"]
    if function.result:
        returned.append(f"ino=$retval->{function.result}")
    return " ".join(entry), " ".join(returned)
