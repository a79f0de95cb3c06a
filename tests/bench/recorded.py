# SPDX-License-Identifier: Apache-2.0
"""Generated events as a recording: all blocks that a recorder would have written around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.recording import Writer
from dmabuf_trace.session import DRAIN_SECONDS
from tests.bench.generate import Generator

SLICE_SECONDS: Final = 10.0
_PERIOD: Final = np.uint64(DRAIN_SECONDS * 1e9)


def record(
    path: Path, generator: Generator, keep: Callable[[NDArray[np.void]], object] | None = None
) -> int:
    """Write the events in batches as the drain's rhythm makes them; how many there are.

    ``keep`` gets them as well, slice by slice.
    """
    last = generator.start
    with Writer(path) as writer:
        writer.begin({"tool": "generator", "start": {"monotonic_ns": generator.start}})
        writer.write_snapshot(generator.snapshot("start", generator.start))
        writer.write_names(generator.names())
        writer.write_cgroups(generator.cgroups())
        writer.write_probed(generator.probed())
        for part in generator.slices(SLICE_SECONDS):
            drains = part["ts"] // _PERIOD
            for batch in np.split(part, np.flatnonzero(np.diff(drains)) + 1):
                writer.write_events(batch)
            last = int(part["ts"][-1]) if len(part) else last
            if keep:
                keep(part)
        writer.write_losses(generator.losses)
        writer.write_snapshot(generator.snapshot("end", last + 1))
        writer.write_stacks(generator.stacks())
        writer.finish(last + 1, "duration over")
    return writer.events
