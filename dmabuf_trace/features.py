# SPDX-License-Identifier: Apache-2.0
"""What this kernel lets us see: each capability has a name, a test, and what is lost without it.

Found by trying, never by version: distributions backport. Must not know who reads the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from dmabuf_trace import schema
from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader import bcc, btf, core, interface, iterators, modes, privilege, tracefs
from dmabuf_trace.loader.choose import LoadOptions, load
from dmabuf_trace.loader.libbpf import Libbpf
from dmabuf_trace.probes import PROBES, Probe

RING_BYTES: Final = 1 << 16
CONFIG: Final = np.zeros(1, schema.CONFIG_DTYPE)


@dataclass(frozen=True, slots=True)
class Feature:
    """One capability; ``needed`` where nothing can be recorded without it.

    ``gives`` names event kinds, or facts of a look at the holders (fields of ``SnapshotBlock``).
    A kind that several give has them all to thank for.
    """

    name: str
    found: bool
    detail: str
    without: str
    needed: bool = False
    gives: tuple[str, ...] = ()


NOTHING = "nothing can be recorded"


def _tried(name: str, attempt: Callable[[], str], without: str = NOTHING) -> Feature:
    """A feature that is there when the attempt returns its detail, and not when it is refused."""
    needed = without == NOTHING
    try:
        return Feature(name, True, attempt(), without, needed)
    except UntraceableError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Feature(name, False, f"{error}{hint}", without, needed)


def _libbpf() -> str:
    return str(Libbpf().libbpf_version_string().decode())


def _object() -> str:
    return f"a BPF object of {len(core.object_bytes())} bytes for {os.uname().machine}"


def _bcc() -> str:
    """Not tried by compiling, which takes long."""
    module, headers = bcc.import_bcc(), bcc.headers()
    return f"bcc {module.__version__}, headers in {headers}"


def _root() -> Feature:
    missing = privilege.lacking()
    detail = ", ".join([f"uid {os.geteuid()}", *(f"no {name}" for name in missing)])
    return Feature("root", not missing, detail, NOTHING, needed=True)


def _btf() -> Feature:
    found = btf.BTF.exists()
    detail = f"{'' if found else 'no '}{btf.BTF}"
    return Feature("kernel BTF", found, detail, "only the bcc loader works, and no iterator")


def _modes() -> list[Feature]:
    """Each mode and what it loses; those of the core loader alone tried on one timed function."""
    fprobe = modes.Exactness.here()

    def attempt(mode: str) -> str:
        load(PROBES[:1], CONFIG, LoadOptions(RING_BYTES, interface.CORE, mode)).close()
        return modes.loses(mode, fprobe)

    kprobe = modes.loses(interface.KPROBE, fprobe)
    return [
        Feature("attach kprobe", True, kprobe, NOTHING, needed=True),  # kprobe events are there
        *(
            _tried(f"attach {mode}", partial(attempt, mode), f"--attach {mode} is refused")
            for mode in (interface.MULTI, interface.FENTRY)
        ),
    ]


def _symbols() -> Feature:
    """Whether stacks will have names: hidden addresses read as zero, and so do some shown ones."""
    with Path("/proc/kallsyms").open() as file:
        found = any(int(line.split(maxsplit=1)[0], 16) for line in file)
    detail = "/proc/kallsyms" if found else "/proc/kallsyms hides addresses (kernel.kptr_restrict)"
    return Feature("kernel symbols", found, detail, "stacks are bare addresses")


def _iterators() -> list[Feature]:
    """What snapshots are made from."""
    holders, listed = "BPF iterators of holders", "BPF iterator of buffers"
    sockets = "BPF iterator of sockets"
    by_proc = "holders are read from /proc, which is slower"
    unseen = "a buffer that is only under way in a socket is shown as the kernel's"
    by_bufinfo = "buffers that no process holds are listed by snapshot --bufinfo only"
    try:
        with iterators.Iterators() as found:
            detail = "loaded" if found.lists_all else "this kernel has no BPF iterator dmabuf"
            return [
                Feature(holders, True, "loaded", by_proc),
                Feature(listed, found.lists_all, detail, by_bufinfo, gives=("complete",)),
                Feature(
                    sockets,
                    not found.without_queues,
                    found.without_queues or "loaded",
                    unseen,
                    gives=("queues",),
                ),
            ]
    except UntraceableError as error:
        return [
            Feature(holders, False, str(error), by_proc),
            Feature(listed, False, str(error), by_bufinfo, gives=("complete",)),
            Feature(sockets, False, str(error), unseen, gives=("queues",)),
        ]


def _probes() -> list[Feature]:
    """All probes, attached as a recording would attach them."""
    try:
        loader = load(PROBES, CONFIG, LoadOptions(RING_BYTES))
    except UntraceableError as error:
        return [Feature("BPF programs", False, str(error), NOTHING, needed=True)]
    try:
        return [
            Feature("BPF programs", True, f"loaded by {loader.name}", NOTHING, needed=True),
            *map(_probe, loader.attached),
        ]
    finally:
        loader.close()


def _probe(attached: interface.Attached) -> Feature:
    probe: Probe = attached.probe
    detail = attached.reason or f"{attached.way}: {', '.join(probe.kinds)}"
    name = f"probe {attached.symbol}"
    return Feature(name, not attached.reason, detail, probe.without, probe.needed, probe.kinds)


def examine() -> list[Feature]:
    """All features, tried on the running kernel; nothing stays attached."""
    features = [
        _root(),
        _btf(),
        _tried("libbpf", _libbpf),
        _tried("loader core", _object, "programs are compiled here, by the bcc loader"),
        _tried("loader bcc", _bcc, "a kernel without BTF can't be traced"),
        _tried("kprobe events", lambda: str(tracefs.root())),
        _symbols(),
    ]
    if not all(feature.found for feature in features if feature.needed):
        return features
    return [*features, *_modes(), *_probes(), *_iterators()]
