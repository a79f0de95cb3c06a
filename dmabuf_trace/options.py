# SPDX-License-Identifier: Apache-2.0
"""The options of recording, as people see them: one row each, for every command line that has it.

Must not know what they come to, nor how a command line is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

ALL: Final = "all"
AUTO: Final = "auto"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Option(Generic[Value]):
    """``name`` is the field of :class:`dmabuf_trace.request.Request` that takes it. Without a
    ``metavar`` it is a switch; where it may be repeated the default is empty."""

    name: str
    flags: tuple[str, ...]
    metavar: str
    help: str
    default: Value
    is_number: bool = False
    repeatable: bool = False
    least: int | None = None
    most: int | None = None


OUTPUT: Final[Option[str | None]] = Option(
    "output", ("-o", "--output"), "FILE", "Default: dmabuf-DATE-TIME.dbt.", None
)
DURATION: Final[Option[str | None]] = Option(
    "duration", ("--duration",), "TIME", "Stop after this long (500ms, 10s, 2m).", None
)
RING: Final = Option(
    "ring", ("--ring",), "SIZE", "Event ring; a power of two. Larger: fewer losses.", "8M"
)
MAXACTIVE: Final = Option(
    "maxactive",
    ("--maxactive",),
    "N",
    "Calls that may be under way at once, per function with a kprobe.",
    1024,
    is_number=True,
    least=1,
    most=4096,
)
EVENTS: Final = Option(
    "events",
    ("--events",),
    "GROUPS",
    "What to watch, separated by commas: buffers (always on), fds, devices, cpu, waits, "
    "operations.",
    ALL,
)
LOADER: Final = Option(
    "loader",
    ("--loader",),
    "LOADER",
    "core: prebuilt programs; bcc: compiled here, needs kernel headers; auto: whichever.",
    AUTO,
)
ATTACH: Final = Option(
    "attach",
    ("--attach",),
    "MODE",
    "kprobe, multi, fentry; auto: whatever loses nothing, then whatever costs least.",
    AUTO,
)
PIDS: Final[Option[list[int] | None]] = Option(
    "pid",
    ("--pid",),
    "PID",
    "Only this process and its children; repeatable.",
    None,
    is_number=True,
    repeatable=True,
)
TABLES: Final[Option[list[str] | None]] = Option(
    "table",
    ("--table",),
    "NAME=SIZE",
    "Room in the kernel, where a report says that some was missing: inflight (calls under way), "
    "stacks (different ones), names (bytes, a power of two). May be repeated.",
    None,
    repeatable=True,
)
ONLY_COMMAND: Final = Option(
    "only_command",
    ("--only-command",),
    "",
    "Only CMD and its children, not the whole system.",
    False,
)
COMM: Final = Option(
    "comm", ("--comm",), "NAME", "Only threads of this name (of 15 bytes at most).", ""
)
EXPORTER: Final = Option("exporter", ("--exporter",), "NAME", "Only buffers of this exporter.", "")
MIN_SIZE: Final[Option[str | None]] = Option(
    "min_size", ("--min-size",), "SIZE", "Only buffers at least this large (64K, 8M).", None
)
MAX_SIZE: Final[Option[str | None]] = Option(
    "max_size", ("--max-size",), "SIZE", "Only buffers at most this large.", None
)
STACKS: Final[Option[str | None]] = Option(
    "stacks",
    ("--stacks",),
    "WHICH",
    "Stacks of all calls: kernel, user, both, none. Without it: kernel stacks of export, attach "
    "and get.",
    None,
)
HOLDERS_EVERY: Final[Option[str | None]] = Option(
    "holders_every",
    ("--holders-every",),
    "TIME",
    "Also write down who holds what every so often (1s).",
    None,
)
CYCLES: Final = Option(
    "cycles",
    ("--cycles",),
    "N",
    "Run CMD so many times, each end of it marked.",
    1,
    is_number=True,
    least=1,
)
FORCE: Final = Option("force", ("--force",), "", "Replace an existing file.", False)
COMMAND_METAVAR: Final = "[-- CMD...]"
COMMAND_HELP: Final = "Run this, and stop when it ends."

OF_RECORD: Final[tuple[Option[Any], ...]] = (
    *(OUTPUT, DURATION, RING, MAXACTIVE, EVENTS, LOADER, ATTACH, TABLES, PIDS, ONLY_COMMAND, COMM),
    *(EXPORTER, MIN_SIZE, MAX_SIZE, STACKS, HOLDERS_EVERY, CYCLES, FORCE),
)
"""All that ``record`` has, in the order of its help."""
