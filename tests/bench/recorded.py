# SPDX-License-Identifier: Apache-2.0
"""Generated events as a recording, and the same events as the peers of ``report`` want them.

``python -m tests.bench.recorded EVENTS RECORDING COLUMNS [TEXT]`` writes them in a process of its
own, as one that a large process starts has that one's peak of memory for its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TextIO

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema
from dmabuf_trace.recording import Writer
from dmabuf_trace.session import DRAIN_SECONDS
from tests.bench import plain
from tests.bench.generate import Generator

SLICE_SECONDS: Final = 10.0
_PERIOD: Final = np.uint64(DRAIN_SECONDS * 1e9)
_COMM: Final = schema.NAME_TYPES["comm"]


def record(
    path: Path, generator: Generator, keep: Callable[[NDArray[np.void]], object] | None = None
) -> int:
    """Write all blocks that a recorder would have, in the drain's rhythm; how many events.

    ``keep`` gets the events as well, slice by slice.
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


class Text:
    """Writes events as ftrace and bpftrace print them, a line each."""

    def __init__(self, file: TextIO, names: NDArray[np.void]) -> None:
        self._file = file
        texts = {row["id"]: row["text"].decode() for row in names if row["type"] != _COMM}
        self._texts = {int(key): f" name={text}" for key, text in texts.items()}
        self._threads = {
            int(row["id"]): f"{row['text'].decode()}-{row['id']}"
            for row in names
            if row["type"] == _COMM
        }

    def write(self, events: NDArray[np.void]) -> None:
        """Append a slice."""
        fields = ("ts", "tid", "cpu", "kind", "buffer", "object", "value", "ret", "dur", "aux")
        for row in zip(*(events[name].tolist() for name in fields), strict=True):
            ts, tid, cpu, kind, buffer, subject, value, ret, dur, aux = row
            self._file.write(
                f"{self._threads[tid]} [{cpu:03}] {ts / 1e9:.6f}: {schema.KIND_NAMES[kind]}: "
                f"buffer={buffer} object={subject:#x} value={value:#x} ret={ret} dur={dur}"
                f"{self._texts.get(aux, '')}\n"
            )


def main() -> None:
    """Write the files, print the number of events."""
    generator = Generator.sized(int(sys.argv[1]))
    recording, columns, *text = map(Path, sys.argv[2:])
    with ExitStack() as files:
        raw = files.enter_context(columns.open("wb"))
        lines = [Text(files.enter_context(path.open("w")), generator.names()) for path in text]

        def keep(events: NDArray[np.void]) -> None:
            plain.columns(events).tofile(raw)
            for each in lines:
                each.write(events)

        print(record(recording, generator, keep))


if __name__ == "__main__":
    main()
