# SPDX-License-Identifier: Apache-2.0
"""Bytes an event: a recording of five busy minutes beside the same events in other tools' formats.

The events come from :mod:`tests.bench.generate`; the recording is written by the product's writer,
as :mod:`tests.bench.recorded` has it, and read back. The others are encoded by
:mod:`tests.bench.formats`.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.blocks import EventBlock
from dmabuf_trace.recording import Reader
from tests.bench import formats
from tests.bench.generate import Generator
from tests.bench.recorded import record

MINUTES: Final = 5
LEVEL: Final = 6
"""zlib's default: what gzip and trace-cmd's zlib use."""

OTHERS: Final[dict[str, Callable[[NDArray[np.void]], bytes]]] = {
    "trace.dat: kprobe events in ftrace's ring": formats.ftrace,
    "perf.data: samples of kprobe events": formats.perf,
    "Perfetto: slices and instants with arguments": formats.perfetto,
}


def read_back(path: Path) -> NDArray[np.void]:
    """All events of a recording."""
    with Reader(path) as reader:
        parts = [block.events for block in reader.blocks() if isinstance(block, EventBlock)]
        if reader.cut:
            sys.exit(f"bench: the recording is cut: {reader.cut.reason}")
    return np.concatenate(parts)


def figures() -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file.dbt"
        parts: list[NDArray[np.void]] = []
        record(path, Generator(MINUTES * 60), parts.append)
        events = np.concatenate(parts)
        if read_back(path).tobytes() != events.tobytes():
            sys.exit("bench: the recording holds other events than were written")
        ours = path.stat().st_size / len(events)
    lines = [
        f"{len(events):,} events in {MINUTES} minutes; compressed: as a whole, by zlib's default:",
        "",
        "| file | bytes an event | compressed | ratio |",
        "|---|---|---|---|",
        f"| recording | {ours:.1f} | | 1.0 |",
        f"| the events as they come from the ring | {schema.EVENT_DTYPE.itemsize} | "
        f"| {schema.EVENT_DTYPE.itemsize / ours:.1f} |",
    ]
    for tool, encode in OTHERS.items():
        content = encode(events)
        plain, small = len(content), len(zlib.compress(content, LEVEL))
        lines.append(
            f"| {tool} | {plain / len(events):.1f} | {small / len(events):.1f} "
            f"| {plain / len(events) / ours:.1f}, {small / len(events) / ours:.1f} |"
        )
    return "\n".join(lines)
