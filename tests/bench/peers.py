# SPDX-License-Identifier: Apache-2.0
"""The tools that are compared, each on and off as a context manager, in a guest.

Whatever reads and writes the events runs beside the loop on the one processor: ``readers`` are its
processes, so that its share of the time can be told from what the probes take.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, Protocol, Self

from dmabuf_trace.blocks import EventBlock
from dmabuf_trace.recording import Reader
from tests.bench.probed import FUNCTIONS, TIMED, ftrace_fields
from tests.bench.scripts import bpftrace_script
from tests.oracle import TRACEFS, dmabuf_fops, write

GROUP: Final = "cost"
READY: Final = "recording, Ctrl-C to stop"
PAGES: Final = 4096
"""Room that the peers that print have, of each processor."""
POLL_SECONDS: Final = 0.1
DEADLINE_SECONDS: Final = 600


class NotHereError(Exception):
    """The tool, or this way of using it, does not work on this kernel; the text says why."""


class Tool(Protocol):
    """What can be switched on while a loop runs."""

    name: str

    @property
    def readers(self) -> Sequence[int]:
        """Processes that take the events out."""

    def events(self, pid: int) -> int:
        """Calls of a process that the tool has reported; asked once it has settled."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Bare:
    """Nothing is on."""

    name = "bare"
    readers: Sequence[int] = ()

    def events(self, pid: int) -> int:
        del pid
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Process:
    """A tool that is a process with an output file and a log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._directory = tempfile.TemporaryDirectory()
        self.output = Path(self._directory.name, "out")
        self._log = Path(self._directory.name, "log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def readers(self) -> Sequence[int]:
        return [self._process.pid] if self._process else []

    def start(
        self, command: Sequence[str], attached: Callable[[], bool], stdout: Path | None = None
    ) -> None:
        """Start it, its standard error in the log, and wait until it is attached."""
        with self._log.open("wb") as log, (stdout or self._log).open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=log)
        try:
            wait_for(attached, f"{self.name} is attached")
        except BaseException:
            self.__exit__()
            raise

    def running(self) -> bool:
        """Whether it runs; raises NotHereError with its last words where it gave up."""
        assert self._process
        if self._process.poll() is not None:
            said = self._log.read_text().strip().splitlines()
            raise NotHereError(said[-1] if said else f"status {self._process.returncode}")
        return True

    def said(self, text: str) -> bool:
        return self.running() and text in self._log.read_text()

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds; rarely, as polling takes the one processor from what is waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"never happened: {what}")
        time.sleep(POLL_SECONDS)


@cache
def without_stacks() -> list[str]:
    """The option, where there is one: the other tools take none."""
    shown = subprocess.run(
        ["dmabuf-trace", "record", "--help"], capture_output=True, text=True, check=True
    )
    return ["--stacks", "none"] if "--stacks" in shown.stdout else []


class Ours(Process):
    """``dmabuf-trace record`` with some options."""

    def __init__(self, name: str, *options: str) -> None:
        super().__init__(name)
        self._options = options

    def __enter__(self) -> Self:
        command = ["dmabuf-trace", "record", "--force", "-o", str(self.output), *self._options]
        self.start([*command, *without_stacks()], lambda: self.said(READY))
        return self

    def events(self, pid: int) -> int:
        with Reader(self.output) as reader:
            return sum(
                int((block.events["pid"] == pid).sum())
                for block in reader.blocks()
                if isinstance(block, EventBlock)
            )


class Ftrace:
    """ftrace events into its own buffer, which nobody reads; a full one overwrites the oldest."""

    readers: Sequence[int] = ()

    def __init__(self, name: str, file: str = "", group: str = GROUP) -> None:
        self.name = name
        self._file = file
        self._group = group
        self._events: list[str] = []

    def __enter__(self) -> Self:
        if self._file:
            self.create()
        enable = TRACEFS / "events" / self._group / "enable"
        if not enable.exists():
            raise NotHereError(f"no {self._group} events")
        write(TRACEFS / "trace", "")
        enable.write_text("1")
        return self

    def create(self) -> None:
        """Make the events; what they record is for whoever opens them."""
        is_fprobe = self._file == "dynamic_events"
        own = dmabuf_fops()
        for symbol, function in FUNCTIONS.items():
            entry, returned = ftrace_fields(function)
            self._add("f" if is_fprobe else "p", symbol, symbol, entry)
            if symbol in TIMED:
                kind, suffix = ("f", "%return") if is_fprobe else ("r1024", "")
                self._add(kind, f"{symbol}_ret", f"{symbol}{suffix}", returned)
            if function.file:
                filter_file = TRACEFS / "events" / self._group / symbol / "filter"
                filter_file.write_text(f"fops == {own:#x}")

    def _add(self, kind: str, event: str, place: str, fields: str) -> None:
        try:
            write(TRACEFS / self._file, f"{kind}:{self._group}/{event} {place} {fields}")
        except OSError as error:
            said = (TRACEFS / "error_log").read_text().strip().splitlines()[-2:]
            self.__exit__()
            raise NotHereError(f"{event}: {error.strerror}: {' '.join(said)}") from error
        self._events.append(event)

    def events(self, pid: int) -> int:
        lines = (TRACEFS / "trace").read_text().splitlines()
        return sum(f"-{pid} " in line and "_ret: (" not in line for line in lines)

    def __exit__(self, *_: object) -> None:
        enable = TRACEFS / "events" / self._group / "enable"
        if enable.exists():
            enable.write_text("0")
        for event in self._events:
            write(TRACEFS / self._file, f"-:{self._group}/{event}")
        self._events.clear()


class Bpftrace(Process):
    """A bpftrace script that prints the same events, a line each."""

    LINE: Final = r"^\w+ \d"
    LOST: Final = r"^Lost (\d+) "

    def __init__(self, name: str, kind: str, warm_up: Callable[[], int]) -> None:
        super().__init__(name)
        self._kind = kind
        self._warm_up = warm_up

    def __enter__(self) -> Self:
        # what is lost costs its reader nothing: room for all that a loop makes
        environment = f"BPFTRACE_PERF_RB_PAGES={PAGES}"
        script = bpftrace_script(self._kind)
        self.start(["env", environment, "bpftrace", "-e", script], self._complete, self.output)
        return self

    def _complete(self) -> bool:
        """It says when it begins to attach, not when it has: the lines of a cycle tell."""
        if self.running() and "Attaching" in self.output.read_text():
            self._warm_up()
        return set(FUNCTIONS) <= set(re.findall(r"^(\w+) ", self.output.read_text(), re.MULTILINE))

    def events(self, pid: int) -> int:
        text = self.output.read_text()
        if lost := re.search(r"^Lost .*", text, re.MULTILINE):
            raise RuntimeError(f"{self.name}: {lost[0]}")
        return len(re.findall(rf"^\w+ \d+ \d+ {pid} ", text, re.MULTILINE))


class PerfTrace(Process):
    """``perf trace`` prints ftrace's kprobe events of the same calls, a line each."""

    LINE: Final = rf" {GROUP}:(?!\w+_ret\()"
    """Of a call; one that is timed has a second, of its return."""
    LOST: Final = r"LOST (\d+) events"

    def __init__(self, name: str, warm_up: Callable[[], int]) -> None:
        super().__init__(name)
        self._probes = Ftrace(name, "kprobe_events")
        self._warm_up = warm_up

    def __enter__(self) -> Self:
        options = ["--no-syscalls", "-a", "-m", str(PAGES), "-o", str(self.output)]
        command = ["perf", "trace", *options, *self._options()]
        self._probes.create()
        self.start(command, self._complete)
        return self

    @staticmethod
    def _options() -> Iterator[str]:
        """Its events, those of files with the filter that ftrace has, which perf does not heed."""
        own = dmabuf_fops()
        for symbol, function in FUNCTIONS.items():
            yield from ("-e", f"{GROUP}:{symbol}")
            if function.file:
                yield from ("--filter", f"fops == {own:#x}")
            if symbol in TIMED:
                yield from ("-e", f"{GROUP}:{symbol}_ret")

    def _complete(self) -> bool:
        """It doesn't say when it has attached: the lines of a cycle tell."""
        if self.running():
            self._warm_up()
        text = self.output.read_text() if self.output.exists() else ""
        return all(f"{GROUP}:{symbol}(" in text for symbol in FUNCTIONS)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._probes.__exit__()


def kprobe_hits() -> int:
    """Hits of all kprobe events, whoever made them; one tool is on at a time."""
    lines = (TRACEFS / "kprobe_profile").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines)


def processor_time(pids: Sequence[int]) -> int:
    """Nanoseconds of processor time that the threads of these processes have used."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                total += int((thread / "schedstat").read_text().split()[0])
    return total
