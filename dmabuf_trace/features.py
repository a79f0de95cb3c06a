# SPDX-License-Identifier: Apache-2.0
"""What this kernel lets us see: each capability has a name, a test, and what is lost without it.

Found by trying, never by version: distributions backport. Must not know who reads the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmabuf_trace.errors import UntraceableError
from dmabuf_trace.loader import core, iterators, tracefs
from dmabuf_trace.loader.libbpf import Libbpf
from dmabuf_trace.probes import PROBES

RING_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Feature:
    """One capability; ``needed`` where nothing can be recorded without it."""

    name: str
    found: bool
    detail: str
    without: str
    needed: bool = False


NOTHING = "nothing can be recorded"


def _tried(name: str, attempt: Callable[[], str]) -> Feature:
    """A feature that is there when the attempt returns its detail, and not when it is refused."""
    try:
        return Feature(name, True, attempt(), NOTHING, needed=True)
    except UntraceableError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Feature(name, False, f"{error}{hint}", NOTHING, needed=True)


def _libbpf() -> str:
    return str(Libbpf().libbpf_version_string().decode())


def _object() -> str:
    return f"{len(core.object_bytes())} bytes for {os.uname().machine}"


def _root() -> Feature:
    detail = f"uid {os.geteuid()}"
    return Feature("root", os.geteuid() == 0, detail, NOTHING, needed=True)


def _btf() -> Feature:
    found = iterators.BTF.exists()
    detail = f"{'' if found else 'no '}{iterators.BTF}"
    return Feature("kernel BTF", found, detail, NOTHING, needed=True)


def _symbols() -> Feature:
    """Whether stacks will have names: hidden addresses read as zero, and so do some shown ones."""
    with Path("/proc/kallsyms").open() as file:
        found = any(int(line.split(maxsplit=1)[0], 16) for line in file)
    detail = "/proc/kallsyms" if found else "/proc/kallsyms hides addresses (kernel.kptr_restrict)"
    return Feature("kernel symbols", found, detail, "stacks are bare addresses")


def _iterators() -> list[Feature]:
    """What snapshots are made from."""
    holders, listed = "BPF iterators of holders", "BPF iterator of buffers"
    by_proc = "holders are read from /proc, which is slower"
    by_bufinfo = "buffers that no process holds are listed by snapshot --bufinfo only"
    try:
        with iterators.Iterators() as found:
            detail = "loaded" if found.lists_all else "this kernel has no BPF iterator dmabuf"
            return [
                Feature(holders, True, "loaded", by_proc),
                Feature(listed, found.lists_all, detail, by_bufinfo),
            ]
    except UntraceableError as error:
        return [
            Feature(holders, False, str(error), by_proc),
            Feature(listed, False, str(error), by_bufinfo),
        ]


def examine() -> list[Feature]:
    """All features, tried on the running kernel; nothing stays attached."""
    features = [
        _root(),
        _btf(),
        _tried("libbpf", _libbpf),
        _tried("BPF object", _object),
        _tried("kprobe events", lambda: str(tracefs.root())),
        _symbols(),
    ]
    if not all(feature.found for feature in features if feature.needed):
        return features
    try:
        loader = core.CoreLoader(PROBES, ring_bytes=RING_BYTES)
    except UntraceableError as error:
        return [*features, Feature("BPF programs", False, str(error), NOTHING, needed=True)]
    try:
        features.append(Feature("BPF programs", True, "loaded", NOTHING, needed=True))
        for attached in loader.attached:
            probe = attached.probe
            features.append(
                Feature(
                    f"probe {attached.symbol}",
                    not attached.reason,
                    attached.reason or "attached: " + ", ".join(probe.kinds),
                    probe.without,
                    probe.needed,
                )
            )
    finally:
        loader.close()
    return [*features, *_iterators()]
