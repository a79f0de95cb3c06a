# SPDX-License-Identifier: Apache-2.0
"""Events of an ftrace recording in text: tracefs's ``trace``, or what ``trace-cmd report`` prints.

Its clock has to be that of our recordings: ``mono`` in trace_clock, ``trace-cmd record -C mono``.
The text does not tell, so that the times are all that can be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmabuf_trace.errors import InputError

HINT: Final = "record it with the clock mono, during the same run"

_LINE: Final = re.compile(
    r"\s*(?P<comm>.{1,64}?)-(?P<tid>\d{1,10})\s+(?:\(\s*[-\d]+\)\s+)?\[(?P<cpu>\d{1,5})\]\s+"
    r"(?:[^\s:]+\s+)?(?P<seconds>\d{1,9})\.(?P<fraction>\d{6}|\d{9}):\s+(?P<event>.*\S)\s*",
    re.ASCII,
)
_LOST: Final = re.compile(r"CPU:?\s*\d+ \[(?:LOST )?(\d{1,18}) EVENTS(?: DROPPED)?\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """``ts`` in ns; ``text`` is what stands behind the name, as the kernel prints it."""

    ts: int
    cpu: int
    tid: int
    comm: str
    name: str
    text: str


@dataclass(slots=True)
class Text:
    """A file; ``lost`` events by its own word, and lines that are no events, as far as it is read.

    Raises:
        InputError: it can't be read.
    """

    path: Path
    lost: int = 0
    unknown: int = 0

    def events(self) -> Iterator[Event]:
        """Each in turn."""
        try:
            with self.path.open(encoding="utf-8", errors="backslashreplace") as lines:
                for line in lines:
                    yield from self._event(line)
        except OSError as error:
            raise InputError(f"can't read {self.path}: {error.strerror}") from None

    def _event(self, line: str) -> Iterator[Event]:
        if found := _LINE.fullmatch(line):
            seconds, fraction = int(found["seconds"]), found["fraction"].ljust(9, "0")
            name, _, text = found["event"].partition(": ")
            thread = int(found["cpu"]), int(found["tid"]), found["comm"]
            yield Event(seconds * 10**9 + int(fraction), *thread, name.rstrip(":"), text.strip())
        elif lost := _LOST.search(line):
            self.lost += int(lost[1])
        elif line.strip() and not line.startswith(("#", "cpus=", "version =")):
            self.unknown += 1
