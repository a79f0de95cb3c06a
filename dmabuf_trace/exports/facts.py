# SPDX-License-Identifier: Apache-2.0
"""What every export says of its recording: which one it is, its clock, and what it lacks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from dmabuf_trace import progress, schema
from dmabuf_trace.analysis import doubts, records
from dmabuf_trace.extent import Window
from dmabuf_trace.render.machine import facts
from dmabuf_trace.report import recording
from dmabuf_trace.trace import Trace, stretches

CLOCK: Final = "CLOCK_MONOTONIC"
"""Of every time in a recording."""


def identity(header: dict[str, Any]) -> str:
    """The same for the same recording, wherever its file lies: 16 hexadecimal digits."""
    text = json.dumps(header, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def losses(trace: Trace) -> dict[str, dict[str, int]]:
    """Lost events, by kind and cause."""
    causes = {cause.id: cause.name for cause in schema.CAUSES}
    found: dict[str, dict[str, int]] = {}
    for kind, cause in np.argwhere(trace.losses).tolist():
        of = found.setdefault(schema.KIND_NAMES.get(kind, f"kind {kind}"), {})
        of[causes.get(cause, f"cause {cause}")] = int(trace.losses[kind, cause])
    return found


def about(trace: Trace) -> dict[str, Any]:
    """As JSON has it; ``trace`` is the last stretch."""
    return {
        "id": identity(trace.header),
        **facts(asdict(recording(trace))),
        "clock": CLOCK,
        "start_ns": trace.start,
        "end_ns": trace.end,
        "losses": losses(trace),
        "quality": records(trace.quality),
    }


def read(path: Path, window: Window | None, take: Callable[[Trace], object]) -> Trace:
    """Hand each stretch of a recording on; the last one, which knows how all came out."""
    for stretch in stretches(path, window):
        take(stretch)
        if stretch.stretch.is_last:
            progress.over()
            return stretch
        del stretch  # or it is there while the next one is read
    raise AssertionError("a recording has a last stretch")


def shortcomings(trace: Trace) -> Iterator[str]:
    """A line for each reason to doubt what is exported; ``trace`` is the last stretch."""
    yield from doubts(trace, tuple(kind.name for kind in schema.KINDS))
