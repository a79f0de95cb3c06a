# SPDX-License-Identifier: Apache-2.0
"""The kernels that tests run on: one row each, with what it is expected to offer."""

from __future__ import annotations

from dataclasses import dataclass

from tests.vm.errors import LabError


@dataclass(frozen=True, slots=True)
class Kernel:
    """A Debian kernel, found by asking apt what its suite's meta package stands for today."""

    name: str
    """Major and minor version, as users type it."""
    suite: str
    features: tuple[str, ...]
    """What a guest of this kernel must show; a feature that vanishes is a failed test."""
    image: str = "linux-image-amd64"
    headers: str = "linux-headers-amd64"
    single_threaded: bool = True
    """Emulated on several threads, kernels panic at times where probes come and go: one processor
    runs a breakpoint that another one has already taken away. That is the emulator's doing."""

    @property
    def packages(self) -> tuple[str, str]:
        """The packages to ask apt for, each bound to the suite."""
        return f"{self.image}/{self.suite}", f"{self.headers}/{self.suite}"


FEATURES = {
    "btf": "test -e /sys/kernel/btf/vmlinux",
    "udmabuf": "test -c /dev/udmabuf",
    "heaps": "test -c /dev/dma_heap/system",
    "vgem": "modprobe vgem && ls /dev/dri/card*",
    "vivid": "modprobe vivid && ls /dev/video*",
    "tracepoints": "test -d /sys/kernel/tracing/events/dma_buf",
    "iterator": "grep -qw bpf_iter_dmabuf /proc/kallsyms",
}
"""How a guest finds out, in shell, whether it has a feature."""

_CLIENTS = ("btf", "vgem", "vivid")
_EXPORTERS = (*_CLIENTS, "udmabuf", "heaps")
_ROWS = (
    Kernel("6.1", "bookworm", _CLIENTS),
    Kernel("6.12", "trixie", _EXPORTERS),
    Kernel("7.2", "trixie-backports", (*_EXPORTERS, "tracepoints", "iterator")),
)
KERNELS = {kernel.name: kernel for kernel in _ROWS}


def find_kernel(name: str) -> Kernel:
    """The row called `name`; LabError names the rows there are."""
    try:
        return KERNELS[name]
    except KeyError:
        raise LabError(f"no kernel {name!r}; there are: {', '.join(KERNELS)}") from None
