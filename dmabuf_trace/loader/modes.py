# SPDX-License-Identifier: Apache-2.0
"""In which ways to attach a probe, best first: ranked by what they lose, then by what they cost.

Measured with 60 threads blocked in one call and 8 processes racing on 2 processors:

- ``kprobe``, made through tracefs, is exact everywhere, its returns with maxactive included.
- A tracepoint is exact, and cheaper than any probe on a function.
- ``multi`` (fprobe) is exact at entries, and cheaper than a kprobe. Its returns are exact where
  fprobe is built on the function graph tracer; before, it has room for two returns per processor.
  On 6.17 no stack can be taken from them, so returns whose events always carry one get kprobes,
  which cost as much.
- ``fentry`` skips a program that another task is in on the same processor: exact only where the
  kernel doesn't preempt itself. Where a return was skipped and then the entry of the same thread's
  next call, that call's event carries the beginning of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmabuf_trace import schema
from dmabuf_trace.loader import tracefs
from dmabuf_trace.loader.btf import names_in
from dmabuf_trace.loader.interface import AUTO, FENTRY, KPROBE, MULTI, TRACEPOINT
from dmabuf_trace.probes import Probe

FPROBE: Final = "register_fprobe_ips"
ON_FGRAPH: Final = "fprobe_hlist"
"""A function that fprobes have, and a type that they have since they are built on fgraph."""

PREEMPT: Final = Path("/sys/kernel/debug/sched/preempt")


@dataclass(frozen=True, slots=True)
class Exactness:
    """What this kernel's fprobes don't lose; neither where it has none, or has no BTF to tell."""

    entries: bool
    returns: bool

    @classmethod
    def here(cls) -> Exactness:
        """Ask the kernel's BTF: what it was built with, not its version."""
        found = names_in((FPROBE, ON_FGRAPH))
        return cls(entries=FPROBE in found, returns=FPROBE in found and ON_FGRAPH in found)


def ways(probe: Probe, mode: str, fprobe: Exactness, events: Path) -> tuple[str, ...]:
    """Ways to attach a probe, in the order to try them; the last is a kprobe, which any can have.

    Args:
        probe: what to attach.
        mode: one of :data:`interface.MODES`.
        fprobe: what fprobes don't lose here.
        events: root of the tracefs that tells which tracepoints there are.
    """
    if probe.tracepoint:
        return (TRACEPOINT,)
    if mode != AUTO:
        return tuple(dict.fromkeys((mode, KPROBE)))
    multi = fprobe.returns and not _stacked(probe) if probe.returned else fprobe.entries
    point = probe.point and tracefs.has_tracepoint(events, probe.symbols[0])
    return (*((TRACEPOINT,) if point else ()), *((MULTI,) if multi else ()), KPROBE)


def _stacked(probe: Probe) -> bool:
    return any(schema.STACKED >> schema.KIND[kind] & 1 for kind in probe.kinds)


def preemption() -> str:
    """The kernel's model of preemption (none, voluntary, full, lazy); "" where it can't be read."""
    try:
        words = PREEMPT.read_text().split()
    except OSError:
        return ""
    return next((word.strip("()") for word in words if word.startswith("(")), "")


def loses(mode: str, fprobe: Exactness) -> str:
    """What a mode loses on this kernel, in words; the counts are in every recording."""
    if mode == FENTRY:
        model = preemption()
        if model in ("none", "voluntary"):
            return f"loses nothing here (preemption: {model})"
        return f"loses events where tasks race on a processor (preemption: {model or 'unknown'})"
    if mode == MULTI and not fprobe.returns:
        return "loses returns of timed calls beyond two per processor at once"
    return "loses nothing"
