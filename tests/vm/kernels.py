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
    """What a guest of this kernel must show; a feature that vanishes is a failed test. What
    ``doctor`` must find there is pinned beside this file, see ``pins.py``."""
    every_run: bool = True
    """Whether each run of the tests holds it to all of them, not only one with --all-kernels: the
    others then see those marked ``main_path``. What takes long names its own: ``every_run_on``."""
    image: str = "linux-image-amd64"
    headers: str = "linux-headers-amd64"
    """Empty where the archive has none any more: then nothing can be built for it."""
    single_threaded: bool = True
    """Emulated on several threads, kernels panic at times where probes come and go: one processor
    runs a breakpoint that another one has already taken away. That is the emulator's doing."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages to ask apt for, each bound to the suite."""
        return tuple(f"{name}/{self.suite}" for name in (self.image, self.headers) if name)


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
    Kernel("6.1", "bookworm", _CLIENTS, every_run=False),
    Kernel("6.12", "trixie", _EXPORTERS),
    Kernel(
        "6.17",
        "trixie-backports",
        (*_EXPORTERS, "iterator"),
        every_run=False,
        image="linux-image-6.17.13+deb13-amd64",
        headers="",
    ),
    Kernel(
        "7.2",
        "trixie-backports",
        (*_EXPORTERS, "tracepoints", "iterator"),
        image="linux-image-7.2.12+deb13-amd64",
        headers="linux-headers-7.2.12+deb13-amd64",
    ),
)
KERNELS = {kernel.name: kernel for kernel in _ROWS}
WITH_MODULE = {kernel.name: kernel for kernel in _ROWS if kernel.headers}
"""Those that the reference exporter can be built for."""


def find_kernel(name: str) -> Kernel:
    """The row called `name`; LabError names the rows there are."""
    try:
        return KERNELS[name]
    except KeyError:
        raise LabError(f"no kernel {name!r}; there are: {', '.join(KERNELS)}") from None
